//! Is it ready, is it healthy: phases with evidence.
//!
//! *process* (the init lives) → *namespaces* (it is in those that were made for it, and none is the host's) → *exec* (a
//! program runs inside, in the container's namespaces and cgroup) → *network* (the gateway answers) → if asked, *security*
//! (the confinement is in force, seen from inside) → *health* (the container's own check says so). Each phase has a deadline of its own, within one for all, and says what it saw.
//!
//! It changes nothing of the container, and repairs nothing.
//!
//! The hard thing is to wait for everything at once: for the thing looked at, for the container's death, for a signal and
//! for the deadline. There is no sleep and no polling in it; see `watch.rs`.

mod entered;
mod health;
mod inside;
mod look;
mod netlink;
mod network;
mod plan;
mod report;
mod security;
mod want;
mod watch;

use quilt_record::claim::Work;
use quilt_record::have::Probe;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Claim, Error, Id, Instance, signals};

pub use want::Want;

use entered::Entered;
use report::Report;
use watch::Watch;

/// The stage. It looks again however often it has looked before.
pub const STAGE: Stage<Want, Probe> = Stage { name: "probe", act, undo, again: true };

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<Probe>> {
    let want = context.want;
    want.check()?;
    let Some(container) = context.container else {
        let steps = plan::plan(context.record, want)?;
        if context.record.get("dry_run")?.unwrap_or(false) {
            plan::print(context.record, &steps)?;
        }
        return Ok(Outcome::Plan(steps));
    };
    // A caller that was killed, for one, is no verdict on the container.
    signals::check()?;
    let (have, refusal) = examine(context)?;
    match refusal {
        None => Ok(Outcome::Done(have)),
        // Of a container that is being made nothing is left, unless it is wanted; one that was there stays.
        Some(error) if want.keep_failed || container.holder()?.work == Work::Settled => Ok(Outcome::Kept(have, error)),
        Some(error) => Err(error.into()),
    }
}

/// Goes through the phases up to the first that says no.
fn examine(context: &Context<'_, Want>) -> Result<(Probe, Option<Error>), Error> {
    let (record, want) = (context.record, context.want);
    let mut report = Report::new(context.container, record, want.overall());
    let process = |evidence: &mut _| look::process(context.instance, &context.id, record, evidence);
    let Some(target) = report.phase("process", process)? else {
        return Ok(report.have());
    };
    let watch = Watch::new(&target.pidfd, report.overall())?;
    let asked = look::asked(record)?;
    if report.phase("namespaces", |evidence| look::namespaces(&target, &asked, evidence))?.is_none() {
        return Ok(report.have());
    }
    let check = want.command()?;
    let entered = report.phase("exec", |evidence| Entered::enter(&target, &watch, check.is_none(), evidence))?;
    let Some(entered) = entered else { return Ok(report.have()) };
    let mut entered = Some(entered);
    let rest = rest(context, &mut report, &target, &watch, check.as_deref(), &mut entered);
    let left = entered.map_or(Ok(()), Entered::leave);
    rest?;
    left?;
    Ok(report.have())
}

/// The phases that come while a process of ours is inside.
fn rest(
    context: &Context<'_, Want>,
    report: &mut Report<'_>,
    target: &quilt_exec::Target,
    watch: &Watch<'_>,
    check: Option<&[String]>,
    entered: &mut Option<Entered>,
) -> Result<(), Error> {
    if report.phase("network", |evidence| network::look(context, target, watch, evidence))?.is_none() {
        return Ok(());
    }
    if context.want.security
        && report.phase("security", |evidence| security::look(context.record, target, watch, evidence))?.is_none()
    {
        return Ok(());
    }
    let Some(words) = check else { return Ok(()) };
    report.phase("health", |evidence| health::look(target, watch, context.want, words, entered, evidence))?;
    Ok(())
}

/// Nothing is left of a look.
fn undo(_: &Instance, _: &Id, _: Claim) -> anyhow::Result<()> {
    Ok(())
}
