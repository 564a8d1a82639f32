//! One thing to do to a cgroup: what it is called, and doing it.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use quilt_record::error::{Code, Error};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a directory. One that is there is as good: the parent of all is shared, the container's own is the claim's.
    Mkdir(PathBuf),
    /// Write `text` to `path`, for the sake of `controller`.
    Write {
        /// The file.
        path: PathBuf,
        /// What is written.
        text: String,
        /// The controller it belongs to.
        controller: String,
        /// What is written to another file for the same purpose; one of the two must be there.
        also: Option<(PathBuf, String)>,
        /// Whether the container can do without the controller.
        optional: bool,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Mkdir(path) => write!(f, "mkdir {}", path.display()),
            Step::Write { path, text, also, .. } => {
                write!(f, "write {text} to {}", path.display())?;
                also.iter().try_for_each(|(path, text)| write!(f, ", and {text} to {}", path.display()))
            }
        }
    }
}

impl Step {
    /// Does it.
    pub fn execute(&self) -> Result<(), Error> {
        match self {
            Step::Mkdir(path) => match DirBuilder::new().mode(0o755).create(path) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let message = format!("`{name}` is the name of one of the kernel's own files there: take another");
                    Err(Error::new(Code::Invalid, self.to_string(), message))
                }
                other => other.map_err(|e| Error::os(self.to_string(), e)),
            },
            Step::Write { path, text, controller, also, .. } => {
                let written = match (write(path, text), also.as_ref().map(|(path, text)| write(path, text))) {
                    (Err(e), Some(also)) if e.kind() == ErrorKind::NotFound => also,
                    (Ok(()), Some(Err(e))) if e.kind() != ErrorKind::NotFound => Err(e),
                    (written, _) => written,
                };
                written.map_err(|e| self.explain(controller, e))
            }
        }
    }

    fn explain(&self, controller: &str, error: std::io::Error) -> Error {
        let plain = Error::os(self.to_string(), error);
        let file = match self {
            Step::Write { path, .. } => path.file_name().and_then(|name| name.to_str()).unwrap_or_default(),
            _ => "",
        };
        let enabling = file == "cgroup.subtree_control";
        let (code, message) = match plain.errno.map(Errno::from_raw) {
            Some(Errno::EBUSY) if enabling => (
                Code::Unsupported,
                format!("the {controller} controller cannot be passed on: there are processes in that cgroup"),
            ),
            // The cgroup was removed meanwhile.
            Some(Errno::ENOENT | Errno::ENODEV) if !self.has_place() => (Code::NotFound, plain.message),
            // EINVAL and ENOENT: the cgroup above does not pass it on to this one.
            Some(Errno::EINVAL | Errno::ENOENT | Errno::EOPNOTSUPP) if enabling => {
                (Code::Unsupported, format!("the {controller} controller cannot be had here: {}", plain.message))
            }
            _ if enabling => (plain.code, format!("enable the {controller} controller: {}", plain.message)),
            // EACCES: cgroup file systems let nobody make a file.
            Some(Errno::ENOENT | Errno::EACCES | Errno::EPERM | Errno::EOPNOTSUPP) => {
                (Code::Unsupported, format!("the {controller} controller of this kernel has no such limit"))
            }
            Some(Errno::ENODEV) if controller == "io" => {
                let message = "no such disk: a partition has no limits of its own, name the whole disk";
                (Code::NotFound, message.to_owned())
            }
            Some(Errno::EBUSY) if file.starts_with("memory.") && file.ends_with("limit_in_bytes") => {
                (Code::Busy, "the container uses more than that, and cannot give it back".to_owned())
            }
            _ => return plain,
        };
        Error { code, message, ..plain }
    }

    fn has_place(&self) -> bool {
        match self {
            Step::Mkdir(path) | Step::Write { path, .. } => path.parent().is_none_or(Path::exists),
        }
    }

    /// The controller that the container goes without if this cannot be done.
    pub(crate) fn dispensable(&self) -> Option<&str> {
        match self {
            Step::Write { controller, optional: true, .. } => Some(controller),
            _ => None,
        }
    }
}

pub(crate) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()))
}
