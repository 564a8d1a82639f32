//! Other limits for a container that is there, while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use quilt_record::error::{Code, Error};
use quilt_record::have::Cgroup;
use quilt_record::process::boot_id;
use quilt_record::{Container, Instance};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::layout::Layout;
use crate::limits::given;
use crate::parent::Parent;
use crate::plan::{Plan, limits, plan};
use crate::step::{Step, write};
use crate::want::Want;
use crate::{execute, look};

/// Puts `changes` in force and in the container's record; what they do not mention stays as it is. All or nothing, but for
/// limits of disks, which are not taken back. The container is locked by the caller; one that is not running gets its
/// limits with its next start.
pub fn update(instance: &Instance, container: &Container, changes: &Want) -> Result<(), Error> {
    if changes.cgroup_parent.is_some() {
        let message = "a container's cgroup stays where it was made: remove and create it";
        return Err(Error::new(Code::Invalid, "read --cgroup-parent", message));
    }
    if !changes.device.is_empty() {
        let message = "a container's devices are those that it was made with: remove and create it";
        return Err(Error::new(Code::Invalid, "read --device", message));
    }
    let bad = |e: serde_json::Error| {
        Error::new(Code::Invalid, format!("read the limits of {}", container.id()), e.to_string())
    };
    let mut section: Map<String, Value> = match container.read("cgroup.json")? {
        Some(text) => serde_json::from_str(&text).map_err(bad)?,
        // Not started yet: what was asked is in the record alone.
        None => container.record()?.get("cgroup")?.unwrap_or_default(),
    };
    let old: Want = section.get("want").map_or(Ok(Want::default()), Want::deserialize).map_err(bad)?;
    let have: Option<Cgroup> = section.get("have").map(Cgroup::deserialize).transpose().map_err(bad)?;
    let mut want = old.clone();
    want.update(changes);
    want.check()?;

    let layout = Layout::detect()?;
    let parent = Parent::of(instance, container.id())?;
    let below = parent.path.join(container.id().as_str());
    let unified = look(&layout, &parent, &want)?;
    // What this host cannot do is refused now, and not at the next start.
    let plan = plan(&layout, unified.as_ref(), &parent, container.id(), &want)?;
    let there = |have: &Cgroup| have.boot == boot_id() && have.hierarchies.iter().all(|h| h.path.exists());
    let mut done = Done(Vec::new());
    if have.as_ref().is_some_and(there) {
        // A controller that nobody has asked for before is passed on now, to all at once; the rest of that is in place.
        let (hierarchies, _) = execute(&Plan {
            steps: plan.steps.iter().filter(|step| enables(step)).cloned().collect(),
            hierarchies: plan.hierarchies.clone(),
        })?;
        // What was asked before may name what the machine does not have any more: then all is written anew.
        let before = limits(&layout, unified.as_ref(), &below, &old).unwrap_or_default();
        let steps = limits(&layout, unified.as_ref(), &below, &want)?;
        if let Err(e) = done.all(steps.into_iter().filter(|step| !before.contains(step)).collect()) {
            done.take_back();
            return Err(e);
        }
        if let Some(Value::Object(have)) = section.get_mut("have") {
            have.insert("hierarchies".to_owned(), serde_json::to_value(hierarchies).map_err(bad)?);
        }
    }
    want.io_max.retain(|io| !io.is_lifted());
    section.insert("want".to_owned(), serde_json::to_value(want).map_err(bad)?);
    let written = container.write_synced("cgroup.json", &Value::Object(section).to_string());
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
        let Step::Write { path, also, .. } = step else { return step.execute() };
        let files = [Some(path), also.as_ref().map(|(path, _)| path)];
        let before: Vec<(PathBuf, String)> = files.into_iter().flatten().filter_map(|file| before(file)).collect();
        step.execute()?;
        self.0.extend(before);
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

/// What to write to a file to have again what it says now; `None` where that cannot be said so: `io.max` and its like
/// have a line for each disk.
fn before(file: &Path) -> Option<(PathBuf, String)> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name == "io.max" || name.starts_with("blkio.throttle.") {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    // v2's way to say `as the parent`, which it takes of an empty cgroup only.
    let unset = name.starts_with("cpuset.") && text.trim().is_empty();
    let text = if unset { given(&format!("{name}.effective"), file.parent()?).ok()? } else { text };
    Some((file.to_owned(), text))
}
