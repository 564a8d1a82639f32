//! The text of a step: the line of a dry run, and the `step` of an error.

use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;
use quilt_record::have::Device;
use quilt_record::leaf::INIT;

use super::{EMPTY, Mount, Step};

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" ");
        match self {
            Step::Tools(tools, target) => write!(f, "bind {} on {} (ro,nosuid)", tools.display(), target.display()),
            Step::Empty(path) => write!(f, "write {}: empty", path.display()),
            Step::Leaf(dir) => write!(f, "mkdir {}", dir.display()),
            Step::Clone { namespaces, tasks } => {
                write!(f, "clone with new {} namespaces, in the cgroup {INIT}", namespaces.join(" "))?;
                tasks.iter().try_for_each(|path| write!(f, "; write {}: 0", path.display()))
            }
            Step::CgroupNamespace => f.write_str("unshare the cgroup namespace"),
            Step::Net(pin) => write!(f, "setns to the network namespace {}", pin.display()),
            Step::Sysctl(sysctl) => write!(f, "write /proc/sys/{}: {}", sysctl.file().display(), sysctl.value),
            Step::Private => f.write_str("mount propagation / private, recursive"),
            Step::Idmap(path, ids) => write!(f, "bind {}, idmapped to {ids}", path.display()),
            Step::AssumeRoot(ids) => {
                write!(f, "setfsuid {}, setfsgid {}, keeping capabilities", ids.uid, ids.gid)
            }
            Step::Layers { lower, upper } => write!(f, "open {} {}", list(lower), upper.display()),
            Step::File { at, .. } => write!(f, "write {}", at.display()),
            Step::Overlay { lower, upper, work, nodev } => write!(
                f,
                "mount overlay on / ({}) lowerdir {} upperdir {} workdir {}",
                if *nodev { "nodev" } else { "" },
                list(lower),
                upper.display(),
                work.display()
            ),
            Step::User(user) => write!(f, "find the user {user}"),
            Step::Workdir(dir) => write!(f, "make the directory {dir}"),
            Step::Mount(mount) => mount.fmt(f),
            Step::Device(name, major, minor) => write!(f, "mknod /dev/{name} c {major} {minor} 0666"),
            Step::Node(Device { path, kind, major, minor, mode, uid, gid, .. }) => {
                write!(f, "mknod {path} {kind} {major} {minor} {mode:04o} {uid}:{gid}")
            }
            Step::Symlink(name, target) => write!(f, "symlink /dev/{name} -> {target}"),
            Step::Cgroups(view) => view.fmt(f),
            Step::MaskFile(path) => write!(f, "bind /dev/null on {}", path.display()),
            Step::MaskDir { path, first: true } => write!(f, "mount tmpfs on {} {}", path.display(), options(&EMPTY)),
            Step::MaskDir { path, first: false } => write!(f, "bind an empty directory on {}", path.display()),
            Step::ReadOnly(path) => write!(f, "bind {0} on {0} (ro)", path.display()),
            Step::Extra(extra) => extra.fmt(f),
            Step::Check { files, dirs } => write!(f, "check {} masks", files.len() + dirs.len()),
            Step::ReadOnlyRoot => f.write_str("mount / anew (ro)"),
            Step::Hostname(name) => write!(f, "sethostname {name}"),
            Step::Pivot => f.write_str("pivot_root, and detach the host's root"),
            Step::Detach => f.write_str("setsid, standard streams /dev/null, close every other descriptor"),
            Step::EnterUser(pin) => {
                write!(f, "setns to the user namespace that owns {}, as its root", pin.display())
            }
            Step::Confine(rules) => rules.fmt(f),
            Step::Init(command) if command.is_empty() => f.write_str("exec quilt-init"),
            Step::Init(command) => write!(f, "exec quilt-init -- {}", command.join(" ")),
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount {} on {} {}", self.fstype, self.target, options(self))
    }
}

/// `(ro,nosuid,mode=755)`.
fn options(mount: &Mount) -> String {
    let flags = [
        (MsFlags::MS_RDONLY, "ro"),
        (MsFlags::MS_NOSUID, "nosuid"),
        (MsFlags::MS_NODEV, "nodev"),
        (MsFlags::MS_NOEXEC, "noexec"),
    ];
    let set = flags.iter().filter(|(flag, _)| mount.flags.contains(*flag)).map(|(_, name)| *name);
    let data = Some(&*mount.data).filter(|data| !data.is_empty());
    format!("({})", set.chain(data).collect::<Vec<_>>().join(","))
}
