//! The directories that entries go into: looked up inside the tree only, made where they are missing, and kept open.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlink};
use nix::sys::stat::{Mode, mkdirat};
use quilt_record::error::{Code, Error, Step};

/// Directories kept open.
const OPEN_MAX: usize = 128;

/// No symlink, no way out, no other mount.
pub const STRICT: ResolveFlag =
    ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_SYMLINKS).union(ResolveFlag::RESOLVE_NO_XDEV);

/// Symlinks mean what they would mean in a chroot.
const IN_ROOT: ResolveFlag =
    ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_NO_MAGICLINKS).union(ResolveFlag::RESOLVE_NO_XDEV);

/// A directory of the tree.
pub struct Parent {
    /// O_PATH.
    pub dir: OwnedFd,
    /// Its path from the root, without any symlink; empty for the root.
    pub path: Vec<u8>,
}

/// The directories of a tree.
pub struct Parents {
    root: Rc<Parent>,
    open: HashMap<Vec<u8>, Rc<Parent>>,
}

impl Parents {
    /// Those below `root`.
    pub fn new(root: OwnedFd) -> Parents {
        Parents { root: Rc::new(Parent { dir: root, path: Vec::new() }), open: HashMap::new() }
    }

    /// Drops what is known: something that a path led through was removed.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// The directory at `path`; `None` if there is none.
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Rc<Parent>>, Error> {
        if path.is_empty() {
            return Ok(Some(Rc::clone(&self.root)));
        }
        if let Some(parent) = self.open.get(path) {
            return Ok(Some(Rc::clone(parent)));
        }
        let step = || format!("open {}", path.escape_ascii());
        let name = OsStr::from_bytes(path);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let parent = match open(&self.root.dir, name, flags, STRICT) {
            Ok(dir) => Parent { dir, path: path.to_vec() },
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => match open(&self.root.dir, name, flags, IN_ROOT) {
                Ok(dir) => Parent { path: self.path_of(&dir).step(step)?, dir },
                Err(Errno::ENOENT) => return Ok(None),
                Err(e) => return Err(Error::os(step(), e)),
            },
            Err(e) => return Err(Error::os(step(), e)),
        };
        Ok(Some(self.keep(path, parent)))
    }

    /// The directory at `path`, made with all above it (root's, mode 0755) if there is none.
    pub fn make(&mut self, path: &[u8]) -> Result<Rc<Parent>, Error> {
        if let Some(parent) = self.find(path)? {
            return Ok(parent);
        }
        let step = || format!("make {}", path.escape_ascii());
        let (above, name) = split(path).ok_or_else(|| Error::new(Code::Internal, step(), "no root"))?;
        let above = self.make(above)?;
        let last = OsStr::from_bytes(name);
        match mkdirat(&above.dir, last, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(Error::new(Code::Invalid, step(), "a symlink to nothing is in the way")),
            Err(e) => return Err(Error::os(step(), e)),
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(&above.dir, last, flags, STRICT).step(step)?;
        Ok(self.keep(path, Parent { dir, path: join(&above.path, name) }))
    }

    fn keep(&mut self, path: &[u8], parent: Parent) -> Rc<Parent> {
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        let parent = Rc::new(parent);
        self.open.insert(path.to_vec(), Rc::clone(&parent));
        parent
    }

    /// Where a directory of the tree is, as the kernel sees it.
    fn path_of(&self, dir: &OwnedFd) -> nix::Result<Vec<u8>> {
        let link = |fd: &OwnedFd| readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str());
        let (root, dir) = (link(&self.root.dir)?.into_vec(), link(dir)?.into_vec());
        match dir.strip_prefix(root.as_slice()) {
            Some([]) => Ok(Vec::new()),
            Some([b'/', path @ ..]) => Ok(path.to_vec()),
            _ => Err(Errno::EXDEV),
        }
    }
}

/// openat2(2), again where the kernel asks for it: it gives up when a rename elsewhere may have moved a `..`.
pub fn open(dir: &OwnedFd, path: &OsStr, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    loop {
        match openat2(dir, path, OpenHow::new().flags(flags).resolve(resolve)) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A path's directory and last component; `None` for the root.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    match path.iter().rposition(|b| *b == b'/') {
        _ if path.is_empty() => None,
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((b"", path)),
    }
}

/// A path from a directory's and a name in it.
pub fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() { name.to_vec() } else { [above, b"/", name].concat() }
}
