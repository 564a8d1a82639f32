//! Entries become files. Everything is made relative to an open directory of the tree; a parent that an image's own
//! symlink leads to is looked up as if the tree were the root (openat2(2), RESOLVE_IN_ROOT), so no entry gets out.
//!
//! Directories get owner, mode, xattrs and mtime at the very end: until then they are root's, so that what is made in
//! them inherits nothing and moves no mtime.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat, write};
use quilt_record::error::{Code, Error, Step};
use quilt_record::sys;

use crate::archive::Archive;
use crate::entry::Entry;
use crate::header::Kind;
use crate::parents::{self, Parent, Parents, join, split};
use crate::source::Bytes;
use crate::tree;

/// The most memory that directories may take until the end, in bytes: about 250,000 directories.
const DIRS_MAX: usize = 32 << 20;

/// Set-id and sticky bits, which neither open(2) nor mkdir(2) sets reliably.
const SPECIAL: u32 = 0o7000;

/// What a directory gets at the end.
struct Pending {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, u32),
    xattrs: Vec<(String, Vec<u8>)>,
}

/// A tree being filled.
pub struct Tree {
    root: OwnedFd,
    parents: Parents,
    dirs: BTreeMap<Vec<u8>, Pending>,
    dirs_size: usize,
    /// Who owns what is made here.
    owner: (u32, u32),
    entries: u64,
    /// Bytes of files.
    size: u64,
}

impl Tree {
    /// Starts to fill the empty directory `root`. The process's umask must be 0.
    pub fn new(root: OwnedFd) -> Result<Tree, Error> {
        let step = || "look at the new tree";
        // A default ACL above would change modes in here.
        match sys::remove_xattr(root.as_fd(), c"system.posix_acl_default") {
            Err(e) if !matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => {
                return Err(Error::os(step(), e));
            }
            _ => {}
        }
        let stat = fstat(&root).step(step)?;
        let parents = Parents::new(root.try_clone().step(step)?);
        let owner = (stat.st_uid, stat.st_gid);
        Ok(Tree { root, parents, dirs: BTreeMap::new(), dirs_size: 0, owner, entries: 0, size: 0 })
    }

    /// Entries made so far, and bytes of files.
    pub fn count(&self) -> (u64, u64) {
        (self.entries, self.size)
    }

    /// Makes all entries of the archive, the directories' metadata included.
    pub fn fill<B: Bytes>(&mut self, archive: &mut Archive<B>) -> Result<(), Error> {
        while let Some(entry) = archive.next_entry()? {
            self.entries += 1;
            self.size += entry.size;
            self.make(&entry, archive)?;
        }
        self.finish()
    }

    fn make<B: Bytes>(&mut self, entry: &Entry, archive: &mut Archive<B>) -> Result<(), Error> {
        let Some((above, name)) = split(&entry.path) else {
            if entry.kind != Kind::Dir {
                return Err(Error::new(Code::Invalid, "", "an entry with the name of the root that is no directory"));
            }
            return self.later(Vec::new(), entry);
        };
        let parent = self.parents.make(above)?;
        let (at, name) = (parent.dir.as_fd(), OsStr::from_bytes(name));
        let mode = Mode::from_bits_truncate(entry.mode & !SPECIAL);
        match entry.kind {
            Kind::File => {
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = self.put(&parent, name, entry, || openat(at, name, flags, mode))?;
                loop {
                    let piece = archive.data()?;
                    if piece.is_empty() {
                        break;
                    }
                    let written = write(&fd, piece).step(|| describe("write", entry))?;
                    archive.consume(written);
                }
                self.dress(fd.as_fd(), entry)
            }
            Kind::Dir => {
                // A directory that is there already is kept, with what is in it.
                match mkdirat(at, name, Mode::S_IRWXU) {
                    Ok(()) => {}
                    Err(Errno::EEXIST) if is_dir(at, name) => {}
                    Err(_) => self.put(&parent, name, entry, || mkdirat(at, name, Mode::S_IRWXU))?,
                }
                self.later(join(&parent.path, name.as_bytes()), entry)
            }
            Kind::HardLink => self.link(&parent, name, entry),
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                if target.is_empty() {
                    return Err(Error::new(Code::Invalid, describe("make", entry), "a symlink to nothing"));
                }
                self.put(&parent, name, entry, || symlinkat(target, at, name))?;
                self.dress_at(at, name, entry)
            }
            _ => {
                let (kind, device) = match entry.kind {
                    Kind::Char => (SFlag::S_IFCHR, makedev(entry.device.0, entry.device.1)),
                    Kind::Block => (SFlag::S_IFBLK, makedev(entry.device.0, entry.device.1)),
                    _ => (SFlag::S_IFIFO, 0),
                };
                self.put(&parent, name, entry, || mknodat(at, name, kind, mode, device))?;
                self.dress_at(at, name, entry)
            }
        }
    }

    /// Does `make`; if something is in the way, an earlier entry, removes that first.
    fn put<T>(
        &mut self,
        parent: &Parent,
        name: &OsStr,
        entry: &Entry,
        make: impl Fn() -> nix::Result<T>,
    ) -> Result<T, Error> {
        let made = match make() {
            Err(Errno::EEXIST) => {
                self.clear_way(parent, name)?;
                make()
            }
            made => made,
        };
        made.step(|| describe("make", entry))
    }

    fn clear_way(&mut self, parent: &Parent, name: &OsStr) -> Result<(), Error> {
        // What was reached through it, a directory or a symlink, is reached no more.
        self.parents.forget();
        match unlinkat(&parent.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EISDIR) => {}
            Err(e) => return Err(Error::os(format!("replace {}", name.display()), e)),
        }
        let path = join(&parent.path, name.as_bytes());
        let below = join(&path, b"")..join(&path, b"\xff");
        let gone: Vec<Vec<u8>> = self.dirs.range(below).map(|(path, _)| path.clone()).chain([path]).collect();
        for path in gone {
            if let Some(old) = self.dirs.remove(&path) {
                self.dirs_size -= old.size(&path);
            }
        }
        tree::remove_at(parent.dir.as_fd(), &c_string(name.as_bytes())?)
    }

    /// A further name of an entry that was made before; the metadata are those of the first.
    fn link(&mut self, parent: &Parent, name: &OsStr, entry: &Entry) -> Result<(), Error> {
        let step = || format!("{} to {}", describe("link", entry), entry.link.escape_ascii());
        let missing = || Error::new(Code::Invalid, step(), "the archive has no such entry before this one");
        let (above, to) = split(&entry.link).ok_or_else(missing)?;
        let (to_parent, to) = (self.parents.find(above)?.ok_or_else(missing)?, OsStr::from_bytes(to));
        let make = || linkat(&to_parent.dir, to, &parent.dir, name, AtFlags::empty());
        let made = match make() {
            Err(Errno::EEXIST) => {
                let file = |dir: &OwnedFd, name| fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).map(|s| s.st_ino);
                if file(&to_parent.dir, to) == file(&parent.dir, name) {
                    return Ok(());
                }
                self.clear_way(parent, name)?;
                make()
            }
            made => made,
        };
        match made {
            Err(Errno::ENOENT) => Err(missing()),
            Err(Errno::EPERM) => Err(Error::new(Code::Invalid, step(), "that is a directory")),
            made => made.step(step),
        }
    }

    /// Metadata of an open file. The order matters: chown takes set-id bits and capabilities away.
    fn dress(&self, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), Error> {
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = ids(entry.uid, entry.gid);
            fchown(file, uid, gid).step(|| describe("chown", entry))?;
        }
        for (key, value) in &entry.xattrs {
            sys::set_xattr(file, &c_string(key.as_bytes())?, value)
                .step(|| describe(&format!("set the extended attribute {key} of"), entry))?;
        }
        if entry.mode & SPECIAL != 0 {
            fchmod(file, Mode::from_bits_truncate(entry.mode)).step(|| describe("chmod", entry))?;
        }
        futimens(file, &TimeSpec::UTIME_OMIT, &time(entry.mtime)).step(|| describe("set the mtime of", entry))
    }

    /// Metadata of what cannot be opened: a symlink, a device, a fifo.
    fn dress_at(&self, dir: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Error> {
        if (entry.uid, entry.gid) != self.owner {
            let (uid, gid) = ids(entry.uid, entry.gid);
            fchownat(dir, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW).step(|| describe("chown", entry))?;
        }
        if !entry.xattrs.is_empty() {
            let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
            let path = c_string(&path)?;
            for (key, value) in &entry.xattrs {
                sys::set_xattr_at(&path, &c_string(key.as_bytes())?, value)
                    .step(|| describe(&format!("set the extended attribute {key} of"), entry))?;
            }
        }
        if entry.mode & SPECIAL != 0 && entry.kind != Kind::Symlink {
            let mode = Mode::from_bits_truncate(entry.mode);
            fchmodat(dir, name, mode, FchmodatFlags::FollowSymlink).step(|| describe("chmod", entry))?;
        }
        utimensat(dir, name, &TimeSpec::UTIME_OMIT, &time(entry.mtime), UtimensatFlags::NoFollowSymlink)
            .step(|| describe("set the mtime of", entry))
    }

    /// Notes what a directory gets at the end; `path` has no symlink in it.
    fn later(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), Error> {
        let Entry { mode, uid, gid, mtime, ref xattrs, .. } = *entry;
        let pending = Pending { mode, uid, gid, mtime, xattrs: xattrs.clone() };
        self.dirs_size += pending.size(&path);
        if let Some(old) = self.dirs.get(&path) {
            self.dirs_size -= old.size(&path);
        }
        self.dirs.insert(path, pending);
        if self.dirs_size > DIRS_MAX {
            let why = format!("more directories than {} MiB of memory hold", DIRS_MAX >> 20);
            return Err(Error::new(Code::Unsupported, "", why));
        }
        Ok(())
    }

    /// Gives the directories what they are to have, the deepest first.
    fn finish(&mut self) -> Result<(), Error> {
        for (path, pending) in std::mem::take(&mut self.dirs).into_iter().rev() {
            let Pending { mode, uid, gid, mtime, xattrs } = pending;
            let entry =
                Entry { kind: Kind::Dir, link: vec![], mode, uid, gid, size: 0, mtime, device: (0, 0), xattrs, path };
            let name: &[u8] = if entry.path.is_empty() { b"." } else { &entry.path };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let dir = parents::open(&self.root, OsStr::from_bytes(name), flags, parents::STRICT)
                .step(|| describe("open", &entry))?;
            let permissions = Mode::from_bits_truncate(mode & !SPECIAL);
            fchmod(&dir, permissions).step(|| describe("chmod", &entry))?;
            self.dress(dir.as_fd(), &entry)?;
        }
        self.dirs_size = 0;
        Ok(())
    }
}

impl Pending {
    /// About the memory it takes with its key, in bytes.
    fn size(&self, path: &[u8]) -> usize {
        path.len() + 96 + self.xattrs.iter().map(|(key, value)| key.len() + value.len() + 48).sum::<usize>()
    }
}

fn describe(what: &str, entry: &Entry) -> String {
    format!("{what} {}", if entry.path.is_empty() { ".".to_owned() } else { entry.path.escape_ascii().to_string() })
}

fn is_dir(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|s| s.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

fn ids(uid: u32, gid: u32) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
}

fn time((seconds, nanos): (i64, u32)) -> TimeSpec {
    TimeSpec::new(seconds, nanos.into())
}

fn c_string(bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| Error::new(Code::Invalid, "", "a name with a NUL in it"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;
    use crate::archive::add;

    /// Unpacks the entries (kind, name, data or link target) into a fresh directory with a canary beside it.
    fn unpack(name: &str, entries: &[(u8, &str, &str)]) -> (PathBuf, Result<(), Error>) {
        let dir = std::env::temp_dir().join(format!("quilt-write-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("root")).unwrap();
        fs::write(dir.join("canary"), "canary").unwrap();
        let mut tar = Vec::new();
        for (kind, name, data) in entries {
            add(&mut tar, *kind, name, data.as_bytes());
        }
        tar.resize(tar.len() + 1024, 0);
        let mut tree = Tree::new(fs::File::open(dir.join("root")).unwrap().into()).unwrap();
        let result = tree.fill(&mut Archive::new(tar.as_slice()));
        assert_eq!(fs::read_to_string(dir.join("canary")).unwrap(), "canary");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        (dir, result)
    }

    #[test]
    fn an_image_s_own_symlink_leads_nowhere_but_into_the_image() {
        for (i, to) in ["/", "..", "../..", "../../../../.."].into_iter().enumerate() {
            let (dir, result) = unpack(&format!("in{i}"), &[(b'2', "s", to), (b'0', "s/canary", "evil")]);
            result.unwrap();
            assert_eq!(fs::read_to_string(dir.join("root/canary")).unwrap(), "evil");
            fs::remove_dir_all(dir).unwrap();
        }
        for (i, to) in ["/tmp", "../canary", "/proc/self/root", "s"].into_iter().enumerate() {
            let (dir, result) = unpack(&format!("out{i}"), &[(b'2', "s", to), (b'0', "s/canary", "evil")]);
            assert!(result.is_err(), "{to}");
            fs::remove_dir_all(dir).unwrap();
        }
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let entries = [
            (b'5', "d", ""),
            (b'5', "d/e", ""),
            (b'0', "d/e/f", "old"),
            (b'2', "l", "d/e"),
            (b'0', "l/through", "1"),
            (b'5', "l", ""),
            (b'0', "l/own", "2"),
            (b'0', "d", "now a file"),
            (b'0', "a", "1"),
            (b'1', "b", "a"),
            (b'0', "a", "2"),
            (b'1', "a", "a"),
        ];
        let (dir, result) = unpack("replace", &entries);
        result.unwrap();
        let text = |name: &str| fs::read_to_string(dir.join("root").join(name)).unwrap_or_default();
        assert_eq!([text("d"), text("l/own"), text("l/through")], ["now a file", "2", ""]);
        assert_eq!([text("a"), text("b")], ["2", "1"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn directories_get_their_mtime_last() {
        let (dir, result) =
            unpack("mtime", &[(b'5', "d", ""), (b'2', "s", "d"), (b'5', "s/e", ""), (b'0', "s/e/f", "")]);
        result.unwrap();
        for name in ["d", "d/e", "d/e/f"] {
            assert_eq!(fs::symlink_metadata(dir.join("root").join(name)).unwrap().mtime(), 1, "{name}");
        }
        assert_eq!(fs::metadata(dir.join("root/d/e")).unwrap().mode() & 0o7777, 0o644);
        fs::remove_dir_all(dir).unwrap();
    }
}
