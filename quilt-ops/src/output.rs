//! Standard output, with a reader that may go away.

use std::io::{self, ErrorKind, Write};

use quilt_record::{Error, Step};

/// Writes to standard output. False if nobody reads any more, which is no error: `quilt logs web | head`.
pub fn put(bytes: &[u8]) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).step(|| "write to standard output"),
    }
}

/// One JSON value on a line of its own.
pub fn put_json(value: &impl serde::Serialize) -> anyhow::Result<bool> {
    Ok(put((serde_json::to_string(value)? + "\n").as_bytes())?)
}
