//! What runs inside attacks the tools that join it: reads them, stops them, traces them, writes to them.
//!
//! The attacker is a program in the image (harness/attacker.c) that loops for as long as the container lives. Hostile
//! files are in attacks_files.rs.

use std::fs;
use std::io::{Read, Seek};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::inventory::processes;
use crate::harness::{Out, SETTLE, World, eventually, images, patient, skip};

/// What an answer that should take a second may take on a busy machine. All that is held to it hung for ever once.
const PROMPT: Duration = Duration::from_secs(8);

/// A world with the container `box`, in which `/bin/attack ARGS…` loops. `spoil` is done to its image before.
fn attacked(name: &str, attack: &[&str], spoil: impl FnOnce(&PathBuf)) -> World {
    let world = World::new(name);
    attacking(&world, attack, spoil);
    world
}

/// The same in a world that is there.
fn attacking(world: &World, attack: &[&str], spoil: impl FnOnce(&PathBuf)) {
    let image = images::hostile(&world.path("image"));
    spoil(&image);
    world.create_from(&image, "box", &[&["--", "/bin/attack"], attack].concat());
}

/// The lines that the attacker has put into `/FILE` of the container.
fn noted(world: &World, file: &str) -> Vec<String> {
    let text = fs::read_to_string(world.root.join("containers/box/upper").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// It can be removed at once, whatever the attacker did, and no tool stays behind, stopped or traced. (That no cgroup
/// is left is for the end of the world.)
fn ends(world: &World) {
    let out = world.command(&["rm", "-f", "box"]).limit(PROMPT).go().is(0, "", "");
    assert!(out.took < patient(PROMPT), "{out:?}");
    let left = || processes().iter().filter(|p| tool(p.pid)).count();
    assert!(eventually(SETTLE, || left() == 0), "{}", world.inventory().of("processes").join("\n"));
}

fn tool(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().contains("/quilt"))
}

/// Fails if a process inside can read anything of the host's from a tool that joins it (CVE-2016-9962): its mount
/// table, network interfaces, environment, descriptors, executable or directories, at any moment before it is the command.
#[test]
fn attacks_by_reading_what_joins() {
    // In the instance's path, and in the names of all tools; on the host's side of a bridge; in what the caller has.
    let needles = ["spy", "quilt", "vq", "CANARY"];
    let world = attacked("spy", &needles, |_| {});
    let secret = |run: crate::harness::Run| run.env("QUILT_TEST_SECRET", "CANARY").go().ok();
    for round in 0..40 {
        secret(world.tool("quilt-exec", &["box", "true"]));
        // A visitor, which is a copy of the tool.
        secret(world.tool("quilt-probe", &["--root", world.root.to_str().unwrap(), "box"]));
        if round % 20 == 0 {
            world.on_terminal(24, 80, &format!("{}/quilt-exec -t box true", crate::harness::bin().display())).ok();
        }
    }
    for _ in 0..10 {
        secret(world.tool("quilt-probe", &["--health-check", "true", "box"]));
    }
    assert_eq!(noted(&world, "hits"), [""; 0]);
    assert!(noted(&world, "seen").len() > 20, "it saw {:?} only", noted(&world, "seen"));
    // It does find what is there to be found.
    world.exec("box", &["env", "LEAK=CANARY", "sleep", "0.3"]);
    assert!(noted(&world, "hits").iter().any(|hit| hit.ends_with("environ shows CANARY")), "a blind spy");
    ends(&world);
}

/// Fails if the attack before this one cannot show what it would have seen: of an init that can be looked into, files of the
/// host's; of a tool that says what it was called with, that.
#[test]
fn attacks_by_reading_find_what_is_not_hidden() {
    for (defence, shown) in [("dumpable", "containers/box/exit"), ("blank-arguments", "cmdline shows vq")] {
        let world = World::without("spy", defence);
        attacking(&world, &["spy", "vq", "CANARY"], |_| {});
        let found = eventually(PROMPT, || {
            world.tool("quilt-exec", &["box", "true", "vq"]).env("QUILT_TEST_SECRET", "CANARY").go().ok();
            noted(&world, "hits").iter().any(|hit| hit.ends_with(shown))
        });
        assert!(found, "nothing without {defence}: {:?}", noted(&world, "hits"));
    }
}

/// Fails if a tool that joins a container waits for ever when it is stopped there as soon as it can be seen.
#[test]
fn attacks_by_stopping_what_joins() {
    let world = World::new("stop");
    let image = images::hostile(&world.path("image"));
    world.create_from(&image, "box", &[]);
    let start = |args: &[&str]| world.command(args).limit(PROMPT).start();
    let attack = start(&["exec", "box", "/bin/attack", "stop"]);
    let attacks = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "attack\n");
    assert!(eventually(PROMPT, || processes().iter().any(|p| attacks(p.pid))));
    let within = ["--timeout", "1s"];
    let execs =
        [start(&["exec", within[0], within[1], "box", "true"]), start(&["exec", "--timeout=1s", "-t", "box", "true"])];
    let probes =
        [start(&["probe", "--timeout=1s", "box"]), start(&["probe", "--timeout=1s", "--health-check=echo hi", "box"])];
    for exec in execs {
        // The race may be won, too.
        let out = exec.finish();
        assert!(matches!(out.status, 0 | 124), "{out:?}");
    }
    for probe in probes {
        let out = probe.finish();
        assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
    }
    ends(&world);
    assert_ne!(attack.finish().status, 0);
    let image = image.display().to_string();
    let args =
        ["create", &image, "--name", "box", "--timeout", "1s", "--health-check=true", "--", "/bin/attack", "stop"];
    let out = world.command(&args).limit(PROMPT).go();
    assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
}

/// Fails if a tool that joins a container which sees the host's processes waits for ever, when it is stopped as soon as the
/// container's root may signal it: long before it is the command.
#[test]
fn attacks_by_stopping_what_joins_among_the_hosts_processes() {
    let world = World::new("stop-host");
    if !world.has_userns() {
        skip("attacks_by_stopping_what_joins_among_the_hosts_processes", "no user namespaces here");
        return;
    }
    let image = images::hostile(&world.path("image"));
    // Ids that no other container has, of another instance either: the attacker stops all that it may. (Below 2^31, as an
    // older kernel's devpts takes no gid from there on.)
    let first = (1u32 << 29) + std::process::id() % 8000 * 65536;
    let ids = format!("{first}:{first}:65536");
    world.create_from(&image, "box", &["--pid=host", "--userns", &ids]);
    let attack = world.command(&["exec", "box", "/bin/attack", "stop"]).start();
    let attacks = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "attack\n");
    assert!(eventually(PROMPT, || processes().iter().any(|p| attacks(p.pid))));
    let timed = |args: &[&str]| {
        let out = world.command(args).limit(PROMPT).go();
        assert!(out.took < patient(PROMPT), "{out:?}");
        out
    };
    let mut stopped = 0;
    // Time enough for what is not stopped.
    let timeout = format!("--timeout={}ms", patient(Duration::from_millis(300)).as_millis());
    for args in [&["exec", &timeout, "box", "true"][..], &["exec", &timeout, "-t", "box", "true"]] {
        for _ in 0..10 {
            let out = timed(args);
            match out.status {
                0 => continue,
                124 => stopped += 1,
                _ => panic!("{out:?}"),
            }
            assert!(out.stderr.starts_with("quilt-exec: timed out after "), "{out:?}");
            assert_eq!(out.stderr.lines().count(), 1, "{out:?}");
        }
    }
    assert!(stopped > 4, "it stopped {stopped} only");
    for args in [&["probe", "--timeout=1s", "box"][..], &["probe", "--timeout=1s", "--health-check=true", "box"]] {
        let out = timed(args);
        assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
        assert!(!out.stderr.contains("within 3s"), "it had one only: {out:?}");
    }
    let out = timed(&["probe", "--timeout=1s", "--security", "box"]);
    assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
    // Nobody has to know of a time-out to end it.
    let signals = format!("timeout -s INT 1 {} -t box true", world.bin.join("quilt-exec").display());
    for _ in 0..4 {
        let out = world.run("sh", &["-c", &signals]).limit(PROMPT).go();
        assert!(matches!(out.status, 0 | 124), "{out:?}");
    }
    ends(&world);
    assert_ne!(attack.finish().status, 0);
}

/// Fails if an exec that is traced from inside by one that never waits gets the wrong status, or does not end.
#[test]
fn attacks_by_tracing_what_joins() {
    let world = attacked("trace", &["trace"], |_| {});
    // Long enough to be found on a busy machine, and without children, whose end a tracer that never waits keeps to itself.
    let busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 5";
    let exec = ["exec", "--timeout", "5s", "box", "sh", "-c", busy];
    for _ in 0..20 {
        world.command(&exec).limit(PROMPT).go().is(5, "", "");
    }
    let out: Out = world.command(&["probe", "--timeout=1s", "--health-check=true", "box"]).limit(PROMPT).go();
    assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
    assert!(noted(&world, "traced").len() > 5, "a tracer of nobody: {} seen", noted(&world, "seen").len());
    ends(&world);
}

/// Fails if what runs inside can change a tool of the host's that it was run from (CVE-2019-5736): here it makes the
/// tool run itself, as an interpreter and by a link, holds the file, and tries all ways once the tool has ended.
#[test]
fn attacks_by_writing_to_what_joins() {
    let files = fs::read_dir(crate::harness::bin()).unwrap().map(|entry| entry.unwrap().path());
    let tools =
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("quilt-") && path.is_file());
    // Held open: a build meanwhile puts other files in their place.
    let mut tools: Vec<fs::File> = tools.map(|path| fs::File::open(path).unwrap()).collect();
    let mut content = || {
        let read = |file: &mut fs::File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            (bytes, file.metadata().unwrap().permissions().mode())
        };
        tools.iter_mut().map(read).collect::<Vec<_>>()
    };
    let before = content();
    let world = World::new("write");
    assert_eq!(written(&world), [""; 0]);
    assert!(content() == before, "a tool has changed");
    ends(&world);
    drop(world);
    // On a mount that can be written, it may: not the content, as the init runs from the same file, but all else.
    let done = written(&World::without("write", "readonly-tools"));
    assert!(done.iter().any(|hit| hit.starts_with("mode: done")), "{done:?}");
}

/// What an attacker could do to the tools that he got hold of.
fn written(world: &World) -> Vec<String> {
    attacking(world, &["write"], |image| {
        fs::remove_file(image.join("bin/sh")).unwrap();
        fs::write(image.join("bin/sh"), "#!/proc/self/exe\n").unwrap();
        fs::set_permissions(image.join("bin/sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/proc/self/exe", image.join("bin/self")).unwrap();
        symlink("/proc/1/exe", image.join("bin/pid1")).unwrap();
        symlink("/proc/self/exe", image.join("bin/quilt-spec")).unwrap();
    });
    let caught = || noted(world, "caught").len();
    let found = eventually(PROMPT, || {
        for command in ["/bin/sh", "/bin/self", "/bin/pid1"] {
            // The tool, run by itself with these arguments; or not at all.
            let out = world.tool("quilt-exec", &["--timeout=5s", "box", command]).limit(PROMPT).go();
            assert_ne!(out.status, 0, "{out:?}");
        }
        // One that stays a while, waiting for its input, and can be looked into.
        let exec = world.bin.join("quilt-exec");
        let waits = format!("sleep 0.5 | {} -i --timeout=5s box /bin/quilt-spec -f -", exec.display());
        assert_ne!(world.run("sh", &["-c", &waits]).limit(PROMPT).go().status, 0);
        let check = ["--timeout=1s", "--health-retries=1", "--health-check=exit 0", "box"];
        assert_ne!(world.tool("quilt-probe", &check).limit(PROMPT).go().status, 0, "its sh is no shell");
        caught() > 1
    });
    assert!(found, "it never got hold of a tool: {} times", caught());
    noted(world, "hits")
}

/// Fails if a command starts in a directory outside of its container (CVE-2024-21626) by a directory's name that
/// leads through a descriptor, or through the root or the working directory of another process.
#[test]
fn attacks_by_a_working_directory() {
    let world = World::new("workdir");
    let image = images::hostile(&world.path("image"));
    for n in 0..16 {
        symlink(format!("/proc/self/fd/{n}"), image.join(format!("fd{n}"))).unwrap();
    }
    world.create_from(&image, "box", &[]);
    let inside = world.exec("box", &["stat", "-c", "%d:%i", "/"]);
    let mut dirs: Vec<String> = (0..16).flat_map(|n| [format!("/proc/self/fd/{n}"), format!("/fd{n}")]).collect();
    let others =
        ["/proc/1/root", "/proc/1/cwd", "/proc/self/root", "/proc/self/cwd", "/proc/thread-self/fd/3", "/dev/fd/3"];
    dirs.extend(others.map(str::to_owned));
    // A process in a directory that is deleted.
    let gone = "mkdir /gone; cd /gone; rmdir /gone; sleep 100 >/dev/null 2>&1 & echo $!";
    let pid = world.exec("box", &["sh", "-c", gone]);
    dirs.push(format!("/proc/{}/cwd", pid.trim()));
    for dir in dirs {
        for terminal in [&[][..], &["-t"]] {
            let args = [&["-w", &dir], terminal, &["box", "sh", "-c", "/bin/pwd && stat -c %d:%i /"]].concat();
            let out = world.tool("quilt-exec", &args).limit(PROMPT).go();
            let lines: Vec<&str> = out.stdout.lines().map(str::trim_end).collect();
            let contained = lines.len() == 2 && lines[0].starts_with('/') && lines[1] == inside.trim();
            assert!((out.status == 125 && lines.is_empty()) || (out.status == 0 && contained), "{dir}: {out:#?}");
        }
    }
    ends(&world);
}
