//! `--sysctl`: parameters of the kernel that belong to a namespace of the container.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use quilt_record::error::Step as _;
use quilt_record::{Code, Error};

/// Those of the IPC namespace below `kernel.` (ipc_namespaces(7)).
const IPC: [&str; 8] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

/// One, as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// The name as it is asked: `net.core.somaxconn`.
    pub name: String,
    /// The value, as it is written.
    pub value: String,
}

impl Sysctl {
    /// Reads `NAME=VALUE`. Only what belongs to a namespace that the container has to itself is let through.
    pub fn parse(text: &str) -> Result<Sysctl, String> {
        let quoted = text.escape_debug();
        let Some((name, value)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(format!("`{quoted}` is not NAME=VALUE: write net.core.somaxconn=1024"));
        };
        let word =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
        if !name.split('.').all(word) {
            return Err(format!("`{}` is not a name: write it with dots, net.core.somaxconn", name.escape_debug()));
        }
        if value.contains(['\n', '\0']) {
            return Err(format!("the value of {name} has more than one line"));
        }
        let own = match name.split_once('.') {
            Some(("net", _)) => true,
            Some(("fs", rest)) => rest.starts_with("mqueue."),
            Some(("kernel", rest)) => IPC.contains(&rest),
            _ => false,
        };
        if !own {
            let ipc = IPC.join(",");
            return Err(format!(
                "{name} belongs to the whole machine: a container has net.*, fs.mqueue.* and kernel.{{{ipc}}} to itself"
            ));
        }
        Ok(Sysctl { name: name.to_owned(), value: value.to_owned() })
    }

    /// Whether it belongs to the network namespace.
    pub fn is_net(&self) -> bool {
        self.name.starts_with("net.")
    }

    /// The file, below /proc/sys.
    pub fn file(&self) -> PathBuf {
        self.name.replace('.', "/").into()
    }
}

/// The host's /proc/sys.
pub fn open() -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, "/proc/sys", flags, Mode::empty()).step(|| "open /proc/sys")
}

/// Writes one. A file below /proc/sys is that of the namespaces of whoever opens it (5.19 for IPC: whoever writes).
/// Older kernels (6.1 is one) have no net.core.* for the network of another user namespace than the first:
/// net/core/sysctl_net_core.c, sysctl_core_net_init(). So with one the error says what else there is.
pub fn write(sys: BorrowedFd<'_>, sysctl: &Sysctl, userns: bool) -> Result<(), Error> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new().flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC).resolve(resolve);
    let named = |code: Code, why: &str| Error::new(code, "", format!("{why} {}", sysctl.name));
    let file = openat2(sys, &sysctl.file(), how).map_err(|e| match e {
        Errno::ENOENT if userns && sysctl.is_net() => {
            let what = format!("this kernel has no {}, or none for a user namespace (--userns host)", sysctl.name);
            Error::new(Code::NotFound, "", what)
        }
        Errno::ENOENT | Errno::EISDIR | Errno::ENOTDIR => named(Code::NotFound, "this kernel has no"),
        Errno::EACCES | Errno::EPERM => named(Code::Denied, "a container cannot set"),
        e => Error::os("", e),
    })?;
    // Writing nothing does nothing; a line with nothing in it sets what can be empty.
    let value: &OsStr = OsStr::new(if sysctl.value.is_empty() { "\n" } else { &sysctl.value });
    File::from(file).write_all(value.as_encoded_bytes()).map_err(|e| Error::os("", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_namespace_has_to_itself() {
        let parse = |text: &str| Sysctl::parse(text).map(|sysctl| (sysctl.file().display().to_string(), sysctl.value));
        let of = |file: &str, value: &str| Ok((file.to_owned(), value.to_owned()));
        assert_eq!(parse("net.core.somaxconn=1024"), of("net/core/somaxconn", "1024"));
        assert_eq!(parse("kernel.sem=250 32000 = 128"), of("kernel/sem", "250 32000 = 128"));
        assert_eq!(parse("fs.mqueue.msg_max="), of("fs/mqueue/msg_max", ""));
        let bad = [
            "",
            "=",
            "=1",
            "net",
            "net.core.somaxconn",
            "net.=1",
            ".net.x=1",
            "net..x=1",
            "net.core/x=1",
            "net.../x=1",
            "net/core/x=1",
            "net.a b=1",
            "net.x=1\n2",
            "net.x=\0",
            "kernel.panic=1",
            "kernel.hostname=x",
            "kernel.sem.x=1",
            "kernel.shm=1",
            "vm.swappiness=1",
            "fs.file-max=1",
            "fs.mqueue=1",
            "kernel=1",
            "user.max_user_namespaces=1",
            "nets.x=1",
        ];
        for text in bad {
            assert!(Sysctl::parse(text).is_err(), "{text:?}");
        }
        let why = "kernel.panic belongs to the whole machine: a container has net.*, fs.mqueue.* and \
            kernel.{msgmax,msgmnb,msgmni,sem,shmall,shmmax,shmmni,shm_rmid_forced} to itself";
        assert_eq!(Sysctl::parse("kernel.panic=1"), Err(why.to_owned()));
    }
}
