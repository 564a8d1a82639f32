//! The prober (tests/prober) in a container of Quilt's defaults: as its command, by exec and as a health check it must find
//! what `prober.golden` says, on every kernel; and where a defence is out, it must find the hole.
//!
//! A line of the golden list is a name, the verdicts that are right (the kernels differ), and a detail: to be just that, `*`
//! for anything, `without` numbers that must not be among those there, `with` numbers that must be.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::World;
use crate::harness::teeth::everywhere;

const GOLDEN: &str = include_str!("prober.golden");

/// Without what the shell that starts it adds to the environment.
const PROBER: &str = "env -u PWD -u OLDPWD -u SHLVL prober";

fn fields(line: &str) -> (&str, &str, &str) {
    let mut fields = line.splitn(3, '\t');
    (fields.next().unwrap(), fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
}

/// `1-3,7` as a set.
fn numbers(ranges: &str) -> BTreeSet<u32> {
    let number = |text: &str| text.parse::<u32>().unwrap();
    let range =
        |part: &str| part.split_once('-').map_or_else(|| number(part)..=number(part), |(a, b)| number(a)..=number(b));
    ranges.split(',').filter(|part| !part.is_empty()).flat_map(range).collect()
}

fn fits(rule: &str, detail: &str) -> bool {
    match rule.split_once(' ') {
        _ if rule == "*" => true,
        Some(("without", ranges)) => numbers(ranges).is_disjoint(&numbers(detail)),
        Some(("with", ranges)) => numbers(ranges).is_subset(&numbers(detail)),
        // The host's ids or a user namespace's.
        _ => rule.split('|').any(|rule| rule == detail),
    }
}

/// What in the prober's output is not as the golden list has it, a line each.
pub fn deviations(found: &str) -> Vec<String> {
    let golden: BTreeMap<&str, (&str, &str)> = GOLDEN.lines().map(fields).map(|(n, v, d)| (n, (v, d))).collect();
    let mut missing: BTreeSet<&str> = golden.keys().copied().collect();
    let wrong = |line: &&str| {
        let (name, verdict, detail) = fields(line);
        missing.remove(name);
        let right = golden.get(name);
        !right.is_some_and(|(verdicts, rule)| verdicts.split('|').any(|v| v == verdict) && fits(rule, detail))
    };
    let mut all: Vec<String> = found.lines().filter(wrong).map(str::to_owned).collect();
    all.extend(missing.iter().map(|name| format!("{name}\tunheard of")));
    all
}

/// Has all that may be passed on by mistake: no mask of modes, core dumps, a directory open, signals ignored.
const CALLER: [&str; 4] =
    ["sh", "-c", "umask 0; ulimit -c unlimited || :; trap '' USR1 PIPE; exec 9</; exec \"$@\"", "sh"];

/// Fails if anything that runs inside sees, may write, call, mount, make or reach more than the golden list says.
#[test]
fn prober_finds_what_is_known() {
    let world = World::new("prober");
    for (way, found) in everywhere(&world, &CALLER, &[], PROBER) {
        assert_eq!(deviations(&found), [""; 0], "{way}");
    }
}

/// Fails if the prober does not find the holes that a defence leaves which is out: lines that must not be as they ought to.
#[test]
fn prober_finds_what_is_out() {
    let holes: [(&str, &str, &[&str]); 10] = [
        ("seccomp", "privilege", &["privilege io_uring\tdone", "privilege add_key\tdone"]),
        ("seccomp", "namespace", &["namespace user by unshare\tdone", "namespace user by clone3\tdone"]),
        ("seccomp", "call", &["call x86_64 answered\tsome"]),
        ("masks", "see", &["see /proc/timer_list\treadable", "see /sys/firmware\treadable"]),
        ("read-only-paths", "write", &["write below /proc/sys\tsome"]),
        ("no-new-privs", "self", &["self NoNewPrivs\tis\t0"]),
        ("umask", "self", &["self umask\tis\t0000"]),
        (
            "capabilities,seccomp",
            "mount",
            &["mount a new tmpfs\tdone", "mount by bind\tdone", "mount taken off /proc/sys\tdone"],
        ),
        ("capabilities,seccomp", "namespace", &["namespace net by unshare\tdone", "namespace mnt by setns\tdone"]),
        ("capabilities,seccomp", "device", &["device null 1:3 made in /tmp\tdone"]),
    ];
    for (defences, section, holes) in holes {
        let world = World::without("prober", defences);
        for (way, found) in everywhere(&world, &CALLER, &[], &format!("{PROBER} {section}")) {
            let wrong = deviations(&found);
            let there = |hole: &&&str| !wrong.iter().any(|line| line.starts_with(**hole));
            let missed: Vec<_> = holes.iter().filter(there).collect();
            assert!(missed.is_empty(), "{way} without {defences}: not {missed:?} in {wrong:#?}");
        }
    }
}
