//! A device of the host that a container may use.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::str::FromStr;

use nix::sys::stat::{major, minor};
use serde::{Deserialize, Serialize};

/// A device of the host that a container may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it is inside: an absolute path below /dev.
    pub path: String,
    /// `c` or `b`, a character or a block device.
    pub kind: char,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
    /// What may be done with it: of `r` (read), `w` (write), `m` (mknod) in this order.
    pub access: String,
    /// The permissions of its file, and whose it is, as on the host.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Device {
    /// The device whose file this is about, with its permissions and no other bits of its mode; `None` if it is no
    /// device's.
    pub fn of(about: &Metadata, path: String, access: String) -> Option<Device> {
        let kind = match about.file_type() {
            kind if kind.is_block_device() => 'b',
            kind if kind.is_char_device() => 'c',
            _ => return None,
        };
        let (major, minor) = (major(about.rdev()) as u32, minor(about.rdev()) as u32);
        let mode = about.mode() & 0o777;
        Some(Device { path, kind, major, minor, access, mode, uid: about.uid(), gid: about.gid() })
    }
}

/// `/dev/net/tun c 10:200 rwm 0666 0:0`, as a plan has it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Device { path, kind, major, minor, access, mode, uid, gid } = self;
        write!(f, "{path} {kind} {major}:{minor} {access} {mode:04o} {uid}:{gid}")
    }
}

impl FromStr for Device {
    type Err = ();

    fn from_str(text: &str) -> Result<Device, ()> {
        fn pair(text: &str) -> Option<(u32, u32)> {
            let (a, b) = text.split_once(':')?;
            Some((a.parse().ok()?, b.parse().ok()?))
        }
        let parse = || {
            // The path comes last this way round, and may have spaces.
            let mut words = text.rsplitn(6, ' ');
            let (uid, gid) = pair(words.next()?)?;
            let mode = u32::from_str_radix(words.next()?, 8).ok()?;
            let access = words.next()?.to_owned();
            let (major, minor) = pair(words.next()?)?;
            let kind = words.next()?.parse().ok()?;
            let path = words.next()?.to_owned();
            Some(Device { path, kind, major, minor, access, mode, uid, gid })
        };
        parse().ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_what_its_file_says() -> std::io::Result<()> {
        let of =
            |path: &str| Ok::<_, std::io::Error>(Device::of(&std::fs::metadata(path)?, "/dev/x".into(), "rw".into()));
        assert_eq!(of("/dev/null")?.map(|d| (d.kind, d.major, d.minor)), Some(('c', 1, 3)));
        assert_eq!((of("/")?, of("/proc/self/status")?), (None, None));
        Ok(())
    }

    #[test]
    fn what_a_plan_says_can_be_read() {
        let text = "/dev/a b c 10:200 rw 0660 0:5";
        let device: Result<Device, ()> = text.parse();
        assert_eq!(device.map(|device| device.to_string()), Ok(text.to_owned()));
        assert_eq!("mkdir /sys/fs/cgroup/x".parse::<Device>(), Err(()));
    }
}
