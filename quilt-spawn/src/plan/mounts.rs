//! What every container has mounted, and what is in its /dev.

use std::borrow::Cow;

use nix::mount::MsFlags;

use crate::want::Want;

/// A mount of a file system of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The type: `proc`.
    pub fstype: &'static str,
    /// Where: an absolute path inside.
    pub target: &'static str,
    /// The flags (mount(2)).
    pub flags: MsFlags,
    /// The options of the file system.
    pub data: Cow<'static, str>,
}

pub(crate) const NO_SUID_DEV_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The file systems of the kernel, in their order.
pub const MOUNTS: [Mount; 6] = [
    Mount { fstype: "proc", target: "/proc", flags: NO_SUID_DEV_EXEC, data: Cow::Borrowed("") },
    Mount {
        fstype: "sysfs",
        target: "/sys",
        flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
        data: Cow::Borrowed(""),
    },
    Mount { fstype: "tmpfs", target: "/dev", flags: MsFlags::MS_NOSUID, data: Cow::Borrowed("mode=755,size=64k") },
    Mount {
        fstype: "devpts",
        target: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: Cow::Borrowed("newinstance,ptmxmode=0666,mode=0620,gid=5"),
    },
    Mount { fstype: "tmpfs", target: "/dev/shm", flags: NO_SUID_DEV_EXEC, data: Cow::Borrowed("mode=1777,size=64m") },
    Mount { fstype: "mqueue", target: "/dev/mqueue", flags: NO_SUID_DEV_EXEC, data: Cow::Borrowed("") },
];

/// Those of one container.
pub(crate) fn of(want: &Want) -> [Mount; 6] {
    let mut mounts = MOUNTS;
    for mount in &mut mounts {
        match (mount.target, want.shm_size) {
            ("/dev/shm", Some(size)) => mount.data = format!("mode=1777,size={}", size.0).into(),
            ("/sys", _) => mount.flags.set(MsFlags::MS_RDONLY, !want.privileged),
            _ => {}
        }
    }
    mounts
}

/// What covers a masked directory.
pub const EMPTY: Mount = Mount {
    fstype: "tmpfs",
    target: "",
    flags: NO_SUID_DEV_EXEC.union(MsFlags::MS_RDONLY),
    data: Cow::Borrowed("mode=555,size=4k,nr_inodes=2"),
};

/// Everybody's devices: name, major, minor (`Documentation/admin-guide/devices.txt`). Mode 0666.
pub const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links in /dev: name, target.
pub const SYMLINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
