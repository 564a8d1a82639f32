//! The steps there are.

use std::path::PathBuf;

use quilt_record::confine::Rules;
use quilt_record::have::Device;
use quilt_record::idmap::IdMap;

use super::{Mount, cgroups};
use crate::extra::Extra;
use crate::sysctl::Sysctl;

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The tools' directory on a read-only mount, once per instance: init is started from there.
    Tools(PathBuf, PathBuf),
    /// A file of the container's directory is made, empty.
    Empty(PathBuf),
    /// The cgroup leaf is made.
    Leaf(PathBuf),
    /// The child that becomes init: in new namespaces (`pid mnt uts ipc`), in the leaf.
    Clone {
        /// The namespaces that it is born in.
        namespaces: Vec<&'static str>,
        /// `tasks` of the v1 hierarchies, the leaf's last.
        tasks: Vec<PathBuf>,
    },
    /// In the child, from here on: a cgroup namespace whose root is where it is in every hierarchy, which programs take for
    /// the place of their limits (see `cgroups`).
    CgroupNamespace,
    /// Into the pinned network namespace.
    Net(PathBuf),
    /// A parameter of the kernel, in the container's namespaces.
    Sysctl(Sysctl),
    /// Nothing mounted here shows outside, nor the other way round.
    Private,
    /// The mount that a layer is on, or the directory with the writable one, is copied: as the user namespace has it.
    Idmap(PathBuf, IdMap),
    /// What is made from here on is made as the user namespace's root.
    AssumeRoot(IdMap),
    /// The layers are opened: here, as overlayfs takes none from another mount namespace.
    Layers {
        /// The read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
    },
    /// A file that the network needs, in the writable layer: where it goes, and what it is inside.
    File {
        /// The path on the host.
        at: PathBuf,
        /// The path inside.
        inside: PathBuf,
    },
    /// The root.
    Overlay {
        /// The read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The writable layer.
        upper: PathBuf,
        /// Overlayfs' work directory.
        work: PathBuf,
        /// Whether device nodes of the image's do nothing.
        nodev: bool,
    },
    /// The container's user, by its own files.
    User(String),
    /// A directory for commands, if it is not there.
    Workdir(String),
    /// A file system of the kernel.
    Mount(Mount),
    /// A device in the container's own /dev: name, major, minor.
    Device(&'static str, u32, u32),
    /// A device of the host, in there too.
    Node(Device),
    /// A symlink in the container's own /dev.
    Symlink(&'static str, &'static str),
    /// What it sees of its cgroups.
    Cgroups(cgroups::View),
    /// A file covered by the container's null device.
    MaskFile(PathBuf),
    /// A directory covered by an empty read-only one: a tmpfs for the first, a bind of that for the others.
    MaskDir {
        /// The path inside.
        path: PathBuf,
        /// Whether it is the first.
        first: bool,
    },
    /// A directory or file that becomes read-only.
    ReadOnly(PathBuf),
    /// A volume, or a file system in memory.
    Extra(Extra),
    /// What is masked is covered by what was meant to cover it, and what was asked for is mounted where it was asked for.
    Check {
        /// The masked files.
        files: Vec<PathBuf>,
        /// The masked directories.
        dirs: Vec<PathBuf>,
    },
    /// The root becomes read-only.
    ReadOnlyRoot,
    /// The host name, in the UTS namespace.
    Hostname(String),
    /// The root becomes `/`, and the host's is gone.
    Pivot,
    /// A session of its own, /dev/null as standard streams, no other descriptor.
    Detach,
    /// Into the user namespace, as its root: the pin of it, or of the network namespace that it owns.
    EnterUser(PathBuf),
    /// Capabilities and the like.
    Confine(Rules),
    /// Init, with the command that it runs.
    Init(Vec<String>),
}
