//! Resource limits: one cgroup per container, on cgroup v1, on v2, and on the hybrid of both.
//!
//! It makes the container's directory in every hierarchy that carries a limit, an account or the means to kill all at
//! once, and writes the limits. It puts no process anywhere: those go into leaves below (`quilt_record::leaf`), made by
//! whoever starts them.
//!
//! The one hard thing is to find out cheaply where the controllers are: each may be on a v1 hierarchy of its own, share
//! one with another, or be on the v2 tree, which on a hybrid host often has none (`layout.rs`). What is done about it is
//! a pure plan (`plan.rs`), which a dry run prints.

mod layout;
mod limits;
mod plan;

use std::path::Path;
use std::time::Duration;

use quilt_record::error::{Code, Error, Step as _};
use quilt_record::have::{Cgroup, Hierarchy};
use quilt_record::process::boot_id;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Claim, Id, Instance, leaf, signals};

pub use layout::Layout;
pub use limits::Want;
pub use plan::{Plan, Step, plan};

/// How long the undo waits for what it killed to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The stage.
pub const STAGE: Stage<Want, Cgroup> = Stage { name: "cgroup", act, undo, again: false };

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Cgroup>> {
    context.want.check()?;
    let parent = context.instance.name();
    let layout = Layout::detect(&parent)?;
    let plan = plan(&layout, &parent, &context.id, context.want)?;
    if context.container.is_none() {
        return Ok(Outcome::Plan(plan.steps.iter().map(Step::to_string).collect()));
    }
    for step in &plan.steps {
        signals::check()?;
        step.execute()?;
    }
    let version = plan::version(&plan.hierarchies).to_owned();
    Ok(Outcome::Done(Cgroup { boot: boot_id().to_owned(), version, hierarchies: plan.hierarchies }))
}

/// Kills whatever is in the container's cgroups and removes them.
fn undo(instance: &Instance, id: &Id, _: Claim) -> anyhow::Result<()> {
    let hierarchies = hierarchies(instance, id)?;
    leaf::kill_all(&hierarchies, KILL_LIMIT)?;
    leaf::remove_all(&hierarchies)?;
    Ok(())
}

/// Where the container's cgroups are or would be, by name: for whoever takes back without trusting a record.
pub fn hierarchies(instance: &Instance, id: &Id) -> Result<Vec<Hierarchy>, Error> {
    let parent = instance.name();
    Ok(Layout::detect(&parent)?.hierarchies(&Path::new(&parent).join(id.as_str())))
}

/// The names of all cgroups that the instance has one for, with a container or without.
pub fn list(instance: &Instance) -> Result<Vec<String>, Error> {
    let parent = instance.name();
    let mut names = Vec::new();
    for hierarchy in Layout::detect(&parent)?.hierarchies(Path::new(&parent)) {
        names.extend(leaf::list(std::slice::from_ref(&hierarchy))?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Removes the cgroup that is parent to all of the instance's; `busy` if a container has one in it.
pub fn remove_parent(instance: &Instance) -> Result<(), Error> {
    let parent = instance.name();
    for hierarchy in Layout::detect(&parent)?.hierarchies(Path::new(&parent)).iter().rev() {
        match std::fs::remove_dir(&hierarchy.path) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).step(|| format!("remove the cgroup {}", hierarchy.path.display())),
        }
    }
    Ok(())
}

/// `unsupported`, for a limit that nothing here can keep.
fn no_controller(controller: &str) -> Error {
    let message = format!("this host has no {controller} controller (cgroups(7), /proc/cgroups)");
    Error::new(Code::Unsupported, format!("limit {controller}"), message)
}
