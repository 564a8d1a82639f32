// Every system call by its number, at every entry point of the processor: who answers? The arguments are all -1, which is no
// address, no descriptor, no size and no command, but for those calls where it would mean something.
#include "prober.h"
#include <poll.h>
#include <sys/mman.h>

#define LAST 600

enum { NOT_YET = -1000000, DIED, WAITS };

static volatile int *results, *at;

#ifdef __x86_64__
static inline __attribute__((always_inline)) long enter(int abi, long number, const long *a)
{
    long result;
    register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
    if (abi == 1) {
        // Six arguments of which the last is in ebp, which stays as it is.
        __asm__ volatile("int $0x80"
                         : "=a"(result)
                         : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                         : "memory", "r8", "r9", "r10", "r11");
        return (int)result;
    }
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(abi == 2 ? number | 0x40000000 : number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
static const char *const ABIS[] = {"x86_64", "i386", "x32"};
// fork, vfork, clone; kill; modify_ldt; futex; msgget: their numbers at each entry point.
static const short FORKS[3][3] = {{57, 58, 56}, {2, 190, 120}, {57, 58, 56}};
static const short OTHERS[3][4] = {{62, 154, 202, 68}, {37, 123, 240, 399}, {62, 154, 202, 68}};
#else
static inline __attribute__((always_inline)) long enter(int abi, long number, const long *a)
{
    (void)abi;
    long result = syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return result < 0 ? -errno : result;
}
static const char *const ABIS[] = {"native"};
static const short FORKS[1][3] = {{-1, -1, 220}};
static const short OTHERS[1][4] = {{129, -1, 98, 186}};
#endif

static void call(int abi, int number)
{
    long a[6] = {-1, -1, -1, -1, -1, -1};
    int forks = 0;
    for (int i = 0; i < 3; i++)
        forks |= number == FORKS[abi][i];
    if (number == FORKS[abi][2]) {
        memset(a, 0, sizeof a);
        a[0] = SIGCHLD;
    } else if (number == OTHERS[abi][0]) {
        // Nobody has this pid, and 0 is no signal.
        a[0] = 0x7ffffffe, a[1] = 0;
    } else if (number == OTHERS[abi][1]) {
        // What they do not know, these three call ENOSYS.
        a[0] = 0, a[2] = 0;
    } else if (number == OTHERS[abi][2]) {
        a[1] = 1;
    } else if (number == OTHERS[abi][3]) {
        a[0] = 0x7ffffffe, a[1] = 0;
    }
    long result = enter(abi, number, a);
    if (forks && result == 0)
        // No function's frame is touched: after vfork it is the parent's as well.
        __asm__ volatile(
#ifdef __x86_64__
            "syscall" ::"a"(60), "D"(0)
#else
            "svc 0" ::
#endif
        );
    results[number] = result < 0 ? (int)result : 0;
}

static void run(int abi)
{
    for (int n = 0; n <= LAST; n++)
        results[n] = NOT_YET;
    *at = 0;
    fflush(stdout);
    while (*at <= LAST) {
        int end[2], status = 0;
        if (pipe2(end, O_CLOEXEC) < 0)
            return;
        pid_t child = fork();
        if (child == 0) {
            // Of its own, should one of them be about sessions or terminals.
            setsid();
            for (int fd = 0; fd < 3; fd++)
                close(fd);
            while (*at <= LAST) {
                call(abi, *at);
                ++*at;
            }
            _exit(0);
        }
        close(end[1]);
        for (int last = -1; poll(&(struct pollfd){end[0], POLLIN, 0}, 1, 100) == 0; last = *at)
            if (*at == last) {
                results[last] = WAITS;
                kill(child, SIGKILL);
                break;
            }
        waitpid(child, &status, 0);
        close(end[0]);
        if (*at <= LAST) {
            if (results[*at] == NOT_YET)
                results[*at] = WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS ? -EACCES : DIED;
            ++*at;
        }
    }
}

// The numbers for which the result is of a kind, as ranges.
static void ranges(int abi, const char *verdict, int (*is)(int))
{
    static char text[8192];
    *text = 0;
    for (int n = 0; n <= LAST; n++) {
        int start = n;
        if (!is(results[n]))
            continue;
        while (n < LAST && is(results[n + 1]))
            n++;
        size_t used = strlen(text);
        const char *comma = used ? "," : "";
        if (start == n)
            snprintf(text + used, sizeof text - used, "%s%d", comma, n);
        else
            snprintf(text + used, sizeof text - used, "%s%d-%d", comma, start, n);
    }
    fact(*text ? "some" : "none", text, "call %s %s", ABIS[abi], verdict);
}

static int absent(int result)
{
    return result == -ENOSYS;
}

static int refused(int result)
{
    return result == -EPERM || result == -EACCES;
}

static int answered(int result)
{
    return !absent(result) && !refused(result);
}

void calls(void)
{
    results = mmap(NULL, (LAST + 2) * sizeof *results, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    at = results + LAST + 1;
    for (size_t abi = 0; abi < sizeof ABIS / sizeof *ABIS; abi++) {
        run(abi);
        // An entry point that the kernel does not have kills whoever uses it.
        int dead = 0;
        for (int n = 0; n <= LAST; n++)
            dead += results[n] == DIED;
        for (int n = 0; dead > LAST - 10 && n <= LAST; n++)
            results[n] = -ENOSYS;
        ranges(abi, "answered", answered);
        ranges(abi, "refused", refused);
        ranges(abi, "absent", absent);
    }
}
