//! Removing a container, and undoing a claim.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use quilt_netns::Retired;
use quilt_record::claim::Work;
use quilt_record::container::remove_remains;
use quilt_record::process::wait_gone;
use quilt_record::{Claim, Code, Container, Error, Id, Instance, Step, leaf, sys};
use quilt_unpack::{images, tree};

use crate::rest::{Held, Rest};
use crate::{network, state, stop};

/// How long to wait for another command that is working on the container.
pub const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait for what was killed. SIGKILL is not instant for who waits for a disk.
pub const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How often what came in after the kill is killed as well.
const LATECOMERS: u32 = 5;

/// Removes a container; one that runs or is being made only if `force`.
pub fn remove(instance: &Instance, id: &Id, force: bool) -> anyhow::Result<()> {
    let container = Container::open(instance, id)?;
    if force && container.lock(Duration::ZERO).is_err_and(|e| e.code == Code::Busy) {
        // Whoever holds it may be waiting for the container's end, or for its health: that is over now.
        if let Ok(Some(init)) = state::init(&container) {
            let _ = sys::pidfd_send_signal(init.as_fd(), Signal::SIGKILL);
        }
    }
    container.lock(LOCK_LIMIT)?;
    let init = state::init(&container)?;
    if !force {
        refuse_in_use(&container, init.is_some())?;
    }
    // One that cannot be read may still stand on the address; if it stands nowhere, nobody else can hold it either.
    let claim = match container.holder() {
        Ok(holder) => holder.claim,
        Err(_) => network::lessee(instance, id)?.unwrap_or_else(Claim::generate),
    };
    mark(&container, claim)?;
    destroy(instance, container, claim, init)
}

/// Marks the container as being removed. That takes an inode, and it may be to get some that it is removed: then files go
/// first that nobody needs to remove it. (The state that says what runs is not among them, as long as others do.)
pub fn mark(container: &Container, claim: Claim) -> Result<(), Error> {
    let mut expendable = ["log.1", "probe.json", "netns.json", "unpack.json", "record.json"].iter();
    loop {
        match (container.set_work(claim, Work::Removing), expendable.as_slice()) {
            (Err(e), [file, ..]) if e.code == Code::NoSpace => {
                container.unlink(file)?;
                expendable.next();
            }
            // Somebody has put a directory there, which no symlink replaces.
            (Err(e), _) if e.errno == Some(Errno::EISDIR as i32) => {
                tree::remove(container.dir(), "claim")?;
                return container.set_work(claim, Work::Removing);
            }
            (marked, _) => return marked,
        }
    }
}

fn refuse_in_use(container: &Container, running: bool) -> Result<(), Error> {
    let id = container.id();
    let busy =
        |what: &str| Err(Error::new(Code::Busy, "", format!("the container {id} {what}: `quilt rm -f {id}` kills it")));
    match container.holder()?.work {
        Work::Creating(maker) | Work::Starting(maker) if maker.alive() => return busy("is being created"),
        _ if running => return busy("is running"),
        _ => {}
    }
    // Data is not thrown away unasked because a program of another version wrote it.
    container.record().map(drop)
}

/// Takes back every step by name, whether the record says that it was done or not, then the directory. Under the lock,
/// marked as `Removing`. If something stays, so does the directory, for `quilt gc` or another try.
pub fn destroy(instance: &Instance, container: Container, claim: Claim, init: Option<OwnedFd>) -> anyhow::Result<()> {
    let id = container.id().clone();
    let step = || format!("remove the files of {id}");
    let layers = || {
        tree::remove(container.dir(), "upper")?;
        tree::remove(container.dir(), "work")
    };
    let rest = match init {
        Some(init) => {
            // The pidfd says that the pid still is init's.
            let mut held = state::spawned(&container).map(|spawn| Held::of(spawn.init.pid)).unwrap_or_default();
            // While it dies. (Its namespace is held: once the kernel takes one apart, it has the lock that this needs.)
            let _ = sys::pidfd_send_signal(init.as_fd(), Signal::SIGKILL);
            let retired = network::retire(instance, &id);
            kill(instance, &id, Some(&init))?;
            let link = match retired {
                Ok(Retired::Renamed(name)) => Ok(Some(name)),
                Ok(Retired::Gone) => Ok(None),
                Ok(Retired::Refused) => {
                    held.release_network();
                    network::finish(&instance.veth(&id)).map(|()| None)
                }
                Err(error) => Err(error),
            };
            layers()?;
            Some(Rest { held, link: link? })
        }
        None => {
            kill(instance, &id, None)?;
            let link = network::down(instance, &id);
            layers()?;
            link?;
            None
        }
    };
    network::release(instance, &id, claim)?;
    let parent = open(&instance.containers(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    match container.remove(claim) {
        // Something of a form that no part of Quilt makes.
        Err(e) if e.code == Code::Exists => tree::remove(parent.step(step)?.as_fd(), &format!(".rm-{claim}"))?,
        other => other?,
    }
    if let Some(rest) = rest {
        rest.leave();
    }
    Ok(())
}

/// Kills what runs, waits for its death, and removes the cgroups. Whatever else is to go waits for this: what lives uses
/// its files and its address.
fn kill(instance: &Instance, id: &Id, init: Option<&OwnedFd>) -> Result<(), Error> {
    let step = || format!("kill the init of {id}");
    let place = quilt_cgroup::Place::find(instance, id)?;
    if let Some(init) = init {
        // In case it is in no cgroup of ours.
        let _ = sys::pidfd_send_signal(init.as_fd(), Signal::SIGKILL);
    }
    let mut again = LATECOMERS;
    loop {
        leaf::kill_all(&place.hierarchies, KILL_LIMIT)?;
        if let Some(init) = init
            && !wait_gone(init, KILL_LIMIT).step(step)?
        {
            return Err(Error::new(Code::Timeout, step(), "it still lives"));
        }
        match place.remove() {
            // An exec that was under way has come in after the kill (with the host's pid namespace it can).
            Err(e) if e.code == Code::Busy && again > 0 => {
                again -= 1;
                leaf::kill_strays(&place.hierarchies, KILL_LIMIT)?;
            }
            done => return done,
        }
    }
}

/// Ends what runs and takes back its kernel objects; files and address stay.
pub fn end(instance: &Instance, id: &Id, init: Option<&OwnedFd>) -> Result<(), Error> {
    kill(instance, id, init)?;
    network::down(instance, id)
}

/// Undoes what a pipeline did under `claim`: a container that it was creating is removed, one that it was starting is a
/// stopped one again, a settled one is left alone, unless `force`. Without an id, whichever container has the claim.
pub fn undo_claim(instance: &Instance, claim: Claim, id: Option<&Id>, force: bool) -> anyhow::Result<()> {
    // Nothing may interrupt an undo; and what interrupted the work is still pending.
    for signal in quilt_record::signals::STOPPING {
        sys::ignore_signal(signal);
    }
    disown();
    let done = match find(instance, claim, id)? {
        Some(container) => undo_container(instance, container, claim, force),
        None => Ok(()),
    };
    let remains = remove_remains(instance, claim);
    let image = images::remove_half_made(instance, claim);
    done?;
    remains?;
    Ok(image?)
}

/// Lets the kernel reap this process's children. A stage that failed became this program, and may have left it one inside
/// the container: as long as that is not reaped, the container's init cannot end (pid_namespaces(7)).
fn disown() {
    sys::ignore_signal(Signal::SIGCHLD);
    while matches!(waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)), Ok(s) if s.pid().is_some()) {
    }
}

fn undo_container(instance: &Instance, container: Container, claim: Claim, force: bool) -> anyhow::Result<()> {
    match container.lock(LOCK_LIMIT) {
        Err(e) if e.code == Code::NotFound => return Ok(()),
        other => other?,
    }
    let holder = container.holder()?;
    if !is_ours(&holder.work, holder.claim, claim, wrapper()) {
        return Ok(());
    }
    let init = state::init(&container)?;
    match holder.work {
        Work::Settled if !force => Ok(()),
        Work::Starting(_) if !force => {
            end(instance, container.id(), init.as_ref())?;
            stop::forget(&container)?;
            Ok(container.set_work(holder.claim, Work::Settled)?)
        }
        _ => {
            mark(&container, holder.claim)?;
            destroy(instance, container, holder.claim, init)
        }
    }
}

/// Whether what is being done is what is to be undone. A create has a claim of its own. A start works under the claim
/// that the container has had all along, so the wrapper tells one from another; it may be dead by now, where the claim
/// is given, and must live where it alone decides.
fn is_ours(work: &Work, has: Claim, claim: Claim, wrapper: Option<i32>) -> bool {
    match work {
        Work::Creating(maker) => has == claim || (wrapper == Some(maker.pid) && maker.alive()),
        Work::Starting(maker) => {
            wrapper.is_none_or(|pid| pid == maker.pid) && (has == claim || (wrapper.is_some() && maker.alive()))
        }
        Work::Settled | Work::Removing => has == claim,
    }
}

/// The wrapper of the pipeline that this process belongs to.
fn wrapper() -> Option<i32> {
    std::env::var("QUILT_PIPE").ok()?.parse().ok()
}

fn find(instance: &Instance, claim: Claim, id: Option<&Id>) -> Result<Option<Container>, Error> {
    let listed;
    let ids = match id {
        Some(id) => std::slice::from_ref(id),
        None => {
            listed = Container::list(instance)?;
            &listed
        }
    };
    for id in ids {
        match Container::open(instance, id) {
            Ok(container) if container.holder().is_ok_and(|h| is_ours(&h.work, h.claim, claim, wrapper())) => {
                return Ok(Some(container));
            }
            Ok(_) => {}
            // Gone; or no directory, and so nothing that a claim can be in.
            Err(e) if matches!(e.code, Code::NotFound | Code::Invalid) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

/// A deadline from now.
pub fn after(limit: Duration) -> Instant {
    // A limit beyond what the clock holds is none.
    Instant::now().checked_add(limit).unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quilt_record::ProcessId;

    #[test]
    fn a_start_is_undone_by_its_own_wrapper_only() -> std::io::Result<()> {
        let (claim, other) = (Claim::generate(), Claim::generate());
        let me = ProcessId::of(std::process::id() as i32)?;
        let dead = ProcessId { start: me.start + 1, ..me.clone() };
        let mine = Some(me.pid);
        let starting = Work::Starting(me.clone());
        assert!(is_ours(&starting, claim, claim, mine));
        assert!(is_ours(&starting, claim, claim, None));
        assert!(is_ours(&starting, claim, other, mine));
        assert!(!is_ours(&starting, claim, claim, Some(1)));
        assert!(!is_ours(&starting, claim, other, None));
        // The wrapper was killed, and the stage that noticed undoes.
        assert!(is_ours(&Work::Starting(dead.clone()), claim, claim, mine));
        assert!(!is_ours(&Work::Starting(dead.clone()), claim, other, mine));
        // A create that lost the race for the name undoes nothing of the winner's.
        assert!(!is_ours(&Work::Creating(me), claim, other, Some(1)));
        assert!(is_ours(&Work::Creating(dead), claim, claim, Some(1)));
        assert!(!is_ours(&Work::Settled, claim, other, mine));
        Ok(())
    }
}
