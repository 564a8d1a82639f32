//! An instance: one set of state, bridges, firewall table, cgroup parent and subnet. Tests have their own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::geteuid;

use crate::defence::out;
use crate::error::{Code, Error, Step};
use crate::id::{Id, base32, hash64};
use crate::process::learn_boot_id;
use crate::sys;

/// Where an instance keeps its things, and what it calls them.
#[derive(Clone, Debug)]
pub struct Instance {
    state: PathBuf,
    run: PathBuf,
    /// Empty for the machine's own instance.
    tag: String,
}

impl Instance {
    /// The instance under `root`, else under `$QUILT_ROOT`, else the machine's own (`/var/lib/quilt` and `/run/quilt`).
    /// Creates nothing.
    pub fn locate(root: Option<&Path>) -> Result<Instance, Error> {
        learn_boot_id().step(|| "read the id of this boot")?;
        let root = match root {
            Some(root) => Some(root.to_owned()),
            None => std::env::var_os("QUILT_ROOT").filter(|r| !r.is_empty()).map(PathBuf::from),
        };
        let Some(root) = root else {
            return Ok(Instance { state: "/var/lib/quilt".into(), run: "/run/quilt".into(), tag: String::new() });
        };
        // Two names for one directory must be one instance; one that does not exist yet has one name only.
        let state = real_path(&root)
            .or_else(|_| std::path::absolute(&root))
            .step(|| format!("find the instance {}", root.display()))?;
        if state.to_str().is_none() {
            // Records are JSON, and they name files below it.
            let why = "its path is not UTF-8";
            return Err(Error::new(Code::Invalid, format!("use the instance {}", state.display()), why));
        }
        let tag = base32(hash64(state.as_os_str().as_encoded_bytes()), 6);
        Ok(Instance { run: state.join("run"), state, tag })
    }

    /// The same, with its directories made (mode 0700). Refuses one that others could change, and anyone but root.
    pub fn prepare(root: Option<&Path>) -> Result<Instance, Error> {
        require_root()?;
        let mut instance = Instance::locate(root)?;
        let containers = instance.containers();
        if fs::symlink_metadata(&containers).is_err() {
            make_private(&instance.state)?;
            instance = Instance::locate(root)?;
            make_private(&instance.containers())?;
            spread(&instance.containers());
            make_private(&instance.images())?;
        }
        make_private(&instance.run)?;
        refuse_shared(&instance.state)?;
        Ok(instance)
    }

    /// What `--root` must say to mean this instance; `None` for the machine's own.
    pub fn root(&self) -> Option<&Path> {
        (!self.tag.is_empty()).then_some(self.state.as_path())
    }

    /// The directory of the state that outlives a reboot.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The directory of what a reboot ends: leases, pins, the read-only bind of the tools.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// One directory per container.
    pub fn containers(&self) -> PathBuf {
        self.state.join("containers")
    }

    /// One directory per unpacked image.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// What tells this instance's kernel objects from another's; empty for the machine's own.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// `quilt`, or `quilt-TAG`: the name of the nftables table and of the cgroup that is parent to all.
    pub fn name(&self) -> String {
        if self.tag.is_empty() { "quilt".to_owned() } else { format!("quilt-{}", self.tag) }
    }

    /// The start of the names of this instance's bridges.
    pub fn bridge_prefix(&self) -> String {
        if self.tag.is_empty() { "quilt".to_owned() } else { format!("q{}-", self.tag) }
    }

    /// The host's end of a container's veth pair: at most 15 bytes (IFNAMSIZ), so a hash; the interface's alias is the id.
    pub fn veth(&self, id: &Id) -> String {
        format!("vq{}", base32(hash64(format!("{}/{id}", self.tag).as_bytes()), 12))
    }
}

/// The name of what is there, without links and dots in it, as the kernel has it: five system calls for what realpath(3)
/// does in one for each part of the path and more.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    // One that was removed meanwhile, or whose mount was, has a name that says so or that is another's.
    let there = stat(&real).is_ok_and(|there| fstat(&file).is_ok_and(|it| same(&it, &there)));
    if there { Ok(real) } else { fs::canonicalize(path) }
}

fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// One line for everyone but root: Quilt needs it for mounts, bridges and cgroups.
pub fn require_root() -> Result<(), Error> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(Error::new(Code::Denied, "", "must run as root (containers without root are not supported yet): try sudo"))
}

fn make_private(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(if out("state-mode") { 0o755 } else { 0o700 }).create(dir) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && dir.parent().is_some_and(|p| !p.exists()) => {
            if let Some(parent) = dir.parent() {
                make_private(parent)?;
            }
            make_private(dir)
        }
        Err(e) => Err(Error::os(format!("make the directory {}", dir.display()), e)),
    }
}

/// Tells ext2, 3 and 4 that the directories in this one have nothing to do with each other (`T`, chattr(1)), so that they
/// go to different block groups. In one group, the files of many short-lived containers make the kernel look through all
/// that were deleted lately for each that it creates: ten creates at once took 160 ms after some thousand removals, and
/// 75 with this. Other file systems do not know it, and do not need it.
fn spread(dir: &Path) {
    const FS_TOPDIR_FL: i32 = 0x0002_0000;
    if let Ok(dir) = fs::File::open(dir) {
        let _ = sys::add_inode_flag(dir.as_fd(), FS_TOPDIR_FL);
    }
}

fn refuse_shared(dir: &Path) -> Result<(), Error> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let refuse = |path: &Path, what: &str| {
        Err(Error::new(
            Code::Denied,
            format!("use the state directory {}", dir.display()),
            format!("{} {what}", path.display()),
        ))
    };
    if out("state-mode") {
        return Ok(());
    }
    let own = fs::metadata(dir).step(|| format!("look at {}", dir.display()))?;
    if !own.is_dir() {
        return refuse(dir, "is not a directory");
    }
    if own.mode() & OTHERS_WRITE != 0 || own.uid() != geteuid().as_raw() {
        return refuse(dir, "belongs to or can be written by others: it must be root's, mode 0700");
    }
    let Some(parent) = dir.parent() else { return Ok(()) };
    let above = fs::metadata(parent).step(|| format!("look at {}", parent.display()))?;
    if above.mode() & OTHERS_WRITE != 0 && above.mode() & STICKY == 0 {
        return refuse(parent, "can be written by others, who could replace what is in it");
    }
    Ok(())
}
