//! What will be done, in order; and doing it.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::utsname::uname;
use quilt_record::Id;
use quilt_record::error::{Code, Error};
use quilt_record::have::Hierarchy;

use crate::layout::{CONTROLLERS, Layout};
use crate::limits::Want;
use crate::no_controller;

/// The steps, and the directories that they come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
    /// The container's directory in each hierarchy.
    pub hierarchies: Vec<Hierarchy>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a directory. One that is there is as good: the parent of all is shared, the container's own is the claim's.
    Mkdir(PathBuf),
    /// Write `text` to `path`, for the sake of `controller`.
    Write {
        /// The file.
        path: PathBuf,
        /// What is written.
        text: String,
        /// The controller it belongs to.
        controller: String,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mkdir(path) => write!(f, "mkdir {}", path.display()),
            Step::Write { path, text, .. } => write!(f, "write {text} to {}", path.display()),
        }
    }
}

impl Step {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        match self {
            Step::Mkdir(path) => match DirBuilder::new().mode(0o755).create(path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
                other => other.map_err(|e| Error::os(self.to_string(), e)),
            },
            Step::Write { path, text, controller } => {
                let written = OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(text.as_bytes()));
                written.map_err(|e| self.explain(controller, e))
            }
        }
    }

    fn explain(&self, controller: &str, error: std::io::Error) -> Error {
        let plain = Error::os(self.to_string(), error);
        let enabling = matches!(self, Step::Write { path, .. } if path.ends_with("cgroup.subtree_control"));
        match plain.errno.map(nix::errno::Errno::from_raw) {
            Some(nix::errno::Errno::EBUSY) if enabling => Error {
                message: format!("the {controller} controller cannot be passed on: there are processes in that cgroup"),
                code: Code::Unsupported,
                ..plain
            },
            Some(nix::errno::Errno::ENOENT) => Error {
                message: format!("the {controller} controller of this kernel has no such limit"),
                code: Code::Unsupported,
                ..plain
            },
            _ if enabling => {
                Error { message: format!("enable the {controller} controller: {}", plain.message), ..plain }
            }
            _ => plain,
        }
    }
}

/// The plan for the container `id` of the instance whose cgroup is `parent`.
pub fn plan(layout: &Layout, parent: &str, id: &Id, want: &Want) -> Result<Plan, Error> {
    let mut steps = Vec::with_capacity(16);
    for controller in CONTROLLERS {
        if layout.home(controller).is_none() && !want.files(controller, 2).is_empty() {
            return Err(no_controller(controller));
        }
    }
    let write = |path: PathBuf, text: &str, controller: &str| Step::Write {
        path,
        text: text.to_owned(),
        controller: controller.to_owned(),
    };
    for (names, mount) in &layout.v1 {
        let above = mount.join(parent);
        steps.push(Step::Mkdir(above.clone()));
        if names.split(',').any(|n| n == "memory") && flat_memory() {
            steps.push(write(above.join("memory.use_hierarchy"), "1", "memory"));
        }
        let own = above.join(id.as_str());
        steps.push(Step::Mkdir(own.clone()));
        for controller in names.split(',') {
            let files = want.files(controller, 1);
            steps.extend(files.iter().map(|(file, text)| write(own.join(file), text, controller)));
        }
    }
    if let Some(v2) = &layout.v2 {
        let above = v2.path.join(parent);
        let needs =
            |given: &[String]| -> Vec<String> { v2.available.iter().filter(|c| !given.contains(c)).cloned().collect() };
        // One write each: a kernel that refuses one of several refuses all, and does not say which it was.
        for controller in needs(&v2.enabled) {
            steps.push(write(v2.path.join("cgroup.subtree_control"), &format!("+{controller}"), &controller));
        }
        steps.push(Step::Mkdir(above.clone()));
        for controller in needs(&v2.delegated) {
            steps.push(write(above.join("cgroup.subtree_control"), &format!("+{controller}"), &controller));
        }
        let own = above.join(id.as_str());
        steps.push(Step::Mkdir(own.clone()));
        // Not passed on any further: the leaves are accounted to the container, and are cheaper for it.
        for controller in &v2.available {
            let files = want.files(controller, 2);
            steps.extend(files.iter().map(|(file, text)| write(own.join(file), text, controller)));
        }
    }
    Ok(Plan { steps, hierarchies: layout.hierarchies(&Path::new(parent).join(id.as_str())) })
}

/// Whether a v1 memory limit binds only the processes right in the cgroup until told otherwise: so before Linux 5.11.
fn flat_memory() -> bool {
    let release = uname().ok().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(major), Some(minor)) if (major, minor) < (5, 11))
}

/// The word for the record.
pub(crate) fn version(hierarchies: &[Hierarchy]) -> &'static str {
    let has = |version| hierarchies.iter().any(|h| h.version == version);
    match (has(1), has(2)) {
        (true, true) => "hybrid",
        (true, false) => "v1",
        _ => "v2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Unified;
    use quilt_record::units::Size;

    fn text(layout: &Layout, want: &Want) -> Result<Vec<String>, Error> {
        let id: Id = "web".parse().map_err(|e: String| Error::new(Code::Invalid, "", e))?;
        Ok(plan(layout, "quilt", &id, want)?.steps.iter().map(Step::to_string).collect())
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn hybrid_keeps_limits_on_v1_and_a_bare_directory_on_v2() -> Result<(), Error> {
        let v1 = [("memory", "/c/memory"), ("cpu,cpuacct", "/c/cpu,cpuacct"), ("pids", "/c/pids")];
        let layout = Layout {
            v1: v1.iter().map(|(n, p)| ((*n).to_owned(), PathBuf::from(p))).collect(),
            v2: Some(Unified { path: "/c/unified".into(), ..Unified::default() }),
        };
        let want = Want { memory: Some(Size(1 << 29)), cpu: Some(50.0), ..Want::default() };
        assert_eq!(
            text(&layout, &want)?,
            [
                "mkdir /c/memory/quilt",
                "mkdir /c/memory/quilt/web",
                "write 536870912 to /c/memory/quilt/web/memory.limit_in_bytes",
                "mkdir /c/cpu,cpuacct/quilt",
                "mkdir /c/cpu,cpuacct/quilt/web",
                "write 5120 to /c/cpu,cpuacct/quilt/web/cpu.shares",
                "mkdir /c/pids/quilt",
                "mkdir /c/pids/quilt/web",
                "write 2048 to /c/pids/quilt/web/pids.max",
                "mkdir /c/unified/quilt",
                "mkdir /c/unified/quilt/web",
            ]
        );
        Ok(())
    }

    #[test]
    fn v2_enables_what_is_missing_and_nothing_else() -> Result<(), Error> {
        let mut v2 = Unified {
            path: "/c".into(),
            available: words(&["cpu", "memory", "pids"]),
            enabled: words(&["memory", "pids"]),
            delegated: words(&[]),
        };
        let want = Want { cpus: Some(0.5), pids: Some(9), ..Want::default() };
        assert_eq!(
            text(&Layout { v1: Vec::new(), v2: Some(v2.clone()) }, &want)?,
            [
                "write +cpu to /c/cgroup.subtree_control",
                "mkdir /c/quilt",
                "write +cpu to /c/quilt/cgroup.subtree_control",
                "write +memory to /c/quilt/cgroup.subtree_control",
                "write +pids to /c/quilt/cgroup.subtree_control",
                "mkdir /c/quilt/web",
                "write 50000 100000 to /c/quilt/web/cpu.max",
                "write 9 to /c/quilt/web/pids.max",
            ]
        );
        v2.enabled.clone_from(&v2.available);
        v2.delegated.clone_from(&v2.available);
        assert_eq!(text(&Layout { v1: Vec::new(), v2: Some(v2) }, &want)?.len(), 4);
        Ok(())
    }

    #[test]
    fn a_limit_without_a_controller_is_refused_by_name() {
        let v2 = Unified { path: "/c".into(), available: words(&["pids"]), ..Unified::default() };
        let layout = Layout { v1: Vec::new(), v2: Some(v2) };
        let want = Want { memory: Some(Size(1 << 29)), ..Want::default() };
        let error = text(&layout, &want).err().map(|e| (e.code, e.step));
        assert_eq!(error, Some((Code::Unsupported, "limit memory".to_owned())));
        assert!(text(&layout, &Want::default()).is_ok());
    }
}
