//! Is it ready, is it healthy: phases with evidence.
//!
//! *process* (the init lives) → *namespaces* (it is in those that were made for it, and none is the host's) → *exec* (a
//! program runs inside, in the container's namespaces and cgroup) → *network* (the gateway answers) → *health* (the
//! container's own check says so). Each phase has a deadline of its own, within one for all, and says what it saw.
//!
//! It changes nothing of the container, and repairs nothing.
//!
//! The hard thing is to wait for everything at once: for the thing looked at, for the container's death, for a signal and
//! for the deadline. There is no sleep and no polling in it; see `watch.rs`.

mod want;

use quilt_record::have::Probe;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Claim, Id, Instance};

pub use want::Want;

/// The stage. It looks again however often it has looked before.
pub const STAGE: Stage<Want, Probe> = Stage { name: "probe", act, undo, again: true };

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Probe>> {
    context.want.check()?;
    Ok(Outcome::Plan(Vec::new()))
}

/// Nothing is left of a look.
fn undo(_: &Instance, _: &Id, _: Claim) -> anyhow::Result<()> {
    Ok(())
}
