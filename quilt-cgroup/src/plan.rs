//! What will be done, in order.

use std::fs;
use std::path::{Path, PathBuf};

use quilt_record::Id;
use quilt_record::error::{Code, Error};
use quilt_record::have::Hierarchy;
use quilt_record::process::kernel_is_at_least;

use crate::layout::{CONTROLLERS, Layout};
use crate::limits::given;
use crate::parent::Parent;
use crate::step::Step;
use crate::unified::Unified;
use crate::want::Want;

/// The steps, and the directories that they come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
    /// The container's directory in each hierarchy.
    pub hierarchies: Vec<Hierarchy>,
}

/// The plan for the container `id` below `parent`. `unified` is the v2 tree, if there is one.
pub fn plan(layout: &Layout, unified: Option<&Unified>, parent: &Parent, id: &Id, want: &Want) -> Result<Plan, Error> {
    let required = want.required();
    let available = |c: &str| unified.is_some_and(|v2| v2.available.iter().any(|a| a == c));
    if let Some(missing) = required.iter().find(|c| layout.on_v1(c).is_none() && !available(c)) {
        return Err(no_controller(missing, &parent.base));
    }
    let below = parent.path.join(id.as_str());
    let mut steps = Vec::with_capacity(24);
    for (names, mount) in &layout.v1 {
        let has = |controller: &str| names.split(',').any(|n| n == controller);
        let own = mount.join(&parent.path);
        // All of the way: systemd makes no directories of its units in most of these hierarchies.
        let mut chain: Vec<PathBuf> = own.ancestors().take_while(|at| *at != mount).map(Path::to_owned).collect();
        chain.reverse();
        let bare = has("cpuset") && !inherits(&own);
        for cgroup in &chain {
            steps.push(Step::Mkdir(cgroup.clone()));
            for file in ["cpuset.cpus", "cpuset.mems"].iter().filter(|_| bare) {
                // Somebody may have given it fewer.
                if is_empty(&cgroup.join(file)) {
                    steps.push(set(cgroup.join(file), &given(file, cgroup)?, "cpuset"));
                }
            }
        }
        if bare {
            steps.push(set(own.join(CLONE_CHILDREN), "1", "cpuset"));
        }
        if has("memory") && flat_memory() {
            steps.push(set(own.join("memory.use_hierarchy"), "1", "memory"));
        }
        steps.push(Step::Mkdir(mount.join(&below)));
    }
    if let Some(v2) = unified {
        for (at, (cgroup, passed)) in v2.chain.iter().enumerate() {
            let cgroup = v2.path.join(cgroup);
            if at > 0 {
                steps.push(Step::Mkdir(cgroup.clone()));
            }
            // One write each: a kernel that refuses one of several refuses all, and does not say which it was.
            for controller in v2.available.iter().filter(|c| !passed.contains(c)) {
                let optional = !required.contains(&controller.as_str());
                let (path, text) = (cgroup.join("cgroup.subtree_control"), format!("+{controller}"));
                steps.push(Step::Write { path, text, controller: controller.clone(), also: None, optional });
            }
        }
        steps.push(Step::Mkdir(v2.path.join(&below)));
    }
    steps.extend(limits(layout, unified, &below, want)?);
    // Not passed on any further: the leaves are accounted to the container, and are cheaper for it.
    let unified = unified.map(|v2| v2.available.clone()).unwrap_or_default();
    Ok(Plan { steps, hierarchies: layout.hierarchies(&below, &unified) })
}

/// The writes of the limits for the container whose cgroup is `below` the root of every hierarchy.
pub(crate) fn limits(
    layout: &Layout,
    unified: Option<&Unified>,
    below: &Path,
    want: &Want,
) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::with_capacity(8);
    // Memory last: lowering it may cost processes their lives, which no taking back makes good.
    for controller in CONTROLLERS.iter().copied().chain(["cpuset"]).filter(|c| *c != "memory").chain(["memory"]) {
        let v1 = layout.on_v1(controller).map(|mount| (1, mount));
        let v2 = unified.filter(|v2| v2.available.iter().any(|c| c == controller)).map(|v2| (2, v2.path.as_path()));
        let Some((version, mount)) = v1.or(v2) else { continue };
        let own = mount.join(below);
        for setting in want.settings(controller, version, own.parent().unwrap_or(mount))? {
            let also = setting.also.map(|(file, text)| (own.join(file), text));
            let (path, controller) = (own.join(setting.file), controller.to_owned());
            steps.push(Step::Write { path, text: setting.text, controller, also, optional: false });
        }
    }
    Ok(steps)
}

fn set(path: PathBuf, text: &str, controller: &str) -> Step {
    Step::Write { path, text: text.to_owned(), controller: controller.to_owned(), also: None, optional: false }
}

/// v1's way to give a new cgroup the CPUs and the memory of its parent, without which nobody can be in it (cpuset(7),
/// `cgroup.clone_children`). Set last of all, so that one who sees it set finds the rest done.
const CLONE_CHILDREN: &str = "cgroup.clone_children";

fn inherits(cgroup: &Path) -> bool {
    fs::read(cgroup.join(CLONE_CHILDREN)).is_ok_and(|text| text.starts_with(b"1"))
}

/// Whether nothing stands in the file, be it that there is none.
fn is_empty(file: &Path) -> bool {
    fs::read_to_string(file).map_or(true, |text| text.trim().is_empty())
}

/// `unsupported`, for a limit that nothing here can keep.
fn no_controller(controller: &str, base: &Path) -> Error {
    let place =
        if base.as_os_str().is_empty() { "this host".to_owned() } else { format!("the cgroup /{}", base.display()) };
    let message = format!("{place} has no {controller} controller (cgroups(7), /proc/cgroups)");
    Error::new(Code::Unsupported, format!("limit {controller}"), message)
}

/// Whether a v1 memory limit binds only the processes right in the cgroup until told otherwise: so before Linux 5.11.
fn flat_memory() -> bool {
    !kernel_is_at_least(5, 11)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quilt_record::units::{Limit, Size};

    fn text(layout: &Layout, unified: Option<&Unified>, parent: &Parent, want: &Want) -> Result<Vec<String>, Error> {
        let id: Id = "web".parse().map_err(|e: String| Error::new(Code::Invalid, "", e))?;
        Ok(plan(layout, unified, parent, &id, want)?.steps.iter().map(Step::to_string).collect())
    }

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    fn parent(path: &str, base: &str) -> Parent {
        Parent { path: path.into(), base: base.into(), note: None }
    }

    fn v2(available: &[&str], chain: &[(&str, &[&str])]) -> Unified {
        let chain = chain.iter().map(|(cgroup, passed)| (PathBuf::from(cgroup), words(passed))).collect();
        Unified { path: "/c".into(), available: words(available), chain }
    }

    #[test]
    fn hybrid_keeps_limits_on_v1_and_a_bare_directory_on_v2() -> Result<(), Error> {
        let v1 =
            [("memory", "/c/memory"), ("cpu,cpuacct", "/c/cpu,cpuacct"), ("cpuset", "/c/cpuset"), ("pids", "/c/pids")];
        let v1 = v1.iter().map(|(n, p)| ((*n).to_owned(), PathBuf::from(p))).collect();
        let layout = Layout { v1, v2: Some("/c/unified".into()) };
        let unified = Unified { path: "/c/unified".into(), ..v2(&[], &[("", &[]), ("quilt", &[])]) };
        let want = Want { memory: Some(Limit::Of(Size(1 << 29))), cpu: Some(50.0), ..Want::default() };
        assert_eq!(
            text(&layout, Some(&unified), &parent("quilt", ""), &want)?,
            [
                "mkdir /c/memory/quilt",
                "mkdir /c/memory/quilt/web",
                "mkdir /c/cpu,cpuacct/quilt",
                "mkdir /c/cpu,cpuacct/quilt/web",
                "mkdir /c/cpuset/quilt",
                &format!("write {} to /c/cpuset/quilt/cpuset.cpus", given("cpuset.cpus", "/c".as_ref())?),
                &format!("write {} to /c/cpuset/quilt/cpuset.mems", given("cpuset.mems", "/c".as_ref())?),
                "write 1 to /c/cpuset/quilt/cgroup.clone_children",
                "mkdir /c/cpuset/quilt/web",
                "mkdir /c/pids/quilt",
                "mkdir /c/pids/quilt/web",
                "mkdir /c/unified/quilt",
                "mkdir /c/unified/quilt/web",
                "write 5120 to /c/cpu,cpuacct/quilt/web/cpu.shares",
                "write 2048 to /c/pids/quilt/web/pids.max",
                "write 536870912 to /c/memory/quilt/web/memory.limit_in_bytes",
            ]
        );
        Ok(())
    }

    #[test]
    fn v2_enables_what_is_missing_and_nothing_else() -> Result<(), Error> {
        let layout = Layout { v1: Vec::new(), v2: Some("/c".into()) };
        let cold = v2(&["cpu", "memory", "pids"], &[("", &["memory", "pids"]), ("quilt", &[])]);
        let want = Want { cpus: Some(Limit::Of(0.5)), pids: Some(Limit::Of(9)), ..Want::default() };
        assert_eq!(
            text(&layout, Some(&cold), &parent("quilt", ""), &want)?,
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
        let warm = v2(&["cpu", "memory", "pids"], &[("quilt", &["cpu", "memory", "pids"])]);
        assert_eq!(text(&layout, Some(&warm), &parent("quilt", ""), &want)?.len(), 3);
        Ok(())
    }

    #[test]
    fn what_is_delegated_is_left_as_it_is_above() -> Result<(), Error> {
        let layout = Layout { v1: Vec::new(), v2: Some("/c".into()) };
        let unified = v2(&["pids"], &[("s/ci.service", &[]), ("s/ci.service/quilt", &[])]);
        let parent = parent("s/ci.service/quilt", "s/ci.service");
        assert_eq!(
            text(&layout, Some(&unified), &parent, &Want::default())?,
            [
                "write +pids to /c/s/ci.service/cgroup.subtree_control",
                "mkdir /c/s/ci.service/quilt",
                "write +pids to /c/s/ci.service/quilt/cgroup.subtree_control",
                "mkdir /c/s/ci.service/quilt/web",
                "write 2048 to /c/s/ci.service/quilt/web/pids.max",
            ]
        );
        Ok(())
    }

    #[test]
    fn a_limit_without_a_controller_is_refused_by_name() {
        let layout = Layout { v1: Vec::new(), v2: Some("/c".into()) };
        let unified = v2(&["pids"], &[("quilt", &["pids"])]);
        let want = Want { memory: Some(Limit::Of(Size(1 << 29))), ..Want::default() };
        let plan = |want: &Want| text(&layout, Some(&unified), &parent("quilt", ""), want);
        let error = plan(&want).err().map(|e| (e.code, e.step));
        assert_eq!(error, Some((Code::Unsupported, "limit memory".to_owned())));
        assert!(plan(&Want::default()).is_ok());
    }
}
