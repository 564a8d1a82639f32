//! User namespaces: root inside is nobody outside, two containers are two of them, and the files on the disk have the ids
//! that the container sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Out, Run, SETTLE, World, eventually, images, skip, teeth};

mod files;
mod ids;

/// The range of ids, unless the instance has another.
const FIRST: u64 = 1 << 30;

/// A container with ids of its own; its record. `None`, and the test is skipped, if this machine has none to give.
fn shifted(world: &World, test: &str, name: &str, args: &[&str]) -> Option<Value> {
    let record = world.create(name, &[&["--userns", "auto"], args].concat());
    if let Some(note) = record["netns"]["have"]["notes"][0].as_str() {
        skip(test, note);
        world.quilt(&["rm", "-f", name]).ok();
        return None;
    }
    Some(record)
}

/// Whether this machine has ids to give; if not, the test is skipped.
fn able(test: &str) -> bool {
    shifted(&World::new("able"), test, "box", &[]).is_some()
}

/// The first id of the host that is the container's.
fn first(record: &Value) -> u64 {
    record["netns"]["have"]["ids"]["uid"].as_u64().unwrap()
}

/// The four user ids of a process, as the host sees it.
fn uids(pid: i32) -> Vec<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

/// The host's pids of what runs by this command line.
fn pids_of(words: &[&str]) -> Vec<i32> {
    let line: String = words.iter().map(|word| format!("{word}\0")).collect();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    all.filter(|pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l == line.as_bytes())).collect()
}

#[test]
fn root_inside_is_nobody_outside() {
    let world = World::new("userns");
    let Some(record) = shifted(&world, "root_inside", "box", &[]) else { return };
    let base = first(&record);
    assert!(base >= FIRST && base.is_multiple_of(65_536), "{base}");
    let init = world.init("box");
    assert_eq!(uids(init), [base; 4]);
    assert_eq!(record["spawn"]["have"]["ids"], json!({"uid": base, "gid": base, "size": 65_536}));
    let spaces = record["spawn"]["have"]["namespaces"].as_array().unwrap();
    assert!(spaces.iter().any(|pair| pair[0] == "user"), "{spaces:?}");
    // The probe has seen it, and inspect shows it.
    let phase = &record["probe"]["have"]["phases"][1];
    assert_eq!(phase["evidence"]["uid_map"], format!("0 {base} 65536"), "{phase}");
    assert_eq!(first(&world.quilt(&["inspect", "box"]).ok().record()), base);
    // A command, by every way in.
    world.quilt(&["exec", "box", "sh", "-c", "sleep 4242 >/dev/null 2>&1 &"]).ok();
    world.quilt(&["exec", "-u", "agent", "box", "sh", "-c", "sleep 4243 >/dev/null 2>&1 &"]).ok();
    for (seconds, id) in [("4242", base), ("4243", base + 1000)] {
        assert!(eventually(SETTLE, || pids_of(&["sleep", seconds]).len() == 1));
        assert_eq!(uids(pids_of(&["sleep", seconds])[0]), [id; 4]);
    }
    world.exec("box", &["sh", "-c", "kill -9 $(pidof sleep)"]);
    // What it is to itself.
    let seen =
        world.exec("box", &["sh", "-c", "id -u; stat -c %u:%g / /etc /etc/hosts /dev /dev/null /dev/shm /dev/mqueue"]);
    assert_eq!(seen, format!("0\n{}", "0:0\n".repeat(7)));
    assert_eq!(world.exec("box", &["cat", "/proc/self/uid_map"]).split_whitespace().next(), Some("0"));
    assert_eq!(world.exec("box", &["stat", "-c", "%u", "/proc/1/status"]), "0\n");
}

/// What is done as the container's root, with every right that it can have, but in the host's mount namespace: as one would
/// be who had broken out of everything else.
fn escaped(world: &World, init: i32, python: &str) -> Out {
    let script = format!(
        "import ctypes, os\n\
         space = os.open('/proc/{init}/ns/user', os.O_RDONLY)\n\
         if os.fstat(space).st_ino != os.stat('/proc/self/ns/user').st_ino:\n    \
         assert ctypes.CDLL(None).setns(space, 0x10000000) == 0\n\
         os.setgroups([])\nos.setresgid(0, 0, 0)\nos.setresuid(0, 0, 0)\n\
         def tried(name, act):\n    try:\n        act()\n        print(name)\n    except OSError:\n        pass\n{python}"
    );
    world.run("python3", &["-c", &script]).go().ok()
}

/// Fails if somebody who has broken out of a container can read or write a file of root's, signal a process of the host's,
/// or do what takes a capability.
#[test]
fn attacks_by_one_who_has_broken_out() {
    if !able("attacks_by_one_who_has_broken_out") {
        return;
    }
    let done = teeth::attack("userns-out", "userns", |world| {
        world.create("box", &["--userns", "auto"]);
        let canary = world.write("canary", "untouched");
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o600)).unwrap();
        for dir in [&world.dir, world.dir.parent().unwrap()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let (me, state) = (std::process::id(), world.root.display());
        let attack = format!(
            "tried('read', lambda: open('{canary}').read())\n\
             tried('write', lambda: open('{canary}', 'r+').write('changed!!'))\n\
             tried('signal', lambda: os.kill({me}, 0))\n\
             tried('chown', lambda: os.chown('{canary}', 0, 0))\n\
             tried('state', lambda: os.listdir('{state}'))\n\
             tried('cgroup', lambda: os.rmdir(os.mkdir('/sys/fs/cgroup/pids/canary') or '/sys/fs/cgroup/pids/canary'))\n\
             tried('sysctl', lambda: open('/proc/sys/kernel/panic', 'r+').close())\n"
        );
        let done = escaped(world, world.init("box"), &attack).stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let written = fs::read_to_string(&canary).unwrap() != "untouched";
        assert_eq!(written, done.iter().any(|word| word == "write"));
        done
    });
    for word in ["read", "write", "signal", "chown", "state"] {
        assert!(done.iter().any(|done| done == word), "no teeth: {word} of {done:?}");
    }
}

/// Fails if a container with the host's process ids can signal or look into a process that is not its own.
#[test]
fn attacks_by_the_hosts_process_ids() {
    if !able("attacks_by_the_hosts_process_ids") {
        return;
    }
    teeth::attack("userns-pids", "userns", |world| {
        for name in ["one", "two"] {
            world.create(name, &["--pid", "host", "--userns", "auto"]);
        }
        let mut done = Vec::new();
        for (whose, pid) in
            [("the first's", 1), ("the test's", std::process::id() as i32), ("another's", world.init("two"))]
        {
            for (what, how) in [
                ("signal", "kill -0 PID"),
                ("environment", "head -c 1 /proc/PID/environ"),
                ("root", "ls /proc/PID/root/"),
                ("memory", "grep -q . /proc/PID/maps"),
                ("files", "ls -l /proc/PID/fd/"),
                // What it is already.
                ("settings", "read v </proc/PID/oom_score_adj; echo $v >/proc/PID/oom_score_adj"),
            ] {
                let line = format!("{} >/dev/null 2>&1", how.replace("PID", &pid.to_string()));
                if world.quilt(&["exec", "one", "sh", "-c", &line]).status == 0 {
                    done.push(format!("{whose} {what}"));
                }
            }
            let seen = world.exec("one", &["cat", &format!("/proc/{pid}/comm")]);
            assert!(!seen.is_empty(), "it is not even seen");
        }
        done
    });
    // All that it may signal is its own, and that is the end of it alone.
    let world = World::new("userns-pids-all");
    for name in ["one", "two"] {
        world.create(name, &["--pid", "host", "--userns", "auto"]);
    }
    // Not if it is the host's root after all: then this would be the end of the machine that the test runs on.
    let kill_all = "read inside outside count </proc/self/uid_map; [ $outside != 0 ] || exit 7; kill -9 -1; exit 0";
    assert_ne!(world.quilt(&["exec", "one", "sh", "-c", kill_all]).status, 7, "it is not in a user namespace");
    assert!(kill(Pid::from_raw(world.init("two")), None).is_ok());
    assert_eq!(world.exec("two", &["echo", "alive"]), "alive\n");
}

#[test]
fn process_ids_of_the_host_need_ids_of_ones_own() {
    let world = World::new("userns-needed");
    let image = images::busybox().display().to_string();
    let create = |args: &[&str]| world.quilt(&[&["create", &image, "--name", "box", "--pid", "host"], args].concat());
    let error = create(&["--userns", "host"]).failed("quilt-netns", "invalid");
    assert!(error["message"].as_str().unwrap().contains("--userns auto"), "{error}");
    create(&["--userns", "host", "--privileged"]).ok();
}

/// A file system that cannot be idmapped: the image is a directory of it.
#[test]
fn where_it_cannot_be_done_it_is_said() {
    let world = World::new("userns-cannot");
    let [tree, upper, work] = ["tree", "upper", "work"].map(|name| world.path(name));
    [&tree, &upper, &work].into_iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let options =
        format!("lowerdir={},upperdir={},workdir={}", images::busybox().display(), upper.display(), work.display());
    let mounted = Run::new("mount").args(&["-t", "overlay", "-o", &options, "overlay"]).args(&[&tree]).go();
    if mounted.status != 0 {
        return skip("where_it_cannot_be_done", "the temporary directory takes no overlay");
    }
    let record = world.create_from(&tree, "box", &["--userns", "auto"]);
    let have = &record["netns"]["have"];
    let note = have["notes"][0].as_str().unwrap();
    assert!(note.starts_with("no user namespace: "), "{note}");
    assert_eq!(have.get("ids"), None);
    assert_eq!(uids(world.init("box")), [0; 4]);
    // Once it is known, it is not tried again.
    let again = world.create_from(&tree, "again", &["--userns", "auto"]);
    assert_eq!(again["netns"]["have"]["notes"], have["notes"]);
    let fails = |args: &[&str]| {
        let all = [&["create", tree.to_str().unwrap(), "--name", "bad"], args].concat();
        let error = world.quilt(&all).failed("quilt-netns", "unsupported");
        error["message"].as_str().unwrap().to_owned()
    };
    let why = fails(&["--userns", "200000:200000:65536"]);
    assert_eq!(note, format!("no user namespace: {why}"));
    fails(&["--userns", "auto", "--pid", "host"]);
    if !note.contains("kernel") {
        assert!(note.contains("is on overlay, which this kernel cannot idmap"), "{note}");
    }
    world.quilt(&["rm", "-f", "--all"]).ok();
    Run::new("umount").args(&[&tree]).go().ok();
}

#[test]
fn a_dry_run_tells_of_it() {
    let world = World::new("userns-plan");
    let Some(record) = shifted(&world, "a_dry_run", "box", &[]) else { return };
    let image = images::busybox().display().to_string();
    world.quilt(&["rm", "-f", "box"]).ok();
    let plan = world.quilt(&["create", &image, "--name", "box", "--userns", "auto", "--dry-run"]).ok().stdout;
    let base = first(&record);
    for line in [
        "netns\tclone3 CLONE_NEWUSER|CLONE_NEWNET".to_owned(),
        format!("netns\twrite 0 {base} 65536 to /proc/CHILD/uid_map"),
        format!("spawn\tsetfsuid {base}, setfsgid {base}, keeping capabilities"),
        "spawn\tsetns to the user namespace that owns ".to_owned(),
        "probe\tcompare its namespaces with the host's: mnt uts ipc cgroup user net pid".to_owned(),
    ] {
        assert!(plan.contains(&line), "no `{line}` in:\n{plan}");
    }
}

/// Fails if a host that lets no program run from memory is a riddle to who asks for a capability that takes one.
#[test]
fn a_host_that_runs_nothing_from_memory_is_named() {
    let test = "a_host_that_runs_nothing_from_memory_is_named";
    if !able(test) {
        return;
    }
    let world = World::new("memory");
    let image = images::busybox().display().to_string();
    let args = ["create", &image, "--name", "box", "--network", "none", "--userns", "auto", "--cap-add", "SYS_PTRACE"];
    let record = world.quilt(&[&args[..], &["--stop-after", "cgroup"]].concat()).ok().stdout;
    let (tool, log) = (crate::harness::bin().join("quilt-spawn").display().to_string(), world.path("log"));
    // What vm.memfd_noexec=2 says.
    let inject = ["-f", "-qqq", "-e", "trace=memfd_create", "-e", "inject=memfd_create:error=EACCES"];
    let words = ["-o", &log.display().to_string(), &tool, "-"];
    let out = world.run("strace", &[&inject[..], &words].concat()).stdin(record).go();
    out.failed("quilt-spawn", "denied");
    assert!(out.stderr.ends_with(": no program may run from memory here (vm.memfd_noexec=2)\n"), "{}", out.stderr);
}
