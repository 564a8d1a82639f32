//! Passing the record on so that somebody always holds it.
//!
//! A stage that has written its record into the pipe is not done with it: the next one may not have been started yet, or
//! may die of a signal before it has got as far as blocking it, and the record would lie in a pipe that nobody reads,
//! what it stands for with it. So in a pipeline a stage stays until its reader has taken the record, off everybody's
//! way, and undoes if the reader is gone.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Code, Error, Step};
use crate::record::Record;
use crate::sys;

/// What is tried here.
pub(crate) const PASS_ON: &str = "pass the record on";

/// Prints text on standard output.
pub fn print_text(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).step(|| PASS_ON)
}

/// Prints the record as one line on standard output.
pub fn print(record: &Record) -> Result<(), Error> {
    let mut line = record.to_string();
    line.push('\n');
    print_text(&line)
}

/// Prints the record, and returns when the reader of the pipe has taken it. Fails with `interrupted` if the reader is
/// gone and has not. If standard output is no pipe, does not wait.
pub fn hand_over(record: &Record) -> Result<(), Error> {
    let out = io::stdout();
    // With room for one buffer only, the pipe is writable again when that has been read: an event to wait for.
    let one = fcntl(&out, FcntlArg::F_SETPIPE_SZ(1)).is_ok();
    print(record)?;
    if !one {
        return Ok(());
    }
    loop {
        let mut pipe = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut pipe, PollTimeout::NONE) {
            Ok(_) if sys::readable_bytes(out.as_fd()).step(|| "look into the pipe")? == 0 => return Ok(()),
            // Not empty, so it is the reader's end that has something to say.
            Ok(_) => return Err(Error::new(Code::Interrupted, PASS_ON, "the next step died")),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::os(PASS_ON, e)),
        }
    }
}
