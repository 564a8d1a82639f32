//! What a failure looks like: one closed set of codes, one JSON object, one line for a person, one exit status.

use std::fmt;
use std::io;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The kind of a failure. The set is closed and stable; each has an exit status of its own, [`Code::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The name is taken, or the thing is there already.
    Exists,
    /// No such container, file, user or device.
    NotFound,
    /// The input is not what it must be: a bad image, a record that does not parse, a value out of range.
    Invalid,
    /// Somebody else is working on it, or it is in use.
    Busy,
    /// A resource of the kernel or of Quilt ran out: addresses, bridge ports, descriptors, memory, processes.
    Exhausted,
    /// The kernel or Quilt refuses permission.
    Denied,
    /// A deadline passed.
    Timeout,
    /// This kernel or this host cannot do it.
    Unsupported,
    /// The file system is full.
    NoSpace,
    /// The container did not become ready, or is not healthy.
    NotReady,
    /// A signal, the death of the caller, or a reader that went away.
    Interrupted,
    /// Any other error of the operating system.
    Io,
    /// A fault in Quilt itself.
    Internal,
}

impl Code {
    /// The exit status of a tool that failed with this code: 10 to 22, in the order of the list.
    /// (2 is a usage error; `quilt-exec` has statuses of its own.)
    pub fn status(self) -> u8 {
        10 + self as u8
    }

    /// The code that a tool of Quilt's ended with this status for.
    pub fn of_status(status: u8) -> Option<Code> {
        use Code::*;
        let all = [
            Exists,
            NotFound,
            Invalid,
            Busy,
            Exhausted,
            Denied,
            Timeout,
            Unsupported,
            NoSpace,
            NotReady,
            Interrupted,
            Io,
            Internal,
        ];
        all.into_iter().find(|code| code.status() == status)
    }

    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Exists => "exists",
            Code::NotFound => "not_found",
            Code::Invalid => "invalid",
            Code::Busy => "busy",
            Code::Exhausted => "exhausted",
            Code::Denied => "denied",
            Code::Timeout => "timeout",
            Code::Unsupported => "unsupported",
            Code::NoSpace => "no_space",
            Code::NotReady => "not_ready",
            Code::Interrupted => "interrupted",
            Code::Io => "io",
            Code::Internal => "internal",
        }
    }

    /// The code for an errno (`errno(3)`), where nothing better is known.
    pub fn of_errno(errno: i32) -> Code {
        match errno {
            libc::EEXIST | libc::EADDRINUSE | libc::ENOTEMPTY => Code::Exists,
            libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO => Code::NotFound,
            libc::EINVAL | libc::ENAMETOOLONG | libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ERANGE => {
                Code::Invalid
            }
            libc::EBUSY | libc::ETXTBSY => Code::Busy,
            libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EUSERS => Code::Exhausted,
            libc::EPERM | libc::EACCES | libc::EROFS => Code::Denied,
            libc::ETIMEDOUT => Code::Timeout,
            libc::ENOSYS | libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => Code::Unsupported,
            libc::ENOSPC | libc::EDQUOT => Code::NoSpace,
            libc::EINTR | libc::EPIPE => Code::Interrupted,
            _ => Code::Io,
        }
    }
}

/// A failure: what was tried (`step`), and why it did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind.
    pub code: Code,
    /// What was tried, as a dry run would have printed it: `mount overlay on /`.
    pub step: String,
    /// The errno, where the operating system refused.
    pub errno: Option<i32>,
    /// Why, for a person: the error's text, or what to do about it.
    pub message: String,
}

impl Error {
    /// A failure that Quilt itself found.
    pub fn new(code: Code, step: impl Into<String>, message: impl Into<String>) -> Error {
        Error { code, step: step.into(), errno: None, message: message.into() }
    }

    /// A failure of a system call: the code follows from the errno.
    pub fn os(step: impl Into<String>, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        let errno = error.raw_os_error();
        let message = match errno {
            Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
            None => error.to_string(),
        };
        let code = match errno {
            Some(errno) => Code::of_errno(errno),
            None if error.kind() == io::ErrorKind::UnexpectedEof => Code::Invalid,
            None if error.kind() == io::ErrorKind::InvalidData => Code::Invalid,
            None => Code::Io,
        };
        Error { code, step: step.into(), errno, message }
    }

    /// The same failure under another code.
    pub fn with_code(self, code: Code) -> Error {
        Error { code, ..self }
    }

    /// What a record carries when the tool `tool` failed.
    pub fn failure(&self, tool: &str) -> Failure {
        Failure {
            tool: tool.to_owned(),
            step: self.step.clone(),
            code: self.code,
            errno: self.errno,
            message: self.message.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.step.is_empty() {
            return f.write_str(&self.message);
        }
        write!(f, "{}: {}", self.step, self.message)
    }
}

impl std::error::Error for Error {}

/// The `error` of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The tool that failed: `quilt-netns`.
    pub tool: String,
    /// What it tried.
    pub step: String,
    /// The kind.
    pub code: Code,
    /// The errno, where the operating system refused.
    pub errno: Option<i32>,
    /// Why.
    pub message: String,
}

/// Adds what was tried to an error of the operating system. The text is only made when there is an error.
pub trait Step<T> {
    /// `open(path).step(|| format!("open {path}"))?`
    fn step<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Error> {
        self.map_err(|e| Error::os(what(), e))
    }
}

/// The [`Error`] inside whatever came up: the one downcast of the reporter.
pub fn classify(error: &anyhow::Error) -> Error {
    if let Some(e) = error.downcast_ref::<Error>() {
        return e.clone();
    }
    match error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
        Some(errno) => Error::os("", io::Error::from_raw_os_error(errno)),
        None => Error::new(Code::Internal, "", format!("{error:#}")),
    }
}

/// Prints the one line for a person on standard error: `quilt-netns: what was tried: why`. What somebody hostile put into
/// it (a path, the output of a check) gets no say over the terminal.
pub fn complain(tool: &str, error: &Error) {
    use std::io::Write;
    let line = error.to_string().replace(['\n', '\t'], " ").replace(char::is_control, "\u{fffd}");
    // Nothing to do about a standard error that is closed.
    let _ = writeln!(io::stderr(), "{tool}: {line}");
}

/// Runs a verb that is not a stage (an operator's tool) and reports: its status, or the line and the code's status.
pub fn report(tool: &str, result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(status) => status,
        Err(error) => {
            let error = classify(&error);
            complain(tool, &error);
            ExitCode::from(error.code.status())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_code() {
        assert_eq!(
            (10..=22).filter_map(Code::of_status).map(Code::status).collect::<Vec<_>>(),
            (10..=22).collect::<Vec<_>>()
        );
        assert_eq!([0, 2, 9, 23, 137].map(Code::of_status), [None; 5]);
    }
}
