//! The host's devices, for `--privileged`.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{SFlag, major, minor};

use crate::plan::{DEVICES, SYMLINKS};

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where, below /dev.
    pub path: PathBuf,
    /// `c` or `b`: a character or a block device.
    pub kind: char,
    /// Its major number.
    pub major: u64,
    /// Its minor number.
    pub minor: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and its group.
    pub owner: (u32, u32),
}

impl Node {
    /// Its type for mknod(2).
    pub fn file_type(&self) -> SFlag {
        if self.kind == 'b' { SFlag::S_IFBLK } else { SFlag::S_IFCHR }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Node { path, kind, major, minor, mode, .. } = self;
        write!(f, "mknod /dev/{} {kind} {major} {minor} {mode:04o}", path.display())
    }
}

/// What is in /dev for every container, and what is a place for another file system.
fn is_everybodys(path: &Path) -> bool {
    let mut names = DEVICES.iter().map(|(name, ..)| *name).chain(SYMLINKS.iter().map(|(name, _)| *name));
    names.any(|name| path == Path::new(name))
        || ["pts", "shm", "mqueue", "console"].iter().any(|name| path == Path::new(name))
}

/// All devices that the host has in /dev, by their paths, without those that every container has, and without what is on
/// another file system there.
pub fn all() -> Vec<Node> {
    let mut nodes = Vec::new();
    look(Path::new("/dev"), Path::new(""), &mut nodes);
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes
}

fn look(dev: &Path, below: &Path, nodes: &mut Vec<Node>) {
    let at = dev.join(below);
    let device = |path: &Path| path.symlink_metadata().map(|m| m.dev()).ok();
    // What goes away meanwhile is not there.
    let Ok(entries) = fs::read_dir(&at) else { return };
    for entry in entries.flatten() {
        let path = below.join(entry.file_name());
        let (Ok(found), false) = (entry.metadata(), is_everybodys(&path)) else { continue };
        let kind = found.file_type();
        if kind.is_dir() && device(&at) == Some(found.dev()) {
            look(dev, &path, nodes);
        } else if kind.is_char_device() || kind.is_block_device() {
            nodes.push(Node {
                path,
                kind: if kind.is_block_device() { 'b' } else { 'c' },
                major: major(found.rdev()),
                minor: minor(found.rdev()),
                mode: found.mode() & 0o7777,
                owner: (found.uid(), found.gid()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_devices_without_everybodys() {
        let nodes = all();
        for own in ["null", "tty", "pts/0", "console"] {
            assert!(!nodes.iter().any(|node| node.path == Path::new(own)), "{own}");
        }
        let disk = Node { path: "a/b".into(), kind: 'b', major: 8, minor: 1, mode: 0o660, owner: (0, 6) };
        assert_eq!(disk.to_string(), "mknod /dev/a/b b 8 1 0660");
    }
}
