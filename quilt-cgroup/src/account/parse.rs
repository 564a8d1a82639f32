//! The texts of the kernel's files, taken apart. What is not there, or is no number, is `None`: never 0.

use std::collections::BTreeMap;

use super::{Io, Stall, Stalls};

/// A file of one number. `max` (v2), a negative number and v1's "no limit" (the largest multiple of a page that a signed
/// 64 bits hold, `PAGE_COUNTER_MAX`; a page has at most 64 KiB) are no number.
pub(super) fn number(text: &str) -> Option<u64> {
    const UNLIMITED: u64 = (i64::MAX as u64) & !0xffff;
    text.trim().parse().ok().filter(|number| *number < UNLIMITED)
}

/// A number of a flat keyed file: `KEY NUMBER` on a line.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == key).and_then(|(_, value)| value.trim().parse().ok())
}

/// CPUs of `cpu.max` (v2): `QUOTA PERIOD`, in microseconds.
pub(super) fn quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    cpus(quota.parse().ok()?, period.parse().ok()?)
}

/// CPUs that a quota is, for a period in the same unit.
pub(super) fn cpus(quota: u64, period: u64) -> Option<f64> {
    (period > 0).then(|| quota as f64 / period as f64)
}

/// `io.stat` (v2), all devices together: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`. A device that has not been
/// used may have no counters.
pub(super) fn io_stat(text: &str) -> Io {
    let sum = |key: &str| {
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.filter(|(name, _)| *name == key).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    };
    Io { read_bytes: sum("rbytes"), write_bytes: sum("wbytes"), reads: sum("rios"), writes: sum("wios") }
}

/// A v1 file of blkio, by device (`8:0 Read 4096`): read and written.
pub(super) fn blkio(text: &str) -> BTreeMap<String, (u64, u64)> {
    let mut devices: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        // The last line is `Total N`, without a device.
        let (Some(device), Some(operation), Some(value)) = (words.next(), words.next(), words.next()) else { continue };
        let Ok(value) = value.parse() else { continue };
        let (read, written) = devices.entry(device.to_owned()).or_default();
        match operation {
            "Read" => *read = value,
            "Write" => *written = value,
            _ => {}
        }
    }
    devices
}

/// A `*.pressure` file (`Documentation/accounting/psi.rst`): `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and
/// likewise `full`, which the CPU's has since Linux 5.13.
pub(super) fn pressure(text: &str) -> Option<Stalls> {
    let line = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let average = |key| value(key)?.parse::<f64>().ok();
        Some(Stall {
            avg10: average("avg10")?,
            avg60: average("avg60")?,
            avg300: average("avg300")?,
            total_us: value("total")?.parse().ok()?,
        })
    };
    Some(Stalls { some: line("some")?, full: line("full") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_is_no_number() {
        for (text, expected) in [
            ("4096\n", Some(4096)),
            ("0\n", Some(0)),
            ("max\n", None),
            ("-1\n", None),
            ("9223372036854771712\n", None),
            ("9223372036854710272\n", None),
            ("", None),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
        assert_eq!(quota("150000 100000\n"), Some(1.5));
        assert_eq!(quota("max 100000\n"), None);
    }

    #[test]
    fn a_key_is_a_whole_word() {
        let stat = "anon 4096\nfile_mapped 1\nfile 8192\n";
        assert_eq!([keyed(stat, "anon"), keyed(stat, "file"), keyed(stat, "swap")], [Some(4096), Some(8192), None]);
    }

    #[test]
    fn devices_are_summed() {
        let text =
            "8:16 rbytes=1000 wbytes=20 rios=3 wios=4 dbytes=9 dios=9\n253:0 \n8:0 rbytes=1 wbytes=1 rios=1 wios=1\n";
        assert_eq!(io_stat(text), Io { read_bytes: 1001, write_bytes: 21, reads: 4, writes: 5 });
        assert_eq!(io_stat(""), Io::default());
        let text =
            "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 4608\n8:0 Async 0\n8:0 Discard 0\n8:0 Total 4608\nTotal 4608\n";
        assert_eq!(blkio(text), BTreeMap::from([("8:0".to_owned(), (4096, 512))]));
        assert_eq!(blkio("Total 0\n"), BTreeMap::new());
    }

    #[test]
    fn pressure_with_and_without_full() {
        let some = "some avg10=10.86 avg60=3.33 avg300=1.82 total=3086860714\n";
        let stall = Stall { avg10: 10.86, avg60: 3.33, avg300: 1.82, total_us: 3_086_860_714 };
        assert_eq!(pressure(some), Some(Stalls { some: stall.clone(), full: None }));
        let both = format!("{some}full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n");
        let full = Stall { avg10: 0.0, avg60: 0.0, avg300: 0.0, total_us: 7 };
        assert_eq!(pressure(&both), Some(Stalls { some: stall, full: Some(full) }));
        assert_eq!(pressure(""), None);
    }
}
