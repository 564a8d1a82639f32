//! The profile that is built in: what is open, by name, to whom.
//!
//! It lists what may be called; everything else is refused. By the names of docker's and podman's default profiles of 2026,
//! the stricter of the two in nearly every row (docs/security.md has the table). What is behind a capability is open to
//! those only who have it: without, the kernel would refuse it after it has looked at the arguments, and what is not
//! reached cannot be wrong.

use std::collections::BTreeMap;

use super::arch::Arch;
use super::profile::{Action, Decision, Op, Profile, Rule, Table, Test};

/// What of a container the built-in profile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The capabilities that its processes can have, a bit for each number.
    pub capabilities: u64,
    /// Whether the 32-bit ABIs of the machine are open: i386 and x32 on x86_64, 32-bit ARM on aarch64.
    pub abi32: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { capabilities: 0x8004_05fb, abi32: false }
    }
}

/// Open to everybody, by subject. Names that an ABI has not are none of its business.
const OPEN: [&str; 9] = [
    // Files.
    "read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat openat2 creat close close_range \
     dup dup2 dup3 fcntl fcntl64 flock lseek _llseek truncate truncate64 ftruncate ftruncate64 fallocate fadvise64 \
     fadvise64_64 arm_fadvise64_64 readahead cachestat sync syncfs fsync fdatasync sync_file_range \
     arm_sync_file_range copy_file_range sendfile sendfile64 splice tee",
    // Names and attributes of files.
    "stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64 statmount \
     listmount access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 lchown lchown32 \
     fchownat utime utimes utimensat utimensat_time64 futimesat link linkat symlink symlinkat readlink readlinkat unlink \
     unlinkat rename renameat renameat2 mkdir mkdirat rmdir mknod mknodat getdents getdents64 getcwd chdir fchdir umask \
     setxattr lsetxattr fsetxattr setxattrat getxattr lgetxattr fgetxattr getxattrat listxattr llistxattr flistxattr \
     listxattrat removexattr lremovexattr fremovexattr removexattrat name_to_handle_at inotify_init inotify_init1 \
     inotify_add_watch inotify_rm_watch fanotify_mark",
    // Waiting for files.
    "poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
     epoll_wait epoll_wait_old epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd signalfd4 pipe pipe2 io_setup io_destroy \
     io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64",
    // Memory.
    "brk mmap mmap2 munmap mremap mprotect madvise mincore msync mlock mlock2 mlockall munlock munlockall mseal \
     memfd_create memfd_secret membarrier map_shadow_stack pkey_alloc pkey_free pkey_mprotect remap_file_pages",
    // Processes, and what each is.
    "fork vfork execve execveat exit exit_group wait4 waitid waitpid ptrace process_vm_readv process_vm_writev pidfd_open \
     pidfd_send_signal process_mrelease kill tkill tgkill getpid getppid gettid getpgid getpgrp setpgid getsid setsid \
     getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32 \
     getgroups getgroups32 setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 \
     setresgid setresgid32 setfsuid setfsuid32 setfsgid setfsgid32 setgroups setgroups32 capget capset prctl arch_prctl \
     prlimit64 getrlimit ugetrlimit setrlimit getrusage getpriority setpriority ioprio_get ioprio_set uname sysinfo times \
     getrandom getcpu seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    // Threads. The last two are what the kernel itself has programs call that are probed.
    "futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue set_tid_address set_robust_list get_robust_list \
     set_thread_area get_thread_area set_tls cacheflush breakpoint rseq rseq_slice_yield sched_yield sched_getaffinity \
     sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam sched_getscheduler sched_setscheduler \
     sched_get_priority_max sched_get_priority_min sched_rr_get_interval sched_rr_get_interval_time64 uretprobe uprobe",
    // Signals and time.
    "rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
     rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn pause restart_syscall alarm getitimer setitimer nanosleep \
     clock_nanosleep clock_nanosleep_time64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_adjtime \
     clock_adjtime64 adjtimex gettimeofday time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
     timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Sockets. A filter cannot see what i386's `socketcall` is asked for: with it open, so is every family (see `abi32`).
    "accept accept4 bind connect listen shutdown getpeername getsockname getsockopt setsockopt recv recvfrom recvmsg \
     recvmmsg recvmmsg_time64 send sendto sendmsg sendmmsg socketcall",
    // System V's and POSIX's messages, semaphores, shared memory. i386's `ipc` is for these, all of them open.
    "ipc msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget mq_open \
     mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64",
];

/// The numbers of capabilities (linux/capability.h) that open something.
mod cap {
    pub const DAC_READ_SEARCH: u64 = 1 << 2;
    pub const NET_ADMIN: u64 = 1 << 12;
    pub const NET_RAW: u64 = 1 << 13;
    pub const SYS_MODULE: u64 = 1 << 16;
    pub const SYS_RAWIO: u64 = 1 << 17;
    pub const SYS_CHROOT: u64 = 1 << 18;
    pub const SYS_PTRACE: u64 = 1 << 19;
    pub const SYS_PACCT: u64 = 1 << 20;
    pub const SYS_ADMIN: u64 = 1 << 21;
    pub const SYS_BOOT: u64 = 1 << 22;
    pub const SYS_NICE: u64 = 1 << 23;
    pub const SYS_TIME: u64 = 1 << 25;
    pub const SYS_TTY_CONFIG: u64 = 1 << 26;
    pub const AUDIT: u64 = 1 << 29 | 1 << 30 | 1 << 37;
    pub const SYSLOG: u64 = 1 << 34;
    pub const PERFMON: u64 = 1 << 38;
    pub const BPF: u64 = 1 << 39;
}

/// Open to those who have one of the capabilities.
const BEHIND: [(u64, &str); 15] = [
    (cap::DAC_READ_SEARCH, "open_by_handle_at"),
    (cap::SYS_MODULE, "init_module finit_module delete_module"),
    (cap::SYS_RAWIO, "iopl ioperm"),
    (cap::SYS_CHROOT, "chroot"),
    (cap::SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (cap::SYS_PACCT, "acct"),
    (
        cap::SYS_ADMIN,
        "mount umount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr \
         clone clone3 unshare setns listns sethostname setdomainname quotactl quotactl_fd fanotify_init lookup_dcookie \
         lsm_get_self_attr lsm_set_self_attr lsm_list_modules",
    ),
    (cap::SYS_BOOT, "reboot"),
    (cap::SYS_NICE, "mbind get_mempolicy set_mempolicy set_mempolicy_home_node"),
    (cap::SYS_TIME, "settimeofday stime clock_settime clock_settime64"),
    (cap::SYS_TTY_CONFIG, "vhangup"),
    (cap::SYSLOG | cap::SYS_ADMIN, "syslog"),
    (cap::BPF | cap::SYS_ADMIN, "bpf"),
    (cap::PERFMON | cap::SYS_ADMIN, "perf_event_open"),
    // Decided by their arguments: see `socket`.
    (cap::NET_ADMIN | cap::NET_RAW | cap::AUDIT, ""),
];

/// Refused as if the kernel had not got them, because there is an older way that callers then take: `clone3` has its flags
/// where a filter cannot see them, the others came after the profiles that this one follows.
const ABSENT: &str = "clone3 open_tree_attr file_getattr file_setattr listns";

/// The capabilities that make a difference.
pub fn relevant() -> u64 {
    BEHIND.iter().fold(0, |all, (capabilities, _)| all | capabilities)
}

/// The profile on a machine of this architecture.
pub fn profile(native: Arch, options: &Options) -> Profile {
    let others: &[Arch] = if options.abi32 { native.others() } else { &[] };
    let arches = [native].into_iter().chain(others.iter().copied());
    let by_name = by_name(options);
    let table = |arch: Arch| {
        let decision = |name| by_name.get(name).cloned().unwrap_or(Decision::always(Action::EPERM));
        let calls = arch.calls().map(|(name, number)| (number, decision(name))).collect();
        Table { arch, calls, others: Action::ENOSYS, newer: Action::ENOSYS }
    };
    Profile { tables: arches.map(table).collect(), foreign: Action::ENOSYS }
}

fn by_name(options: &Options) -> BTreeMap<&'static str, Decision> {
    let mut calls = BTreeMap::new();
    let mut all = |names: &'static str, action| {
        calls.extend(names.split_ascii_whitespace().map(|name| (name, Decision::always(action))));
    };
    OPEN.into_iter().for_each(|names| all(names, Action::ALLOW));
    all(ABSENT, Action::ENOSYS);
    for (capabilities, names) in BEHIND {
        if options.capabilities & capabilities != 0 {
            all(names, Action::ALLOW);
        }
    }
    // Segments of 16 and 32 bits: nobody's but those who run such code.
    all("modify_ldt", if options.abi32 { Action::ALLOW } else { Action::EPERM });
    if options.capabilities & cap::SYS_ADMIN == 0 {
        calls.insert("clone", allowed_if(Test { arg: 0, mask: NAMESPACES, op: Op::Eq, value: 0 }));
        calls.insert("unshare", allowed_if(Test { arg: 0, mask: !UNSHARED, op: Op::Eq, value: 0 }));
    }
    calls.insert("ioctl", ioctl());
    calls.insert("personality", personality());
    calls.insert("socket", socket(options.capabilities));
    calls.insert("socketpair", socket(options.capabilities));
    calls
}

/// All `CLONE_NEW*` of clone(2). In its flags CLONE_NEWTIME would be part of the signal.
const NAMESPACES: u64 = 0x7e02_0000;

/// What unshare(2) may be asked for: CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM. Flags to come are not.
const UNSHARED: u64 = 0x0005_0f00;

fn allowed_if(test: Test) -> Decision {
    Decision { rules: vec![Rule { tests: vec![test], action: Action::ALLOW }], otherwise: Action::EPERM }
}

fn when(tests: &[Test], action: Action) -> Rule {
    Rule { tests: tests.to_vec(), action }
}

/// Typing into a terminal that one shares with others, and its Linux console's sibling (TIOCSTI, TIOCLINUX).
fn ioctl() -> Decision {
    let refused = |command| when(&[Test::low(1, Op::Eq, command)], Action::EPERM);
    Decision { rules: vec![refused(0x5412), refused(0x541c)], otherwise: Action::ALLOW }
}

/// To ask (all ones), or to be Linux (0) that calls itself 32-bit (8) or 2.6 (0x20000). Others weaken the address space.
fn personality() -> Decision {
    let allowed = [0, u32::MAX, 8, 0x2_0000, 0x2_0008].map(|is| when(&[Test::low(0, Op::Eq, is)], Action::ALLOW));
    Decision { rules: allowed.to_vec(), otherwise: Action::EPERM }
}

/// Families of sockets, and the one protocol that the kernel of a container has nobody to answer.
fn socket(capabilities: u64) -> Decision {
    const UNIX: u32 = 1;
    const INET: u32 = 2;
    const INET6: u32 = 10;
    const NETLINK: u32 = 16;
    const PACKET: u32 = 17;
    const ALG: u32 = 38;
    const VSOCK: u32 = 40;
    const XDP: u32 = 44;
    const NETLINK_AUDIT: u32 = 9;
    const UNSUPPORTED: Action = Action::errno(97);
    let family = |is| Test::low(0, Op::Eq, is);
    let allowed = |is| when(&[family(is)], Action::ALLOW);
    let mut rules = vec![allowed(UNIX), allowed(INET), allowed(INET6)];
    if capabilities & cap::AUDIT == 0 {
        // EINVAL is what login programs take for a kernel without audit; a socket that refuses their messages stops them.
        rules.push(when(&[family(NETLINK), Test::low(2, Op::Eq, NETLINK_AUDIT)], Action::errno(22)));
    }
    rules.push(allowed(NETLINK));
    if capabilities & cap::NET_ADMIN != 0 {
        let no = |is| Test::low(0, Op::Ne, is);
        rules.push(when(&[no(ALG), no(VSOCK)], Action::ALLOW));
    } else if capabilities & cap::NET_RAW != 0 {
        rules.extend([allowed(PACKET), allowed(XDP)]);
    }
    Decision { rules, otherwise: UNSUPPORTED }
}

/// All names that the profile says something of.
#[cfg(test)]
pub fn names(options: &Options) -> impl Iterator<Item = &'static str> {
    by_name(options).into_keys()
}
