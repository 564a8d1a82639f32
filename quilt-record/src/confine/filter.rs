//! The filter of system calls of a container: the built-in one, which costs nothing to have, or a file beside its record.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::rules::{FILTER, Seccomp};
use crate::error::{Code, Error, Step};
use crate::{Id, Instance};

/// The longest filter, in bytes: 4096 instructions (`BPF_MAXINSNS`).
pub const FILTER_MAX: u64 = 4096 * 8;

/// The container's filter; `None` if it has none.
pub fn of(instance: &Instance, id: &Id, seccomp: Seccomp) -> Result<Option<Cow<'static, [u8]>>, Error> {
    match seccomp {
        Seccomp::Off | Seccomp::Inherited => Ok(None),
        Seccomp::Default => Ok(Some(Cow::Borrowed(quilt_seccomp::DEFAULT))),
        Seccomp::File => {
            let path = instance.containers().join(id.as_str()).join(FILTER);
            let step = || format!("read {}", path.display());
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let file = openat(AT_FDCWD, &path, flags, Mode::empty()).step(step)?;
            let mut filter = Vec::new();
            File::from(file).take(FILTER_MAX + 1).read_to_end(&mut filter).step(step)?;
            if filter.is_empty() || filter.len() as u64 > FILTER_MAX || filter.len() % 8 != 0 {
                return Err(Error::new(Code::Invalid, step(), "it is not a filter of system calls"));
            }
            Ok(Some(Cow::Owned(filter)))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::confine::CapSet;

    #[test]
    fn the_filter_that_is_built_in_is_for_the_default_capabilities() {
        assert_eq!(quilt_seccomp::Options::default().capabilities, CapSet::DEFAULT.0);
    }
}
