//! What Linux before 5.12 has instead of mount_setattr(2): flags of a mount are set by mounting it anew, each by itself.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use quilt_record::{Code, Error, Step as _, sys};

use super::{NONE, os, path_of};

/// Sets flags on a mount and on all that is mounted below it, beside those that each has, and makes them private.
pub(super) fn restrict_tree(top: BorrowedFd<'_>, id: u64, set: MsFlags) -> Result<(), Error> {
    mount(NONE, &path_of(top), NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(os)?;
    // The host's own, and of this process's mount namespace.
    let table = std::fs::read("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
    let mut tree = HashSet::from([id]);
    // A mount stands behind what it is mounted on.
    for line in table.split(|byte| *byte == b'\n') {
        let Some(entry) = Entry::parse(line) else { continue };
        if entry.id != id && !tree.contains(&entry.parent) {
            continue;
        }
        tree.insert(entry.id);
        let resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(resolve);
        let mounted = openat2(AT_FDCWD, &entry.point, how).map_err(os)?;
        if sys::mount_id(mounted.as_fd()).map_err(os)? != entry.id {
            // Below another mount, where nobody gets at it; or somebody moves it about.
            let why = format!("{} is below another mount", entry.point.display());
            return Err(Error::new(Code::Unsupported, "", why));
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | set | flags(mounted.as_fd())?;
        mount(NONE, &path_of(mounted.as_fd()), NONE, flags, NONE).map_err(os)?;
    }
    Ok(())
}

/// The flags that a mount has, which mounting it anew would clear. `relatime` is kept if nothing is said (mount(2)).
pub(super) fn flags(mounted: BorrowedFd<'_>) -> Result<MsFlags, Error> {
    let has = fstatvfs(mounted).map_err(os)?.flags();
    let all = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
    ];
    Ok(all.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: u64,
    parent: u64,
    point: PathBuf,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Entry> {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').take(5).collect();
        let [id, parent, _, _, point] = fields[..] else { return None };
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        Some(Entry { id: number(id)?, parent: number(parent)?, point: OsString::from_vec(unescaped(point)?).into() })
    }
}

/// Spaces, tabs, line feeds and backslashes are written as three octal digits.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts = text.split(|byte| *byte == b'\\');
    let mut plain = parts.next()?.to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        plain.extend(rest);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402\134\012x rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(Entry::parse(line), Some(Entry { id: 36, parent: 35, point: "/mnt 2\\\nx".into() }));
        for bad in ["", "36 35 98:0 /", "x 35 98:0 / /", "36 35 98:0 / /a\\04", "36 35 98:0 / /a\\999"] {
            assert_eq!(Entry::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
