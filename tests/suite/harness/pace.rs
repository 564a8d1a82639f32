//! How fast this machine is. A processor that a program emulates takes ten times longer for everything, and that is no
//! failure: `QUILT_TEST_SLOW` multiplies what may take long, `QUILT_TEST_ROUNDS` what is done again and
//! again, or many times at once.

use std::time::Duration;

fn factor(name: &str) -> f64 {
    std::env::var(name).map_or(1.0, |text| text.parse().unwrap())
}

/// How long something may take here that may take `limit` on a usual machine.
pub fn patient(limit: Duration) -> Duration {
    limit.mul_f64(factor("QUILT_TEST_SLOW"))
}

/// How often to do here what is done `count` times elsewhere: once at least.
pub fn rounds(count: u64) -> u64 {
    ((count as f64 * factor("QUILT_TEST_ROUNDS")) as u64).max(1)
}
