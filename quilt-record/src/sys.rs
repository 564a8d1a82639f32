//! Every unsafe line of Quilt: the system calls that no crate wraps, and fork.
//!
//! Functions here are safe to call, or say in their name what the caller promises. None keeps state.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::NixPath;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};

use crate::defence::out;

/// The result of a raw system call.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that a system call just returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    // SAFETY: the kernel returned a new descriptor that nobody else has.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// 128 random bits (getrandom(2)); never fails once the kernel has booted.
pub fn random_u128() -> u128 {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer is 16 bytes; requests of up to 256 bytes are never cut short.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(n, 16, "getrandom failed");
    u128::from_ne_bytes(bytes)
}

/// pidfd_open(2), Linux 5.3.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// pidfd_send_signal(2), Linux 5.1.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: a null siginfo means the default one.
    let r = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as i32, std::ptr::null::<()>(), 0)
    };
    check(r).map(drop)
}

/// renameat2(2) with RENAME_NOREPLACE, Linux 3.15: EEXIST if `to` is there. By its number, as musl has no name for it.
pub fn rename_noreplace<F: NixPath + ?Sized, T: NixPath + ?Sized>(
    from_dir: impl AsFd,
    from: &F,
    to_dir: impl AsFd,
    to: &T,
) -> nix::Result<()> {
    let (from_dir, to_dir) = (from_dir.as_fd().as_raw_fd(), to_dir.as_fd().as_raw_fd());
    let renamed = from.with_nix_path(|from| {
        to.with_nix_path(|to| {
            let (from, to, flags) = (from.as_ptr(), to.as_ptr(), libc::RENAME_NOREPLACE);
            // SAFETY: both strings end in a NUL and live through the call.
            unsafe { libc::syscall(libc::SYS_renameat2, from_dir, from, to_dir, to, flags) }
        })
    })??;
    Errno::result(renamed).map(drop)
}

/// Asks for `signal` at the death of the parent (PR_SET_PDEATHSIG(2const)).
pub fn set_parent_death_signal(signal: Option<Signal>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal.map_or(0, |s| s as libc::c_ulong), 0, 0, 0) }.into())
        .map(drop)
}

/// flock(2), exclusive; does not wait if `try_only` (EWOULDBLOCK).
pub fn flock(fd: BorrowedFd<'_>, try_only: bool) -> io::Result<()> {
    let operation = libc::LOCK_EX | if try_only { libc::LOCK_NB } else { 0 };
    // SAFETY: no pointers.
    check(unsafe { libc::flock(fd.as_raw_fd(), operation) }.into()).map(drop)
}

/// Sets an attribute of a file (FS_IOC_SETFLAGS, ioctl_iflags(2)), beside those that it has.
pub fn add_inode_flag(file: BorrowedFd<'_>, flag: libc::c_int) -> io::Result<()> {
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel stores one int, whatever the type in the request's number says.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) }.into())?;
    flags |= flag;
    // SAFETY: the kernel reads one int.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) }.into()).map(drop)
}

/// The pending signals of thread and process (sigpending(2)).
pub fn pending_signals() -> SigSet {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigpending fills the set; a zeroed set is a valid empty one if it should fail.
    unsafe {
        libc::sigpending(set.as_mut_ptr());
        SigSet::from_sigset_t_unchecked(set.assume_init())
    }
}

/// signalfd(2), close-on-exec and non-blocking.
pub fn signalfd(set: &SigSet) -> io::Result<OwnedFd> {
    let raw: &libc::sigset_t = set.as_ref();
    // SAFETY: the set lives through the call; -1 asks for a new descriptor.
    owned(unsafe { libc::signalfd(-1, raw, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into())
}

/// Every signal at its default action and none blocked: the state in which a command expects to start. Rust ignores
/// SIGPIPE, shells ignore SIGINT for background jobs; both would be inherited.
pub fn reset_signals() {
    // By the kernel's call and not libc's, which refuses 32 and 33, its own two: a caller may have them ignored as well.
    // struct kernel_sigaction is four words; all zero it is SIG_DFL with no flags and an empty mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads a struct of that size, whose mask has 8 bytes; it refuses KILL and STOP.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), size_of::<u64>())
        };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Whether the signal is ignored (sigaction(2)).
pub fn is_ignored(signal: Signal) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action only reads the old one into a valid place.
    unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), old.as_mut_ptr()) == 0
            && old.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// A child process as its maker sees it.
#[derive(Debug)]
pub struct Child {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// A pidfd on it.
    pub pidfd: OwnedFd,
}

/// `linux/sched.h`; libc's constant is of too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks by clone3(2) with the CLONE_NEW* `flags`, born in the cgroup (v2, Linux 5.7) behind `cgroup` if one is given,
/// and runs `body` in the child. The child ends with the status that `body` returns; it never returns here, runs no
/// destructors of the caller and no atexit handlers. With CLONE_PARENT it is the caller's sibling: their parent reaps it.
///
/// Must be called while the process has one thread: the child may then use all of std. (Every tool of Quilt calls it
/// before it starts any thread; debug builds check, and fail with EBUSY.)
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> u8) -> io::Result<Child> {
    if cfg!(debug_assertions) && std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() > 1) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: RawFd = -1;
    // A sibling has the signal that its maker has, and clone3 wants to be told none.
    let exit_signal = if flags & libc::CLONE_PARENT as u64 == 0 { libc::SIGCHLD as u64 } else { 0 };
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of memory and stack; one thread, so no lock is held by a
    // thread that the child lacks; the argument block is the kernel's struct clone_args and lives through the call.
    let mut pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) });
    if pid.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::ENOSYS)) && cgroup.is_none() {
        // A filter of system calls that cannot look into the block, as docker's, hides clone3. clone(2) has all but the
        // cgroup; the order of its last two arguments depends on the architecture, and both are unused.
        let flags = (args.flags | exit_signal) as usize;
        // SAFETY: as above; the pidfd's place lives through the call.
        pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) });
    }
    let pid = pid?;
    if pid == 0 {
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(255);
        exit_now(status);
    }
    // SAFETY: CLONE_PIDFD stored a new descriptor.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Ends the process at once: `_exit(2)`.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: always permitted.
    unsafe { libc::_exit(status.into()) }
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9). Only right before exec or exit: owners of those
/// descriptors must not be used or dropped afterwards, which a function that returns only an error makes likely.
pub fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; see above for what the caller keeps to.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Marks every descriptor from `first` on as close-on-exec (close_range(2) with CLOSE_RANGE_CLOEXEC, Linux 5.11;
/// before that, one fcntl for each).
pub fn cloexec_from(first: RawFd) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    if out("close-fds") {
        return Ok(());
    }
    // SAFETY: no pointers, and no descriptor is closed.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    if r == 0 {
        return Ok(());
    }
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= first)
        .collect();
    for fd in open {
        // SAFETY: F_SETFD closes nothing; a descriptor that is gone meanwhile gives EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Waits for a child, or for one of those that this process traces, threads too (waitpid(2) with __WALL): who it was, and the
/// status as the kernel has it. Any of them for -1. `None` if it is nobody's turn and `flags` has WNOHANG. (nix knows no
/// real-time signals: to it, whoever died of one has not been heard of.)
pub fn wait(pid: i32, flags: libc::c_int) -> nix::Result<Option<(i32, libc::c_int)>> {
    let mut status = 0;
    // SAFETY: the kernel stores an int.
    let who = unsafe { libc::waitpid(pid, &raw mut status, flags | libc::__WALL) };
    Errno::result(who).map(|who| (who > 0).then_some((who, status)))
}

/// Traces a thread no longer that has stopped for it, and gives it the signal that it has stopped with (PTRACE_DETACH,
/// ptrace(2)). It may be gone.
pub fn let_go(thread: i32, signal: libc::c_int) {
    // SAFETY: the address is ignored, the data is a number.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, thread, std::ptr::null::<()>(), libc::c_long::from(signal)) };
}

/// Replaces the process by the file behind `fd` (execveat(2) with AT_EMPTY_PATH). Returns only the error.
pub fn exec_fd(fd: BorrowedFd<'_>, argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays are null-terminated lists of strings that live through the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(check(r).err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
}

/// Replaces the process by the file at `path` (execve(2)). Returns only the error.
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays are null-terminated lists of strings that live through the call.
    let r = unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    Err(check(r.into()).err().unwrap_or_else(|| io::Error::from_raw_os_error(libc::EINVAL)))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A detached copy of the mount at `path`, from there on (open_tree(2) with OPEN_TREE_CLONE, Linux 5.2): gone with the
/// descriptor, unless it is attached. An empty path means what is behind `dir`.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE as libc::c_long
        | libc::OPEN_TREE_CLOEXEC as libc::c_long
        | libc::c_long::from(libc::AT_EMPTY_PATH);
    // SAFETY: the path lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
}

/// Sets the MOUNT_ATTR_* bits of `set` on the mount behind `mount`, and its propagation to private
/// (mount_setattr(2), Linux 5.12).
pub fn restrict_mount(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_mount_attributes(mount, set, 0)
}

fn set_mount_attributes(mount: BorrowedFd<'_>, set: u64, flags: libc::c_int) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    mount_setattr(mount, &attr, flags)
}

fn mount_setattr(mount: BorrowedFd<'_>, attr: &libc::mount_attr, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads a struct mount_attr of the size given; both pointers live through the call.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const *attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(r).map(drop)
}

/// A detached copy of what is behind `of` with all that is mounted below it (open_tree(2), Linux 5.2).
pub fn clone_tree(of: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE as libc::c_long
        | libc::OPEN_TREE_CLOEXEC as libc::c_long
        | libc::c_long::from(libc::AT_EMPTY_PATH | libc::AT_RECURSIVE);
    // SAFETY: the path is an empty string.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, of.as_raw_fd(), c"".as_ptr(), flags) })
}

/// [`restrict_mount`] of a mount and all that are below it.
pub fn restrict_tree(mount: BorrowedFd<'_>, set: u64) -> io::Result<()> {
    set_mount_attributes(mount, set, libc::AT_RECURSIVE)
}

/// Attaches a detached mount to the directory or file behind `target` (move_mount(2), Linux 5.2).
pub fn attach_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    const FROM_EMPTY_PATH: libc::c_long = 0x4;
    const TO_EMPTY_PATH: libc::c_long = 0x40;
    // SAFETY: both paths are empty strings.
    let r = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            FROM_EMPTY_PATH | TO_EMPTY_PATH,
        )
    };
    check(r).map(drop)
}

/// bpf(2), with the part of `union bpf_attr` that the command reads, whose rest is zero.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: only called with the structs below, which have the kernel's layout; what they point to lives through the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) })
}

/// Loads a program that decides on the use of devices (BPF_PROG_TYPE_CGROUP_DEVICE, Linux 4.15): instructions of 8 bytes
/// each (`struct bpf_insn`). The kernel refuses one that it cannot prove harmless.
pub fn bpf_load_device_program(instructions: &[u64]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        version_and_flags: [u32; 2],
        name: [u8; 16],
    }
    owned(bpf(
        BPF_PROG_LOAD,
        &Load {
            kind: BPF_PROG_TYPE_CGROUP_DEVICE,
            count: u32::try_from(instructions.len()).unwrap_or(u32::MAX),
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 2],
            version_and_flags: [0; 2],
            name: *b"quilt_devices\0\0\0",
        },
    )?)
}

/// Attaches such a program to a cgroup of v2, beside those that it has (BPF_F_ALLOW_MULTI, Linux 4.15): all of them, and
/// all those of the cgroups above, must agree. It goes with the cgroup.
pub fn bpf_attach_device_program(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let attributes: [u32; 4] =
        [cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI];
    bpf(BPF_PROG_ATTACH, &attributes).map(drop)
}

/// prctl(2) with one argument.
fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: only called with options whose argument is a number.
    check(unsafe { libc::prctl(option, argument, 0, 0, 0) }.into()).map(drop)
}

/// Whether others may ptrace this process and look at its descriptors and memory (PR_SET_DUMPABLE(2const)).
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, (dumpable || out("dumpable")).into())
}

/// No exec grants anything from here on (PR_SET_NO_NEW_PRIVS(2const)).
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Whether that holds for this process, and with it for all that it starts.
pub fn no_new_privs() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 }
}

/// Whether this process is under a filter of system calls, and with it all that it starts (PR_GET_SECCOMP(2const)).
pub fn is_filtered() -> bool {
    // SAFETY: no pointers.
    match check(unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) }.into()) {
        Ok(mode) => mode != 0,
        // A kernel without filters says EINVAL; who is refused the question, is so by one.
        Err(e) => e.raw_os_error() != Some(libc::EINVAL),
    }
}

/// A session keyring of its own, so that the caller's is out of reach (keyctl_join_session_keyring(3)). A kernel without
/// keys, or a host whose own filter refuses keyctl(2) and so refuses it to the container too, is no failure.
pub fn join_new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    let r = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<()>()) };
    match check(r) {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Err(e),
        _ => Ok(()),
    }
}

/// Drops every capability that is not in `mask` from the bounding set (capabilities(7)). Needs CAP_SETPCAP.
pub fn bound_capabilities(mask: u64) -> io::Result<()> {
    for capability in 0..64 {
        if mask & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            // Past the last that this kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    Ok(())
}

/// The capability sets of a thread, as masks (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What is checked.
    pub effective: u64,
    /// What may become effective.
    pub permitted: u64,
    /// What may survive an exec, with the file's consent.
    pub inheritable: u64,
}

/// Makes the user (real, effective, saved), the group and the supplementary groups those (setgroups(2), setresgid(2),
/// setresuid(2)): of the calling thread. By the calls' numbers, as libc's functions do it to every thread, by way of signals.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // gid_t is 32 bits wide in these calls on every 64-bit architecture.
    if !out("groups") {
        // SAFETY: the list lives through the call.
        check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    }
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// capset(2) on the calling thread. Can only give up.
pub fn set_capabilities(capabilities: Capabilities) -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let Capabilities { effective, permitted, inheritable } = capabilities;
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    let data: [[u32; 3]; 2] = [half(0), half(32)];
    // SAFETY: struct __user_cap_header_struct and two of struct __user_cap_data_struct, as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// Reads directory entries (getdents64(2)) into `buffer`: `struct linux_dirent64` one after the other. 0 at the end.
pub fn getdents(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most the length of the buffer, which is exclusively ours.
    let r = unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    check(r).map(|n| n as usize)
}

/// Sets an extended attribute of the open file or directory (fsetxattr(2)).
pub fn set_xattr(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: name and value live through the call.
    let r = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(r.into()).map(drop)
}

/// Sets an extended attribute of what stands at `path`, a symlink itself too (lsetxattr(2)).
pub fn set_xattr_at(path: &CStr, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: path, name and value live through the call.
    let r = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    check(r.into()).map(drop)
}

/// Whether what stands at `path` has an extended attribute of just this value (getxattr(2)).
pub fn has_xattr(path: &CStr, name: &CStr, value: &[u8]) -> bool {
    let mut found = [0u8; 16];
    // SAFETY: both names are NUL-terminated, and the kernel writes at most the length that is given.
    let r = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), found.as_mut_ptr().cast(), found.len()) };
    usize::try_from(r).is_ok_and(|length| found[..length] == *value)
}

/// Removes an extended attribute of the open file or directory (fremovexattr(2)).
pub fn remove_xattr(file: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: the name lives through the call.
    check(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) }.into()).map(drop)
}

/// Sets a signal to its default action.
pub fn default_signal(signal: Signal) {
    // SAFETY: SIG_DFL is a valid handler.
    unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
}

/// Makes `keep[i]` descriptor `i`, and closes every other one: 0, 1 and 2 stay open across exec, the rest do not. Returns
/// the new owners of 3 and up. Only right before exec or exit: all other owners of descriptors must not be used
/// afterwards, nor dropped while descriptors of these numbers matter.
pub fn keep_only(keep: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    let owners = keep_first(keep)?;
    close_from((keep.len() as RawFd).max(3))?;
    Ok(owners)
}

/// The same, but the others stay open.
pub fn keep_first(keep: &[BorrowedFd<'_>]) -> io::Result<Vec<OwnedFd>> {
    let count = keep.len() as RawFd;
    // Out of the way first: a source may have the number of a target.
    let mut sources = Vec::with_capacity(keep.len());
    for fd in keep {
        // SAFETY: no pointers.
        sources.push(check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, count) }.into())? as RawFd);
    }
    let mut owners = Vec::with_capacity(keep.len());
    for (target, source) in (0..).zip(sources) {
        let flags = if target > 2 { libc::O_CLOEXEC } else { 0 };
        // SAFETY: see above for what the caller keeps to.
        check(unsafe { libc::dup3(source, target, flags) }.into())?;
        if target > 2 {
            // SAFETY: just made, and whoever owned the number before keeps off it.
            owners.push(unsafe { OwnedFd::from_raw_fd(target) });
        }
    }
    Ok(owners)
}

/// The id of the mount that is this process's root.
pub fn root_mount() -> io::Result<u64> {
    mount_of(libc::AT_FDCWD, c"/")
}

/// The id of the mount that the open file or directory is on.
pub fn mount_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    mount_of(file.as_raw_fd(), c"")
}

/// statx(2) with STATX_MNT_ID, Linux 5.8.
fn mount_of(dir: RawFd, path: &CStr) -> io::Result<u64> {
    const STATX_MNT_ID: u32 = 0x1000;
    // struct statx is 256 bytes; stx_mnt_id is at 144.
    let mut about = [0u64; 32];
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: the path ends in a NUL, and the kernel writes one struct statx.
    let r = unsafe { libc::syscall(libc::SYS_statx, dir, path.as_ptr(), flags, STATX_MNT_ID, about.as_mut_ptr()) };
    check(r).map(|_| about[18])
}

/// Blocks every signal (rt_sigprocmask(2)): musl's own function leaves out three that it may have a use for.
pub fn block_all_signals() {
    let all = u64::MAX;
    // SAFETY: the kernel reads a mask of that size.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const all,
            std::ptr::null::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Overwrites the words that this process was called with, which `/proc/PID/cmdline` shows to everybody, and its
/// environment, which `/proc/PID/environ` shows to whoever may trace it: where [`crate::process::called_with`] says. Only in
/// a child that will exec or exit, and asks for no argument and no variable any more.
pub fn blank_call([words, environment]: [std::ops::Range<usize>; 2]) {
    for (place, defence) in [(words, "blank-arguments"), (environment, "blank-environment")] {
        if out(defence) {
            continue;
        }
        let first = std::ptr::with_exposed_provenance_mut::<u8>(place.start);
        // SAFETY: the kernel put the strings there, on the initial stack, and no reference to them is left: std copies them.
        unsafe { std::ptr::write_bytes(first, 0, place.len()) };
    }
}

/// Whether the working directory is below the root directory (getcwd(2): else the path does not start with a slash).
pub fn cwd_is_reachable() -> io::Result<bool> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as it is said to be.
    check(unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) })?;
    Ok(path[0] == b'/' || out("cwd"))
}

/// How many bytes can be read at once (FIONREAD, ioctl_tty(2), pipe(7)).
pub fn readable_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel stores an int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) }.into())?;
    Ok(count.max(0) as usize)
}

/// The size of a terminal's window (TIOCGWINSZ).
pub fn window_size(terminal: BorrowedFd<'_>) -> io::Result<libc::winsize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel stores a struct winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }.into())?;
    Ok(size)
}

/// Sets the size of a terminal's window (TIOCSWINSZ).
pub fn set_window_size(terminal: BorrowedFd<'_>, size: libc::winsize) -> io::Result<()> {
    // SAFETY: the kernel reads a struct winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }.into()).map(drop)
}

/// The other end of a pseudoterminal, by its master and not by a path (TIOCSPTLCK, TIOCGPTPEER, ioctl_tty(2)).
pub fn open_pty_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let locked: libc::c_int = 0;
    // SAFETY: the kernel reads an int.
    check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const locked) }.into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: no pointers.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// A session of its own, so without the caller's controlling terminal (setsid(2)).
pub fn leave_session() -> nix::Result<()> {
    if out("session") { Ok(()) } else { nix::unistd::setsid().map(drop) }
}

/// Makes the terminal the controlling one of the session that the calling process leads (TIOCSCTTY).
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// Room for the header and one descriptor of a control message, aligned as one (cmsg(3)).
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Sends one byte and a descriptor over a Unix socket (SCM_RIGHTS, unix(7)).
pub fn send_fd(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    let (mut byte, mut control) = (0u8, Control([0; 32]));
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: a zeroed msghdr is an empty one; every pointer put into it outlives the call; CMSG_SPACE(4) is 24, so
    // that the one message fits and CMSG_FIRSTHDR is not null.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        check(libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) as libc::c_long).map(drop)
    }
}

/// Receives the descriptor of [`send_fd`], close-on-exec; `None` if the other end was closed without sending one.
pub fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let (mut byte, mut control) = (0u8, Control([0; 32]));
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: as in send_fd; the control buffer has no room for a second descriptor, which the kernel would close;
    // a descriptor that arrived is nobody else's.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        check(libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) as libc::c_long)?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Ok(None);
        }
        Ok(Some(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned())))
    }
}

/// A pair of connected Unix stream sockets, close-on-exec (socketpair(2)).
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut pair = [-1; 2];
    // SAFETY: the kernel stores two descriptors, which are nobody else's.
    unsafe {
        check(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr()).into())?;
        Ok((OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])))
    }
}

/// Sends to a socket without waiting and without SIGPIPE (send(2)).
pub fn send_nowait(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is as long as it is said to be.
    let r = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    check(r as libc::c_long).map(|n| n as usize)
}

/// Ignores the signal, and forgets one that is pending (sigaction(2), POSIX "signal generation and delivery").
pub fn ignore_signal(signal: Signal) {
    // SAFETY: SIG_IGN is a valid handler.
    unsafe { libc::signal(signal as libc::c_int, libc::SIG_IGN) };
}

/// The user namespace that owns a namespace (NS_GET_USERNS, ioctl_nsfs(2), Linux 4.9).
pub fn owning_user_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: this ioctl takes no argument and returns a new descriptor.
    owned(unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) }.into())
}

/// An option of IPv4 (`SOL_IP`, getsockopt(2)): `buffer` holds the question, and then the answer, whose length comes back.
pub fn ip_option(socket: BorrowedFd<'_>, option: i32, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel reads and writes no more than the buffer's length.
    let r = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_IP, option, buffer.as_mut_ptr().cast(), &raw mut length)
    };
    check(r.into())?;
    Ok(length as usize)
}

/// Takes over a descriptor that this process was started with, by the number that it was told; close-on-exec from here
/// on. The standard streams are refused. Whoever was told a number asks once for it.
pub fn adopt_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: EBADF if it is not open.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, was inherited and so has no owner in this process, and nobody else was told its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A duplicate, close-on-exec, of a descriptor that the caller handed over by its number (EBADF if there is none).
pub fn duplicate_number(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the original is not touched.
    owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// Gives up a real-time or deadline scheduling class, which a process has from its parent, for the usual one (sched(7)).
pub fn leave_realtime() -> io::Result<()> {
    // `linux/sched.h`; a bit beside the class.
    const RESET_ON_FORK: libc::c_long = 0x4000_0000;
    let class = |class: libc::c_int| libc::c_long::from(class);
    // SAFETY: no pointers; 0 is the calling thread.
    let policy = check(unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) })? & !RESET_ON_FORK;
    if ![libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE].map(class).contains(&policy) {
        return Ok(());
    }
    // struct sched_param is one int to the kernel.
    let priority: libc::c_int = 0;
    // SAFETY: the kernel reads that int.
    check(unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_OTHER, &raw const priority) }).map(drop)
}

/// Installs a filter of system calls for this thread and all that it becomes and starts (seccomp(2)): `filter` is `struct
/// sock_filter`s as linux/filter.h has them, at most 4096. Needs no_new_privs, or CAP_SYS_ADMIN in the user namespace.
/// As runc does, without the mitigation of speculative store bypass that comes with it before Linux 5.16 and makes
/// everything slower: it protects a process from what runs in itself.
pub fn install_seccomp_filter(filter: &[u8]) -> io::Result<()> {
    const INSTRUCTION: usize = size_of::<libc::sock_filter>();
    // The bytes may stand at an odd address.
    let read = |bytes: &[u8; INSTRUCTION]| libc::sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    let (instructions, rest) = filter.as_chunks::<INSTRUCTION>();
    let mut program: Vec<libc::sock_filter> = instructions.iter().map(read).collect();
    let len = u16::try_from(program.len()).ok().filter(|len| *len > 0 && rest.is_empty());
    let len = len.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    // SAFETY: the program and what it points to live through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) }).map(drop)
}

/// The permitted capabilities of this process, as a mask (capget(2)).
pub fn permitted_capabilities() -> io::Result<u64> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: struct __user_cap_header_struct and two of struct __user_cap_data_struct, as version 3 has them.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[0][1]) | u64::from(data[1][1]) << 32)
}

/// Makes a system call by its number, to see whether it is allowed; 0 if it succeeds, else its errno. The arguments must be
/// such that success would do no harm and none is taken for a valid address: 0 and -1 are none.
pub fn try_call(number: i64, [a, b, c]: [i64; 3]) -> i32 {
    // SAFETY: no memory is handed over, see above.
    check(unsafe { libc::syscall(number, a, b, c, 0, 0, 0) }).map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
}

/// Makes the files of a detached mount owned as `userns` maps them (mount_setattr(2) with MOUNT_ATTR_IDMAP, Linux 5.12),
/// and its propagation private; with `tree`, of all mounts below it as well, or of none. EINVAL if a file system cannot be
/// idmapped, EPERM if a mount already is.
pub fn idmap_mount(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, tree: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: userns.as_raw_fd() as u64,
    };
    mount_setattr(mount, &attr, if tree { libc::AT_RECURSIVE } else { 0 })
}

/// No change of ids takes capabilities from this process from here on (SECBIT_NO_SETUID_FIXUP, capabilities(7)). Needs
/// CAP_SETPCAP.
pub fn keep_capabilities() -> io::Result<()> {
    const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    prctl(libc::PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
}

/// Makes those the user and group whom this thread is to file systems (setfsuid(2), setfsgid(2)). Needs CAP_SETUID and
/// CAP_SETGID: these calls do not say that they failed, so they are asked once more.
pub fn set_fs_ids(uid: u32, gid: u32) -> io::Result<()> {
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // SAFETY: no pointers.
        let now = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, u32::MAX)
        };
        if now as u32 != id {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
    }
    Ok(())
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads and writes, whole: kernels from 6.17 on write the last word too,
/// and not all of them look at the size that they are told.
#[repr(C)]
#[derive(Default)]
struct BpfQuery {
    target: u32,
    kind: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
    id_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<BpfQuery>() == 64 && std::mem::offset_of!(BpfQuery, revision) == 56);

/// How many programs that decide on the use of devices are attached to a cgroup of v2 itself (BPF_PROG_QUERY, Linux 4.15).
pub fn bpf_count_device_programs(cgroup: BorrowedFd<'_>) -> io::Result<u32> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let mut query = BpfQuery { target: cgroup.as_raw_fd() as u32, kind: BPF_CGROUP_DEVICE, ..BpfQuery::default() };
    // SAFETY: the struct has the kernel's layout up to the last word that any kernel writes, and can be written; its
    // pointers are null, and without room for their numbers none are written.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<BpfQuery>()) })?;
    Ok(query.count)
}
