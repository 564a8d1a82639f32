//! Runs a program in a running container: in all its namespaces, a cgroup leaf of its own, with its environment and its
//! confinement, under the eyes of a process outside that is never inside anything.
//!
//! It does not decide what is run (`quilt-exec`, `quilt-run` and `quilt-probe` do), and changes nothing of the container.
//!
//! The hard thing is who dies with whom. Three processes: the *tool* stays outside and carries streams and signals; the
//! *guard*, outside too and in a session of its own, is its child, and the parent of the *program*, which goes inside. When
//! the tool dies, by SIGKILL, or with its whole process group, the guard kills the cgroup leaf that the program and all it
//! started are in. When the program ends by itself, what it leaves running lives on.
//!
//! A piece of Quilt itself that starts nothing inside makes a *visit*, with less ado (`visit.rs`).

mod child;
pub mod cli;
mod enter;
mod guard;
mod ids;
mod once;
mod patience;
mod pump;
mod receipt;
mod run;
mod supervise;
mod target;
mod terminal;
mod visit;

pub use cli::Options;
pub use enter::{ExecError, Program, Running, Stdio};
pub use once::Heir;
pub use receipt::Receipt;
pub use run::run;
pub use supervise::{Ending, Signals, Streams, supervise};
pub use target::Target;
