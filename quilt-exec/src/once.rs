//! `quilt run`: one command in a container that is gone with it, whatever ends it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read, setsid, write};
use quilt_record::process::parent;
use quilt_record::stage::bin_dir;
use quilt_record::{Claim, Code, Error, Step, sys};

/// A process in a session of its own that removes the container if this one, the wrapper or the wrapper's caller dies
/// before the heir is dismissed.
#[derive(Debug)]
pub struct Heir {
    life: OwnedFd,
    child: sys::Child,
    claim: Claim,
}

impl Heir {
    /// Posts it. The wrapper is `QUILT_PIPE`, its caller `QUILT_CALLER`, who is not looked at under nohup. The container
    /// is the one that `claim` is made with, so that the heir may stand before there is any.
    pub fn post(claim: Claim) -> Result<Heir, Error> {
        let step = || "watch for the caller's death";
        let died = || Error::new(Code::Interrupted, "", "the caller died");
        let pid = |name| std::env::var(name).ok().and_then(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 1);
        let wrapper = pid("QUILT_PIPE");
        let caller = pid("QUILT_CALLER").filter(|_| !sys::is_ignored(Signal::SIGHUP));
        let mut watched = Vec::with_capacity(2);
        for pid in wrapper.into_iter().chain(caller) {
            match sys::pidfd_open(pid) {
                Ok(fd) => watched.push(fd),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Err(died()),
                Err(e) => return Err(Error::os(step(), e)),
            }
        }
        // Its pid may be another's by now. As long as it is the wrapper's parent it is not.
        if let (Some(wrapper), Some(caller)) = (wrapper, caller)
            && parent(wrapper).is_ok_and(|parent| parent != caller)
        {
            return Err(died());
        }
        let (watch, life) = pipe2(OFlag::O_CLOEXEC).step(step)?;
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
        let path = CString::new(bin_dir().join("quilt-rm").as_os_str().as_bytes());
        let path = path.map_err(|e| Error::new(Code::Invalid, step(), e.to_string()))?;
        let argv = arguments(claim).map(|word| CString::new(word).unwrap_or_default());
        let env: Vec<CString> = std::env::vars_os()
            .filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok())
            .collect();
        let child = sys::fork(0, None, || {
            let _ = setsid();
            // Only SIGKILL ends an heir.
            sys::block_all_signals();
            let mut keep = vec![null.as_fd(); 3];
            keep.push(watch.as_fd());
            keep.extend(watched.iter().map(|fd| fd.as_fd()));
            let Ok(kept) = sys::keep_only(&keep) else { return 1 };
            if dismissed(&kept) {
                return 0;
            }
            let _ = sys::exec(&path, &argv, &env);
            1
        });
        Ok(Heir { life, child: child.step(step)?, claim })
    }

    /// Removes the container, and only then lets the heir go.
    pub fn remove(self) -> Result<(), Error> {
        let step = || "remove the container";
        let [program, rest @ ..] = arguments(self.claim);
        let status =
            Command::new(bin_dir().join(program)).args(rest).stdin(Stdio::null()).stdout(Stdio::null()).status();
        let removed = status.step(step)?.success();
        // What quilt-rm could not do, it has told; the heir tries again.
        if removed {
            self.dismiss();
        }
        Ok(())
    }

    /// Lets the heir go: there is nothing to remove.
    pub fn dismiss(self) {
        let _ = write(&self.life, b"d");
        let _ = waitpid(Pid::from_raw(self.child.pid), Some(WaitPidFlag::__WALL));
    }
}

fn arguments(claim: Claim) -> [String; 4] {
    ["quilt-rm", "--force", "--claim", &claim.to_string()].map(str::to_owned)
}

/// Waits: true for the word on the pipe, false for anybody's death.
fn dismissed(watched: &[OwnedFd]) -> bool {
    let fds: Vec<BorrowedFd<'_>> = watched.iter().map(|fd| fd.as_fd()).collect();
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    while poll(&mut polled, PollTimeout::NONE).is_err() {}
    let pipe = polled.first().and_then(PollFd::revents).is_some_and(|r| r.contains(PollFlags::POLLIN));
    pipe && watched.first().is_some_and(|fd| read(fd, &mut [0u8; 1]) == Ok(1))
}
