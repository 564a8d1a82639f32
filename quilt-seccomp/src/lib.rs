//! Filters of system calls (seccomp(2)): which calls the processes of a container may make.
//!
//! Three things come out of it, all of them the bytes of a classic BPF program, as the kernel takes it:
//! - [`DEFAULT`] and [`DEFAULT_ABI32`], compiled when Quilt is: for containers with the default capabilities. A process
//!   that is about to exec has nothing to do but to hand them over.
//! - [`builtin`]: the same profile for other capabilities. Made once, when a container is.
//! - [`from_docker`]: the filter that a file in docker's format describes.
//!
//! It installs nothing, and knows no container. [`verdict`] runs a filter as the kernel would, for those who want to know
//! what is in one.
//!
//! The profile is a list of what is open; the rest is refused. A call that was known when this was written and is not open
//! fails with EPERM; one that no table has, being newer, with ENOSYS, so that callers fall back on what they did before
//! there was such a call; and so does every call by another ABI of the machine (`int 0x80` and x32 on x86_64), unless the
//! 32-bit ones are asked for.
//!
//! The hard thing is in `compile`: the shape of the program, which decides what a filter costs.

mod arch;
mod bpf;
mod builtin;
mod compile;
mod docker;
mod interpret;
mod profile;

use std::borrow::Cow;

pub use arch::Arch;
pub use builtin::Options;
pub use docker::from_docker;
pub use interpret::{trace, verdict};
pub use profile::Action;

/// The built-in filter for [`Options::default`].
pub static DEFAULT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/default.bpf"));

/// The same with the 32-bit ABIs open.
pub static DEFAULT_ABI32: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/default-abi32.bpf"));

/// The ABI that this program is built for.
pub const NATIVE: Arch = if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 };

/// The built-in filter. Borrowed if it is one of the constants: capabilities that open nothing make no difference.
pub fn builtin(options: &Options) -> Cow<'static, [u8]> {
    let difference = options.capabilities ^ Options::default().capabilities;
    if difference & builtin::relevant() == 0 {
        return Cow::Borrowed(if options.abi32 { DEFAULT_ABI32 } else { DEFAULT });
    }
    Cow::Owned(bpf::encode(&compile::compile(&builtin::profile(NATIVE, options))))
}

/// The names and numbers of the system calls of an ABI.
pub fn calls(arch: Arch) -> impl Iterator<Item = (&'static str, u32)> {
    arch.calls()
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
