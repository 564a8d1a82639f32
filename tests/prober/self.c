// What this process is held to, and whom it reaches.
#include "prober.h"
#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void limit(const char *name, int resource)
{
    struct rlimit is;
    char text[64];
    getrlimit(resource, &is);
    snprintf(text, sizeof text, is.rlim_cur == RLIM_INFINITY ? "unlimited" : "%lu", (unsigned long)is.rlim_cur);
    snprintf(text + strlen(text), sizeof text - strlen(text), is.rlim_max == RLIM_INFINITY ? " unlimited" : " %lu", (unsigned long)is.rlim_max);
    fact("is", text, "self limit %s", name);
}

static void file(const char *name, const char *path)
{
    static char text[4096];
    long length = content(path, text, sizeof text);
    if (length > 0 && text[length - 1] == '\n')
        text[length - 1] = 0;
    fact(length < 0 ? errno_name(errno) : "is", length < 0 ? "" : text, "self %s", name);
}

static void status(void)
{
    static char text[8192];
    static const char *const LINES[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Speculation_Store_Bypass"};
    content("/proc/self/status", text, sizeof text);
    for (size_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
        char start[64];
        snprintf(start, sizeof start, "\n%s:\t", LINES[i]);
        char *line = strstr(text, start);
        if (!line) {
            fact("absent", "", "self %s", LINES[i]);
            continue;
        }
        line += strlen(start);
        char value[128];
        snprintf(value, sizeof value, "%.*s", (int)strcspn(line, "\n"), line);
        for (size_t end = strlen(value); end && value[end - 1] == ' '; end--)
            value[end - 1] = 0;
        fact("is", value, "self %s", LINES[i]);
    }
}

static void descriptors(void)
{
    char text[512] = "", path[64], target[256];
    DIR *all = opendir("/proc/self/fd");
    int own = all ? dirfd(all) : -1, found = 0;
    for (struct dirent *entry; all && (entry = readdir(all));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd < 3 || fd == own)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d=%s", found++ ? " " : "", fd, target);
    }
    if (all)
        closedir(all);
    fact(found ? "open" : "none", text, "self further descriptors");
}

void self(void)
{
    static char text[4096];
    char octal[16];
    unsigned terminal = 0;
    status();
    mode_t mask = umask(022);
    snprintf(octal, sizeof octal, "%04o", mask);
    umask(mask);
    fact("is", octal, "self umask");
    file("uid_map", "/proc/self/uid_map");
    file("gid_map", "/proc/self/gid_map");
    file("setgroups", "/proc/self/setgroups");
    file("oom_score_adj", "/proc/self/oom_score_adj");
    file("security label", "/proc/self/attr/current");
    content("/proc/self/stat", text, sizeof text);
    char *rest = strrchr(text, ')');
    if (rest)
        sscanf(rest, ") %*c %*d %*d %*d %u", &terminal);
    fact(terminal ? "one" : "none", "", "self controlling terminal");
    descriptors();
    limit("core", RLIMIT_CORE);
    limit("nofile", RLIMIT_NOFILE);
    limit("nproc", RLIMIT_NPROC);
    limit("memlock", RLIMIT_MEMLOCK);
    limit("msgqueue", RLIMIT_MSGQUEUE);
    limit("nice", RLIMIT_NICE);
    limit("rtprio", RLIMIT_RTPRIO);
    limit("fsize", RLIMIT_FSIZE);
    limit("stack", RLIMIT_STACK);
    file("ip_unprivileged_port_start", "/proc/sys/net/ipv4/ip_unprivileged_port_start");
    file("ping_group_range", "/proc/sys/net/ipv4/ping_group_range");
    // Where this one is, as seen from inside: `/` is all of it.
    content("/proc/self/cgroup", text, sizeof text);
    int outside = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *path = strrchr(line, ':');
        outside |= path && (strstr(path, "..") || strstr(path, "docker") || strstr(path, "libpod") || strstr(path, "quilt"));
    }
    fact(outside ? "host's" : "own", "", "self cgroup path");
}

// Connects, for a second at most.
static const char *reach(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), why = 0;
    socklen_t size = sizeof why;
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1)
        return "unreadable";
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) {
        close(fd);
        return errno_name(errno);
    }
    struct pollfd polled = {fd, POLLOUT, 0};
    int ready = poll(&polled, 1, 1000);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &size);
    close(fd);
    return ready < 1 ? "silence" : why ? errno_name(why) : "done";
}

void network(char **places)
{
    for (; *places; places++) {
        char address[64];
        char *colon = strrchr(*places, ':');
        snprintf(address, sizeof address, "%.*s", colon ? (int)(colon - *places) : 0, *places);
        fact(colon ? reach(address, atoi(colon + 1)) : "unreadable", "", "network %s", *places);
    }
    DIR *links = opendir("/sys/class/net");
    char text[256] = "";
    for (struct dirent *entry; links && (entry = readdir(links));)
        if (entry->d_name[0] != '.')
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", *text ? " " : "", entry->d_name);
    if (links)
        closedir(links);
    fact(*text ? "is" : "none", text, "network interfaces");
}
