//! The bar on a terminal's standard error, for work that takes a while.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What takes less is over before anyone has read it.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes of an image file, read so far.
pub struct Progress {
    total: u64,
    start: Instant,
    terminal: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of `total` bytes. Shows nothing yet.
    pub fn new(total: u64) -> Progress {
        Progress { total, start: Instant::now(), terminal: std::io::stderr().is_terminal(), bar: None }
    }

    /// `done` bytes are done.
    pub fn at(&mut self, done: u64) {
        if !self.terminal || (self.bar.is_none() && self.start.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let template = "unpack {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(self.total), target).with_style(style).with_elapsed(self.start.elapsed())
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
