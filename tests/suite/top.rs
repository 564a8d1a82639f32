//! `quilt top`: the processes of a container, by both of their pids.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Running, World, eventually};

const LONG: Duration = Duration::from_secs(20);

fn top(world: &World, name: &str) -> Vec<Value> {
    world.quilt(&["top", name]).ok().objects()
}

/// Waits until it shows processes of these names: one that was just forked still has its maker's.
fn of_names(world: &World, name: &str, names: &[&str]) -> Vec<Value> {
    let mut last = Vec::new();
    let done = eventually(LONG, || {
        last = top(world, name);
        last.iter().map(|p| p["name"].as_str().unwrap()).eq(names.iter().copied())
    });
    assert!(done, "{last:#?}");
    last
}

fn end(exec: Running) {
    exec.signal(Signal::SIGTERM);
    exec.finish();
}

fn words(process: &Value) -> String {
    let words = process["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn both_pids_and_the_exec_they_belong_to() {
    let world = World::new("top");
    world.create("box", &[]);
    world.create("other", &[]);
    let exec = world.command(&["exec", "-u", "agent", "box", "sh", "-c", "sleep 61; :"]).start();
    let found = of_names(&world, "box", &["quilt-init", "sh", "sleep"]);
    // As the container sees itself.
    let ps = world.exec("box", &["ps", "-o", "pid,ppid,args"]);
    let inside: BTreeMap<i64, (i64, String)> = ps
        .lines()
        .skip(1)
        .filter(|line| !line.contains(" ps -o "))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[0].parse().unwrap(), (words[1].parse().unwrap(), words[2..].join(" ")))
        })
        .collect();
    let outside: BTreeMap<i64, (i64, String)> =
        found.iter().map(|p| (p["pid"].as_i64().unwrap(), (p["ppid"].as_i64().unwrap(), words(p)))).collect();
    assert_eq!(outside, inside, "{found:#?}");
    for process in &found {
        let status = fs::read_to_string(format!("/proc/{}/status", process["host_pid"])).unwrap();
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        let pids: Vec<&str> = pids.split_whitespace().collect();
        assert_eq!(pids, [process["host_pid"].to_string(), process["pid"].to_string()]);
        let keys: Vec<&String> = process.as_object().unwrap().keys().collect();
        let expected = [
            "command",
            "cpu_us",
            "elapsed_us",
            "host_pid",
            "leaf",
            "name",
            "pid",
            "ppid",
            "rss_bytes",
            "started",
            "state",
            "threads",
            "uid",
        ];
        assert_eq!(keys, expected);
    }
    let leaf = format!("x-{}", exec.pid);
    let seen: Vec<Value> = found.iter().map(|p| json!([p["leaf"], p["uid"], p["ppid"], p["name"]])).collect();
    let shell = &found[1]["pid"];
    let expected =
        [json!(["init", 0, 0, "quilt-init"]), json!([leaf, 1000, 0, "sh"]), json!([leaf, 1000, shell, "sleep"])];
    assert_eq!(seen, expected, "{found:#?}");
    assert_eq!(found[0]["host_pid"], world.init("box"));
    let sleep = &found[2];
    assert_eq!((&sleep["state"], &sleep["threads"]), (&json!("S"), &json!(1)));
    assert!(sleep["rss_bytes"].is_u64() && sleep["elapsed_us"].as_u64().unwrap() < 20_000_000, "{sleep}");
    end(exec);
    // What an exec leaves behind is still shown as its own.
    assert_eq!(of_names(&world, "box", &["quilt-init", "sleep"])[1]["leaf"], leaf);
    world.exec("box", &["kill", "-9", "-1"]);
    assert_eq!(of_names(&world, "box", &["quilt-init"])[0]["pid"], 1);
}

#[test]
fn nothing_inside_can_speak_to_the_terminal() {
    let world = World::new("top-hostile");
    world.create("box", &[]);
    let hostile = "sleep 62 '\x1b]0;owned\x07' '\x1b[2J\r\n\u{9b}31m\u{202e}' it\\'s";
    let script = format!("{hostile} ||:; sleep 63; :");
    let exec = world.command(&["exec", "box", "sh", "-c", &script]).limit(Duration::from_secs(60)).start();
    // busybox's sleep does not take the words, so it is the shell's that are shown.
    let found = of_names(&world, "box", &["quilt-init", "sh", "sleep"]);
    let shell = found.iter().find(|p| p["name"] == "sh").unwrap();
    assert_eq!(words(shell), format!("sh -c {script}"));
    let check = |table: &str| {
        assert_eq!(table.lines().count(), 4, "{table:?}");
        assert!(table.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{table:?}");
        assert!(table.contains("'\\u{1b}]0;owned\\u{7}' '\\u{1b}[2J\\r\\n\\u{9b}31m\\u{202e}'"), "{table:?}");
    };
    check(&world.quilt(&["top", "box", "--table"]).ok().stdout);
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    check(&world.on_terminal(24, 80, &format!("{quilt} top box")).ok().stdout);
    assert!(world.on_terminal(24, 80, &format!("{quilt} top --json box")).ok().stdout.starts_with("{\"pid\":1,"));
    end(exec);
}

#[test]
fn with_the_hosts_pids() {
    let world = World::new("top-host");
    world.create("box", &world.pids("host"));
    let exec = world.command(&["exec", "box", "sleep", "65"]).start();
    let found = of_names(&world, "box", &["quilt-init", "sleep"]);
    assert!(found.iter().all(|p| p["pid"] == p["host_pid"]), "{found:#?}");
    let sleep = found.iter().find(|p| p["name"] == "sleep").unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", sleep["pid"])).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    assert_eq!(sleep["ppid"].to_string(), parent);
    end(exec);
}

#[test]
fn only_of_what_runs() {
    let world = World::new("top-which");
    world.create("box", &[]);
    world.quilt(&["stop", "box"]).ok();
    world.quilt(&["top", "box"]).refused("quilt-top", "not_found");
    world.quilt(&["top", "nobody"]).refused("quilt-top", "not_found");
    world.quilt(&["top"]).misused();
    world.quilt(&["top", "box", "box"]).misused();
}
