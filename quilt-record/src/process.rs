//! Process identity: (pid, start time, boot id), checked through a pidfd, so that a reused pid is never taken for it.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::utsname::uname;
use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

use crate::sys;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The text of a small file of the kernel's. [`fs::read_to_string`] asks for the size, which the kernel does not know, and
/// then begins with 32 bytes: nine system calls where five do.
fn read_small(path: impl AsRef<Path>) -> io::Result<String> {
    const MOST: usize = 1 << 10;
    let mut text = Vec::with_capacity(MOST);
    fs::File::open(path)?.take(MOST as u64).read_to_end(&mut text)?;
    // The name of a process need not be UTF-8.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads the id of this boot, once. [`crate::Instance::locate`] does: not to know it must end a program, for all that is
/// recorded with another is taken for gone.
pub fn learn_boot_id() -> io::Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let text = read_small(BOOT_ID)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{BOOT_ID} is empty"))),
        boot => Ok(BOOT.get_or_init(|| boot.to_owned())),
    }
}

/// The id of this boot (`/proc/sys/kernel/random/boot_id`, random(4)). What is recorded with another is gone.
pub fn boot_id() -> &'static str {
    learn_boot_id().unwrap_or_default()
}

/// Who a process is, for longer than its pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid as the host sees it.
    pub pid: i32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22, proc_pid_stat(5)).
    pub start: u64,
    /// The boot it belongs to.
    pub boot: String,
}

impl ProcessId {
    /// The identity of a process that is known to exist now: a child, a parent, oneself.
    pub fn of(pid: i32) -> io::Result<ProcessId> {
        let (_, start) = stat(pid)?;
        Ok(ProcessId { pid, start, boot: boot_id().to_owned() })
    }

    /// A pidfd on the process, if it still lives; `None` if it is gone, a zombie, or of another boot.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        if self.boot != learn_boot_id()? {
            return Ok(None);
        }
        let fd = match sys::pidfd_open(self.pid) {
            Ok(fd) => fd,
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(e) => return Err(e),
        };
        // The pidfd pins whoever has the pid now; the start time says whether it is the one that was meant.
        match stat(self.pid) {
            Ok((state, start)) if start == self.start && !matches!(state, 'Z' | 'X') => Ok(Some(fd)),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the process lives (a zombie does not). If it cannot be told (no descriptor is free, say), it counts as
    /// living: what is done to the dead cannot be taken back.
    pub fn alive(&self) -> bool {
        !matches!(self.open(), Ok(None))
    }
}

impl FromStr for ProcessId {
    type Err = String;

    fn from_str(text: &str) -> Result<ProcessId, String> {
        let parts = text.split_once('@').and_then(|(id, boot)| Some((id.split_once('.')?, boot)));
        let ((pid, start), boot) = parts.ok_or("a process is PID.START@BOOT")?;
        Ok(ProcessId {
            pid: pid.parse().map_err(|_| "bad pid")?,
            start: start.parse().map_err(|_| "bad start time")?,
            boot: boot.to_owned(),
        })
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.pid, self.start, self.boot)
    }
}

/// State letter and start time from `/proc/PID/stat`.
pub fn stat(pid: i32) -> io::Result<(char, u64)> {
    let text = read_small(format!("/proc/{pid}/stat"))?;
    let fields = fields(&text);
    let state = fields.first().and_then(|s| s.chars().next());
    let start = fields.get(19).and_then(|s| s.parse().ok());
    match (state, start) {
        (Some(state), Some(start)) => Ok((state, start)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat")),
    }
}

/// The parent of a process (`/proc/PID/stat` field 4): once its maker has ended, another.
pub fn parent(pid: i32) -> io::Result<i32> {
    let text = read_small(format!("/proc/{pid}/stat"))?;
    let parent = fields(&text).get(1).and_then(|s| s.parse().ok());
    parent.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))
}

/// Where this process has the words that it was called with, and its environment (`/proc/PID/stat` fields 48 to 51,
/// proc_pid_stat(5)).
pub fn called_with() -> io::Result<[std::ops::Range<usize>; 2]> {
    let text = read_small("/proc/self/stat")?;
    let fields = fields(&text);
    let at = |field: usize| fields.get(field - 3).and_then(|s| s.trim_end().parse::<usize>().ok());
    let place = |field| match (at(field), at(field + 1)) {
        (Some(start), Some(end)) if 0 < start && start <= end => Ok(start..end),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/self/stat")),
    };
    Ok([place(48)?, place(50)?])
}

/// The exit status of a zombie, 128 + n for a signal, from `/proc/PID/stat`; `None` if it is not one. For a child that
/// cannot be reaped because somebody else traces it (ptrace(2)).
pub fn zombie_status(pid: i32) -> Option<u8> {
    let text = read_small(format!("/proc/{pid}/stat")).ok()?;
    let fields = fields(&text);
    if *fields.first()? != "Z" {
        return None;
    }
    // Field 52, as waitpid(2) gives it: the status, and below it the signal.
    let ended: i32 = fields.get(49)?.trim_end().parse().ok()?;
    let signal = (ended & 0x7f) as u8;
    Some(if signal == 0 { (ended >> 8) as u8 } else { 128 + signal })
}

/// The fields of `/proc/PID/stat` from the third on. The command name, in parentheses, may hold anything, parentheses
/// too: its end is the last one.
fn fields(text: &str) -> Vec<&str> {
    text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default()
}

/// The number of a namespace of a process (`/proc/PID/ns/NAME`, namespaces(7)), of `self` or a pid: the inode number that
/// stat(2) of it gives, and cheaper, as no inode is made for it.
pub fn namespace(pid: &str, name: &str) -> io::Result<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{name}"))?;
    let number = link.to_str().and_then(|text| text.strip_suffix(']')?.rsplit_once('[')?.1.parse().ok());
    number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {}", link.display())))
}

/// Gives up what protects this process from being killed when the host has no memory left (a negative
/// `/proc/self/oom_score_adj`, proc(5)), which it may have from a caller that is a service of the host: what goes inside
/// must not be spared before the host's own. While `/proc` is the host's.
pub fn forgo_oom_protection() -> io::Result<()> {
    const ADJUSTMENT: &str = "/proc/self/oom_score_adj";
    match read_small(ADJUSTMENT) {
        Ok(text) if text.starts_with('-') => fs::write(ADJUSTMENT, "0"),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Waits until the process behind the pidfd has ended; false if `limit` passed first.
pub fn wait_dead(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(left)) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

/// How soon to look at a process that was killed and does not end.
const SOON: Duration = Duration::from_millis(50);

/// Waits until a process that was killed holds nothing any more; false if `limit` passed first.
///
/// That is its end, but for the init of a pid namespace, which keeps its number until every process in there has been
/// reaped. One whose parent is outside and was killed is for the host's reaper, and that may be a program which never
/// reaps. There is no event for this, so it is looked for: rarely, and never where things go as they should.
pub fn wait_gone(pidfd: &OwnedFd, limit: Duration) -> io::Result<bool> {
    let deadline = std::time::Instant::now() + limit;
    let mut pause = SOON;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if wait_dead(pidfd, pause.min(left))? || is_husk(pidfd) {
            return Ok(true);
        }
        if left.is_zero() {
            return Ok(false);
        }
        pause *= 2;
    }
}

/// Whether the process has given up its memory, files and namespaces, in this order (`do_exit`, Linux `kernel/exit.c`).
fn is_husk(pidfd: &OwnedFd) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap_or_default();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return false };
    matches!(fs::read_link(format!("/proc/{pid}/ns/mnt")), Err(e) if e.kind() == io::ErrorKind::NotFound)
        // Else the number may be another's by now.
        && matches!(wait_dead(pidfd, Duration::ZERO), Ok(false))
}

/// Reaps the child `pid`: its exit status, 128 + n for signal n. `None` if it has not ended, unless `wait` says to wait for
/// that. Others are taken care of meanwhile: a child that runs what somebody else wrote may have had some born as its siblings
/// (CLONE_PARENT), and its threads may have made this process their tracer (PTRACE_TRACEME). As long as such a thread is not
/// reaped, the child does not count as ended, nor can the init of its pid namespace end.
pub fn reap(pid: i32, wait: bool) -> nix::Result<Option<u8>> {
    loop {
        match sys::wait(-1, if wait { 0 } else { libc::WNOHANG }) {
            Ok(None) => return Ok(None),
            Ok(Some((who, status))) if libc::WIFSTOPPED(status) => {
                // SIGTRAP is nothing but the word of an exec to its tracer.
                let signal = libc::WSTOPSIG(status);
                sys::let_go(who, if signal == libc::SIGTRAP { 0 } else { signal });
            }
            Ok(Some((who, status))) if who == pid => {
                let signal = libc::WTERMSIG(status) as u8;
                return Ok(Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) as u8 } else { 128 + signal }));
            }
            Ok(Some(_)) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A poll(2) timeout: rounded up, so that a wait never ends before its time and spins.
pub fn poll_timeout(left: Duration) -> PollTimeout {
    let ms = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
}

/// Clock ticks (USER_HZ, times(2): 100 a second wherever Quilt runs) in microseconds.
pub fn ticks_us(ticks: u64) -> u64 {
    let hz = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100, |hz| (hz as u64).max(1));
    ticks * (1_000_000 / hz)
}

/// Whether the kernel is of this version or a later one (uname(2)).
pub fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = uname().ok().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(a), Some(b)) if (a, b) >= (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_start_or_boot_is_another_process() -> io::Result<()> {
        let me = ProcessId::of(std::process::id() as i32)?;
        assert!(me.alive());
        assert!(!ProcessId { start: me.start + 1, ..me.clone() }.alive());
        assert!(!ProcessId { boot: "other".to_owned(), ..me.clone() }.alive());
        assert_eq!(me.to_string().parse(), Ok(me));
        Ok(())
    }

    #[test]
    fn the_number_of_a_namespace_is_its_inode() -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(namespace("self", "net")?, fs::metadata("/proc/self/ns/net")?.ino());
        Ok(())
    }

    #[test]
    fn a_parent_is_who_made_it() -> io::Result<()> {
        assert_eq!(parent(std::process::id() as i32)?, std::os::unix::process::parent_id() as i32);
        Ok(())
    }
}
