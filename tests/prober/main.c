// The prober: what can whoever runs inside see, write, call, mount, reach? Run inside any container, by whatever made it, it
// prints a line for each fact: NAME<TAB>VERDICT<TAB>DETAIL. It tries all it can and changes nothing that stays: what could
// be harmful is done with arguments that cannot succeed further than to the permission, or in a child that ends.
//
//   prober [SECTION…] [-- ADDRESS:PORT…]    sections: see write call mount namespace device socket privilege self; with
//                                           places to connect to, network as well
#include "prober.h"
#include <poll.h>
#include <stdarg.h>
#include <sys/mman.h>

void fact(const char *verdict, const char *detail, const char *name, ...)
{
    va_list arguments;
    va_start(arguments, name);
    vprintf(name, arguments);
    va_end(arguments);
    printf("\t%s\t", verdict);
    for (const char *c = detail; *c; c++)
        putchar((unsigned char)*c < ' ' ? ' ' : *c);
    putchar('\n');
    fflush(stdout);
}

const char *errno_name(int number)
{
    static char text[4][16];
    static int turn;
    const char *name = strerrorname_np(number);
    if (name)
        return name;
    turn = (turn + 1) % 4;
    snprintf(text[turn], sizeof *text, "E%d", number);
    return text[turn];
}

const char *word(long result)
{
    return result >= 0 ? "done" : errno_name(errno);
}

const char *apart(long (*attempt)(const void *), const void *argument)
{
    static char text[16];
    fflush(stdout);
    int *said = mmap(NULL, sizeof *said, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int end[2], status = 0;
    if (pipe2(end, O_CLOEXEC) < 0)
        return "unforked";
    pid_t child = fork();
    if (child < 0)
        return "unforked";
    if (child == 0) {
        close(end[0]);
        errno = 0;
        *said = attempt(argument) < 0 ? errno : -1;
        _exit(0);
    }
    // Closed by its end.
    close(end[1]);
    int late = poll(&(struct pollfd){end[0], POLLIN, 0}, 1, 2000) == 0;
    if (late)
        kill(child, SIGKILL);
    waitpid(child, &status, 0);
    close(end[0]);
    if (late) {
        munmap(said, sizeof *said);
        return "waits";
    }
    int result = *said;
    munmap(said, sizeof *said);
    if (WIFSIGNALED(status)) {
        snprintf(text, sizeof text, "SIG%s", sigabbrev_np(WTERMSIG(status)));
        return text;
    }
    return result == -1 ? "done" : errno_name(result);
}

long content(const char *path, char *room, size_t size)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    long length = 0, more;
    if (fd < 0)
        return -1;
    while (length < (long)size - 1 && (more = read(fd, room + length, size - 1 - length)) > 0)
        length += more;
    close(fd);
    room[length] = 0;
    return length;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } sections[] = {
        {"see", see},
        {"write", writes},
        {"call", calls},
        {"mount", mounts},
        {"namespace", namespaces},
        {"device", devices},
        {"socket", sockets},
        {"privilege", privileges},
        {"self", self},
    };
    int words = 1;
    while (words < argc && strcmp(argv[words], "--"))
        words++;
    signal(SIGPIPE, SIG_DFL);
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        int asked = words == 1;
        for (int at = 1; at < words; at++)
            asked |= !strcmp(argv[at], sections[i].name);
        if (asked)
            sections[i].run();
    }
    if (words < argc)
        network(argv + words + 1);
    return 0;
}
