//! Who is in a container.

use super::tree::Dir;
use super::{judge, list};
use crate::error::Error;
use crate::have::Hierarchy;

/// The processes of a container, as pids of the caller's namespace, each with the name of the leaf that it is in or below;
/// `None` for one that is in no leaf.
pub fn processes(hierarchies: &[Hierarchy]) -> Result<Vec<(i32, Option<String>)>, Error> {
    let Some(judge) = judge(hierarchies) else { return Ok(Vec::new()) };
    let pids_below = |name: &str| -> Result<Vec<i32>, Error> {
        Dir::open(judge.version, &judge.path.join(name))?.map_or(Ok(Vec::new()), |dir| dir.pids())
    };
    let mut found = Vec::new();
    for name in list(hierarchies)? {
        found.extend(pids_below(&name)?.into_iter().map(|pid| (pid, Some(name.clone()))));
    }
    found.extend(pids_below("")?.into_iter().map(|pid| (pid, None)));
    // The whole tree's come a second time, without a leaf; so does who went from one leaf to another meanwhile.
    found.sort_by_key(|(pid, leaf)| (*pid, leaf.is_none()));
    found.dedup_by_key(|(pid, _)| *pid);
    Ok(found)
}
