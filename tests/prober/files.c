// What can be seen and written: the kernel's file systems. Nothing is ever written: a file that opens for writing counts.
#include "prober.h"
#include <dirent.h>
#include <sys/klog.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

// What tells about the host, or reaches into it.
static const char *const TOLD[] = {
    "/proc/acpi", "/proc/asound", "/proc/buddyinfo", "/proc/bus/pci/devices", "/proc/cmdline", "/proc/config.gz",
    "/proc/consoles", "/proc/diskstats", "/proc/driver", "/proc/dynamic_debug/control", "/proc/interrupts",
    "/proc/iomem", "/proc/ioports", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys", "/proc/kmsg",
    "/proc/kpagecgroup", "/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/modules",
    "/proc/pagetypeinfo", "/proc/partitions", "/proc/sched_debug", "/proc/schedstat", "/proc/scsi", "/proc/slabinfo",
    "/proc/softirqs", "/proc/swaps", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats",
    "/proc/tty/drivers", "/proc/vmallocinfo", "/proc/zoneinfo", "/dev/kmsg", "/dev/mem", "/sys/block",
    "/sys/class/powercap", "/sys/devices/system/cpu/cpu0/thermal_throttle", "/sys/devices/virtual/dmi/id/product_serial",
    "/sys/devices/virtual/dmi/id/product_uuid", "/sys/devices/virtual/powercap", "/sys/firmware", "/sys/fs/bpf",
    "/sys/fs/ext4", "/sys/fs/fuse/connections", "/sys/fs/pstore", "/sys/fs/selinux", "/sys/hypervisor",
    "/sys/kernel/btf", "/sys/kernel/debug", "/sys/kernel/iommu_groups", "/sys/kernel/notes", "/sys/kernel/security",
    "/sys/kernel/slab", "/sys/kernel/tracing", "/sys/kernel/vmcoreinfo", "/sys/module", "/sys/power",
};

// "absent", "empty" (also where the null device or an empty directory covers it), "readable", or why not.
static const char *readable(const char *path)
{
    char byte;
    struct stat is;
    if (lstat(path, &is) < 0)
        return errno == ENOENT || errno == ENOTDIR ? "absent" : errno_name(errno);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno_name(errno);
    const char *verdict;
    if (fstat(fd, &is) == 0 && S_ISDIR(is.st_mode)) {
        DIR *dir = fdopendir(fd);
        int entries = 0;
        while (dir && readdir(dir))
            entries++;
        closedir(dir);
        return entries > 2 ? "readable" : "empty";
    }
    ssize_t length = read(fd, &byte, 1);
    verdict = length > 0 ? "readable" : length == 0 ? "empty" : errno == EAGAIN ? "readable" : errno_name(errno);
    close(fd);
    return verdict;
}

// Kernel threads show only in the initial pid namespace.
static int kernel_threads(void)
{
    static char text[4096];
    char path[64];
    int found = 0;
    DIR *all = opendir("/proc");
    for (struct dirent *entry; all && (entry = readdir(all));) {
        unsigned flags;
        snprintf(path, sizeof path, "/proc/%.16s/stat", entry->d_name);
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || content(path, text, sizeof text) < 0)
            continue;
        char *rest = strrchr(text, ')');
        if (rest && sscanf(rest, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && flags & 0x200000)
            found++;
    }
    if (all)
        closedir(all);
    return found;
}

// Mounts whose source or options name a place of the host's: a root that is not the file system's own, a layer's directory.
static void mount_table(void)
{
    static char text[1 << 16], roots[1024];
    content("/proc/self/mountinfo", text, sizeof text);
    int leaks = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char root[512] = "", at[256] = "";
        sscanf(line, "%*s %*s %*s %511s %255s", root, at);
        int own = !strcmp(root, "/") || !strncmp(at, "/proc", 5) || !strncmp(at, "/sys/", 5) || !strncmp(at, "/dev", 4);
        char *dir = strstr(line, "dir=/");
        if (!own || (dir && strncmp(dir, "dir=/proc/self/fd/", 18))) {
            leaks++;
            snprintf(roots + strlen(roots), sizeof roots - strlen(roots), "%s%s", *roots ? " " : "", at);
        }
    }
    fact(leaks ? "paths" : "none", roots, "see mountinfo of the host");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void environment(void)
{
    extern char **environ;
    char *names[64], text[2048] = "";
    int count = 0;
    for (char **entry = environ; *entry && count < 64; entry++)
        names[count++] = strndup(*entry, strcspn(*entry, "="));
    qsort(names, count, sizeof *names, by_name);
    for (int i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", i ? " " : "", names[i]);
    fact("known", text, "see environment");
}

void see(void)
{
    struct utsname host;
    char text[4096];
    for (size_t i = 0; i < sizeof TOLD / sizeof *TOLD; i++)
        fact(readable(TOLD[i]), "", "see %s", TOLD[i]);
    // SYSLOG_ACTION_SIZE_BUFFER is free to everybody; SYSLOG_ACTION_READ_ALL is not.
    fact(word(klogctl(3, text, sizeof text)), "", "see kernel messages");
    fact(kernel_threads() ? "all" : "own", "", "see processes");
    uname(&host);
    fact("known", host.nodename, "see host name");
    fact(readable("/etc/machine-id"), "", "see machine-id");
    mount_table();
    environment();
}

// Every file below that opens for writing, counted, and the first few of them.
static int tried, opened;
static char first[512];

static void walk(const char *dir, int depth, dev_t device)
{
    char path[1024];
    struct stat is;
    DIR *all = depth < 24 ? opendir(dir) : NULL;
    for (struct dirent *entry; all && (entry = readdir(all));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (lstat(path, &is) < 0 || is.st_dev != device)
            continue;
        if (S_ISDIR(is.st_mode)) {
            walk(path, depth + 1, device);
            continue;
        }
        if (!S_ISREG(is.st_mode) || !(is.st_mode & 0222))
            continue;
        tried++;
        int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0) {
            close(fd);
            if (opened++ < 8)
                snprintf(first + strlen(first), sizeof first - strlen(first), "%s%s", *first ? " " : "", path);
        }
    }
    if (all)
        closedir(all);
}

static void tree(const char *dir)
{
    struct stat is;
    tried = opened = 0;
    *first = 0;
    if (stat(dir, &is) < 0) {
        fact("absent", "", "write below %s", dir);
        return;
    }
    walk(dir, 0, is.st_dev);
    fact(opened ? "some" : "none", first, "write below %s", dir);
}

static long lower_oom_score(const void *unused)
{
    (void)unused;
    int fd = open("/proc/self/oom_score_adj", O_WRONLY);
    return fd < 0 ? -1 : write(fd, "-1000", 5);
}

void writes(void)
{
    static const char *const SWITCHES[] = {
        "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sys/fs/binfmt_misc/register",
        "/proc/irq/default_smp_affinity", "/proc/scsi/scsi", "/proc/mtrr", "/proc/1/oom_score_adj", "/proc/1/mem",
        "/sys/kernel/uevent_helper", "/sys/kernel/profiling", "/sys/power/state", "/sys/kernel/mm/ksm/run",
        "/sys/module/printk/parameters/time", "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/pids/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/tasks",
        "/sys/fs/cgroup/devices/devices.allow",
    };
    for (size_t i = 0; i < sizeof SWITCHES / sizeof *SWITCHES; i++) {
        int fd = open(SWITCHES[i], O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
        fact(fd >= 0 ? "done" : errno == ENOENT || errno == ENOTDIR ? "absent" : errno_name(errno), "", "write %s", SWITCHES[i]);
        close(fd);
    }
    tree("/proc/sys");
    tree("/proc/bus");
    tree("/proc/fs");
    tree("/proc/irq");
    tree("/proc/scsi");
    tree("/proc/acpi");
    tree("/sys");
    tree("/sys/fs/cgroup");
    static const char *const HIERARCHIES[] = {"memory", "cpu,cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "unified", "systemd"};
    for (size_t i = 0; i < sizeof HIERARCHIES / sizeof *HIERARCHIES; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", HIERARCHIES[i]);
        tree(path);
    }
    int made = mkdir("/sys/fs/cgroup/prober", 0755);
    fact(word(made), "", "write a cgroup below one's own");
    rmdir("/sys/fs/cgroup/prober");
    fact(apart(lower_oom_score, NULL), "", "write a lower oom_score_adj");
}
