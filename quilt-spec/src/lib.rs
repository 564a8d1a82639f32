//! `quilt-spec`: flags or a spec file become a record, the one line that the stages of a create pass on. The same
//! record comes from Rust by [`ContainerBuilder`], and [`create`] runs the stages on it in one process.
//!
//! It knows no setting of a stage by itself: it flattens the stages' own `Want` types into one command line, so a
//! flag, its field in the record and its documentation are one thing. It touches nothing on the machine.
//!
//! The one hard thing is a record that comes back in (`spec.rs`): the same text is a container to go on with, if it
//! still is what the record's claim says, and otherwise a spec for a new one.

mod builder;
pub mod cli;
mod create;
pub mod env;
mod json;
pub mod spec;
pub mod start;
pub mod unpack;
pub mod wants;

pub use builder::ContainerBuilder;
pub use create::create;
