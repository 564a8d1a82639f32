//! What `quilt stats` says, against what was done inside: the same on cgroup v1, hybrid and v2.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Running, World, eventually, repo};

pub const LONG: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// One container's line.
fn stats(world: &World, name: &str) -> Value {
    world.quilt(&["stats", name]).ok().record()
}

/// A number of it; `None` for null.
fn number(stats: &Value, place: &str) -> Option<u64> {
    let found = stats.pointer(place).unwrap_or_else(|| panic!("no {place} in {stats}"));
    assert!(found.is_null() || found.is_u64(), "{place}: {found}");
    found.as_u64()
}

/// Waits until a number of it is as it must be.
fn becomes(world: &World, name: &str, place: &str, wanted: impl Fn(u64) -> bool) -> Value {
    let mut last = Value::Null;
    let done = eventually(LONG, || {
        last = stats(world, name);
        number(&last, place).is_some_and(&wanted)
    });
    assert!(done, "{place}: {last}");
    last
}

/// `quilt stats ARGS…` with its output in a file that can be looked at meanwhile.
pub fn into_file(world: &World, file: &Path, args: &str) -> Running {
    let quilt = repo().join("scripts/quilt");
    world.run("sh", &["-c", &format!("exec {} stats {args} >{}", quilt.display(), file.display())]).start()
}

/// The whole lines that are in it so far.
pub fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The names of the fields, in their order on the line (the parser sorts them), with those of objects in them.
fn keys(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), keys(value))).collect(),
        _ => Value::Null,
    }
}

#[test]
fn the_fields_are_the_same_everywhere() {
    let world = World::new("stats-fields");
    let record = world.create("box", &["--memory", "64", "--cpus", "0.5"]);
    let found = stats(&world, "box");
    let stall = json!({"avg10": null, "avg60": null, "avg300": null, "total_us": null});
    let mut expected = json!({
        "id": null, "time": null, "cgroup": null,
        "memory": {
            "current_bytes": null, "peak_bytes": null, "limit_bytes": null, "file_bytes": null, "anon_bytes": null,
            "swap_bytes": null, "swap_limit_bytes": null, "oom_kills": null,
        },
        "cpu": {
            "usage_us": null, "user_us": null, "system_us": null, "percent": null, "over_us": null, "limit_cpus": null,
            "periods": null, "throttled_periods": null, "throttled_us": null,
        },
        "pids": {"current": null, "limit": null, "peak": null, "refused": null},
        "io": {"read_bytes": null, "write_bytes": null, "reads": null, "writes": null},
        "network": {
            "rx_bytes": null, "tx_bytes": null, "rx_packets": null, "tx_packets": null, "rx_dropped": null,
            "tx_dropped": null,
        },
        "pressure": {
            "cpu": {"some": stall, "full": stall}, "memory": {"some": stall, "full": stall},
            "io": {"some": stall, "full": stall},
        },
    });
    // What a kernel may not have at all is null as a whole.
    for optional in ["/io", "/pressure", "/pressure/cpu/full"] {
        if found.pointer(optional).is_some_and(Value::is_null) {
            *expected.pointer_mut(optional).unwrap() = Value::Null;
        }
    }
    assert_eq!(keys(&found), expected, "{found}");
    let version = record["cgroup"]["have"]["version"].as_str().unwrap();
    assert_eq!((&found["id"], &found["cgroup"]), (&json!("box"), &json!(version)));
    let time = found["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time > record["created"].as_str().unwrap(), "{time}");
    // What every kernel that Quilt runs on has.
    for place in ["memory/current_bytes", "memory/file_bytes", "memory/anon_bytes", "memory/oom_kills"]
        .into_iter()
        .chain(["cpu/usage_us", "cpu/user_us", "cpu/system_us", "cpu/over_us", "cpu/periods", "cpu/throttled_us"])
        .chain(["pids/current", "pids/limit", "pids/refused", "network/rx_bytes", "network/tx_dropped"])
    {
        assert!(number(&found, &format!("/{place}")).is_some(), "{place}: {found}");
    }
    assert_eq!((number(&found, "/memory/limit_bytes"), &found["cpu"]["limit_cpus"]), (Some(64 * MIB), &json!(0.5)));
    let psi = Path::new("/proc/pressure/memory").exists() && version != "v1";
    assert_eq!(found["pressure"].is_object(), psi, "{found}");
    // Without limits and without a network.
    world.create("free", &["--network", "none"]);
    world.create("host", &["--network", "host"]);
    for name in ["free", "host"] {
        let found = stats(&world, name);
        assert_eq!(
            [&found["memory"]["limit_bytes"], &found["cpu"]["limit_cpus"], &found["network"]],
            [&Value::Null; 3],
            "{found}"
        );
    }
}

#[test]
fn cpu_time_and_throttling() {
    let world = World::new("stats-cpu");
    world.create("box", &["--cpus", "0.1"]);
    let idle = stats(&world, "box");
    let burn = world.command(&["exec", "box", "sh", "-c", "while :; do :; done"]).limit(2 * LONG).start();
    let file = world.path("lines");
    let watch = into_file(&world, &file, "--watch 0.5 box");
    // A machine that is busy with others gives it less, and later.
    let get = |line: &Value, place: &str| number(line, place).unwrap();
    let enough = |seen: &[Value]| seen.len() > 4 && seen.last().is_some_and(|l| get(l, "/cpu/throttled_periods") > 5);
    assert!(eventually(LONG, || enough(&lines(&file))), "{:#?}", lines(&file));
    watch.signal(Signal::SIGINT);
    watch.finish().is(0, "", "");
    burn.signal(Signal::SIGTERM);
    burn.finish();
    let seen = lines(&file);
    let (mut used, mut watched) = (0, 0);
    for pair in seen.windows(2) {
        let spent = get(&pair[1], "/cpu/usage_us") - get(&pair[0], "/cpu/usage_us");
        let over = get(&pair[1], "/cpu/over_us");
        (used, watched) = (used + spent, watched + over);
        let percent = pair[1]["cpu"]["percent"].as_f64().unwrap();
        assert!((percent - spent as f64 * 100.0 / over as f64).abs() < 0.02, "{seen:#?}");
    }
    // No drift: a line that was late does not move the others. A quota may be overdrawn for a moment, but not for long.
    assert!(watched > 500_000 * (seen.len() as u64 - 2) && used < watched / 4, "{watched}: {seen:#?}");
    let last = &seen[seen.len() - 1];
    assert!(get(last, "/cpu/usage_us") > get(&idle, "/cpu/usage_us") + 50_000, "{idle} {last}");
    assert!(get(last, "/cpu/throttled_us") > 50_000, "{last}");
    assert!(get(last, "/cpu/periods") >= get(last, "/cpu/throttled_periods"), "{last}");
    // Of one look, over the container's whole life.
    let after = stats(&world, "box");
    let (usage, over) = (number(&after, "/cpu/usage_us").unwrap(), number(&after, "/cpu/over_us").unwrap());
    assert!(over > 2_000_000 && usage < over / 4, "{after}");
}

#[test]
fn memory_now_and_at_its_peak() {
    let world = World::new("stats-memory");
    world.create("box", &["--memory", "64"]);
    // tail keeps the end of what it reads, until sleep reads it, which it never does.
    let script = "head -c 8388608 /dev/zero | tail -c 8388608 | sleep 60";
    let exec = world.command(&["exec", "box", "sh", "-c", script]).start();
    // memory.stat is late by some pages for each CPU.
    becomes(&world, "box", "/memory/current_bytes", |bytes| bytes >= 8 * MIB);
    becomes(&world, "box", "/memory/anon_bytes", |bytes| bytes >= 7 * MIB);
    world.exec("box", &["kill", "-9", "-1"]);
    exec.finish();
    let after = becomes(&world, "box", "/memory/anon_bytes", |bytes| bytes < 4 * MIB);
    // Since Linux 5.19 on v2.
    assert!(number(&after, "/memory/peak_bytes").is_none_or(|bytes| bytes >= 8 * MIB), "{after}");
    world.exec("box", &["dd", "if=/dev/zero", "of=/file", "bs=1M", "count=8", "conv=fsync"]);
    let cached = becomes(&world, "box", "/memory/file_bytes", |bytes| bytes >= 7 * MIB);
    if cached["cgroup"] == "v2" && !cached["io"].is_null() {
        assert!(
            number(&cached, "/io/write_bytes") >= Some(8 * MIB) && number(&cached, "/io/writes") >= Some(1),
            "{cached}"
        );
    }
}

#[test]
fn killed_for_lack_of_memory() {
    let world = World::new("stats-oom");
    world.create("box", &["--memory", "32"]);
    assert_eq!(number(&stats(&world, "box"), "/memory/oom_kills"), Some(0));
    let exec = world.command(&["exec", "box", "sh", "-c", "tail /dev/zero; tail /dev/zero; sleep 60"]).start();
    becomes(&world, "box", "/memory/oom_kills", |kills| kills == 2);
    exec.signal(Signal::SIGTERM);
    exec.finish();
    // They stay counted when the exec is gone.
    assert_eq!(number(&stats(&world, "box"), "/memory/oom_kills"), Some(2));
    let out = world.quilt(&["exec", "box", "tail", "/dev/zero"]);
    assert_eq!(out.status, 137, "{out:?}");
    assert_eq!(number(&stats(&world, "box"), "/memory/oom_kills"), Some(3));
}

#[test]
fn processes_and_refused_forks() {
    let world = World::new("stats-pids");
    world.create("box", &["--pids", "20"]);
    let idle = stats(&world, "box");
    let seen = ["current", "limit", "refused"].map(|field| number(&idle, &format!("/pids/{field}")));
    assert_eq!(seen, [Some(1), Some(20), Some(0)], "{idle}");
    let exec = world.command(&["exec", "box", "sh", "-c", "sleep 60 & sleep 60 & sleep 60 & wait"]).start();
    let five = becomes(&world, "box", "/pids/current", |count| count == 5);
    assert!(number(&five, "/pids/peak").is_none_or(|peak| peak >= 5), "{five}");
    exec.signal(Signal::SIGTERM);
    exec.finish();
    world.exec("box", &["kill", "-9", "-1"]);
    becomes(&world, "box", "/pids/current", |count| count == 1);
    let script = "sh -c 'for i in $(seq 30); do sleep 60 & done'; exec sleep 60";
    let exec = world.command(&["exec", "box", "sh", "-c", script]).start();
    becomes(&world, "box", "/pids/refused", |refused| refused > 0);
    exec.signal(Signal::SIGTERM);
    exec.finish();
}

#[test]
fn network_bytes_from_inside() {
    let world = World::new("stats-network");
    let record = world.create("box", &[]);
    let before = stats(&world, "box");
    // The host may call a container, but not the other way round.
    let script = "head -c 100000 /dev/zero | nc -l -p 4000 | wc -c";
    let client = world.command(&["exec", "box", "sh", "-c", script]).start();
    let address = record["netns"]["have"]["link"]["address"].as_str().unwrap();
    let mut peer: Option<TcpStream> = None;
    assert!(eventually(LONG, || {
        peer = TcpStream::connect((address, 4000)).ok();
        peer.is_some()
    }));
    let mut peer = peer.unwrap();
    peer.read_exact(&mut [0; 100_000]).unwrap();
    peer.write_all(&[0; 300_000]).unwrap();
    drop(peer);
    client.finish().is(0, "300000\n", "");
    let after = stats(&world, "box");
    let grown = |field: &str| {
        let place = format!("/network/{field}");
        number(&after, &place).unwrap() - number(&before, &place).unwrap()
    };
    // With their headers, and the answers to the others.
    assert!((100_000..150_000).contains(&grown("tx_bytes")), "{before} {after}");
    assert!((300_000..400_000).contains(&grown("rx_bytes")), "{before} {after}");
    assert!(grown("rx_packets") > 0 && grown("tx_packets") > 0, "{before} {after}");
}
