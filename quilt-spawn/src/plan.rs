//! What spawn does, as a list: pure, so that it can be printed instead of done. The text of a step is the line of a dry
//! run and the `step` of the error if it fails.

use std::path::PathBuf;

use quilt_record::confine::Rules;
use quilt_record::have::{Device, Hierarchy};
use quilt_record::idmap::IdMap;
use quilt_record::leaf::{self, INIT};

use crate::extra::Extra;
use crate::masks::Present;
use crate::sysctl::Sysctl;
use crate::want::{Pid, Want};

#[cfg(test)]
mod asked;
pub mod cgroups;
mod ids;
mod mounts;
mod step;
mod text;

pub use ids::check as check_ids;
pub use mounts::{DEVICES, EMPTY, MOUNTS, Mount, SYMLINKS};
pub use step::Step;

/// What a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The read-only bind of the tools that is still to be made: from where to where.
    pub tools: Option<(PathBuf, PathBuf)>,
    /// The container's directory.
    pub container: PathBuf,
    /// The read-only layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// The writable layer.
    pub upper: PathBuf,
    /// Overlayfs' work directory.
    pub work: PathBuf,
    /// The pinned network namespace, unless it is the host's.
    pub net: Option<PathBuf>,
    /// The pinned user namespace, where it is not the one that owns the network namespace.
    pub user: Option<PathBuf>,
    /// The ids of the container's own, if it has a user namespace.
    pub ids: Option<IdMap>,
    /// The container's directory in every hierarchy.
    pub hierarchies: Vec<Hierarchy>,
    /// The devices of the host that it has.
    pub devices: Vec<Device>,
    /// The files that the network needs inside.
    pub files: Vec<PathBuf>,
    /// The host name.
    pub hostname: String,
    /// What is below the image and not to be seen: absolute paths inside the container.
    pub hide: Vec<PathBuf>,
    /// What the container's processes are held to.
    pub rules: Rules,
    /// What of the masks this kernel has.
    pub present: Present,
    /// The mounts that were asked for, in their order.
    pub extras: Vec<Extra>,
    /// The parameters of the kernel that were asked for.
    pub sysctls: Vec<Sysctl>,
    /// The host's devices, for `--privileged`.
    pub host_devices: Vec<Device>,
    /// What was asked.
    pub want: Want,
}

/// The files that init gets: the exit status, and with a command the log in two parts, the newer and the older.
pub const FILES: [&str; 3] = ["exit", "log", "log.1"];

/// The plan.
pub fn plan(input: &Input) -> Vec<Step> {
    let want = &input.want;
    let mut steps = Vec::with_capacity(64);
    let files = if want.command.is_empty() { &FILES[..1] } else { &FILES };
    steps.extend(input.tools.clone().map(|(tools, target)| Step::Tools(tools, target)));
    steps.extend(files.iter().map(|name| Step::Empty(input.container.join(name))));
    let home = leaf::judge(&input.hierarchies);
    steps.extend(home.map(|home| Step::Leaf(home.path.join(INIT))));
    let mut namespaces = vec!["mnt", "uts", "ipc"];
    if want.pid.unwrap_or_default() == Pid::Private {
        namespaces.insert(0, "pid");
    }
    let others = input.hierarchies.iter().filter(|h| h.version == 1 && Some(*h) != home).map(|h| h.path.join("tasks"));
    let home = home.filter(|home| home.version == 1).map(|home| home.path.join(INIT).join("tasks"));
    steps.push(Step::Clone { namespaces, tasks: others.chain(home).collect() });

    steps.push(Step::CgroupNamespace);
    steps.extend(input.net.clone().map(Step::Net));
    steps.extend(input.sysctls.iter().cloned().map(Step::Sysctl));
    steps.push(Step::Private);
    if let Some(ids) = input.ids {
        let home = input.upper.parent().unwrap_or(&input.upper).to_owned();
        steps.extend(input.lower.iter().chain([&home]).map(|path| Step::Idmap(path.clone(), ids)));
        steps.push(Step::AssumeRoot(ids));
    }
    steps.push(Step::Layers { lower: input.lower.clone(), upper: input.upper.clone() });
    for inside in &input.files {
        let below = inside.strip_prefix("/").unwrap_or(inside);
        steps.push(Step::File { at: input.upper.join(below), inside: inside.clone() });
    }
    let (lower, upper, work) = (input.lower.clone(), input.upper.clone(), input.work.clone());
    steps.push(Step::Overlay { lower, upper, work, nodev: !want.privileged });
    for mut mount in mounts::of(want) {
        let is_dev = mount.target == "/dev";
        mount.data = ids::options(input.ids, mount.data);
        steps.push(Step::Mount(mount));
        if is_dev {
            steps.extend(DEVICES.map(|(name, major, minor)| Step::Device(name, major, minor)));
            steps.extend(SYMLINKS.map(|(name, target)| Step::Symlink(name, target)));
            let nodes = input.host_devices.iter().chain(&input.devices);
            steps.extend(nodes.map(|device| Step::Node(ids::device(input.ids, device))));
        }
    }
    steps.extend(cgroups::views(&input.hierarchies, want.privileged).into_iter().map(Step::Cgroups));
    let none = Present::default();
    let present = if want.privileged { &none } else { &input.present };
    steps.extend(present.files.iter().cloned().map(Step::MaskFile));
    let dirs: Vec<PathBuf> = present.dirs.iter().chain(&input.hide).cloned().collect();
    steps.extend(dirs.iter().cloned().enumerate().map(|(n, path)| Step::MaskDir { path, first: n == 0 }));
    steps.extend(present.read_only.iter().cloned().map(Step::ReadOnly));
    steps.extend(input.extras.iter().cloned().map(|extra| Step::Extra(ids::extra(input.ids, extra))));
    // These two are meant as they are with all mounts in place.
    steps.push(Step::User(want.user.clone().unwrap_or_else(|| "0".to_owned())));
    steps.extend(want.workdir.clone().map(Step::Workdir));
    steps.push(Step::Check { files: present.files.clone(), dirs });
    steps.extend(want.read_only.then_some(Step::ReadOnlyRoot));
    steps.push(Step::Hostname(input.hostname.clone()));
    steps.extend([Step::Pivot, Step::Detach]);
    let owner = input.user.as_ref().or(input.net.as_ref());
    steps.extend(owner.filter(|_| input.ids.is_some()).cloned().map(Step::EnterUser));
    steps.push(Step::Confine(input.rules.clone()));
    steps.push(Step::Init(want.command.clone()));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn input() -> Input {
        let hierarchy = |version, controllers: &str, path: &str| Hierarchy {
            version,
            controllers: controllers.into(),
            path: path.into(),
        };
        Input {
            tools: Some(("/usr/local/bin".into(), "/q/run/bin".into())),
            container: "/q/c".into(),
            lower: vec!["/i".into()],
            upper: "/q/c/upper".into(),
            work: "/q/c/work".into(),
            net: Some("/q/run/ns/c".into()),
            user: None,
            ids: None,
            hierarchies: vec![hierarchy(1, "pids", "/cg/pids/c"), hierarchy(2, "", "/cg/unified/c")],
            devices: vec![Device {
                path: "/dev/net/tun".into(),
                kind: 'c',
                major: 10,
                minor: 200,
                access: "rw".into(),
                mode: 0o660,
                uid: 0,
                gid: 5,
            }],
            files: vec!["/etc/hosts".into()],
            hostname: "c".into(),
            hide: vec!["/q".into()],
            rules: Rules::default(),
            present: Present {
                files: vec!["/proc/keys".into()],
                dirs: vec!["/proc/acpi".into()],
                read_only: vec!["/proc/sys".into()],
            },
            extras: Vec::new(),
            sysctls: Vec::new(),
            host_devices: Vec::new(),
            want: Want { command: vec!["make".into(), "test".into()], ..Want::default() },
        }
    }

    #[test]
    fn the_whole_plan() {
        let lines: Vec<String> = plan(&input()).iter().map(Step::to_string).collect();
        let expected = "\
bind /usr/local/bin on /q/run/bin (ro,nosuid)
write /q/c/exit: empty
write /q/c/log: empty
write /q/c/log.1: empty
mkdir /cg/unified/c/init
clone with new pid mnt uts ipc namespaces, in the cgroup init; write /cg/pids/c/tasks: 0
unshare the cgroup namespace
setns to the network namespace /q/run/ns/c
mount propagation / private, recursive
open /i /q/c/upper
write /q/c/upper/etc/hosts
mount overlay on / (nodev) lowerdir /i upperdir /q/c/upper workdir /q/c/work
mount proc on /proc (nosuid,nodev,noexec)
mount sysfs on /sys (ro,nosuid,nodev,noexec)
mount tmpfs on /dev (nosuid,mode=755,size=64k)
mknod /dev/null c 1 3 0666
mknod /dev/zero c 1 5 0666
mknod /dev/full c 1 7 0666
mknod /dev/random c 1 8 0666
mknod /dev/urandom c 1 9 0666
mknod /dev/tty c 5 0 0666
symlink /dev/fd -> /proc/self/fd
symlink /dev/stdin -> /proc/self/fd/0
symlink /dev/stdout -> /proc/self/fd/1
symlink /dev/stderr -> /proc/self/fd/2
symlink /dev/ptmx -> pts/ptmx
mknod /dev/net/tun c 10 200 0660 0:5
mount devpts on /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5)
mount tmpfs on /dev/shm (nosuid,nodev,noexec,mode=1777,size=64m)
mount mqueue on /dev/mqueue (nosuid,nodev,noexec)
mount tmpfs on /sys/fs/cgroup (nosuid,nodev,noexec,mode=755,size=64k,nr_inodes=64)
bind /cg/pids/c on /sys/fs/cgroup/pids (ro,nosuid,nodev,noexec)
bind /cg/unified/c on /sys/fs/cgroup/unified (ro,nosuid,nodev,noexec)
remount /sys/fs/cgroup (ro)
bind /dev/null on /proc/keys
mount tmpfs on /proc/acpi (ro,nosuid,nodev,noexec,mode=555,size=4k,nr_inodes=2)
bind an empty directory on /q
bind /proc/sys on /proc/sys (ro)
find the user 0
check 3 masks
sethostname c
pivot_root, and detach the host's root
setsid, standard streams /dev/null, close every other descriptor
capabilities 0x800405fb, no_new_privs, the default seccomp filter
exec quilt-init -- make test";
        assert_eq!(lines.join("\n"), expected);
    }

    #[test]
    fn with_ids_of_its_own() {
        let mut input = input();
        let before = plan(&input);
        input.ids = Some(IdMap { uid: 100_000, gid: 100_000, size: 65_536 });
        let lines: Vec<String> = plan(&input).iter().map(Step::to_string).collect();
        let new: Vec<&String> =
            lines.iter().filter(|line| before.iter().all(|old| old.to_string() != **line)).collect();
        let expected = "\
bind /i, idmapped to 100000:100000:65536
bind /q/c, idmapped to 100000:100000:65536
setfsuid 100000, setfsgid 100000, keeping capabilities
mknod /dev/net/tun c 10 200 0660 100000:100005
mount devpts on /dev/pts (nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=100005)
setns to the user namespace that owns /q/run/ns/c, as its root";
        assert_eq!(new, expected.lines().collect::<Vec<_>>());
        let at = |text: &str| lines.iter().position(|line| line.starts_with(text));
        assert!(at("setfsuid ") < at("open ") && at("setns to the user") < at("capabilities"));
    }

    #[test]
    fn idle_with_the_hosts_pids_and_network() {
        let mut input = input();
        input.want = Want { pid: Some(Pid::Host), ..Want::default() };
        (input.net, input.tools) = (None, None);
        let lines: Vec<String> = plan(&input).iter().map(Step::to_string).collect();
        assert_eq!(lines[2], "clone with new mnt uts ipc namespaces, in the cgroup init; write /cg/pids/c/tasks: 0");
        assert!(!lines.iter().any(|line| line.starts_with("setns") || line.contains("/q/c/log")));
        assert_eq!(lines.last().map(String::as_str), Some("exec quilt-init"));
    }
}
