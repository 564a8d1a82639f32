//! The wrapper's pipeline begins with one process for two steps: `quilt-spec --unpack` goes on as quilt-unpack.
//!
//! If that is the same program, as where all tools are one file, it is called; that saves a tenth of a create's processes.
//! One that is a file of its own is executed, so a tool that was replaced is what runs.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::sys::memfd::{MFdFlags, memfd_create};
use quilt_record::{Code, Error, Record, Step, stage};

/// Goes on with the record as quilt-unpack; comes back with its exit status, or with why there is none.
pub fn go_on(record: Record) -> Result<ExitCode, Error> {
    let tool = stage::bin_dir().join("quilt-unpack");
    if is_this(&tool) {
        return Ok(stage::run_on(&quilt_unpack::STAGE, record));
    }
    match become_tool(&tool, &record)? {}
}

fn is_this(tool: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    identity(tool).is_some_and(|tool| Some(tool) == identity(Path::new("/proc/self/exe")))
}

/// Executes it with the record on standard input.
fn become_tool(tool: &Path, record: &Record) -> Result<Infallible, Error> {
    let step = || format!("run {}", tool.display());
    let mut file = File::from(memfd_create(c"record", MFdFlags::MFD_CLOEXEC).step(step)?);
    writeln!(file, "{record}").and_then(|()| file.rewind()).step(step)?;
    let error = Command::new(tool).arg("-").stdin(file).exec();
    // Not `not_found`: what is not there is no image and no container.
    Err(Error { code: Code::Internal, ..Error::os(step(), error) })
}
