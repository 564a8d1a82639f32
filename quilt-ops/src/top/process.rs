//! One process, from the host's `/proc`.

use std::fs::File;
use std::io::Read;

/// As much of a command line as is read.
const COMMAND_MAX: u64 = 64 << 10;

/// More than any `status`: one has a line of up to 65,536 groups before the pids.
const STATUS_MAX: u64 = 1 << 20;

/// What `/proc/PID/status`, `stat` and `cmdline` say (proc_pid_status(5) and so on).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its pids, from the namespace of the reader's `/proc` inwards (`NSpid`): one at least.
    pub(super) pids: Vec<i32>,
    /// The host's pid of its parent.
    pub(super) parent: i32,
    /// Its effective user, as the host has it.
    pub(super) uid: u32,
    pub(super) state: char,
    pub(super) threads: u64,
    pub(super) rss_bytes: Option<u64>,
    /// CPU time, in clock ticks.
    pub(super) cpu: u64,
    /// When it began, in clock ticks since the boot.
    pub(super) start: u64,
    pub(super) name: String,
    pub(super) command: Vec<String>,
}

impl Found {
    /// `None` if it is gone.
    pub(super) fn read(pid: i32) -> Option<Found> {
        let read = |file: &str, most: u64| {
            let mut bytes = Vec::with_capacity(2048);
            File::open(format!("/proc/{pid}/{file}")).ok()?.take(most).read_to_end(&mut bytes).ok()?;
            Some(bytes)
        };
        let text = |file| Some(String::from_utf8_lossy(&read(file, STATUS_MAX)?).into_owned());
        Found::parse(&text("status")?, &text("stat")?, &read("cmdline", COMMAND_MAX)?)
    }

    fn parse(status: &str, stat: &str, command: &[u8]) -> Option<Found> {
        let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let word = |key: &str, at: usize| value(key)?.split_whitespace().nth(at);
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(") ")?;
        // The first of these is the third of proc_pid_stat(5).
        let fields: Vec<&str> = fields.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.trim_end().parse::<u64>().ok();
        let pids: Vec<i32> = value("NSpid")?.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
        Some(Found {
            pids: Some(pids).filter(|pids| !pids.is_empty())?,
            parent: word("PPid", 0)?.parse().ok()?,
            uid: word("Uid", 1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            threads: field(20)?,
            rss_bytes: word("VmRSS", 0).and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib << 10),
            cpu: field(14)? + field(15)?,
            start: field(22)?,
            name: name.to_owned(),
            command: arguments(command),
        })
    }

    pub(super) fn host_pid(&self) -> i32 {
        self.pids[0]
    }
}

/// The words of a command line. One that the process has overwritten may lack the zero at its end, or have many.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end].split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// A user of the host as a container has it, by its `/proc/PID/uid_map` (user_namespaces(7): lines of INSIDE OUTSIDE COUNT);
/// the overflow user if it has none.
pub(super) fn uid_inside(map: &str, uid: u32) -> u32 {
    const OVERFLOW: u32 = 65_534;
    let inside = map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let offset = uid.checked_sub(outside).filter(|offset| *offset < count)?;
        inside.checked_add(offset)
    });
    inside.unwrap_or(OVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tsh\\nUid:\t9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\n\
        PPid:\t4700\nTracerPid:\t0\nUid:\t0\t1000\t0\t0\nGid:\t0\t0\t0\t0\nNSpid:\t4711\t7\nVmRSS:\t     940 kB\n\
        Threads:\t2\n";

    #[test]
    fn a_process() {
        let stat = "4711 (a) R 1 (b) S 4700 4711 4711 0 -1 4194560 92 0 0 0 12 3 5 6 20 0 2 0 987654 2371584 235 1 2";
        let found = Found::parse(STATUS, stat, b"sh\0-c\0\0a b\xff\0");
        let command = ["sh", "-c", "", "a b\u{fffd}"].map(str::to_owned).to_vec();
        let expected = Found {
            pids: vec![4711, 7],
            parent: 4700,
            uid: 1000,
            state: 'S',
            threads: 2,
            rss_bytes: Some(940 << 10),
            cpu: 15,
            start: 987_654,
            name: "a) R 1 (b".to_owned(),
            command,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(Found::parse("", stat, b""), None);
    }

    #[test]
    fn command_lines() {
        for (bytes, words) in [
            (&b"sleep\x0060\0"[..], &["sleep", "60"][..]),
            (b"title without an end", &["title without an end"]),
            (b"padded\0\0\0\0", &["padded"]),
            (b"\0", &[]),
            (b"", &[]),
        ] {
            assert_eq!(arguments(bytes), words, "{bytes:?}");
        }
    }

    #[test]
    fn users() {
        let host = "         0          0 4294967295\n";
        assert_eq!([0, 1000].map(|uid| uid_inside(host, uid)), [0, 1000]);
        let mapped = "0 100000 65536\n";
        assert_eq!([100_000, 101_000, 165_536, 0].map(|uid| uid_inside(mapped, uid)), [0, 1000, 65_534, 65_534]);
    }
}
