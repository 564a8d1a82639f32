//! The steps of the child that becomes init, from its first line in the new namespaces to exec.
//!
//! The one hard thing: the image says what its /proc, /dev and /sys are, and it is not trusted. Each is opened once,
//! without following any link; what is mounted goes onto the descriptor; what is opened next must be on the new mount
//! (its file system's magic number says so); and everything below is opened from there and may not leave that mount.
//! All this comes before pivot_root, so `/proc/self/fd` is the host's own and tells the truth.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, fcntl, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, fchdir, pivot_root, symlinkat};

use quilt_record::confine::{self, Confine, Rules, User};
use quilt_record::error::Step as _;
use quilt_record::process::namespace;
use quilt_record::{Code, Error, defence, sys};

use crate::extra::Extra;
use crate::files;
use crate::init::Settings;
use crate::plan::Step;
use crate::report::Line;
use crate::sysctl;
use crate::volume::Tree;
use crate::want::{Pid, Want};

mod cgroups;
mod devices;
mod extras;
mod idmap;
mod layers;
mod mounts;
mod old;
mod targets;

pub use idmap::{Ids, shift_volume};
use mounts::{mask_dir, mask_file, mount_one, null, read_only};

/// What the child has from its maker.
pub struct Job<'a> {
    /// Where the root is put together: any directory; only the child's own mount namespace sees it.
    pub stage: &'a Path,
    /// The pinned network namespace.
    pub net: Option<OwnedFd>,
    /// The copies of the volumes' sources.
    pub volumes: Vec<Tree>,
    /// The host's /proc/sys, if something there is asked for.
    pub proc_sys: Option<OwnedFd>,
    /// The user namespace that the container gets.
    pub ids: Option<Ids>,
    /// The files of the network: path inside, text.
    pub files: &'a [(String, String)],
    /// What was asked.
    pub want: &'a Want,
    /// The host name.
    pub hostname: &'a str,
    /// What the container's processes are held to.
    pub rules: &'a Rules,
    /// The filter of system calls.
    pub filter: Option<Cow<'static, [u8]>>,
    /// The pipe to the maker.
    pub tell: &'a OwnedFd,
    /// Init's program, on a read-only mount.
    pub init: &'a OwnedFd,
    /// The file for the exit status.
    pub exit: &'a OwnedFd,
    /// The two parts of the log, with a command.
    pub log: Option<&'a (OwnedFd, OwnedFd)>,
}

/// What the steps leave to those after them.
#[derive(Default)]
struct Made {
    /// The directory for the network's files, before the root is mounted.
    etc: Option<OwnedFd>,
    /// Copies of the mounts of the lower layers and of the directory with the writable one, if there is a user namespace.
    shifted: Vec<OwnedFd>,
    /// What the names of the writable layer are looked up in, instead of the host's root.
    home: Option<OwnedFd>,
    lower: Vec<OwnedFd>,
    upper: Option<OwnedFd>,
    root: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    sys: Option<OwnedFd>,
    cgroups: Option<OwnedFd>,
    dev: Option<OwnedFd>,
    null: Option<OwnedFd>,
    empty: Option<OwnedFd>,
    user: Option<User>,
    /// Where something that was asked for is mounted, and the id of the mount.
    extras: Vec<(PathBuf, u64)>,
}

/// Becomes init. Comes back only with the error, whose step is the one that failed.
pub fn become_init(job: &Job<'_>, steps: &[Step]) -> Error {
    let mut made = Made::default();
    for step in steps {
        if let Err(e) = run(job, &mut made, step) {
            return if e.step.is_empty() { Error { step: step.to_string(), ..e } } else { e };
        }
    }
    Error::new(Code::Internal, "", "the plan ends without init")
}

fn os(e: impl Into<std::io::Error>) -> Error {
    Error::os("", e)
}

fn missing() -> Error {
    Error::new(Code::Internal, "", "the plan is in the wrong order")
}

fn have(fd: &Option<OwnedFd>) -> Result<BorrowedFd<'_>, Error> {
    fd.as_ref().map(OwnedFd::as_fd).ok_or_else(missing)
}

/// The path by which mount(2) takes a descriptor.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

fn run(job: &Job<'_>, made: &mut Made, step: &Step) -> Result<(), Error> {
    match step {
        Step::Tools(..) | Step::Empty(_) | Step::Leaf(_) | Step::Clone { .. } => Err(missing()),
        Step::CgroupNamespace => unshare(CloneFlags::CLONE_NEWCGROUP).map_err(os),
        Step::Net(_) => setns(have(&job.net)?, CloneFlags::CLONE_NEWNET).map_err(os),
        Step::Sysctl(what) => sysctl::write(have(&job.proc_sys)?, what, job.ids.is_some()),
        Step::Private => refuse_chroot()
            .and_then(|()| mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).map_err(os)),
        Step::Idmap(path, _) => idmap::copy(job, made, path),
        Step::AssumeRoot(_) => idmap::assume_root(job),
        Step::Layers { lower, upper } => layers::open(job, made, lower, upper),
        Step::Overlay { lower, work, nodev, .. } => layers::overlay(job, made, lower, work, *nodev),
        Step::File { at, inside } => layers::file(job, made, at, inside),
        Step::User(spec) => {
            let user = confine::user::resolve(have(&made.root)?, spec)?;
            idmap::check(job.ids.as_ref(), &user)?;
            made.user = Some(user);
            Ok(())
        }
        Step::Workdir(dir) => files::directory(have(&made.root)?, Path::new(dir)).map(drop),
        Step::Mount(what) => mount_one(job.ids.as_ref(), made, what),
        Step::Device(name, major, minor) => {
            let mode = Mode::from_bits_truncate(0o666);
            mknodat(have(&made.dev)?, *name, SFlag::S_IFCHR, mode, makedev(u64::from(*major), u64::from(*minor)))
                .map_err(os)
        }
        Step::Node(device) => devices::node(made, device),
        Step::Symlink(name, target) => symlinkat(*target, have(&made.dev)?, *name).map_err(os),
        Step::Cgroups(view) => cgroups::view(made, view),
        Step::MaskFile(path) => mask_file(made, path),
        Step::MaskDir { path, .. } => mask_dir(made, path),
        Step::ReadOnly(path) => read_only(made, path),
        Step::Extra(Extra::Volume(volume)) => extras::volume(job, made, volume),
        Step::Extra(Extra::Tmpfs(tmpfs)) => extras::tmpfs(made, tmpfs),
        Step::Check { files, dirs } => mounts::check_masks(made, files, dirs).and_then(|()| targets::check(made)),
        Step::ReadOnlyRoot => extras::read_only_root(made),
        Step::Hostname(name) => nix::unistd::sethostname(name).map_err(os),
        Step::Pivot => {
            let facts = facts(job, made)?;
            fchdir(have(&made.root)?).map_err(os)?;
            // The old root ends up on top of the new one, and is what `.` means (pivot_root(2), NOTES).
            pivot_root(".", ".").map_err(os)?;
            umount2(".", MntFlags::MNT_DETACH).map_err(os)?;
            chdir("/").map_err(os)?;
            // Only now, as the maker then unmounts something, and two grace periods at once take longer than in turn.
            Line::send_all(&facts, job.tell).map_err(os)
        }
        Step::Detach => detach(job, made),
        Step::EnterUser(_) => idmap::enter(job),
        Step::Confine(_) => {
            // Its commands get theirs; it must not be out of time or files itself.
            let rules = Settings::own_rules(job.rules, &job.want.command);
            confine::apply(&Confine { rules, filter: job.filter.clone(), ..Confine::default() }).map_err(os)?;
            // Forgotten by the kernel if that changed the credentials.
            sys::set_parent_death_signal(Some(nix::sys::signal::Signal::SIGKILL)).map_err(os)
        }
        Step::Init(_) => init(job, made).map(|never| match never {}),
    }
}

/// In a chroot(2), pivot_root would replace the caller's root and leave the namespace's, the host's: whoever joins the
/// namespace would be on the host, and root inside could get out as from any chroot. Joining a mount namespace, one's own
/// too, makes its root the process's (setns(2)).
fn refuse_chroot() -> Result<(), Error> {
    let before = sys::root_mount().map_err(os)?;
    let own = openat(AT_FDCWD, "/proc/self/ns/mnt", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(os)?;
    setns(own, CloneFlags::CLONE_NEWNS).map_err(os)?;
    if sys::root_mount().map_err(os)? == before {
        return Ok(());
    }
    let why = "Quilt runs in a chroot, which its containers could leave: enter it by pivot_root(8) or in a container";
    Err(Error::new(Code::Unsupported, "", why))
}

const NONE: Option<&str> = None;
const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn open_dir(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Error> {
    openat(dir, path, DIR, Mode::empty()).step(|| format!("open {}", path.display()))
}

/// What the maker wants to know: the user, and which namespaces the container has to itself, as long as the host's
/// /proc is there to say.
fn facts(job: &Job<'_>, made: &Made) -> Result<Vec<Line>, Error> {
    let private = job.want.pid.unwrap_or_default() == Pid::Private;
    let own =
        [("net", job.net.is_some()), ("mnt", true), ("uts", true), ("ipc", true), ("cgroup", true), ("pid", private)];
    let mut lines = vec![Line::User(made.user.clone().ok_or_else(missing)?)];
    if let Some(ids) = &job.ids {
        // It is entered last of all.
        lines.push(Line::Namespace("user".to_owned(), fstat(&ids.userns).map_err(os)?.st_ino));
    }
    for (name, _) in own.iter().filter(|(_, own)| *own) {
        let inode = namespace("self", name).step(|| format!("look at the {name} namespace"))?;
        lines.push(Line::Namespace((*name).to_owned(), inode));
    }
    Ok(lines)
}

/// Lets go of the caller: its session, its terminal, its descriptors.
fn detach(job: &Job<'_>, made: &mut Made) -> Result<(), Error> {
    confine::leave_keyring().map_err(os)?;
    sys::leave_session().map_err(os)?;
    if made.null.is_none() {
        made.null = Some(null(have(&made.dev)?)?);
    }
    let null = have(&made.null)?;
    dup2_stdin(null).map_err(os)?;
    dup2_stdout(null).map_err(os)?;
    dup2_stderr(null).map_err(os)?;
    // What the caller left open goes at exec; what init gets, does not.
    sys::cloexec_from(3).map_err(os)?;
    let log = job.log.iter().flat_map(|(log, older)| [log, older]);
    for fd in [job.tell, job.exit].into_iter().chain(log) {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(os)?;
    }
    Ok(())
}

fn init(job: &Job<'_>, made: &Made) -> Result<Infallible, Error> {
    let user = made.user.as_ref().ok_or_else(missing)?;
    let settings = Settings {
        ready: job.tell.as_raw_fd(),
        exit: job.exit.as_raw_fd(),
        log: job.log.map(|(log, older)| (log.as_raw_fd(), older.as_raw_fd(), job.want.log_size())),
        subreaper: job.want.pid == Some(Pid::Host),
        confine: Confine::of(user, job.rules, None),
        workdir: job.want.workdir.clone(),
        command: job.want.command.clone(),
    };
    let strings = |texts: Vec<String>| texts.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let bad = |_| Error::new(Code::Invalid, "", "a NUL in the command or the environment");
    let argv = strings(settings.argv()).map_err(bad)?;
    let mut env = job.want.environment(&user.home, job.hostname);
    env.extend(defence::handed_on());
    let env = strings(env).map_err(bad)?;
    let rules = Settings::own_rules(job.rules, &job.want.command);
    confine::seal(&Confine { rules, filter: job.filter.clone(), ..Confine::default() }).map_err(os)?;
    sys::exec_fd(job.init.as_fd(), &argv, &env).map_err(|e| match e.raw_os_error() {
        Some(libc::EACCES) if job.ids.is_some() => {
            let why = "root inside is nobody outside, and may run only what everybody may: chmod 755 the tools";
            Error::new(Code::Denied, "", why)
        }
        _ => os(e),
    })
}
