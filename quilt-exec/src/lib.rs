//! Runs a program in a running container: in all its namespaces, a cgroup leaf of its own, with its environment and its
//! confinement, under the eyes of a process outside that is never inside anything.
//!
//! It does not decide what is run (`quilt-exec`, `quilt-run` and `quilt-probe` do), and changes nothing of the container.
//!
//! The hard thing is who dies with whom. Four processes: the *tool* stays outside and carries streams and signals; its
//! child goes inside and becomes the *program*; a *guard*, in a session of its own, waits for the tool's death and then
//! kills the leaf, so that SIGKILL of the tool, or of its whole process group, ends everything that it started; and what
//! the program leaves behind lives on when the program ends by itself. The program does not start before the guard
//! stands ([`Running::release`]).

mod child;
pub mod cli;
mod enter;
mod guard;
mod once;
mod pump;
mod run;
mod supervise;
mod target;
mod terminal;

pub use cli::Options;
pub use enter::{ExecError, Program, Running, Stdio};
pub use guard::Guard;
pub use once::Heir;
pub use run::run;
pub use supervise::{Ending, Signals, Streams, supervise};
pub use target::Target;
