//! The contract between Quilt's tools: the record that they pass on, the claim that says who may create and destroy,
//! the errors that they report, and how one recognises a process. The one hard thing in it is the stage: who undoes
//! what, when, and how two of them never do it at once (`stage.rs`, `container.rs`).
//!
//! It does no step of a container's creation itself, and has no state of its own.

pub mod claim;
pub mod confine;
pub mod container;
pub mod defence;
pub mod error;
pub mod handover;
pub mod have;
pub mod id;
pub mod idmap;
pub mod instance;
pub mod leaf;
pub mod lock;
pub mod mountinfo;
pub mod oom;
pub mod process;
pub mod readonly;
pub mod record;
pub mod signals;
pub mod stage;
pub mod sys;
mod takeover;
pub mod units;

pub use claim::Claim;
pub use container::Container;
pub use error::{Code, Error, Failure, Step};
pub use id::Id;
pub use instance::Instance;
pub use process::ProcessId;
pub use record::{End, Record, Section};
