//! `quilt probe --security` sees what is not as it was made: what somebody has changed from outside, and what a test build
//! leaves out (the rest of those is in `confine.rs`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{World, images, repo, skip};

/// All that the look from inside finds wrong.
fn deviations(world: &World, name: &str) -> Vec<String> {
    let out = world.quilt(&["probe", "--security", name]);
    let record: Value = serde_json::from_str(out.stdout.trim()).unwrap_or_else(|_| panic!("{out:?}"));
    let phases = record["probe"]["have"]["phases"].as_array().unwrap_or_else(|| panic!("{out:?}"));
    let phase = phases.iter().find(|phase| phase["name"] == "security").unwrap_or_else(|| panic!("{out:?}"));
    let wrong = phase["evidence"]["deviations"].as_array().unwrap().clone();
    assert_eq!(out.status, if wrong.is_empty() { 0 } else { 19 }, "{out:?}");
    wrong.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Runs a program among the container's mounts and processes, with all rights of the host's root.
fn among_its_mounts(world: &World, name: &str, line: &str) {
    let pid = world.init(name).to_string();
    let words: Vec<&str> = line.split(' ').collect();
    world.run("busybox", &[&["nsenter", "-t", &pid, "-m", "-p"], &words[..]].concat()).go().ok();
}

/// Fails if what was mounted for the container can lose an option, or go, or be another's cgroup, without being seen.
#[test]
fn deviations_of_mounts_are_found() {
    let world = World::new("remounted");
    let image = images::hostile(&world.path("image"));
    std::os::unix::fs::symlink("/var", image.join("link")).unwrap();
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    let (read_only, plain) = (format!("{}:/link/ro:ro", source.display()), format!("{}:/rw", source.display()));
    let args = ["--volume", &read_only, "--volume", &plain, "--tmpfs=/t", "--tmpfs=/x:exec,size=64k", "--security"];
    let record = world.create_from(&image, "box", &args);
    assert_eq!(deviations(&world, "box"), [""; 0]);
    for (line, found) in [
        ("mount -o remount,bind,rw,nosuid,nodev /var/ro", "/var/ro is not mounted ro"),
        ("mount -o remount,bind,ro,nosuid,dev /var/ro", "/var/ro is not mounted nodev"),
        ("mount -o remount,bind,ro,nosuid,nodev /var/ro", ""),
        ("mount -o remount,bind,rw,suid,nodev /rw", "/rw is not mounted nosuid"),
        ("mount -o remount,bind,rw,nosuid,nodev /rw", ""),
        ("mount -o remount,bind,rw,nosuid,nodev,exec /t", "/t is not mounted noexec"),
        ("mount -o remount,bind,rw,nosuid,nodev,noexec /t", ""),
        ("mount -t tmpfs -o ro,nosuid,nodev none /var/ro", ""),
        ("umount /var/ro", ""),
        ("umount /var/ro", "nothing is mounted on /var/ro"),
        ("umount /x", "nothing is mounted on /var/ro, nothing is mounted on /x"),
    ] {
        among_its_mounts(&world, "box", line);
        let mut wrong = deviations(&world, "box");
        wrong.sort();
        assert_eq!(wrong.join(", "), found, "{line}");
    }
    world.create("own", &[]);
    assert_eq!(deviations(&world, "own"), [""; 0]);
    let v2 = record["cgroup"]["have"]["version"] == "v2";
    let (kind, place) = if v2 { ("cgroup2", "/sys/fs/cgroup") } else { ("cgroup", "/sys/fs/cgroup/memory") };
    let options = if v2 { "ro" } else { "ro,memory" };
    among_its_mounts(&world, "own", &format!("umount {place}"));
    among_its_mounts(&world, "own", &format!("mount -t {kind} -o {options},nosuid,nodev,noexec none {place}"));
    assert_eq!(deviations(&world, "own"), [format!("what is mounted on {place} is not the container's own cgroup")]);
    among_its_mounts(&world, "own", &format!("umount {place}"));
    assert_eq!(deviations(&world, "own"), [""; 0]);
}

/// Fails if what a volume brings counts as the container's own cgroups.
#[test]
fn the_hosts_cgroups_in_a_volume_are_no_deviation() {
    let world = World::new("shown");
    world.create("box", &["--volume", "/sys:/host/sys:ro", "--security"]);
    let table = world.exec("box", &["cat", "/proc/self/mountinfo"]);
    assert!(table.lines().any(|line| line.contains(" /host/sys/") && line.contains(" - cgroup")), "{table}");
    assert_eq!(deviations(&world, "box"), [""; 0]);
}

/// Fails if the container's cgroup can allow more devices than were asked for without being seen; on v2, where a program
/// says so, see `confine::confinement_that_is_missing_is_found_from_inside`.
#[test]
fn deviations_of_the_device_policy_are_found() {
    let world = World::new("policy");
    let record = world.create("box", &["--device=/dev/zero:/dev/other:r", "--security"]);
    let hierarchies = record["cgroup"]["have"]["hierarchies"].as_array().unwrap();
    let v1 = hierarchies.iter().find(|hierarchy| hierarchy["controllers"] == "devices");
    let Some(v1) = v1.map(|hierarchy| hierarchy["path"].as_str().unwrap()) else {
        skip("deviations_of_the_device_policy_are_found", "no v1 hierarchy of devices");
        return;
    };
    let write = |file: &str, rule: &str| fs::write(Path::new(v1).join(file), rule).unwrap();
    write("devices.allow", "c 1:1 r");
    assert_eq!(deviations(&world, "box"), ["the device policy allows `c 1:1 r`, which nobody asked for"]);
    write("devices.deny", "c 1:1 r");
    write("devices.deny", "c 1:9 w");
    assert_eq!(deviations(&world, "box"), ["the device policy does not allow `c 1:9 w`"]);
    write("devices.allow", "c 1:9 w");
    assert_eq!(deviations(&world, "box"), [""; 0]);
}

/// Fails if a descriptor of the caller's can be open in a command without being seen, whichever way the look goes in.
#[test]
fn deviations_of_descriptors_are_found() {
    let probe = |world: &World| {
        let quilt = repo().join("scripts/quilt");
        let line = format!("exec 9</; exec {} probe --security box", quilt.display());
        world.run("sh", &["-c", &line]).go()
    };
    for options in [&[][..], &["--cap-add=SYS_PTRACE"]] {
        let world = World::new("open");
        world.create("box", options);
        probe(&world).ok();
        drop(world);
        let world = World::without("open", "close-fds");
        world.create("box", options);
        let out = probe(&world);
        out.failed("quilt-probe", "not_ready");
        assert!(out.stderr.contains("a descriptor is open inside: 9 "), "{out:?}");
    }
}

/// Fails if a profile that keeps the look from looking makes it fail with a riddle, or not at all.
#[test]
fn deviations_that_a_profile_hides() {
    let world = World::new("hides");
    let image = images::busybox();
    let look = |names: &str, action: &str, options: &[&str]| {
        let rule = format!(r#"{{"names": [{names}], "action": "SCMP_ACT_{action}"}}"#);
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
        let file = world.write("profile.json", &text);
        let create = ["create", image.to_str().unwrap(), "--name", "box", "--seccomp", &file];
        world.quilt(&[&create[..], options].concat()).ok();
        let out = world.quilt(&["probe", "--security", "box"]);
        world.quilt(&["rm", "-f", "box"]).ok();
        out.failed("quilt-probe", "not_ready");
        out.stderr
    };
    let killed = look(r#""getdents64""#, "KILL_PROCESS", &[]);
    let why = "was killed by signal 31: the container's seccomp profile refuses what it takes to look\n";
    assert!(killed.ends_with(why), "{killed}");
    let blind = look(r#""statx", "newfstatat", "stat", "lstat""#, "ERRNO", &["--network=none"]);
    assert!(blind.contains("cannot look from inside at what is mounted on /sys/fs/cgroup"), "{blind}");
    // By then it has the filter.
    let blind = look(r#""getdents64""#, "ERRNO", &["--cap-add=SYS_PTRACE"]);
    assert!(blind.contains("cannot look from inside at the open descriptors: "), "{blind}");
}

/// Fails if resource limits can be lower than what was asked without being seen.
#[test]
fn deviations_of_limits_are_found() {
    let create = |world: &World| {
        let (quilt, image) = (repo().join("scripts/quilt"), images::busybox());
        let args = "--name box --ulimit fsize=4294967296:max --security";
        let line = format!("ulimit -S -f 2000000; exec {} create {} {args}", quilt.display(), image.display());
        world.run("sh", &["-c", &line]).go()
    };
    create(&World::new("lower")).ok();
    let out = create(&World::without("lower", "rlimits"));
    out.failed("quilt-probe", "not_ready");
    assert!(out.stderr.contains(" and must be 4294967296:max"), "{}", out.stderr);
}

/// Fails if a container can be under another filter than its own without being seen.
#[test]
fn deviations_from_a_profile_are_found() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["setns"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    let world = World::new("profile");
    let file = world.write("profile.json", profile);
    world.create("box", &["--seccomp", &file, "--security"]);
    assert_eq!(deviations(&world, "box"), [""; 0]);
    drop(world);
    let world = World::without("profile", "own-filter");
    let file = world.write("profile.json", profile);
    let image = images::busybox();
    let out = world.quilt(&["create", image.to_str().unwrap(), "--name", "box", "--seccomp", &file, "--security"]);
    out.failed("quilt-probe", "not_ready");
    assert!(out.stderr.contains("the system call mkdirat ends with EFAULT and must with ENOSPC"), "{}", out.stderr);
}
