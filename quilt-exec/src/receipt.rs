//! How a command ended, for a program to read: what an exit status is too small for.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use quilt_record::have::Hierarchy;
use quilt_record::{Error, Failure, Step, oom};
use serde::Serialize;

use crate::enter::ExecError;
use crate::supervise::Ending;

/// The receipt of a command.
#[derive(Clone, Debug, Serialize)]
pub struct Receipt {
    /// The exit status that `quilt-exec` ends with.
    pub status: u8,
    /// The signal that killed the command, by number; `null` if none did. (A shell inside that ends with 128 + n itself
    /// looks the same.)
    pub signal: Option<u8>,
    /// Whether its time was up, and all that it had started was killed.
    pub timed_out: bool,
    /// How many processes of the container the kernel killed for lack of memory while the command ran, be they the
    /// command's or those of another one at the same time; `null` if this kernel does not count them.
    pub oom_kills: Option<u64>,
    /// How long it took, in microseconds, from before it was started.
    pub us: u64,
    /// Why there was no command to end: Quilt failed (125), or it could not be started (126, 127); `null` otherwise.
    pub error: Option<Failure>,
}

impl Receipt {
    /// Writes the receipt of a command that did not come to run: in place of what an earlier one may have left there.
    pub fn of_failure(tool: &str, failed: &ExecError, file: &Path) {
        let receipt = Receipt {
            status: failed.status,
            signal: None,
            timed_out: false,
            oom_kills: None,
            us: 0,
            error: Some(failed.error.failure(tool)),
        };
        // The failure itself is what there is to tell; it goes to standard error as well.
        let _ = make(file).map(|file| receipt.write(file));
    }

    fn write(&self, mut file: File) -> std::io::Result<()> {
        file.write_all(format!("{}\n", serde_json::to_string(self).unwrap_or_default()).as_bytes())
    }
}

fn make(file: &Path) -> nix::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, file, flags, Mode::from_bits_truncate(0o666)).map(File::from)
}

/// What is known before the command starts.
pub(crate) struct Before {
    started: Instant,
    oom_kills: Option<u64>,
    file: Option<File>,
}

impl Before {
    /// Looks, and makes the file, so that one that cannot be made is told before anything is done.
    pub(crate) fn look(hierarchies: &[Hierarchy], file: Option<&Path>) -> Result<Before, Error> {
        let file = file.map(|path| make(path).step(|| format!("make the receipt {}", path.display()))).transpose()?;
        Ok(Before { started: Instant::now(), oom_kills: oom::kills(hierarchies), file })
    }

    /// Makes out the receipt, and writes it where it was asked for.
    pub(crate) fn settle(self, ending: Ending, hierarchies: &[Hierarchy]) -> (Receipt, Result<(), Error>) {
        let status = ending.status();
        let timed_out = ending == Ending::TimedOut;
        // A command that ended well does not pay for the second look, unless somebody wants to know.
        let killed = if status == 0 && self.file.is_none() {
            self.oom_kills.map(|_| 0)
        } else {
            let now = oom::kills(hierarchies);
            self.oom_kills.and_then(|before| Some(now?.saturating_sub(before)))
        };
        let receipt = Receipt {
            status,
            // The last real-time signal is 64.
            signal: (129..=192).contains(&status).then(|| status - 128),
            timed_out,
            oom_kills: killed,
            us: self.started.elapsed().as_micros() as u64,
            error: None,
        };
        let written = self.file.map_or(Ok(()), |file| receipt.write(file)).step(|| "write the receipt");
        (receipt, written)
    }
}
