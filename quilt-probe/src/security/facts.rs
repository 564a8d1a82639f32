//! What a process inside sees of its confinement: gathered there by a visitor, as root, from the kernel's own files and
//! by asking for what ought to be refused. Nothing of the image is run or trusted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, major, minor};
use quilt_record::confine::{Rlimit, rlimit};
use quilt_record::sys;
use serde::{Deserialize, Serialize};

/// One mount, as `/proc/self/mountinfo` has it (proc_pid_mountinfo(5)).
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
    /// Of `/proc/self/status`: what stands behind the names in [`STATUS`].
    pub(crate) status: BTreeMap<String, String>,
    /// The limits that are any.
    pub(crate) rlimits: Vec<Rlimit>,
    /// The mounts, in their order.
    pub(crate) mounts: Vec<Mount>,
    /// Where the paths that mounts were asked for lead to.
    pub(crate) targets: Vec<String>,
    /// The devices below /dev: path, and `c 1:3` or `b 8:0`.
    pub(crate) devices: BTreeMap<String, String>,
    /// Of the paths that were asked for, those with something to read or to list.
    pub(crate) readable: Vec<String>,
    /// Those that can be opened for writing.
    pub(crate) writable: Vec<String>,
    /// The calls that were tried, and what they came to: an errno, 0 for success.
    pub(crate) calls: BTreeMap<String, i32>,
    /// Open descriptors above the standard streams.
    pub(crate) descriptors: Vec<String>,
}

/// The lines of `/proc/self/status` that matter (proc_pid_status(5)).
pub(crate) const STATUS: [&str; 11] =
    ["Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];

/// System calls that nobody inside needs, with arguments that can do no harm: what they come to tells whether the filter
/// is there. Each is a name, a number and the arguments.
fn calls() -> [(&'static str, i64, [i64; 3]); 9] {
    const ALL_NAMESPACES: i64 = libc::CLONE_NEWUSER as i64;
    [
        // Bad arguments: without a filter EFAULT, EINVAL or EBADF come back.
        ("bpf", libc::SYS_bpf, [-1, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [-1, 0, 0]),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1]),
        ("setns", libc::SYS_setns, [-1, 0, 0]),
        ("unshare", libc::SYS_unshare, [ALL_NAMESPACES, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0]),
        ("clone3", libc::SYS_clone3, [0, 0, 0]),
    ]
}

impl Facts {
    /// Looks, where the caller is; `read` and `write` are the paths to try, `targets` those to follow.
    pub(crate) fn gather(read: &[&str], write: &[&str], targets: &[String]) -> Facts {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let fields = status.lines().filter_map(|line| line.split_once(':'));
        let wanted = fields.filter(|(name, _)| STATUS.contains(name));
        let mut devices = BTreeMap::new();
        list_devices(Path::new("/dev"), &mut devices, 0);
        Facts {
            status: wanted.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            rlimits: rlimit::current().unwrap_or_default(),
            mounts: mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()),
            targets: targets
                .iter()
                .filter_map(|path| fs::canonicalize(path).ok()?.into_os_string().into_string().ok())
                .collect(),
            devices,
            readable: read.iter().filter(|path| readable(path)).map(|path| (*path).to_owned()).collect(),
            writable: write.iter().filter(|path| writable(path)).map(|path| (*path).to_owned()).collect(),
            calls: calls()
                .into_iter()
                .map(|(name, number, args)| (name.to_owned(), sys::try_call(number, args)))
                .collect(),
            descriptors: descriptors(),
        }
    }
}

/// The mounts of a `mountinfo`.
pub(crate) fn mounts(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (fields, file_system) = line.split_once(" - ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let mut file_system = file_system.split(' ');
        let fstype = file_system.next()?.to_owned();
        let of_super = file_system.nth(1).unwrap_or_default();
        let options = fields.get(5)?.split(',').chain(of_super.split(',')).map(str::to_owned).collect();
        Some(Mount { target: plain(fields.get(4)?), root: plain(fields.get(3)?), fstype, options })
    };
    text.lines().filter_map(line).collect()
}

/// Undoes the octal escapes of blanks and the like.
fn plain(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, is)| text.replace(code, is))
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

fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // The one that lists them is there only as long as it lists.
    let open =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_link(entry.path()).ok()?)));
    let above = open.filter(|(number, target)| {
        number.parse::<u32>().is_ok_and(|number| number > 2) && !target.starts_with("/proc/")
    });
    above.map(|(number, target)| format!("{number} {}", target.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        let text = "27 22 0:25 /a\\040b /x\\134y rw,nosuid - tmpfs none rw,size=4k\n\
                    28 22 0:26 / /proc rw shared:1 master:2 - proc proc rw\nnonsense\n";
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let mount = |target: &str, root: &str, fstype: &str, options: &[&str]| Mount {
            target: target.to_owned(),
            root: root.to_owned(),
            fstype: fstype.to_owned(),
            options: words(options),
        };
        let expected = [
            mount("/x\\y", "/a b", "tmpfs", &["rw", "nosuid", "rw", "size=4k"]),
            mount("/proc", "/", "proc", &["rw", "rw"]),
        ];
        assert_eq!(mounts(text), expected);
    }
}
