// Sockets, and what takes a privilege.
#include "prober.h"
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/io.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

// By number: not every libc knows all of them.
static const char *const FAMILIES[] = {
    "unspec", "unix", "inet", "ax25", "ipx", "appletalk", "netrom", "bridge", "atmpvc", "x25", "inet6", "rose",
    "decnet", "netbeui", "security", "key", "netlink", "packet", "ash", "econet", "atmsvc", "rds", "sna", "irda",
    "pppox", "wanpipe", "llc", "ib", "mpls", "can", "tipc", "bluetooth", "iucv", "rxrpc", "isdn", "phonet",
    "ieee802154", "caif", "alg", "nfc", "vsock", "kcm", "qipcrtr", "smc", "xdp", "mctp",
};

struct kind {
    int family, type, protocol;
};

static long do_socket(const void *argument)
{
    const struct kind *k = argument;
    return socket(k->family, k->type, k->protocol);
}

static void one_socket(const char *name, int family, int type, int protocol)
{
    struct kind k = {family, type, protocol};
    fact(apart(do_socket, &k), "", "socket %s", name);
}

void sockets(void)
{
    // Of each family, any of the five types; the last reason if none works.
    for (int family = 0; family < (int)(sizeof FAMILIES / sizeof *FAMILIES); family++) {
        const char *verdict = "";
        for (int type = 1; type <= 5 && strcmp(verdict, "done"); type++) {
            struct kind k = {family, type, 0};
            const char *result = apart(do_socket, &k);
            if (strcmp(result, "ESOCKTNOSUPPORT") && strcmp(result, "EPROTONOSUPPORT"))
                verdict = result;
        }
        fact(*verdict ? verdict : "EPROTONOSUPPORT", "", "socket %s", FAMILIES[family]);
    }
    one_socket("inet raw icmp", AF_INET, SOCK_RAW, 1);
    one_socket("inet ping", AF_INET, SOCK_DGRAM, 1);
    one_socket("inet6 raw icmp", AF_INET6, SOCK_RAW, 58);
    one_socket("packet raw", AF_PACKET, SOCK_RAW, 0x0300);
    one_socket("netlink route", AF_NETLINK, SOCK_RAW, 0);
    one_socket("netlink netfilter", AF_NETLINK, SOCK_RAW, 12);
    one_socket("netlink audit", AF_NETLINK, SOCK_RAW, 9);
    one_socket("netlink kobject_uevent", AF_NETLINK, SOCK_RAW, 15);
    one_socket("netlink xfrm", AF_NETLINK, SOCK_RAW, 6);
}

static long add_key(const void *unused)
{
    (void)unused;
    return syscall(SYS_add_key, "user", "prober", "x", 1, -2);
}

static long own_session_keyring(const void *unused)
{
    (void)unused;
    return syscall(SYS_keyctl, 0, -3, 0);
}

// Whether the one who called whoever made the container has put a key of that name into his session keyring.
static long callers_key(const void *unused)
{
    (void)unused;
    long key = syscall(SYS_keyctl, 10, -3, "user", "quilt-canary", 0);
    char value[64];
    return key < 0 ? -1 : syscall(SYS_keyctl, 11, key, value, sizeof value);
}

static long seize_init(const void *unused)
{
    (void)unused;
    return ptrace(PTRACE_SEIZE, 1, 0, 0);
}

static long read_init(const void *unused)
{
    (void)unused;
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)0x400000, 1};
    return process_vm_readv(1, &here, 1, &there, 1, 0);
}

static long take_from_init(const void *unused)
{
    (void)unused;
    int pidfd = syscall(434, 1, 0);
    return pidfd < 0 ? -1 : syscall(438, pidfd, 0, 0);
}

static long compare_init(const void *unused)
{
    (void)unused;
    return syscall(SYS_kcmp, getpid(), 1, 0, 0, 0);
}

static long do_open_init(const void *name)
{
    char path[64], text[8];
    snprintf(path, sizeof path, "/proc/1/%s", (const char *)name);
    if (!strcmp(name, "cwd") || !strcmp(name, "root") || !strcmp(name, "exe"))
        return readlink(path, text, sizeof text);
    int fd = open(path, O_RDONLY);
    return fd < 0 || read(fd, text, 1) < 0 ? -1 : 0;
}

static long bpf_map(const void *unused)
{
    (void)unused;
    unsigned attributes[16] = {2, 4, 4, 1};
    return syscall(SYS_bpf, 0, attributes, sizeof attributes);
}

static long bpf_filter(const void *unused)
{
    (void)unused;
    // r0 = 0; exit: a socket filter.
    static const unsigned long program[] = {0xb7, 0x95};
    struct {
        unsigned type, count;
        unsigned long program, license, more[12];
    } attributes = {1, 2, (unsigned long)program, (unsigned long)"GPL", {0}};
    return syscall(SYS_bpf, 5, &attributes, sizeof attributes);
}

static long io_uring(const void *unused)
{
    (void)unused;
    unsigned parameters[30] = {0};
    return syscall(425, 2, parameters);
}

static long userfault(const void *flags)
{
    return syscall(SYS_userfaultfd, *(const int *)flags);
}

static long perf(const void *unused)
{
    (void)unused;
    struct {
        unsigned type, size;
        unsigned long config, more[14];
    } event = {1, 128, 0, {0}};
    return syscall(SYS_perf_event_open, &event, 0, -1, -1, 0);
}

// A handle is how the "shocker" went from any file of a file system to all of them.
static long by_handle(const void *unused)
{
    (void)unused;
    struct {
        unsigned size;
        int type;
        unsigned char bytes[8];
    } handle = {8, 1, {2, 0, 0, 0, 0, 0, 0, 0}};
    int mount = open("/etc", O_RDONLY);
    return syscall(SYS_open_by_handle_at, mount < 0 ? AT_FDCWD : mount, &handle, O_RDONLY);
}

static long number(const void *pair)
{
    const long *p = pair;
    return syscall(p[0], p[1], p[2], p[3], p[4], p[5]);
}

static void one(const char *name, long call, long a, long b, long c)
{
    long words[6] = {call, a, b, c, 0, 0};
    fact(apart(number, words), "", "privilege %s", name);
}

static long raise_limit(const void *unused)
{
    (void)unused;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_max++;
    return setrlimit(RLIMIT_NOFILE, &limit);
}

static long real_time(const void *unused)
{
    (void)unused;
    struct sched_param parameter = {1};
    return sched_setscheduler(0, SCHED_FIFO, &parameter);
}

static long gain_by_setuid(const void *unused)
{
    (void)unused;
    // Left with nothing, is there a way back?
    return setresuid(65534, 65534, 65534) < 0 ? -1 : setresuid(0, 0, 0);
}

void privileges(void)
{
    static const char *const OF_INIT[] = {"environ", "mem", "maps", "fd/0", "exe", "cwd", "root", "io", "stack", "syscall", "auxv", "mountinfo", "ns/mnt", "task/1/children", "personality"};
    static const int faults[] = {0, 1};
    for (size_t i = 0; i < sizeof OF_INIT / sizeof *OF_INIT; i++)
        fact(apart(do_open_init, OF_INIT[i]), "", "privilege /proc/1/%s", OF_INIT[i]);
    fact(apart(seize_init, NULL), "", "privilege ptrace of 1");
    fact(apart(read_init, NULL), "", "privilege process_vm_readv of 1");
    fact(apart(take_from_init, NULL), "", "privilege pidfd_getfd of 1");
    fact(apart(compare_init, NULL), "", "privilege kcmp with 1");
    fact(apart(add_key, NULL), "", "privilege add_key");
    fact(apart(own_session_keyring, NULL), "", "privilege session keyring");
    fact(apart(callers_key, NULL), "", "privilege the caller's key");
    fact(apart(bpf_map, NULL), "", "privilege bpf map");
    fact(apart(bpf_filter, NULL), "", "privilege bpf program");
    fact(apart(io_uring, NULL), "", "privilege io_uring");
    fact(apart(userfault, &faults[0]), "", "privilege userfaultfd");
    fact(apart(userfault, &faults[1]), "", "privilege userfaultfd of user mode");
    fact(apart(perf, NULL), "", "privilege perf_event_open");
    fact(apart(by_handle, NULL), "", "privilege open_by_handle_at");
    fact(apart(raise_limit, NULL), "", "privilege raise RLIMIT_NOFILE");
    fact(apart(real_time, NULL), "", "privilege SCHED_FIFO");
    fact(apart(gain_by_setuid, NULL), "", "privilege setuid back to 0");
    one("nice -1", SYS_setpriority, PRIO_PROCESS, 0, -1);
    one("sethostname", SYS_sethostname, (long)"x", 65, 0);
    one("settimeofday", SYS_settimeofday, 0, 0, 0);
    one("acct", SYS_acct, (long)"/nowhere", 0, 0);
    one("swapon", SYS_swapon, (long)"/nowhere", 0, 0);
    one("reboot", SYS_reboot, 0, 0, 0);
    one("kexec_load", SYS_kexec_load, 0, 1 << 20, 0);
    one("init_module", SYS_init_module, 0, 0, 0);
    one("delete_module", SYS_delete_module, (long)"nowhere", 0, 0);
    one("quotactl", SYS_quotactl, -1, 0, 0);
    one("fanotify_init", SYS_fanotify_init, 0, 0, 0);
    one("chroot", SYS_chroot, (long)"/", 0, 0);
    one("personality ADDR_NO_RANDOMIZE", SYS_personality, 0x40000, 0, 0);
    one("personality READ_IMPLIES_EXEC", SYS_personality, 0x400000, 0, 0);
    one("mlockall", SYS_mlockall, 1, 0, 0);
    one("setgroups", SYS_setgroups, 0, 0, 0);
    // SYSLOG_ACTION_CONSOLE_LEVEL, and no such level.
    one("kernel console level", SYS_syslog, 8, 0, 0);
    one("PR_SET_MM", SYS_prctl, PR_SET_MM, PR_SET_MM_BRK, 0);
#ifdef __x86_64__
    one("iopl", SYS_iopl, 3, 0, 0);
    one("ioperm", SYS_ioperm, 0x80, 1, 1);
    one("modify_ldt", SYS_modify_ldt, 0, 0, 0);
#endif
}
