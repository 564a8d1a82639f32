//! Other limits for a container that is there, while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use quilt_record::error::{Code, Error};
use quilt_record::have::Cgroup;
use quilt_record::process::boot_id;
use quilt_record::record::Section;
use quilt_record::{Container, Instance};
use serde_json::Value;

use crate::layout::Layout;
use crate::parent::Parent;
use crate::plan::{limits, plan};
use crate::step::{Step, write};
use crate::want::Want;
use crate::{execute, look};

/// What stands in the file of the stage's section.
type Saved = Section<Want, Cgroup>;

/// Puts `changes` in force and in the container's record; what they do not mention stays as it is. All or nothing, but for
/// limits of disks, which are not taken back. The container is locked by the caller; one that is not running gets its
/// limits with its next start.
pub fn update(instance: &Instance, container: &Container, changes: &Want) -> Result<(), Error> {
    if changes.cgroup_parent.is_some() {
        let message = "a container's cgroup stays where it was made: remove and create it";
        return Err(Error::new(Code::Invalid, "read --cgroup-parent", message));
    }
    let text = match container.read("cgroup.json")? {
        Some(text) => text,
        // Not started yet: what was asked is in the record alone.
        None => container.record()?.get::<Value>("cgroup")?.unwrap_or(serde_json::json!({"want": {}})).to_string(),
    };
    let bad = |e: serde_json::Error| {
        Error::new(Code::Invalid, format!("read the limits of {}", container.id()), e.to_string())
    };
    let mut saved: Saved = serde_json::from_str(&text).map_err(bad)?;
    let old = saved.want.clone();
    let mut want = old.clone();
    want.update(changes);
    want.check()?;

    let layout = Layout::detect()?;
    let parent = Parent::of(instance, container.id())?;
    let below = parent.path.join(container.id().as_str());
    let unified = look(&layout, &parent, &want)?;
    // What this host cannot do is refused now, and not at the next start.
    let plan = plan(&layout, unified.as_ref(), &parent, container.id(), &want)?;
    let there = |have: &&mut Cgroup| have.boot == boot_id() && have.hierarchies.iter().all(|h| h.path.exists());
    let mut done = Done(Vec::new());
    if let Some(have) = saved.have.as_mut().filter(there) {
        // A controller that nobody has asked for before is passed on now, to all at once; the rest of that is in place.
        let (hierarchies, _) = execute(&crate::Plan {
            steps: plan.steps.iter().filter(|step| enables(step)).cloned().collect(),
            hierarchies: plan.hierarchies.clone(),
        })?;
        let before = limits(&layout, unified.as_ref(), &below, &old)?;
        let steps = limits(&layout, unified.as_ref(), &below, &want)?;
        if let Err(e) = done.all(steps.into_iter().filter(|step| !before.contains(step)).collect()) {
            done.take_back();
            return Err(e);
        }
        have.hierarchies = hierarchies;
    }
    saved.want = want;
    let text = serde_json::to_string(&saved).map_err(bad)?;
    let written = container.write_synced("cgroup.json", &text);
    if written.is_err() {
        done.take_back();
    }
    written
}

fn enables(step: &Step) -> bool {
    matches!(step, Step::Write { path, .. } if path.ends_with("cgroup.subtree_control"))
}

/// What was written, and what had been there.
struct Done(Vec<(PathBuf, String)>);

impl Done {
    /// Does all the steps. v1's two limits of memory must never cross: which of them is to go first, the kernel says.
    fn all(&mut self, steps: Vec<Step>) -> Result<(), Error> {
        let mut refused = Vec::new();
        for step in steps {
            if let Err(e) = self.one(&step) {
                if e.code != Code::Invalid || !is_v1_memory(&step) {
                    return Err(e);
                }
                refused.push(step);
            }
        }
        refused.iter().try_for_each(|step| self.one(step))
    }

    fn one(&mut self, step: &Step) -> Result<(), Error> {
        let Step::Write { path, .. } = step else { return step.execute() };
        let before = fs::read_to_string(path);
        step.execute()?;
        if let (Ok(before), true) = (before, has_one_value(path)) {
            self.0.push((path.clone(), before));
        }
        Ok(())
    }

    /// As far as the kernel lets it: memory may be in use by now.
    fn take_back(&self) {
        for (path, before) in self.0.iter().rev() {
            let _ = write(path, before);
        }
    }
}

fn is_v1_memory(step: &Step) -> bool {
    matches!(step, Step::Write { path, .. } if path.ends_with("memory.limit_in_bytes")
        || path.ends_with("memory.memsw.limit_in_bytes"))
}

/// Whether what is read from the file can be written to it. `io.max` and its like have a line for each disk.
fn has_one_value(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name != "io.max" && !name.starts_with("blkio.throttle.")
}
