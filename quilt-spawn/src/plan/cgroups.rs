//! What the container sees of its cgroups: its own directory of every hierarchy, at the places that programs know
//! (cgroups(7)), and nothing above or beside it. Read-only, as what is written there are limits.
//!
//! Programs look for limits in the directory that the mount and the path in `/proc/self/cgroup` come to, most of them in no
//! other (Go's runtime, Node's, Java's before 24). The limits are in the container's directory, its processes on v2 in a leaf
//! below; so that path must be `/` nevertheless. Therefore every command has a cgroup namespace with its leaf as the root,
//! and the mount shows the directory above: `/..` in `/proc/self/mountinfo`, which nobody heeds.
//!
//! They are clones of the host's mounts and not new ones: the container's root may have no rights over a new one, v1 lets
//! nobody mount what is not mounted just so already, and a clone of a directory ends at that directory.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use quilt_record::defence;
use quilt_record::have::Hierarchy;

use super::Mount;
use super::mounts::NO_SUID_DEV_EXEC;

/// Where they are.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where the directories of several hierarchies go.
pub const BASE: Mount = Mount {
    fstype: "tmpfs",
    target: CGROUPS,
    flags: NO_SUID_DEV_EXEC,
    data: Cow::Borrowed("mode=755,size=64k,nr_inodes=64"),
};

/// One step of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// The file system for the directories, if there is more than the v2 tree.
    Base,
    /// A directory of the container's.
    Show {
        /// The path on the host.
        from: PathBuf,
        /// The path inside.
        at: PathBuf,
        /// Whether it can be written to.
        writable: bool,
    },
    /// Another name for one, of a controller that shares it with others.
    Link {
        /// The path inside.
        at: PathBuf,
        /// The directory's name.
        to: String,
    },
    /// The file system with the directories becomes read-only.
    Seal,
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Base => BASE.fmt(f),
            View::Show { from, at, writable } => {
                let options = if *writable { "" } else { "ro," };
                write!(f, "bind {} on {} ({options}nosuid,nodev,noexec)", from.display(), at.display())
            }
            View::Link { at, to } => write!(f, "symlink {} -> {to}", at.display()),
            View::Seal => write!(f, "remount {CGROUPS} (ro)"),
        }
    }
}

/// The steps for a container with these directories.
pub(super) fn views(hierarchies: &[Hierarchy], privileged: bool) -> Vec<View> {
    let writable = privileged || defence::out("cgroup-mount");
    let show = |from: &Path, at: PathBuf| View::Show { from: from.to_owned(), at, writable };
    match hierarchies {
        [] => Vec::new(),
        [only] if only.version == 2 => vec![show(&only.path, CGROUPS.into())],
        several => {
            let mut views = vec![View::Base];
            for hierarchy in several {
                let name = if hierarchy.version == 2 { "unified" } else { &hierarchy.controllers };
                views.push(show(&hierarchy.path, Path::new(CGROUPS).join(name)));
                if hierarchy.version == 1 && name.contains(',') {
                    let links = name.split(',').map(|link| Path::new(CGROUPS).join(link));
                    views.extend(links.map(|at| View::Link { at, to: name.to_owned() }));
                }
            }
            views.extend((!writable).then_some(View::Seal));
            views
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(hierarchies: &[(u8, &str, &str)], privileged: bool) -> Vec<String> {
        let hierarchy = |(version, controllers, path): &(u8, &str, &str)| Hierarchy {
            version: *version,
            controllers: (*controllers).to_owned(),
            path: path.into(),
        };
        let hierarchies: Vec<Hierarchy> = hierarchies.iter().map(hierarchy).collect();
        views(&hierarchies, privileged).iter().map(View::to_string).collect()
    }

    #[test]
    fn v2_alone_is_the_directory_itself() {
        let v2 = [(2, "cpu,memory,pids", "/sys/fs/cgroup/quilt/web")];
        let bind = "bind /sys/fs/cgroup/quilt/web on /sys/fs/cgroup (ro,nosuid,nodev,noexec)";
        assert_eq!(text(&v2, false), [bind]);
        assert_eq!(text(&v2, true), [bind.replace("ro,", "")]);
        assert!(text(&[], false).is_empty());
    }

    #[test]
    fn v1_has_a_directory_for_each_hierarchy() {
        let hybrid = [(1, "memory", "/m/quilt/web"), (1, "cpu,cpuacct", "/c/quilt/web"), (2, "", "/u/quilt/web")];
        let lines = text(&hybrid, false);
        let expected = [
            "mount tmpfs on /sys/fs/cgroup (nosuid,nodev,noexec,mode=755,size=64k,nr_inodes=64)",
            "bind /m/quilt/web on /sys/fs/cgroup/memory (ro,nosuid,nodev,noexec)",
            "bind /c/quilt/web on /sys/fs/cgroup/cpu,cpuacct (ro,nosuid,nodev,noexec)",
            "symlink /sys/fs/cgroup/cpu -> cpu,cpuacct",
            "symlink /sys/fs/cgroup/cpuacct -> cpu,cpuacct",
            "bind /u/quilt/web on /sys/fs/cgroup/unified (ro,nosuid,nodev,noexec)",
            "remount /sys/fs/cgroup (ro)",
        ];
        assert_eq!(lines, expected);
        assert_eq!(
            text(&hybrid, true).last().map(String::as_str),
            Some("bind /u/quilt/web on /sys/fs/cgroup/unified (nosuid,nodev,noexec)")
        );
    }
}
