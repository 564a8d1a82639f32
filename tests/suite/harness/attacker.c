// What a hostile image runs against the tools that join its container. Built by images.rs, used by attacks.rs.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static char path[64], text[1 << 16];

// One line in a file of the container, at most some: a leak shows thousands of times.
static void note(const char *file, const char *line)
{
    static int lines[128];
    int fd = lines[file[1] & 127]++ < 2000 ? open(file, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (fd >= 0) {
        dprintf(fd, "%s\n", line);
        close(fd);
    }
}

// The needles in what /proc/PID/NAME holds, or points to.
static void look(int pid, const char *name, int link, char **needles)
{
    char line[512];
    ssize_t length = 0, more;
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    if (link) {
        length = readlink(path, text, sizeof text - 1);
    } else {
        int fd = open(path, O_RDONLY);
        while (fd >= 0 && (more = read(fd, text + length, sizeof text - 1 - length)) > 0)
            length += more;
        close(fd);
    }
    for (char **needle = needles; *needle; needle++)
        if (length > 0 && memmem(text, length, *needle, strlen(*needle))) {
            snprintf(line, sizeof line, "%s shows %s", path, *needle);
            note("/hits", line);
        }
}

// spy NEEDLE…: whatever /proc shows of others that has one of the needles in it goes to /hits.
static void spy(int pid, char **needles)
{
    static const char *const files[] = {"mountinfo", "net/dev", "environ", "cmdline", "exe", "cwd", "root"};
    char name[16], line[1024];
    for (int i = 0; i < 7; i++)
        // The init's arguments have its own, the needles, in them.
        if (pid != 1 || i != 3)
            look(pid, files[i], i > 3, needles);
    for (int fd = 3; fd < 24; fd++) {
        snprintf(name, sizeof name, "fd/%d", fd);
        snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
        ssize_t length = readlink(path, text, 255);
        if (length > 0 && length < 255) {
            text[length] = 0;
            snprintf(line, sizeof line, "%s is open: %.255s", path, text);
            note("/hits", line);
        }
    }
}

// unfiltered: who may make every system call goes to /hits.
static void unfiltered(int pid)
{
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    int fd = open(path, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    close(fd);
    if (length > 0 && memmem(text, length, "\nSeccomp:\t0", 11))
        note("/hits", path);
}

// take: what the container's init has open, and the init itself.
static void take(void)
{
    char line[512], where[32];
    int init = syscall(SYS_pidfd_open, 1, 0);
    for (int number = 0; number < 64; number++) {
        int fd = syscall(SYS_pidfd_getfd, init, number, 0);
        if (fd < 0)
            continue;
        snprintf(where, sizeof where, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(where, text, 255);
        text[length > 0 ? length : 0] = 0;
        snprintf(line, sizeof line, "taken: %.255s", text);
        note("/hits", line);
        close(fd);
    }
    close(init);
    if (!ptrace(PTRACE_SEIZE, 1, 0, 0)) {
        note("/hits", "traced");
        ptrace(PTRACE_DETACH, 1, 0, 0);
    }
    int memory = open("/proc/1/mem", O_RDWR);
    if (memory >= 0)
        note("/hits", "its memory");
    close(memory);
}

// keep: whatever pipe a newcomer has open, from its first moment on; and none of it is ever closed again.
static void keep(void)
{
    static int newest;
    char where[32];
    int count = 0;
    newest = newest ? newest : getpid();
    for (int ahead = 1; ahead < 8; ahead++) {
        int pid = syscall(SYS_pidfd_open, newest + ahead, 0);
        if (pid < 0)
            continue;
        for (int number = 3; number < 9; number++) {
            int fd = syscall(SYS_pidfd_getfd, pid, number, 0);
            snprintf(where, sizeof where, "/proc/self/fd/%d", fd);
            ssize_t length = fd < 0 ? 0 : readlink(where, text, 255);
            text[length > 0 ? length : 0] = 0;
            if (!strncmp(text, "pipe:", 5))
                count++;
            else
                close(fd);
        }
        close(pid);
        newest += ahead;
        note("/seen", "a newcomer");
        if (count > 0)
            note("/hits", "kept");
        return;
    }
}

static void tried(const char *how, int result)
{
    char line[64];
    // EACCES: in a user namespace, where the file is nobody's.
    if (result >= 0 || (errno != EROFS && errno != EXDEV && errno != ETXTBSY && errno != EPERM && errno != EACCES)) {
        snprintf(line, sizeof line, "%s: %s", how, result >= 0 ? "done" : strerror(errno));
        note("/hits", line);
    }
}

// All that could change the file that a tool runs from; it changes nothing that matters if it may. The tool has ended
// by then, so that "text file busy" does not protect it. A sealed memfd (before Linux 5.12) is a copy for this one
// start, whose mode and times are nobody's; it can be opened, and says EPERM to what would change its content.
static void write_to(int pid)
{
    struct stat is;
    int flags = 0;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t length = readlink(path, text, 255);
    int fd = length > 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    text[length > 0 ? length : 0] = 0;
    // A tool that started from a read-only copy of its own mount is the root of that.
    if (fd < 0 || (!strstr(text, "quilt") && strcmp(text, "/"))) {
        close(fd);
        return;
    }
    nanosleep(&(struct timespec){0, 100 * 1000 * 1000}, NULL);
    fstat(fd, &is);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (!strncmp(text, "/memfd:", 7)) {
        int copy = open(path, O_RDWR | O_CLOEXEC);
        tried("write to the copy", pwrite(copy, "x", 1, 0));
        tried("cut the copy", ftruncate(copy, 0));
        tried("lengthen the copy", ftruncate(copy, is.st_size + 1));
        close(copy);
        close(fd);
        note("/caught", text);
        return;
    }
    tried("write only", open(path, O_WRONLY));
    tried("read and write", open(path, O_RDWR | O_APPEND));
    tried("mode", fchmod(fd, is.st_mode & 07777));
    tried("owner", fchown(fd, is.st_uid, is.st_gid));
    tried("xattr", fsetxattr(fd, "user.quilt-test", "", 0, 0));
    tried("times", futimens(fd, (struct timespec[2]){is.st_atim, is.st_mtim}));
    tried("link", linkat(AT_FDCWD, path, AT_FDCWD, "/stolen", AT_SYMLINK_FOLLOW));
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0)
        tried("flags", ioctl(fd, FS_IOC_SETFLAGS, &flags));
    close(fd);
    note("/caught", text);
}

static void *traced(void *whatever)
{
    // Whoever started this program is its tracer from here on, and has to reap it.
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    return whatever;
}

static void *late(void *whatever)
{
    usleep(300 * 1000);
    return whatever;
}

// Runs once, and exits with 3: how a program may make it hard for its parent to see its end.
static int end_oddly(const char *how)
{
    pthread_t thread;
    if (!strcmp(how, "a traced thread")) {
        pthread_create(&thread, NULL, traced, NULL);
        pthread_join(thread, NULL);
    } else if (!strcmp(how, "traced itself")) {
        traced(NULL);
        raise(SIGWINCH);
    } else if (!strcmp(how, "siblings")) {
        for (int i = 0; i < 20; i++)
            if (syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) == 0)
                _exit(9);
    } else if (!strcmp(how, "a thread that another traces")) {
        pthread_create(&thread, NULL, late, NULL);
        pthread_join(thread, NULL);
    }
    return 3;
}

// Traces every thread that is not a process's first, and never waits for it.
static void hold_threads(int pid)
{
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *all = opendir(path);
    for (struct dirent *entry; all && (entry = readdir(all));) {
        int thread = atoi(entry->d_name);
        if (thread > 0 && thread != pid && !ptrace(PTRACE_SEIZE, thread, 0, 0))
            note("/traced", entry->d_name);
    }
    if (all)
        closedir(all);
}

int main(int argc, char **argv)
{
    int newest = 1;
    if (argc > 2 && !strcmp(argv[1], "end"))
        return end_oddly(argv[2]);
    signal(SIGTERM, SIG_IGN);
    for (;;) {
        if (!strcmp(argv[1], "stop")) {
            kill(-1, SIGSTOP);
            continue;
        }
        if (!strcmp(argv[1], "keep")) {
            keep();
            continue;
        }
        if (!strcmp(argv[1], "take"))
            take();
        DIR *all = opendir("/proc");
        for (struct dirent *entry; all && (entry = readdir(all));) {
            int pid = atoi(entry->d_name);
            if (pid < 1 || pid == getpid())
                continue;
            if (pid > newest) {
                // So that the test knows that this one sees the tools at all.
                note("/seen", entry->d_name);
                newest = pid;
            }
            if (!strcmp(argv[1], "spy"))
                spy(pid, argv + 2);
            else if (!strcmp(argv[1], "unfiltered"))
                unfiltered(pid);
            else if (!strcmp(argv[1], "write"))
                write_to(pid);
            else if (!strcmp(argv[1], "hold"))
                hold_threads(pid);
            else if (!strcmp(argv[1], "trace") && !ptrace(PTRACE_SEIZE, pid, 0, 0))
                note("/traced", entry->d_name);
        }
        if (all)
            closedir(all);
    }
}
