//! Below which cgroup a container's own is made, and where it was made.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use quilt_record::error::{Code, Error, Step as _};
use quilt_record::{Container, Id, Instance, sys};

use crate::layout::Layout;

/// The file of the container's directory that has the parent's path, if it is not the instance's own. It is written before
/// the first cgroup is made, so that whoever removes them by name finds them.
const FILE: &str = "cgroup-parent";

/// The cgroup that the containers' are in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its path, relative to the root of every hierarchy: `quilt`, `agents.service/work/quilt`.
    pub path: PathBuf,
    /// The part of the path that belongs to somebody who has delegated it: what is below is made, and gets its controllers
    /// from there. Empty: the root.
    pub base: PathBuf,
    /// Why the caller's own cgroup is not it, though that is delegated.
    pub note: Option<String>,
}

impl Parent {
    /// The instance's own, right below the root.
    fn of_instance(instance: &Instance) -> Parent {
        Parent { path: instance.name().into(), base: PathBuf::new(), note: None }
    }

    /// Where a new container's cgroup is to be: below `asked`, else below the cgroup that was delegated to the caller,
    /// else below the instance's own. Never in the root, and in no unit of systemd's that is not delegated.
    pub fn find(instance: &Instance, layout: &Layout, asked: Option<&str>) -> Result<Parent, Error> {
        let tree = layout.v2.as_deref();
        if let Some(asked) = asked {
            let path = relative(asked)?;
            let base = base(&path, |unit| tree.is_some_and(|tree| is_delegated(&tree.join(unit))));
            let base = base.map_err(|unit| foreign(asked, &unit))?;
            return Ok(Parent { path: path.join(instance.name()), base, note: None });
        }
        let own = Parent::of_instance(instance);
        // Delegation is of v2's making: on v1 it comes without the controllers.
        let Some(tree) = tree.filter(|_| layout.v1.is_empty()) else { return Ok(own) };
        let mine = fs::read_to_string("/proc/self/cgroup").step(|| "read /proc/self/cgroup")?;
        let mine = mine.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let Some(base) = lent(Path::new(mine), |cgroup| is_delegated(&tree.join(cgroup))) else { return Ok(own) };
        let read = |file: &str| fs::read_to_string(tree.join(&base).join(file)).unwrap_or_default();
        if read("cgroup.subtree_control").trim().is_empty() && !read("cgroup.procs").trim().is_empty() {
            let note = format!(
                "/{} is delegated, but has processes in it, so no controllers for others: with them in a cgroup below \
                 (systemd's DelegateSubgroup=) this container would be in it",
                base.display()
            );
            return Ok(Parent { note: Some(note), ..own });
        }
        Ok(Parent { path: base.join(instance.name()), base, note: None })
    }

    /// Where the container's cgroup is or would be, whoever made it.
    pub fn of(instance: &Instance, id: &Id) -> Result<Parent, Error> {
        let saved = match Container::open(instance, id) {
            Ok(container) => container.read(FILE)?,
            Err(e) if e.code == Code::NotFound => None,
            Err(e) => return Err(e),
        };
        let Some(text) = saved else { return Ok(Parent::of_instance(instance)) };
        let path = PathBuf::from(text.trim_end());
        // What is above the unit is systemd's, whether it still delegates or not.
        let base = base(&path, |_| true).unwrap_or_default();
        Ok(Parent { path, base, note: None })
    }

    /// Whether it is the instance's own, which stays when it is empty.
    pub fn is_own(&self, instance: &Instance) -> bool {
        self.path == Path::new(&instance.name())
    }

    /// Notes it in the container's directory.
    pub(crate) fn save(&self, instance: &Instance, container: &Container) -> Result<(), Error> {
        if self.is_own(instance) {
            return container.unlink(FILE);
        }
        container.write(FILE, &format!("{}\n", self.path.display()))
    }

    /// The cgroups from the base to the parent, both included.
    pub(crate) fn chain(&self) -> Vec<PathBuf> {
        let below = self.path.strip_prefix(&self.base).unwrap_or(&self.path);
        let mut chain = vec![self.base.clone()];
        let mut at = self.base.clone();
        for name in below.iter() {
            at.push(name);
            chain.push(at.clone());
        }
        chain
    }
}

/// The longest name of a file or a cgroup, in bytes (limits.h).
const NAME_MAX: usize = 255;

/// A path below the root, without the slash.
fn relative(text: &str) -> Result<PathBuf, Error> {
    let refuse = |why: &str| Error::new(Code::Invalid, "read --cgroup-parent", format!("`{text}` {why}"));
    let below = text.strip_prefix('/').unwrap_or_default();
    if below.is_empty() {
        return Err(refuse("is no cgroup below the root: write a path such as /agents"));
    }
    let plain = Path::new(below).components().all(|c| matches!(c, Component::Normal(_)));
    if !plain || below.contains("//") || below.contains("/./") || below.chars().any(char::is_control) {
        return Err(refuse("is no plain path: write one such as /agents/ci"));
    }
    if below.split('/').any(|name| name.len() > NAME_MAX) {
        return Err(refuse("has a name of more than 255 bytes"));
    }
    // Below an instance's own cgroup everything is a container of its.
    let first = below.split('/').next().unwrap_or_default();
    if first == "quilt" || first.starts_with("quilt-") {
        return Err(refuse("is an instance's own: leave the flag out, or write another name"));
    }
    Ok(below.into())
}

/// Whether systemd takes a cgroup of this name for one of its units.
fn is_unit(name: &Path) -> bool {
    name.extension().is_some_and(|kind| ["slice", "scope", "service"].iter().any(|known| kind == *known))
}

/// The innermost unit on the path, if it is delegated, or nothing if there is none; as an error a unit that is not.
fn base(path: &Path, delegated: impl Fn(&Path) -> bool) -> Result<PathBuf, PathBuf> {
    match path.ancestors().find(|at| at.file_name().is_some_and(|name| is_unit(Path::new(name)))) {
        None => Ok(PathBuf::new()),
        Some(unit) if delegated(unit) => Ok(unit.to_owned()),
        Some(unit) => Err(unit.to_owned()),
    }
}

/// The cgroup that was delegated to a process in `mine`: that one, or one further up with nothing but plain cgroups
/// between. What lies below a unit of a delegated one is of that one's systemd, a user's.
fn lent(mine: &Path, delegated: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if mine.components().any(|c| c == Component::ParentDir) {
        // Of a cgroup namespace that the caller is outside of.
        return None;
    }
    for at in mine.ancestors().filter(|at| !at.as_os_str().is_empty()) {
        if delegated(at) {
            return Some(at.to_owned());
        }
        if is_unit(at) {
            return None;
        }
    }
    None
}

fn foreign(asked: &str, unit: &Path) -> Error {
    let message = format!(
        "/{} belongs to systemd, which has not delegated it: give a unit with Delegate=yes, or a cgroup that is \
         nobody's, such as /agents",
        unit.display()
    );
    Error::new(Code::Denied, format!("make a cgroup below {asked}"), message)
}

/// Whether systemd leaves what is below to others. It says so by an attribute, which one is a matter of its version
/// (systemd, `docs/CGROUP_DELEGATION.md`).
fn is_delegated(cgroup: &Path) -> bool {
    let Ok(path) = CString::new(cgroup.as_os_str().as_bytes()) else { return false };
    [c"trusted.delegate", c"user.delegate"].iter().any(|name| sys::has_xattr(&path, name, b"1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_plain_path_below_the_root() {
        assert_eq!(relative("/agents/ci"), Ok("agents/ci".into()));
        for bad in ["", "/", "agents", "//", "/a/../b", "/..", "/a//b", "/./a", "/a\nb", "/quilt", "/quilt-abc/x"] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn units_of_systemd_must_be_delegated() {
        let given = |at: &Path| at == Path::new("system.slice/ci.service");
        let find = |path: &str| base(Path::new(path), given);
        assert_eq!(find("agents"), Ok("".into()));
        assert_eq!(find("system.slice/ci.service"), Ok("system.slice/ci.service".into()));
        assert_eq!(find("system.slice/ci.service/pool/a"), Ok("system.slice/ci.service".into()));
        assert_eq!(find("system.slice"), Err("system.slice".into()));
        assert_eq!(find("system.slice/x.service/pool"), Err("system.slice/x.service".into()));
        assert_eq!(find("system.slice/ci.service/other.scope"), Err("system.slice/ci.service/other.scope".into()));
    }

    #[test]
    fn the_callers_cgroup_counts_if_it_is_delegated_to_the_caller() {
        let given = |at: &Path| ["s/ci.service", "user.slice/user@0.service"].iter().any(|d| at == Path::new(d));
        let find = |path: &str| lent(Path::new(path), given).map(|p| p.display().to_string());
        assert_eq!(find("s/ci.service").as_deref(), Some("s/ci.service"));
        assert_eq!(find("s/ci.service/sub/caller").as_deref(), Some("s/ci.service"));
        for not in
            ["", "s", "s/other.service", "s/ci.service/x.scope", "user.slice/user@0.service/app.slice/t.scope", "../x"]
        {
            assert_eq!(find(not), None, "{not}");
        }
    }

    #[test]
    fn what_is_made_begins_below_the_base() {
        let parent = |path: &str, base: &str| Parent { path: path.into(), base: base.into(), note: None };
        let chain = |parent: Parent| parent.chain().iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(chain(parent("quilt", "")), ["", "quilt"]);
        assert_eq!(
            chain(parent("a.slice/b.service/c/quilt", "a.slice/b.service")),
            ["a.slice/b.service", "a.slice/b.service/c", "a.slice/b.service/c/quilt"]
        );
    }
}
