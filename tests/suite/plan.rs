//! `--dry-run` tells the truth: every netlink message, mount and cgroup write that it prints is made, in that order,
//! and none is made that it does not print.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{World, eventually, images};

/// The lines of the plan of some stages. A dry run prints them all, with the stage's name and a tab in front, and the
/// record, which has them too.
fn plan(printed: &str, stages: &[&str]) -> Vec<String> {
    let (lines, record) = printed.trim_end().rsplit_once('\n').unwrap();
    let record: Value = serde_json::from_str(record).unwrap();
    let mut all = Vec::new();
    for stage in ["unpack", "netns", "cgroup", "spawn", "probe"] {
        assert!(record[stage].get("have").is_none(), "{record}");
        let plan = record[stage]["plan"].as_array().unwrap_or_else(|| panic!("no plan of {stage}: {record}"));
        all.extend(plan.iter().map(|line| (stage, line.as_str().unwrap().to_owned())));
    }
    let shown: Vec<String> = all.iter().map(|(stage, line)| format!("{stage}\t{line}")).collect();
    assert_eq!(shown, lines.lines().collect::<Vec<_>>());
    all.into_iter().filter(|(stage, _)| stages.contains(stage)).map(|(_, line)| line).collect()
}

/// What a stage asks of the kernel, as strace saw it: whole lines without the pid, calls that failed otherwise than by EEXIST left out.
fn trace(world: &World, stage: &str, record: &str) -> (Vec<String>, String) {
    let log = world.path(&format!("trace-{stage}")).display().to_string();
    let calls = "trace=mount,move_mount,pivot_root,mkdir,mkdirat,write,pwrite64,writev,sendto,sendmsg";
    let tool = crate::harness::bin().join(format!("quilt-{stage}")).display().to_string();
    let args = ["-f", "-y", "-s", "4096", "-qqq", "-e", "signal=none", "-e", calls, "-o", &log, &tool, "-"];
    let run = world.run("strace", &args).stdin(format!("{record}\n")).start();
    let done = world.root.join(format!("containers/box/{stage}.json"));
    assert!(eventually(Duration::from_secs(15), || done.exists()), "{stage} did not end");
    if stage == "spawn" {
        // Init is traced too, and would go on for ever.
        let init = world.init("box");
        let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
        fs::write(world.path("mountinfo"), mounts).unwrap();
        world.quilt(&["stop", "box"]).ok();
    }
    let out = run.finish().ok();
    let mut lines: Vec<String> = Vec::new();
    let mut unfinished = std::collections::BTreeMap::new();
    for line in fs::read_to_string(&log).unwrap().lines() {
        let (pid, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        let call = if let Some(start) = call.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid.to_owned(), start.to_owned());
            continue;
        } else if call.starts_with("<... ") {
            unfinished.remove(pid).unwrap() + call.split_once("resumed>").unwrap().1
        } else {
            call.to_owned()
        };
        // A directory that is there already was asked for all the same.
        if !call.contains(" = -1 E") || call.contains(" = -1 EEXIST") {
            lines.push(call);
        }
    }
    (lines, out.stdout.trim_end().to_owned())
}

/// The text between two marks.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).unwrap_or_else(|| panic!("no {start} in {text}")).1.split_once(end).unwrap().0
}

/// Netlink messages by their kinds. rtnetlink(7); linux/netfilter/nfnetlink.h: subsystem 10 is nftables, and 0x10 and
/// 0x11 are the frame of a batch there.
fn messages_sent(trace: &[String]) -> Vec<String> {
    let mut sent = Vec::new();
    for call in trace.iter().filter(|c| c.starts_with("send")) {
        let kinds: Vec<&str> = call.split("nlmsg_type=").skip(1).map(|m| m.split([',', ' ']).next().unwrap()).collect();
        let nft = kinds.iter().any(|k| k.starts_with("0xa0") || k.starts_with("NFNL_"));
        for kind in kinds {
            let name = match kind {
                "0x10" | "0x11" | "NFNL_MSG_BATCH_BEGIN" | "NFNL_MSG_BATCH_END" if nft => continue,
                "0x10" => "RTM_NEWLINK",
                "0x11" => "RTM_DELLINK",
                "0x12" => "RTM_GETLINK",
                "0x14" => "RTM_NEWADDR",
                "0x18" => "RTM_NEWROUTE",
                "0x1a" => "RTM_GETROUTE",
                "0x1c" => "RTM_NEWNEIGH",
                "0xa00" => "NFT_MSG_NEWTABLE",
                "0xa03" => "NFT_MSG_NEWCHAIN",
                "0xa04" => "NFT_MSG_GETCHAIN",
                "0xa06" => "NFT_MSG_NEWRULE",
                "0xa09" => "NFT_MSG_NEWSET",
                "0xa0c" => "NFT_MSG_NEWSETELEM",
                "0xa0d" => "NFT_MSG_GETSETELEM",
                other => other,
            };
            sent.push(name.to_owned());
        }
    }
    sent
}

fn messages_planned(plan: &[String]) -> Vec<String> {
    let of = |line: &String| line.strip_prefix("host: ").or(line.strip_prefix("container: ")).map(str::to_owned);
    plan.iter().filter_map(of).map(|m| m.split(' ').next().unwrap().to_owned()).collect()
}

/// Mounts by type, flags and options: `tmpfs (nosuid,mode=755)`, or `bind`.
fn mounts_made(trace: &[String]) -> Vec<String> {
    let mut made = Vec::new();
    for call in trace {
        if call.starts_with("move_mount(") {
            made.push("bind".to_owned());
        }
        let Some(args) = call.strip_prefix("mount(") else { continue };
        // No argument of these mounts holds a comma and a space.
        let args: Vec<&str> = args.rsplit_once(") = ").unwrap().0.split(", ").collect();
        let [_, _, fstype, flags, data] = args[..] else { panic!("{call}") };
        if fstype == "NULL" {
            // Before Linux 5.12 a read-only bind takes a second call.
            if flags.contains("MS_BIND") && !flags.contains("MS_REMOUNT") {
                made.push("bind".to_owned());
            }
            continue;
        }
        let names = [("MS_RDONLY", "ro"), ("MS_NOSUID", "nosuid"), ("MS_NODEV", "nodev"), ("MS_NOEXEC", "noexec")];
        let mut options: Vec<&str> =
            names.iter().filter(|(f, _)| flags.split('|').any(|x| x == *f)).map(|n| n.1).collect();
        let (fstype, data) = (fstype.trim_matches('"'), data.trim_matches('"'));
        // The layers of an overlay are descriptors; the state's own mount of pins is said to be private, no more.
        if fstype != "overlay" && data != "NULL" {
            options.push(data);
        }
        made.push(format!("{fstype} ({})", options.join(",")));
    }
    made
}

fn mounts_planned(plan: &[String]) -> Vec<String> {
    let of = |line: &String| {
        if line.starts_with("bind ") {
            return Some("bind".to_owned());
        }
        let (fstype, _) = line.strip_prefix("mount ")?.split_once(" on ")?;
        let options = line.split_once('(').map_or("", |(_, rest)| rest.split(')').next().unwrap());
        Some(format!("{fstype} ({options})"))
    };
    plan.iter().filter_map(of).collect()
}

/// What is written below /sys/fs/cgroup and /proc/sys: `mkdir PATH`, `write TEXT to PATH`.
fn writes_made(trace: &[String]) -> Vec<String> {
    let mut made = Vec::new();
    for call in trace {
        if call.starts_with("mkdir") && call.contains("/sys/fs/cgroup/") {
            made.push(format!("mkdir {}", between(call, "\"", "\"")));
        } else if call.starts_with("write(") && (call.contains("</sys/fs/cgroup/") || call.contains("</proc/sys/")) {
            made.push(format!("write {} to {}", between(call, "\"", "\""), between(call, "<", ">")));
        }
    }
    made
}

fn writes_planned(plan: &[String]) -> Vec<String> {
    let mut planned = Vec::new();
    for line in plan.iter().flat_map(|line| line.split("; ")) {
        if !line.contains("/sys/fs/cgroup/") && !line.contains("/proc/sys/") {
            continue;
        }
        if let Some(paths) = line.strip_prefix("mkdir ") {
            planned.extend(paths.split(' ').map(|p| format!("mkdir {p}")));
        } else if let Some(rest) = line.strip_prefix("write ") {
            let colon = |(path, text): (&str, &str)| format!("write {text} to {path}");
            planned.push(rest.split_once(": ").map_or(line.to_owned(), colon));
        }
    }
    planned
}

/// A dry run of the wrapper against the traces of the stages, on a cold machine or a warm one.
fn compare(world: &World, args: &[&str]) {
    let image = images::busybox().display().to_string();
    let base = [&[image.as_str(), "--name", "box"], args].concat();
    let before = world.inventory();
    let dry = world.quilt(&[&["create", "--dry-run"], &base[..]].concat()).ok();
    assert_eq!(world.inventory(), before, "a dry run changed something");
    assert_eq!(dry.stderr, "");
    let dry = dry.stdout;

    let spec = world.tool("quilt-spec", &base).go().ok().stdout;
    let mut record = world.tool("quilt-unpack", &["-"]).stdin(spec).go().ok().stdout.trim_end().to_owned();
    let mut all = Vec::new();
    for stage in ["netns", "cgroup", "spawn"] {
        let (trace, out) = trace(world, stage, &record);
        record = out;
        all.extend(trace);
    }
    let planned = plan(&dry, &["netns", "cgroup", "spawn"]);
    assert_eq!(messages_planned(&planned), messages_sent(&all), "netlink: planned against done");
    assert_eq!(writes_planned(&planned), writes_made(&all), "writes: planned against done");
    // Pins: the type's options are not part of the promise.
    let made = mounts_made(&all).into_iter().map(|m| if m.contains("mode=0700") { "tmpfs ()".to_owned() } else { m });
    let mut made: Vec<String> = made.collect();
    // The first create of a boot tries whether layers can be idmapped, which no plan speaks of.
    if let Some(trial) = made.iter().position(|m| m == "overlay (nosuid,nodev,noexec)") {
        made.drain(..=trial);
    }
    assert_eq!(mounts_planned(&planned), made, "mounts: planned against done");

    // The container's own mount table has those mount points and no other.
    let targets = |line: &String| {
        let line = line.strip_prefix("mount ").or(line.strip_prefix("bind "))?;
        let target = line.split_once(" on ")?.1.split([' ', ',']).next().unwrap();
        (!target.starts_with(world.root.to_str().unwrap())).then(|| target.to_owned())
    };
    let planned: BTreeSet<String> = plan(&dry, &["spawn"]).iter().filter_map(targets).collect();
    let table = fs::read_to_string(world.path("mountinfo")).unwrap();
    let real: BTreeSet<String> = table.lines().map(|l| l.split(' ').nth(4).unwrap().to_owned()).collect();
    assert_eq!(planned, real, "mount points: planned against real");
    world.quilt(&["rm", "-f", "box"]).ok();
}

#[test]
fn on_a_cold_machine() {
    let world = World::new("cold");
    compare(&world, &["--memory", "64", "--cpu", "50", "--cpus", "1.5"]);
}

#[test]
fn on_a_warm_one() {
    let world = World::new("warm");
    world.create("first", &[]);
    compare(&world, &["--memory", "64", "--pids", "100"]);
    compare(&world, &["--network", "none"]);
    compare(&world, &["--network", "host"]);
    if world.has_userns() {
        for network in ["bridge", "none", "host"] {
            compare(&world, &["--network", network, "--userns", "auto"]);
        }
    }
}

/// Fails if a mount or a parameter that was asked for is planned otherwise than it is made.
#[test]
fn with_mounts_of_its_own() {
    let world = World::new("asked");
    world.create("first", &[]);
    let shown = world.path("shown");
    fs::create_dir(&shown).unwrap();
    let volume = format!("{}:/data/in:ro", shown.display());
    let sysctl = "net.ipv4.ip_local_port_range=2000 3000";
    compare(&world, &["--volume", &volume, "--tmpfs", "/data", "--sysctl", sysctl, "--shm-size", "1M", "--read-only"]);
    compare(&world, &["--privileged"]);
}

#[test]
fn a_dry_run_needs_no_instance() {
    let world = World::new("nothing");
    let image = images::busybox().display().to_string();
    let out = world.quilt(&["create", "--dry-run", &image, "--name", "box"]).ok();
    assert!(out.stdout.lines().any(|line| line.starts_with("spawn\tmount overlay on / ")), "{out:?}");
    assert!(!world.root.join("containers").exists() && !world.root.join("run").exists(), "{:?}", world.inventory());
    // What cannot be done is refused as in a real one.
    let out = world.quilt(&["create", "--dry-run", "/no/such/image", "--name", "box"]);
    out.failed("quilt-unpack", "not_found");
}
