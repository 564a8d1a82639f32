//! The log of the container's command: two files of at most half the cap each, so that there is always between half the
//! cap and all of it, and never more. `log.1` is the older part, `log` the newer.
//!
//! Init is inside and cannot rename them: a full `log` is copied over `log.1`, then emptied.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use quilt_record::defence::out;

/// Where the output goes.
#[derive(Debug)]
pub struct Log {
    newer: File,
    older: File,
    /// How much `newer` may hold, in bytes.
    half: u64,
    /// How much it holds.
    len: u64,
}

impl Log {
    /// Goes on with two files that are open for reading and for appending.
    pub fn new(newer: File, older: File, cap: u64) -> io::Result<Log> {
        let len = newer.metadata()?.len();
        let half = if out("output-bound") { u64::MAX } else { (cap / 2).max(1) };
        Ok(Log { newer, older, half, len })
    }

    /// Appends. What cannot be written (a full disk) is lost: the command that wrote it is not held up.
    pub fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.len >= self.half && self.turn().is_err() {
                return;
            }
            let fits = usize::try_from(self.half - self.len).unwrap_or(usize::MAX).min(bytes.len());
            match self.newer.write(&bytes[..fits]) {
                Ok(0) => return,
                Ok(n) => {
                    self.len += n as u64;
                    bytes = &bytes[n..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Makes the newer part the older one.
    fn turn(&mut self) -> io::Result<()> {
        self.older.set_len(0)?;
        let mut buffer = vec![0u8; 1 << 16];
        let mut at = 0;
        loop {
            match self.newer.read_at(&mut buffer, at)? {
                0 => break,
                // On a full disk the older part is cut short; the newer one must go on all the same.
                n if self.older.write_all(&buffer[..n]).is_err() => break,
                n => at += n as u64,
            }
        }
        self.newer.set_len(0)?;
        self.len = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn the_newest_half_at_least_is_kept_and_no_more_than_the_cap() -> io::Result<()> {
        let dir = std::env::temp_dir().join(format!("quilt-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let open = |name: &str| OpenOptions::new().read(true).append(true).create(true).open(dir.join(name));
        let mut log = Log::new(open("log")?, open("log.1")?, 20)?;
        let text: Vec<u8> = (0..9).flat_map(|n| format!("line{n}\n").into_bytes()).collect();
        for chunk in text.chunks(7) {
            log.append(chunk);
        }
        let kept = [std::fs::read(dir.join("log.1"))?, std::fs::read(dir.join("log"))?].concat();
        std::fs::remove_dir_all(&dir)?;
        assert!(kept.len() <= 20 && kept.len() > 10, "{}", kept.len());
        assert!(text.ends_with(&kept));
        Ok(())
    }
}
