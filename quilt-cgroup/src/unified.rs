//! What the v2 tree has to give below a parent, and what must be passed on for it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use quilt_record::error::{Error, Step as _};

use crate::parent::Parent;

/// The v2 tree, as far as a container below a parent is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unified {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Those of the controllers asked about that the container can have.
    pub available: Vec<String>,
    /// The cgroups on the way to the container, relative to the mount, the parent last, each with those of the controllers
    /// that it passes on already. The first is there; the others may have to be made.
    pub chain: Vec<(PathBuf, Vec<String>)>,
}

impl Unified {
    /// Looks for `controllers`, of which the container cannot do without the `required` ones. Where the parent passes on
    /// all that it has, which is so from the second container on, that is one or two small files.
    pub(crate) fn look(
        tree: &Path,
        parent: &Parent,
        controllers: &[&str],
        required: &[&str],
    ) -> Result<Unified, Error> {
        let mut unified = Unified { path: tree.to_owned(), ..Unified::default() };
        let words = |cgroup: &Path, file: &str| words(&tree.join(cgroup).join(file), controllers);
        if controllers.is_empty() {
            // All are on v1: nothing is passed on here.
            unified.chain = parent.chain().into_iter().map(|cgroup| (cgroup, Vec::new())).collect();
            return Ok(unified);
        }
        let passed = words(&parent.path, "cgroup.subtree_control")?;
        let has_all = passed.len() == controllers.len();
        let suffices = || required.iter().all(|c| passed.iter().any(|p| p == c));
        if has_all || (suffices() && !passed.is_empty() && words(&parent.path, "cgroup.controllers")? == passed) {
            unified.available.clone_from(&passed);
            unified.chain = vec![(parent.path.clone(), passed)];
            return Ok(unified);
        }
        unified.available = words(&parent.base, "cgroup.controllers")?;
        for cgroup in parent.chain() {
            let passed = words(&cgroup, "cgroup.subtree_control")?;
            unified.chain.push((cgroup, passed));
        }
        Ok(unified)
    }
}

/// The words of a file that are among the known ones, sorted; none if there is no such file.
fn words(file: &Path, known: &[&str]) -> Result<Vec<String>, Error> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).step(|| format!("read {}", file.display())),
    };
    let mut found: Vec<String> = text.split_whitespace().filter(|c| known.contains(c)).map(str::to_owned).collect();
    found.sort();
    Ok(found)
}
