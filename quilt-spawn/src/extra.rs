//! The mounts that were asked for beside those that every container has: volumes and file systems in memory.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use quilt_record::Error;

use crate::rules::invalid;
use crate::tmpfs::Tmpfs;
use crate::volume::Volume;
use crate::want::Want;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    /// `--volume`.
    Volume(Volume),
    /// `--tmpfs`.
    Tmpfs(Tmpfs),
}

impl Extra {
    /// The volume that it is.
    pub fn volume(&self) -> Option<&Volume> {
        match self {
            Extra::Volume(volume) => Some(volume),
            Extra::Tmpfs(_) => None,
        }
    }

    /// Where: an absolute path inside, without `.` and `..`.
    pub fn target(&self) -> &Path {
        match self {
            Extra::Volume(volume) => &volume.target,
            Extra::Tmpfs(tmpfs) => &tmpfs.target,
        }
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extra::Volume(volume) => volume.fmt(f),
            Extra::Tmpfs(tmpfs) => tmpfs.fmt(f),
        }
    }
}

/// What is asked, in the order in which it is mounted: what is nearer to the root first, so that one can be inside
/// another. Two at the same place are refused, as only one of them would be seen.
pub fn all(want: &Want) -> Result<Vec<Extra>, Error> {
    let volumes =
        want.volume.iter().map(|text| Volume::parse(text).map(Extra::Volume).map_err(|e| invalid("volume", e)));
    let tmpfs = want.tmpfs.iter().map(|text| Tmpfs::parse(text).map(Extra::Tmpfs).map_err(|e| invalid("tmpfs", e)));
    let mut all = volumes.chain(tmpfs).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|extra| extra.target().components().count());
    for (n, extra) in all.iter().enumerate() {
        if all[..n].iter().any(|other| other.target() == extra.target()) {
            let flag = if extra.volume().is_some() { "volume" } else { "tmpfs" };
            let place = extra.target().display();
            return Err(invalid(
                flag,
                format!("something else is to be at {place} already: give each a place of its own"),
            ));
        }
    }
    Ok(all)
}

/// The places that are the container's own and no volume's, below the root.
const OWN: [&str; 3] = ["proc", "sys", "dev"];

/// Whether this is the container's root, or in a file system of the kernel's.
pub fn is_own(inside: &Path) -> bool {
    let mut names = inside.components().filter(|part| matches!(part, Component::Normal(_)));
    names.next().is_none_or(|name| OWN.iter().any(|own| name.as_os_str() == *own))
}

/// Reads a target: absolute, and spelt without detours.
pub fn target(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let quoted = text.escape_debug();
    if !path.is_absolute() || text.contains('\0') {
        return Err(format!("`{quoted}` is not an absolute path inside the container"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("`{quoted}` has a `..` in it: write the path that is meant"));
    }
    if is_own(path) {
        return Err(format!(
            "nothing can be mounted at `{quoted}`: /, and all of /proc, /sys and /dev, are the container's own"
        ));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(volume: &[&str], tmpfs: &[&str]) -> Result<Vec<String>, String> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let want = Want { volume: owned(volume), tmpfs: owned(tmpfs), ..Want::default() };
        match all(&want) {
            Ok(all) => Ok(all.iter().map(ToString::to_string).collect()),
            Err(e) => Err(format!("{}: {}", e.step, e.message)),
        }
    }

    #[test]
    fn what_is_nearer_to_the_root_comes_first() {
        let lines = asked(&["/x:/a/b/c", "/y:/a:ro", "/z://a/./d/"], &["/a/b", "/run:mode=755"]);
        let expected = [
            "bind /y on /a (ro,nosuid,nodev)",
            "mount tmpfs on /run (nosuid,nodev,noexec,mode=755)",
            "bind /z on /a/d (nosuid,nodev)",
            "mount tmpfs on /a/b (nosuid,nodev,noexec,mode=1777)",
            "bind /x on /a/b/c (nosuid,nodev)",
        ];
        assert_eq!(lines, Ok(expected.map(str::to_owned).to_vec()));
    }

    #[test]
    fn places_that_are_taken_are_refused() {
        let twice = "something else is to be at /a already: give each a place of its own";
        assert_eq!(asked(&["/x:/a", "/y:/a/"], &[]), Err(format!("read --volume: {twice}")));
        assert_eq!(asked(&["/x:/a"], &["/a:ro"]), Err(format!("read --tmpfs: {twice}")));
        for place in [
            "/",
            "//",
            "/.",
            "/proc",
            "/proc/",
            "/./proc/sys",
            "/sys/fs/cgroup",
            "/dev",
            "//dev/shm",
            "a",
            "",
            "/a/../b",
        ] {
            assert!(asked(&[&format!("/x:{place}")], &[]).is_err(), "{place}");
            assert!(asked(&[], &[place]).is_err(), "{place}");
        }
        assert!(asked(&["/x:/procs", "/x:/a/proc", "/x:/device"], &["/system"]).is_ok());
    }
}
