//! The options of a command, as `quilt-exec` and `quilt-run` take them.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::Args;
use quilt_record::units::Span;

/// How a command is run.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Set a variable of the environment; NAME alone takes the caller's value
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,

    /// Run as this user: a name of the container's /etc/passwd or a number [default: the container's user]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// Start in this directory of the container [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<OsString>,

    /// How it is attached
    #[command(flatten)]
    pub attach: Attach,
}

/// What a command is attached to, and for how long.
#[derive(Args, Clone, Debug, Default)]
pub struct Attach {
    /// Give the command this program's standard input (else /dev/null)
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal of its own
    #[arg(short, long)]
    pub tty: bool,

    /// Kill the command and everything that it started after this time: 30s, 250ms; the exit status is then 124
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Span>,

    /// Write how the command ended to this file, as a JSON object: status, signal, timed_out, oom_kills, us, error
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
}

impl Options {
    /// The variables asked for, as `NAME=value`; a NAME that the caller's environment does not have is passed over. A
    /// terminal brings the caller's TERM along.
    pub(crate) fn variables(&self) -> Result<Vec<CString>, std::ffi::NulError> {
        let own = |name: &OsStr| std::env::var_os(name).map(|value| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let term = if self.attach.tty { own(OsStr::new("TERM")) } else { None };
        let asked = self.env.iter().filter_map(|entry| match entry.as_bytes().contains(&b'=') {
            true => Some(entry.as_bytes().to_vec()),
            false => own(entry),
        });
        term.into_iter().chain(asked).map(CString::new).collect()
    }
}

/// Words as the C strings that exec takes.
pub fn arguments(words: Vec<OsString>) -> Result<Vec<CString>, std::ffi::NulError> {
    words.into_iter().map(|word| CString::new(word.into_vec())).collect()
}
