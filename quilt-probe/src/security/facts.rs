//! What a process inside sees of its confinement: gathered there by a visitor, as root, from the kernel's own files and
//! by asking for what ought to be refused. Nothing of the image is run or trusted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, major, minor};
use quilt_record::confine::{Rlimit, Status, rlimit};
use quilt_record::mountinfo;
use serde::{Deserialize, Serialize};

use super::calls::Try;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// Where.
    pub(crate) target: String,
    /// The directory of the file system that is its root.
    pub(crate) root: String,
    /// The type of the file system.
    pub(crate) fstype: String,
    /// The options of the mount, then those of the file system.
    pub(crate) options: Vec<String>,
}

/// What is seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// `/proc/self/status`.
    pub(crate) status: Status,
    /// The limits that are any.
    pub(crate) rlimits: Vec<Rlimit>,
    /// The mounts, in their order.
    pub(crate) mounts: Vec<Mount>,
    /// The device and inode numbers of what is on top where cgroups are mounted, or why they are not known.
    pub(crate) cgroups: BTreeMap<String, Result<(u64, u64), String>>,
    /// Where each path that was asked for leads to.
    pub(crate) targets: Vec<Option<String>>,
    /// The devices below /dev: path, and `c 1:3` or `b 8:0`.
    pub(crate) devices: BTreeMap<String, String>,
    /// Of the paths that were asked for, those with something to read or to list.
    pub(crate) readable: Vec<String>,
    /// Those that can be opened for writing.
    pub(crate) writable: Vec<String>,
    /// Descriptors above the standard streams that a command would have open.
    pub(crate) descriptors: Vec<String>,
    /// What each call came to that was tried: an errno, 0 for success.
    pub(crate) calls: Vec<i32>,
    /// What could not be looked at, and why.
    pub(crate) blind: Vec<String>,
}

/// What is to be looked at.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Paths to read.
    pub(crate) read: &'a [&'a str],
    /// Paths to write.
    pub(crate) write: &'a [&'a str],
    /// Paths to follow.
    pub(crate) targets: &'a [String],
    /// System calls to make, after everything else.
    pub(crate) calls: &'a [Try],
}

impl Facts {
    /// Looks, where the caller is.
    pub(crate) fn gather(wanted: &Wanted<'_>, descriptors: Descriptors) -> Facts {
        let mut facts = Facts::default();
        let mut blind = |what: &str, why: String| facts.blind.push(format!("{what}: {why}"));
        match Status::read("self") {
            Ok(status) => facts.status = status,
            Err(e) => blind("the status", e.to_string()),
        }
        match rlimit::current() {
            Ok(limits) => facts.rlimits = limits,
            Err(e) => blind("the resource limits", e.to_string()),
        }
        match mountinfo::read("self") {
            Ok(table) => facts.mounts = mounts(&table),
            Err(e) => blind("the mounts", e.to_string()),
        }
        match fs::read_dir("/dev") {
            Ok(_) => list_devices(Path::new("/dev"), &mut facts.devices, 0),
            Err(e) => blind("/dev", e.to_string()),
        }
        let cgroups = facts.mounts.iter().filter(|mount| mount.fstype.starts_with("cgroup"));
        let numbers =
            |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino())).map_err(|e| e.to_string());
        facts.cgroups = cgroups.map(|mount| (mount.target.clone(), numbers(&mount.target))).collect();
        for path in wanted.targets {
            let leads = fs::canonicalize(path);
            // Root without capabilities may not go everywhere, and what is gone is missed among the mounts.
            let usual = [io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied];
            if let Err(e) = leads.as_ref()
                && !(usual.contains(&e.kind()) && e.raw_os_error() != Some(libc::EPERM))
            {
                blind(path, e.to_string());
            }
            facts.targets.push(leads.ok().map(|leads| leads.to_string_lossy().into_owned()));
        }
        facts.readable = wanted.read.iter().filter(|path| readable(path)).map(|path| (*path).to_owned()).collect();
        facts.writable = wanted.write.iter().filter(|path| writable(path)).map(|path| (*path).to_owned()).collect();
        match descriptors {
            Ok(open) => facts.descriptors = open,
            Err(e) => blind("the open descriptors", e.to_string()),
        }
        facts.calls = wanted.calls.iter().map(Try::run).collect();
        facts
    }
}

/// The mounts of a table.
fn mounts(table: &[u8]) -> Vec<Mount> {
    let plain = |path: &Path| path.to_string_lossy().into_owned();
    let options = |mount: &mountinfo::Mount<'_>| {
        mount.options.split(',').chain(mount.super_options.split(',')).map(str::to_owned).collect()
    };
    mountinfo::mounts(table)
        .map(|mount| Mount {
            target: plain(&mount.point),
            root: plain(&mount.root),
            options: options(&mount),
            fstype: mount.fstype.into_owned(),
        })
        .collect()
}

/// A file with a byte in it, or a directory with an entry. It must not block: no fifo, no terminal.
fn readable(path: &str) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    if found.is_dir() {
        return fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty()).map(fs::File::from);
    file.is_ok_and(|mut file| file.read(&mut [0]).is_ok_and(|n| n > 0))
}

/// What a mask lets be opened for writing is the null device.
fn writable(path: &str) -> bool {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let null = |file: &fs::File| file.metadata().is_ok_and(|found| found.rdev() == libc::makedev(1, 3));
    open(path, flags, Mode::empty()).map(fs::File::from).is_ok_and(|file| !null(&file))
}

fn list_devices(dir: &Path, devices: &mut BTreeMap<String, String>, depth: u32) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, Ok(found)) = (entry.path(), entry.metadata()) else { continue };
        let kind = found.file_type();
        // Terminals come and go; the others are everybody's to fill, and nodev.
        let own = ["/dev/pts", "/dev/shm", "/dev/mqueue"].iter().any(|own| path == Path::new(own));
        if kind.is_dir() && depth < 16 && !own {
            list_devices(&path, devices, depth + 1);
        } else if kind.is_char_device() || kind.is_block_device() {
            let letter = if kind.is_char_device() { 'c' } else { 'b' };
            let numbers = format!("{letter} {}:{}", major(found.rdev()), minor(found.rdev()));
            devices.insert(path.to_string_lossy().into_owned(), numbers);
        }
    }
}

/// See [`descriptors`].
pub(crate) type Descriptors = io::Result<Vec<String>>;

/// What exec would leave open beside the standard streams: number, and what it is.
pub(crate) fn descriptors() -> Descriptors {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok_and(|number| number > 2) && survives_exec(&name)? {
            open.push(format!("{name} {}", fs::read_link(entry.path())?.display()));
        }
    }
    Ok(open)
}

/// Whether a descriptor is not close-on-exec, by the octal flags in `/proc/self/fdinfo` (proc(5)).
fn survives_exec(number: &str) -> io::Result<bool> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}"))?;
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    let flags = flags.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/self/fdinfo"))?;
    Ok(flags & libc::O_CLOEXEC == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_of_a_mount_and_of_its_file_system_are_one_list() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let expected = Mount {
            target: "/x\\y".to_owned(),
            root: "/a b".to_owned(),
            fstype: "tmpfs".to_owned(),
            options: words(&["rw", "nosuid", "rw", "size=4k"]),
        };
        assert_eq!(mounts(b"27 22 0:25 /a\\040b /x\\134y rw,nosuid - tmpfs none rw,size=4k\n"), [expected]);
    }
}
