//! The rules of one container, and who keeps them.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use quilt_record::error::{Code, Error};
use quilt_record::have::Device;
use quilt_record::{defence, sys};

use super::{Access, EVERYBODYS, Rule, bpf};
use crate::layout::Layout;

/// What is to be kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    keeper: Keeper,
    /// Everybody's first.
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Keeper {
    /// Nobody need to: a privileged container.
    Needless,
    /// The container's directory in v1's hierarchy.
    V1(PathBuf),
    /// That in the v2 tree.
    V2(PathBuf),
    /// Nobody can.
    Nobody,
}

impl Policy {
    /// The rules for a container whose cgroup is `below` the root of every hierarchy.
    pub(crate) fn new(layout: &Layout, below: &Path, devices: &[Device], privileged: bool) -> Policy {
        let keeper = match (layout.on_v1("devices"), &layout.v2) {
            _ if privileged || defence::out("devices") => Keeper::Needless,
            (Some(mount), _) => Keeper::V1(mount.join(below)),
            (None, Some(tree)) => Keeper::V2(tree.join(below)),
            (None, None) => Keeper::Nobody,
        };
        let mut rules = EVERYBODYS.to_vec();
        for device in devices {
            // The container's init makes the node, in the container's cgroup. Nobody after it has CAP_MKNOD.
            let access = Access::parse(&device.access).unwrap_or(Access::MKNOD).and(Access::MKNOD);
            let same = |rule: &&mut Rule| {
                (rule.kind, rule.major, rule.minor) == (device.kind, device.major, Some(device.minor))
            };
            match rules.iter_mut().skip(EVERYBODYS.len()).find(same) {
                Some(rule) => rule.access = rule.access.and(access),
                None => rules.push(Rule { kind: device.kind, major: device.major, minor: Some(device.minor), access }),
            }
        }
        Policy { keeper, rules }
    }

    /// The lines of a plan; none where nothing is done.
    pub(crate) fn lines(&self) -> Vec<String> {
        Some(self.to_string()).filter(|line| !line.is_empty()).into_iter().collect()
    }

    /// Puts it in force; what could not be had, and need not stop anybody, in words.
    pub(crate) fn enforce(&self) -> Result<Vec<String>, Error> {
        match &self.keeper {
            Keeper::Needless => Ok(Vec::new()),
            Keeper::V1(dir) => self.write(dir),
            Keeper::V2(dir) => match attach(&self.rules, dir) {
                Ok(()) => Ok(Vec::new()),
                Err(e) if is_not_to_be_had(&e) => self.do_without(&format!("bpf(2): {}", describe(&e))),
                Err(e) => Err(Error::os(format!("attach a device program to {}", dir.display()), e)),
            },
            Keeper::Nobody => self.do_without("neither v1's devices controller nor a v2 tree is mounted"),
        }
    }

    fn given(&self) -> &[Rule] {
        self.rules.get(EVERYBODYS.len()..).unwrap_or_default()
    }

    /// Without anybody to keep it, what is given is given whole.
    fn do_without(&self, why: &str) -> Result<Vec<String>, Error> {
        if let Some(part) = self.given().iter().find(|rule| !rule.access.has(Access::USE)) {
            let message = format!("nobody here can keep a container to `{part}`: {why}");
            return Err(Error::new(Code::Unsupported, "limit the use of a device", message));
        }
        Ok(vec![format!("no device policy, which leaves the third line of defence to the first two ({why})")])
    }

    fn write(&self, dir: &Path) -> Result<Vec<String>, Error> {
        let (deny, allow) = (dir.join("devices.deny"), dir.join("devices.allow"));
        let open = |path: &Path| OpenOptions::new().write(true).open(path);
        match open(&deny).and_then(|mut file| file.write_all(b"a")) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                return self.do_without(&format!("{}: {}", deny.display(), describe(&e)));
            }
            denied => denied.map_err(|e| Error::os(format!("write a to {}", deny.display()), e))?,
        }
        let step = |rule: &Rule| format!("write {rule} to {}", allow.display());
        let mut file: File = open(&allow).map_err(|e| Error::os(format!("open {}", allow.display()), e))?;
        let mut refused = Vec::new();
        for (at, rule) in self.rules.iter().enumerate() {
            match allow_one(&mut file, *rule) {
                Ok(()) => {}
                // The cgroup above must allow it too.
                Err(e) if e.kind() == ErrorKind::PermissionDenied && at < EVERYBODYS.len() => refused.push(*rule),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                    let message = "the cgroup above does not allow it (its devices.list)";
                    return Err(Error { message: message.to_owned(), ..Error::os(step(rule), e) });
                }
                Err(e) => return Err(Error::os(step(rule), e)),
            }
        }
        let list = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>().join(", ");
        let note = || {
            format!("without some of everybody's devices, as the cgroup above does not allow them: {}", list(&refused))
        };
        Ok(if refused.is_empty() { Vec::new() } else { vec![note()] })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.keeper {
            Keeper::Needless | Keeper::Nobody => Ok(()),
            Keeper::V1(dir) => {
                write!(f, "write a to {}", dir.join("devices.deny").display())?;
                let allow = dir.join("devices.allow");
                self.rules.iter().try_for_each(|rule| write!(f, "; write {rule} to {}", allow.display()))
            }
            Keeper::V2(dir) => {
                let rules: Vec<String> = self.rules.iter().map(Rule::to_string).collect();
                write!(f, "attach a device program to {}: {}", dir.display(), rules.join(", "))
            }
        }
    }
}

/// What the cgroup above allows by two rules, it allows a cgroup below by no less than two.
fn allow_one(file: &mut File, rule: Rule) -> io::Result<()> {
    let mut allow = |access| file.write_all(Rule { access, ..rule }.to_string().as_bytes());
    match allow(rule.access) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied && rule.access.has(Access::MKNOD) => {
            // For the node to be there, be it for nothing.
            let made = allow(Access::MKNOD);
            let rest = Access(rule.access.0 & !Access::MKNOD.0);
            if rest.0 == 0 { made } else { allow(rest).and(made) }
        }
        allowed => allowed,
    }
}

/// Whether this kernel has no such programs, or not for this process: without CAP_BPF, in a container whose filter or whose
/// user namespace refuses them, below a cgroup that allows none of its own. All else is a failure, and the next try may
/// not fail.
fn is_not_to_be_had(e: &io::Error) -> bool {
    use Errno::{EACCES, EINVAL, ENOSYS, EOPNOTSUPP, EPERM};
    [EPERM, EACCES, ENOSYS, EINVAL, EOPNOTSUPP].contains(&Errno::from_raw(e.raw_os_error().unwrap_or_default()))
}

fn describe(e: &io::Error) -> &'static str {
    Errno::from_raw(e.raw_os_error().unwrap_or_default()).desc()
}

fn attach(rules: &[Rule], dir: &Path) -> io::Result<()> {
    let loaded = load(rules, |program| match sys::bpf_load_device_program(program) {
        // Until Linux 5.11 a program counts as locked memory.
        Err(e) if e.kind() == ErrorKind::PermissionDenied && lock_memory() => sys::bpf_load_device_program(program),
        loaded => loaded,
    })?;
    sys::bpf_attach_device_program(loaded.as_fd(), File::open(dir)?.as_fd())
}

/// Loads the program. EACCES and EINVAL are also what the verifier says of one that it rejects, and that is a fault of
/// Quilt's, for which no container may go without: a kernel that takes the least program has such programs.
fn load<P>(rules: &[Rule], load: impl Fn(&[u64]) -> io::Result<P>) -> io::Result<P> {
    load(&bpf::compile(rules)).map_err(|e| match Errno::from_raw(e.raw_os_error().unwrap_or_default()) {
        Errno::EACCES | Errno::EINVAL if load(&bpf::least()).is_ok() => {
            io::Error::other(format!("the kernel takes such programs, but not this one ({})", describe(&e)))
        }
        _ => e,
    })
}

/// Whether more memory may be locked now than before.
fn lock_memory() -> bool {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_MEMLOCK) else { return false };
    let set = |limit, hard| setrlimit(Resource::RLIMIT_MEMLOCK, limit, hard).is_ok();
    soft != RLIM_INFINITY && (set(RLIM_INFINITY, RLIM_INFINITY) || (soft < hard && set(hard, hard)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(kind: char, minor: u32, access: &str) -> Device {
        let (path, access) = ("/dev/x".to_owned(), access.to_owned());
        Device { path, kind, major: 10, minor, access, mode: 0o600, uid: 0, gid: 0 }
    }

    fn layout(v1: bool, v2: bool) -> Layout {
        let devices = ("devices".to_owned(), PathBuf::from("/d"));
        Layout { v1: v1.then_some(devices).into_iter().collect(), v2: v2.then(|| "/u".into()) }
    }

    #[test]
    fn v1_keeps_it_if_it_is_there() {
        let devices = [device('c', 229, "r"), device('c', 229, "w"), device('b', 1, "m")];
        let text = |v1, v2| Policy::new(&layout(v1, v2), Path::new("q/x"), &devices, false).to_string();
        let rules = "c 1:3 rwm, c 1:5 rwm, c 1:7 rwm, c 1:8 rwm, c 1:9 rwm, c 5:0 rwm, c 5:2 rw, c 136:* rw, \
                     c 10:229 rwm, b 10:1 m";
        let written: String = rules.split(", ").map(|rule| format!("; write {rule} to /d/q/x/devices.allow")).collect();
        assert_eq!(text(true, true), format!("write a to /d/q/x/devices.deny{written}"));
        assert_eq!(text(false, true), format!("attach a device program to /u/q/x: {rules}"));
        assert_eq!(text(false, false), "");
        assert_eq!(Policy::new(&layout(true, true), Path::new("q/x"), &devices, true).lines(), Vec::<String>::new());
    }

    #[test]
    fn only_what_no_try_can_get_is_done_without() {
        let is = |errno: Errno| is_not_to_be_had(&io::Error::from(errno));
        for errno in [Errno::EPERM, Errno::EACCES, Errno::ENOSYS, Errno::EINVAL, Errno::EOPNOTSUPP] {
            assert!(is(errno), "{errno}");
        }
        for errno in [Errno::ENOMEM, Errno::EAGAIN, Errno::EMFILE, Errno::E2BIG, Errno::ENOENT, Errno::EBUSY] {
            assert!(!is(errno), "{errno}");
        }
    }

    #[test]
    fn a_program_that_the_verifier_rejects_is_no_reason_to_do_without() {
        // What is taken up to a length, of a kernel that refuses by `errno`.
        let refused = |longest: usize, errno: Errno| {
            let take = |program: &[u64]| (program.len() <= longest).then_some(()).ok_or(io::Error::from(errno));
            load(&EVERYBODYS, take).err().map(|e| is_not_to_be_had(&e))
        };
        assert_eq!(refused(usize::MAX, Errno::EINVAL), None);
        for errno in [Errno::EINVAL, Errno::EACCES] {
            assert_eq!(refused(2, errno), Some(false), "{errno}");
            assert_eq!(refused(0, errno), Some(true), "{errno}");
        }
        assert_eq!(refused(2, Errno::EPERM), Some(true));
    }

    #[test]
    fn without_a_keeper_a_part_cannot_be_given() {
        let policy = |access| Policy::new(&layout(false, false), Path::new("q"), &[device('c', 1, access)], false);
        assert_eq!(policy("rw").enforce().map(|notes| notes.len()), Ok(1));
        assert_eq!(policy("r").enforce().map_err(|e| e.code), Err(Code::Unsupported));
    }
}
