// Mounts, namespaces, devices: the doors of the house.
#include "prober.h"
#include <dirent.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define PLACE "/tmp/.prober"

struct mount {
    const char *source, *target, *type;
    unsigned long flags;
    const char *data;
};

// Away from the mounts of the others, so that what succeeds is not seen by them; if that may be.
static void away(void)
{
    if (unshare(CLONE_NEWNS) == 0)
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static long do_mount(const void *argument)
{
    const struct mount *m = argument;
    away();
    long result = mount(m->source, m->target, m->type, m->flags, m->data);
    int why = errno;
    if (result == 0 && !(m->flags & MS_REMOUNT))
        umount2(m->target, MNT_DETACH);
    errno = why;
    return result;
}

static long do_umount(const void *path)
{
    away();
    return umount2(path, MNT_DETACH);
}

static long do_fsopen(const void *type)
{
    return syscall(430, type, 0);
}

static long do_open_tree(const void *path)
{
    return syscall(428, AT_FDCWD, path, 1);
}

static long do_move_mount(const void *path)
{
    return syscall(429, AT_FDCWD, path, AT_FDCWD, PLACE, 0);
}

static long do_mount_setattr(const void *path)
{
    unsigned long attributes[4] = {0, 1, 0, 0};
    away();
    return syscall(442, AT_FDCWD, path, 0, attributes, sizeof attributes);
}

static long do_pivot_root(const void *path)
{
    return syscall(SYS_pivot_root, path, path);
}

// The classic: with a directory open that is outside of the new root, up until there is no further up. What it comes to is
// the directory of the root that it was in before, or that of somebody else.
static long leave_chroot(const void *unused)
{
    (void)unused;
    struct stat before, after;
    int top = open("/", O_RDONLY | O_DIRECTORY);
    stat("/", &before);
    mkdir(PLACE "/in", 0755);
    if (chroot(PLACE "/in") < 0)
        return -1;
    fchdir(top);
    for (int i = 0; i < 64; i++)
        chdir("..");
    if (stat(".", &after) < 0)
        return -1;
    errno = EXDEV;
    return before.st_dev == after.st_dev && before.st_ino == after.st_ino ? -1 : 0;
}

void mounts(void)
{
    static const char *const TYPES[] = {
        "proc", "sysfs", "tmpfs", "ramfs", "devtmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "debugfs",
        "tracefs", "securityfs", "bpf", "binfmt_misc", "configfs", "fuse", "hugetlbfs", "pstore", "efivarfs",
    };
    mkdir(PLACE, 0755);
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++) {
        // Without a name of its own, it would take the controllers from where they are.
        struct mount m = {"prober", PLACE, TYPES[i], 0, strcmp(TYPES[i], "cgroup") ? NULL : "none,name=prober"};
        fact(apart(do_mount, &m), "", "mount a new %s", TYPES[i]);
    }
    struct mount bind = {"/", PLACE, NULL, MS_BIND, NULL}, deep = {"/", PLACE, NULL, MS_BIND | MS_REC, NULL};
    fact(apart(do_mount, &bind), "", "mount by bind");
    fact(apart(do_mount, &deep), "", "mount by recursive bind");
    static const char *const WRITABLE[] = {"/sys", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup"};
    for (size_t i = 0; i < sizeof WRITABLE / sizeof *WRITABLE; i++) {
        struct mount m = {NULL, WRITABLE[i], NULL, MS_REMOUNT | MS_BIND, NULL};
        fact(apart(do_mount, &m), "", "mount %s anew, writable", WRITABLE[i]);
    }
    struct mount shared = {NULL, "/", NULL, MS_SHARED, NULL};
    fact(apart(do_mount, &shared), "", "mount propagation shared");
    static const char *const MASKS[] = {"/proc/kcore", "/proc/keys", "/proc/sys", "/sys/firmware", "/proc", "/dev/pts"};
    for (size_t i = 0; i < sizeof MASKS / sizeof *MASKS; i++)
        fact(apart(do_umount, MASKS[i]), "", "mount taken off %s", MASKS[i]);
    fact(apart(do_fsopen, "tmpfs"), "", "mount by fsopen");
    fact(apart(do_open_tree, "/"), "", "mount by open_tree");
    fact(apart(do_move_mount, "/dev/pts"), "", "mount by move_mount");
    fact(apart(do_mount_setattr, "/proc/sys"), "", "mount by mount_setattr");
    fact(apart(do_pivot_root, "/nowhere"), "", "mount by pivot_root");
    fact(apart(leave_chroot, NULL), "", "mount left by chroot");
    rmdir(PLACE "/in");
    rmdir(PLACE);
}

static const struct {
    const char *name;
    int flag;
} SPACES[] = {
    {"user", CLONE_NEWUSER}, {"mnt", CLONE_NEWNS},   {"pid", CLONE_NEWPID},       {"net", CLONE_NEWNET},
    {"ipc", CLONE_NEWIPC},   {"uts", CLONE_NEWUTS},  {"cgroup", CLONE_NEWCGROUP}, {"time", 0x80},
};

static long do_unshare(const void *flag)
{
    return unshare(*(const int *)flag);
}

static long do_clone(const void *flag)
{
    long pid = syscall(SYS_clone, *(const int *)flag | SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long do_clone3(const void *flag)
{
    unsigned long arguments[8] = {*(const int *)flag, 0, 0, 0, SIGCHLD};
    long pid = syscall(435, arguments, sizeof arguments);
    if (pid == 0)
        _exit(0);
    return pid;
}

static long do_setns(const void *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/1/ns/%s", (const char *)name);
    int fd = open(path, O_RDONLY);
    return fd < 0 ? -1 : setns(fd, 0);
}

void namespaces(void)
{
    for (size_t i = 0; i < sizeof SPACES / sizeof *SPACES; i++) {
        fact(apart(do_unshare, &SPACES[i].flag), "", "namespace %s by unshare", SPACES[i].name);
        if (SPACES[i].flag != 0x80) {
            fact(apart(do_clone, &SPACES[i].flag), "", "namespace %s by clone", SPACES[i].name);
            fact(apart(do_clone3, &SPACES[i].flag), "", "namespace %s by clone3", SPACES[i].name);
        }
        fact(apart(do_setns, SPACES[i].name), "", "namespace %s by setns", SPACES[i].name);
    }
}

struct device {
    const char *name;
    mode_t kind;
    int major, minor;
};

static char node[64];

static long do_mknod(const void *argument)
{
    const struct device *d = argument;
    unlink(node);
    return mknod(node, d->kind | 0600, makedev(d->major, d->minor));
}

static long do_open(const void *path)
{
    return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

static long type_into_terminal(const void *unused)
{
    (void)unused;
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY);
    return fd < 0 ? -1 : ioctl(fd, TIOCSTI, "");
}

static long paste_into_console(const void *unused)
{
    (void)unused;
    char selection[16] = {3};
    return ioctl(0, TIOCLINUX, selection);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

void devices(void)
{
    static const struct device ALL[] = {
        {"null 1:3", S_IFCHR, 1, 3},       {"mem 1:1", S_IFCHR, 1, 1},      {"kmsg 1:11", S_IFCHR, 1, 11},
        {"console 5:1", S_IFCHR, 5, 1},    {"fuse 10:229", S_IFCHR, 10, 229}, {"tun 10:200", S_IFCHR, 10, 200},
        {"kvm 10:232", S_IFCHR, 10, 232},  {"loop-control 10:237", S_IFCHR, 10, 237}, {"vhost-net 10:238", S_IFCHR, 10, 238},
        {"sda 8:0", S_IFBLK, 8, 0},        {"loop0 7:0", S_IFBLK, 7, 0},    {"vda 254:0", S_IFBLK, 254, 0},
        {"tty1 4:1", S_IFCHR, 4, 1},
    };
    static const char *const WHERE[] = {"/tmp", "/dev", "/dev/shm"};
    for (size_t i = 0; i < sizeof ALL / sizeof *ALL; i++)
        for (size_t at = 0; at < sizeof WHERE / sizeof *WHERE; at++) {
            snprintf(node, sizeof node, "%s/.prober-node", WHERE[at]);
            const char *made = apart(do_mknod, &ALL[i]);
            fact(made, "", "device %s made in %s", ALL[i].name, WHERE[at]);
            if (!strcmp(made, "done"))
                fact(apart(do_open, node), "", "device %s opened in %s", ALL[i].name, WHERE[at]);
            unlink(node);
        }
    struct dirent **names;
    int count = scandir("/dev", &names, NULL, by_name);
    for (int i = 0; i < count; i++) {
        char path[300];
        struct stat is;
        snprintf(path, sizeof path, "/dev/%s", names[i]->d_name);
        if (lstat(path, &is) == 0 && (S_ISCHR(is.st_mode) || S_ISBLK(is.st_mode))) {
            char kind[32];
            snprintf(kind, sizeof kind, "%c %u:%u %04o", S_ISCHR(is.st_mode) ? 'c' : 'b', major(is.st_rdev), minor(is.st_rdev), is.st_mode & 07777);
            fact(apart(do_open, path), kind, "device %s is there", path);
        }
        free(names[i]);
    }
    fact(apart(type_into_terminal, NULL), "", "device /dev/tty typed into (TIOCSTI)");
    fact(apart(paste_into_console, NULL), "", "device console pasted into (TIOCLINUX)");
}
