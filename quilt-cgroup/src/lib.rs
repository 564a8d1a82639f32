//! Resource limits: one cgroup per container, on cgroup v1, on v2, and on the hybrid of both.
//!
//! It makes the container's directory in every hierarchy that carries a limit, an account or the means to kill all at
//! once, and writes the limits. It puts no process anywhere: those go into leaves below (`quilt_record::leaf`), made by
//! whoever starts them.
//!
//! The one hard thing is to find out cheaply where the controllers are: each may be on a v1 hierarchy of its own, share
//! one with another, or be on the v2 tree, which on a hybrid host often has none (`layout.rs`), and which hands them down
//! from cgroup to cgroup, each of which may be somebody else's (`parent.rs`, `unified.rs`). What is done about it is a
//! pure plan (`plan.rs`, `step.rs`), which a dry run prints.

pub mod account;
mod devices;
mod io;
mod layout;
mod limits;
mod numbers;
mod parent;
mod plan;
mod step;
mod unified;
mod update;
mod want;
mod weight;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quilt_record::error::{Error, Step as _};
use quilt_record::have::{Cgroup, Hierarchy};
use quilt_record::process::boot_id;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Claim, Code, Id, Instance, leaf, signals};
use serde::Deserialize;

use devices::Policy;

pub use io::IoMax;
pub use layout::Layout;
pub use numbers::Numbers;
pub use parent::Parent;
pub use plan::{Plan, plan};
pub use step::Step;
pub use unified::Unified;
pub use update::update;
pub use want::Want;

/// What of the record's other wishes is this tool's business.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    privileged: bool,
}

/// How long the undo waits for what it killed to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The stage.
pub const STAGE: Stage<Want, Cgroup> = Stage { name: "cgroup", act, undo, again: false };

/// How often a parent that was removed while the container's cgroup was being made in it is made again.
const TRIES: u32 = 10;

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Cgroup>> {
    let want = context.want;
    want.check()?;
    let layout = Layout::detect()?;
    let parent = Parent::find(context.instance, &layout, want.cgroup_parent.as_deref())?;
    let devices = devices::resolve(&want.device)?;
    let privileged = context.record.want::<Asked>("spawn")?.privileged;
    let policy = Policy::new(&layout, &parent.path.join(context.id.as_str()), &devices, privileged);
    let mut again = TRIES;
    loop {
        let unified = look(&layout, &parent, want)?;
        let plan = plan(&layout, unified.as_ref(), &parent, &context.id, want)?;
        let Some(container) = context.container else {
            let devices = devices.iter().map(|device| format!("device {device}"));
            let lines = plan.steps.iter().map(Step::to_string).chain(policy.lines()).chain(devices);
            return Ok(Outcome::Plan(lines.collect()));
        };
        parent.save(context.instance, container)?;
        match execute(&plan) {
            // The last container below it was removed, and the parent with it.
            Err(e) if e.code == Code::NotFound && again > 0 && !parent.is_own(context.instance) => again -= 1,
            done => {
                let (hierarchies, without) = done?;
                let version = version(&hierarchies).to_owned();
                let low = without_protection(&layout, &parent, want);
                let notes = parent.note.into_iter().chain(without).chain(low).chain(policy.enforce()?).collect();
                return Ok(Outcome::Done(Cgroup { boot: boot_id().to_owned(), version, hierarchies, devices, notes }));
            }
        }
    }
}

/// v2 protects a cgroup's memory only as far as every cgroup above it is protected (cgroup-v2.rst, `memory.low`).
fn without_protection(layout: &Layout, parent: &Parent, want: &Want) -> Option<String> {
    let tree = layout.v2.as_ref().filter(|_| want.memory_soft.is_some_and(|soft| soft.0 > 0))?;
    let above = parent.path.ancestors().filter(|at| !at.as_os_str().is_empty());
    let bare =
        |at: &&Path| std::fs::read_to_string(tree.join(at).join("memory.low")).is_ok_and(|low| low.trim() == "0");
    let bare = above.into_iter().find(bare)?;
    Some(format!("--memory-soft has no effect as long as /{} has none (memory.low)", bare.display()))
}

/// The v2 tree, with those controllers that v1 does not have.
fn look(layout: &Layout, parent: &Parent, want: &Want) -> Result<Option<Unified>, Error> {
    let Some(tree) = &layout.v2 else { return Ok(None) };
    let required = want.required();
    let needed = |c: &&str| layout.on_v1(c).is_none();
    let optional = layout::CONTROLLERS.iter().copied().filter(|c| !required.contains(c));
    let controllers: Vec<&str> = required.iter().copied().chain(optional).filter(needed).collect();
    let required: Vec<&str> = required.into_iter().filter(needed).collect();
    Unified::look(tree, parent, &controllers, &required).map(Some)
}

/// Does it. A controller that the container can do without and that cannot be had is left out, and said.
fn execute(plan: &Plan) -> Result<(Vec<Hierarchy>, Vec<String>), Error> {
    let mut hierarchies = plan.hierarchies.clone();
    let mut without: Vec<(String, String)> = Vec::new();
    for step in &plan.steps {
        signals::check()?;
        match (step.dispensable(), step) {
            (Some(controller), _) if without.iter().any(|(c, _)| c == controller) => {}
            (Some(controller), step) => {
                if let Err(e) = step.execute() {
                    without.push((controller.to_owned(), format!("without the {controller} controller: {e}")));
                }
            }
            (None, step) => step.execute()?,
        }
    }
    for hierarchy in hierarchies.iter_mut().filter(|h| h.version == 2 && !without.is_empty()) {
        let has = |c: &&str| without.iter().all(|(missing, _)| missing != c);
        hierarchy.controllers = hierarchy.controllers.split(',').filter(has).collect::<Vec<_>>().join(",");
    }
    Ok((hierarchies, without.into_iter().map(|(_, note)| note).collect()))
}

/// The word for the record.
fn version(hierarchies: &[Hierarchy]) -> &'static str {
    let has = |version| hierarchies.iter().any(|h| h.version == version);
    match (has(1), has(2)) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        _ => "v2",
    }
}

/// Kills whatever is in the container's cgroups and removes them.
fn undo(instance: &Instance, id: &Id, _: Claim) -> anyhow::Result<()> {
    let place = Place::find(instance, id)?;
    leaf::kill_all(&place.hierarchies, KILL_LIMIT)?;
    match place.remove() {
        // Somebody is in one of them, but in none of the leaves.
        Err(e) if e.code == Code::Busy => {
            leaf::kill_strays(&place.hierarchies, KILL_LIMIT)?;
            Ok(place.remove()?)
        }
        removed => Ok(removed?),
    }
}

/// Where a container's cgroups are or would be, by name: for whoever takes back without trusting a record.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its directory in each hierarchy.
    pub hierarchies: Vec<Hierarchy>,
    /// The directories above, where they are not the instance's own and so are to go with the last container in them.
    parents: Vec<PathBuf>,
}

impl Place {
    /// Finds it.
    pub fn find(instance: &Instance, id: &Id) -> Result<Place, Error> {
        let parent = Parent::of(instance, id)?;
        let layout = Layout::detect()?;
        let parents = layout.hierarchies(&parent.path, &[]).into_iter().filter(|_| !parent.is_own(instance));
        Ok(Place {
            hierarchies: layout.hierarchies(&parent.path.join(id.as_str()), &[]),
            parents: parents.map(|hierarchy| hierarchy.path).collect(),
        })
    }

    /// Removes the container's cgroups; `busy` if there are processes in them.
    pub fn remove(&self) -> Result<(), Error> {
        leaf::remove_all(&self.hierarchies)?;
        for parent in self.parents.iter().rev() {
            // Unless others have theirs there.
            let _ = std::fs::remove_dir(parent);
        }
        Ok(())
    }
}

/// The names of all cgroups that the instance has one for, with a container or without: those below its own parent. In
/// other places there is none without a container, as that knows the place.
pub fn list(instance: &Instance) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for hierarchy in Layout::detect()?.hierarchies(instance.name().as_ref(), &[]) {
        names.extend(leaf::list(std::slice::from_ref(&hierarchy))?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Removes the cgroup that is parent to all of the instance's; `busy` if a container has one in it.
pub fn remove_parent(instance: &Instance) -> Result<(), Error> {
    for hierarchy in Layout::detect()?.hierarchies(instance.name().as_ref(), &[]).iter().rev() {
        match std::fs::remove_dir(&hierarchy.path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).step(|| format!("remove the cgroup {}", hierarchy.path.display())),
        }
    }
    Ok(())
}
