//! quilt-exec: what the command gets, what its caller gets back, and that nothing of it stays.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use quilt_record::have::Hierarchy;
use quilt_record::leaf;

use crate::harness::inventory::processes;
use crate::harness::{Run, World, bin, eventually, pace, patient, repo};

const SECOND: Duration = Duration::from_secs(1);

/// `quilt exec box …` in a fresh world with one container.
fn world() -> World {
    let world = World::new("exec");
    world.create("box", &["--env", "FROM=create", "--env", "BOTH=create"]);
    world
}

/// How many processes run `name` below this test.
pub fn running(name: &str) -> usize {
    let matches = |pid: i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim_end() == name
    };
    processes().iter().filter(|p| matches(p.pid)).count()
}

/// Docker's seccomp filter, for one, hides clone3(2): then a command is not born in its cgroup, but goes there.
#[test]
fn a_sandbox_without_clone3_is_no_hindrance() {
    let world = World::new("clone3");
    let image = crate::harness::images::busybox().display().to_string();
    let log = |name: &str| world.path(name).display().to_string();
    let hidden = |program: PathBuf, args: &[&str]| {
        let log = log(&program.file_name().unwrap().to_string_lossy());
        let program = program.display().to_string();
        let inject = ["-f", "-qqq", "-e", "signal=none", "-e", "trace=clone3", "-e", "inject=clone3:error=ENOSYS"];
        world.run("strace", &[&inject[..], &["-o", &log, &program], args].concat())
    };
    // Init is traced, too: nobody waits for strace.
    let create = hidden(repo().join("scripts/quilt"), &["create", &image, "--name", "box"]).start();
    assert!(eventually(Duration::from_secs(20), || world.root.join("containers/box/probe.json").exists()));
    let exec = hidden(bin().join("quilt-exec"), &["box", "sh", "-c", "touch /tmp/in; exec sleep 60"]).start();
    let record = world.quilt(&["inspect", "box"]).ok().record();
    let hierarchies: Vec<Hierarchy> = serde_json::from_value(record["cgroup"]["have"]["hierarchies"].clone()).unwrap();
    let judge = leaf::judge(&hierarchies).unwrap();
    let leaf = || {
        let leaves = leaf::list(&hierarchies).unwrap();
        let pid = |name: &String| {
            let procs = std::fs::read_to_string(judge.path.join(name).join("cgroup.procs")).ok()?;
            procs.trim().parse::<i32>().ok()
        };
        leaves.iter().filter(|name| name.starts_with("x-")).find_map(pid)
    };
    assert!(eventually(Duration::from_secs(10), || world.quilt(&["exec", "box", "test", "-e", "/tmp/in"]).status == 0));
    assert!(leaf().is_some(), "{:?}", leaf::list(&hierarchies));
    let init = std::fs::read_to_string(judge.path.join("init/cgroup.procs")).unwrap();
    assert_eq!(init.trim(), world.init("box").to_string());
    for program in ["quilt", "quilt-exec"] {
        let calls = std::fs::read_to_string(log(program)).unwrap();
        assert!(calls.contains("clone3(") && calls.lines().all(|call| call.ends_with("(INJECTED)")), "{calls}");
    }
    world.quilt(&["rm", "-f", "box"]).ok();
    assert_eq!((exec.finish().status, create.finish().status), (137, 0));
}

#[test]
fn environment_directory_and_user() {
    let world = world();
    let env = world.run("env", &["-i", "PATH=/usr/bin:/bin", "SECRET=1", "GIVEN=caller"]);
    let env = env.env("SECRET", "1");
    let quilt = crate::harness::repo().join("scripts/quilt");
    let (root, bin) = (world.root.display().to_string(), crate::harness::bin().display().to_string());
    let (root, bin) = (format!("QUILT_ROOT={root}"), format!("QUILT_BIN={bin}"));
    let args = ["-e", "BOTH=exec", "-e", "GIVEN", "box", "env"];
    let out = env.args(&[&root, &bin, quilt.to_str().unwrap(), "exec"]).args(&args).go().ok();
    let mut names: Vec<&str> = out.stdout.lines().collect();
    names.sort();
    let path = names.iter().find(|n| n.starts_with("PATH=")).unwrap().to_string();
    assert!(path.contains("/bin"), "{path}");
    names.retain(|n| !n.starts_with("PATH=") && !n.starts_with("TERM="));
    assert_eq!(names, ["BOTH=exec", "FROM=create", "GIVEN=caller", "HOME=/root", "HOSTNAME=box"]);

    world.quilt(&["exec", "-w", "/tmp", "box", "pwd"]).is(0, "/tmp\n", "");
    world.quilt(&["exec", "box", "pwd"]).is(0, "/\n", "");
    let id = |user: &str| {
        world.quilt(&["exec", "-u", user, "box", "sh", "-c", "id -u; id -g; id -G; echo $HOME"]).ok().stdout
    };
    assert_eq!(id("agent"), "1000\n1000\n1000 2000\n/home/agent\n");
    assert_eq!(id("agent:extra").lines().take(2).collect::<Vec<_>>(), ["1000", "2000"]);
    assert_eq!(id("1234:56").lines().take(3).collect::<Vec<_>>(), ["1234", "56", "56"]);
    for bad in ["nobody-here", "1:", "0x1", "-1", "4294967295", "4294967296", "1:nogroup"] {
        let out = world.quilt(&["exec", &format!("--user={bad}"), "box", "id"]);
        assert!(matches!(out.status, 2 | 125) && out.stdout.is_empty() && !out.stderr.is_empty(), "{bad}: {out:?}");
    }
}

#[test]
fn where_the_command_is() {
    let world = world();
    let init = world.init("box");
    let spaces = "ipc mnt net pid uts";
    let seen = world.exec("box", &["sh", "-c", &format!("cd /proc/self/ns; for n in {spaces}; do readlink $n; done")]);
    let link = |n: &str| std::fs::read_link(format!("/proc/{init}/ns/{n}")).unwrap().display().to_string();
    assert_eq!(seen.lines().map(str::to_owned).collect::<Vec<_>>(), spaces.split(' ').map(link).collect::<Vec<_>>());
    // A cgroup namespace of its own, as it is in a leaf of its own: where programs look for limits is its root.
    let own = world.exec("box", &["readlink", "/proc/self/ns/cgroup"]);
    let host = std::fs::read_link("/proc/self/ns/cgroup").unwrap().display().to_string();
    assert!(![link("cgroup"), host].contains(&own.trim().to_owned()), "{own}");
    let status = world.exec("box", &["grep", "-E", "^(Cap|NoNewPrivs|Groups|Sig(Blk|Ign))", "/proc/self/status"]);
    // podman's eleven: 0,1,3,4,5,6,7,8,10,18,31.
    let caps: u64 = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31].iter().map(|bit| 1u64 << bit).sum();
    let value = |key: &str| status.lines().find_map(|l| l.strip_prefix(&format!("{key}:"))).unwrap().trim().to_owned();
    let hex = format!("{caps:016x}");
    let zero = "0000000000000000".to_owned();
    assert_eq!([value("CapEff"), value("CapPrm"), value("CapBnd")], [hex.clone(), hex.clone(), hex], "{status}");
    assert_eq!([value("CapInh"), value("CapAmb"), value("SigBlk"), value("SigIgn")], [&*zero; 4], "{status}");
    assert_eq!([value("NoNewPrivs"), value("Groups")], ["1", ""], "{status}");
    let fds = world.exec("box", &["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]);
    assert_eq!(fds, "0 1 2 3 ", "3 is ls's own");
    let ptrace = world.exec("box", &["sh", "-c", "ps | grep -c [q]uilt-exec; true"]);
    assert_eq!(ptrace.trim(), "0", "the supervising quilt-exec must not be visible inside");
}

#[test]
fn statuses() {
    let world = world();
    for status in [0, 1, 2, 124, 125, 126, 127, 128, 130, 255] {
        world.quilt(&["exec", "box", "sh", "-c", &format!("exit {status}")]).is(status, "", "");
    }
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("SEGV", 139)] {
        world.quilt(&["exec", "box", "sh", "-c", &format!("kill -{signal} $$")]).is(status, "", "");
    }
    let failed = |args: &[&str], status: i32| {
        let out = world.quilt(args);
        assert!(out.status == status && out.stdout.is_empty(), "{out:#?}");
        assert!(out.stderr.lines().count() == 1 && out.stderr.starts_with("quilt-exec: "), "{out:#?}");
    };
    failed(&["exec", "box", "no-such-command"], 127);
    failed(&["exec", "box", "/no/such/command"], 127);
    failed(&["exec", "box", "/etc/passwd"], 126);
    failed(&["exec", "box", "/etc"], 126);
    failed(&["exec", "nobody", "true"], 125);
    failed(&["exec", "-w", "/nowhere", "box", "true"], 125);
    world.quilt(&["exec", "box"]).misused();
    world.quilt(&["exec", "--no-such-flag", "box", "true"]).misused();
    world.quilt(&["stop", "box"]).ok();
    failed(&["exec", "box", "true"], 125);
}

#[test]
fn arguments_arrive_as_they_are() {
    let world = world();
    let odd = ["", " ", "a b", "$(id)", "`id`", ";", "*", "-rf", "--", "\n", "\\", "'", "\"", "é\u{1F9F5}"];
    let mut args = vec!["exec", "box", "sh", "-c", "for a; do printf '<%s>' \"$a\"; done", "sh"];
    args.extend(odd);
    let expected: String = odd.iter().map(|a| format!("<{a}>")).collect();
    world.quilt(&args).is(0, &expected, "");
    // Options end at the first word after the id.
    world.quilt(&["exec", "box", "echo", "-u", "agent", "--timeout", "1s"]).is(0, "-u agent --timeout 1s\n", "");
}

#[test]
fn streams() {
    let world = world();
    world.quilt(&["exec", "box", "sh", "-c", "echo out; echo err >&2"]).is(0, "out\n", "err\n");
    world.command(&["exec", "-i", "box", "cat"]).stdin("line 1\nno line feed").go().is(0, "line 1\nno line feed", "");
    // Without -i the command reads nothing of the caller's.
    world.command(&["exec", "box", "cat"]).stdin("not for it").go().is(0, "", "");
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let flood = format!("{quilt} exec box sh -c 'yes | head -c 104857600' | wc -c");
    world.run("sh", &["-c", &flood]).go().is(0, "104857600\n", "");
    let both = format!("head -c 5000000 /dev/zero | {quilt} exec -i box sh -c 'cat; echo end >&2' | wc -c");
    world.run("sh", &["-c", &both]).go().is(0, "5000000\n", "end\n");
    // A reader that has seen enough ends the command.
    let started = Instant::now();
    world.run("sh", &["-c", &format!("{quilt} exec box yes | head -n 1")]).go().is(0, "y\n", "");
    assert!(eventually(SECOND, || running("yes") == 0), "yes still runs");
    assert!(started.elapsed() < patient(Duration::from_secs(3)));
}

#[test]
fn a_background_child_does_not_hold_the_caller() {
    let world = world();
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let limit = patient(5 * SECOND).as_secs();
    let script = format!("out=$(timeout {limit} {quilt} exec box sh -c 'sleep 60 & echo hi'); echo \"$? $out\"");
    let out = world.run("sh", &["-c", &script]).go().is(0, "0 hi\n", "");
    assert!(out.took < patient(SECOND), "{out:?}");
}

#[test]
fn a_timeout_ends_all_that_the_exec_started() {
    let world = world();
    let init = world.init("box");
    let script = "sleep 71 & setsid sh -c 'trap \"\" TERM; (sleep 72 & sleep 73) & wait' & (setsid sleep 74 &) ; wait";
    let out = world.quilt(&["exec", "--timeout", "300ms", "box", "sh", "-c", script]);
    assert!(out.status == 124 && out.stdout.is_empty() && out.took < patient(2 * SECOND), "{out:?}");
    // Proven when it returns: no waiting here.
    for name in ["sleep 71", "sleep 72", "sleep 73", "sleep 74"] {
        assert_eq!(running(name), 0, "{name} is left");
    }
    assert_eq!(world.init("box"), init);
    world.quilt(&["exec", "--timeout", "10s", "box", "echo", "in time"]).is(0, "in time\n", "");
    world.quilt(&["exec", "--timeout", "10", "box", "true"]).misused();
}

#[test]
fn no_leaf_is_left() {
    let world = world();
    world.quilt(&["exec", "box", "true"]).ok();
    let before = world.inventory();
    for _ in 0..5 {
        world.quilt(&["exec", "box", "true"]).ok();
        world.quilt(&["exec", "--timeout", "50ms", "box", "sleep", "9"]).is(124, "", &timed_out("50ms"));
    }
    world.assert_same(&before, SECOND);
}

fn timed_out(limit: &str) -> String {
    format!("quilt-exec: timed out after {limit}\n")
}

#[test]
fn signals_reach_the_command() {
    let world = world();
    for (signal, name) in
        [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT"), (Signal::SIGHUP, "HUP"), (Signal::SIGUSR1, "USR1")]
    {
        let script = format!("trap 'echo got {name}; exit 7' {name}; touch /tmp/ready; while :; do sleep 0.01; done");
        let exec = world.command(&["exec", "box", "sh", "-c", &script]).start();
        let ready = || world.quilt(&["exec", "box", "rm", "/tmp/ready"]).status == 0;
        assert!(eventually(5 * SECOND, ready));
        exec.signal(signal);
        exec.finish().is(7, &format!("got {name}\n"), "");
    }
    let exec = world.command(&["exec", "box", "sleep", "75"]).start();
    assert!(eventually(5 * SECOND, || running("sleep 75") == 1));
    exec.signal(Signal::SIGTERM);
    exec.finish().is(143, "", "");
}

#[test]
fn a_command_dies_with_a_killed_exec() {
    let world = world();
    let before = world.inventory();
    let script = "sleep 76 & setsid sleep 77 & exec sleep 78";
    let exec = world.command(&["exec", "box", "sh", "-c", script]).start();
    let all = || running("sleep 76") + running("sleep 77") + running("sleep 78");
    assert!(eventually(5 * SECOND, || all() == 3));
    exec.signal(Signal::SIGKILL);
    assert!(eventually(SECOND, || running("sleep 78") == 0), "the command outlived its quilt-exec");
    exec.finish();
    world.quilt(&["exec", "box", "true"]).ok();
    world.quilt(&["gc"]).ok();
    assert!(eventually(SECOND, || all() == 0), "its children outlived it and gc");
    world.assert_same(&before, SECOND);
}

#[test]
fn a_terminal() {
    let world = world();
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let on_tty = |size: &str, command: &str| {
        let line = format!("stty {size}; {quilt} exec -i -t box {command}");
        world.on_terminal(24, 80, &line)
    };
    let out = on_tty("rows 33 cols 101", "sh -c 'tty; stty size; exit 9'");
    assert_eq!((out.status, out.stdout.as_str()), (9, "/dev/pts/0\n33 101\n"), "{out:?}");
    // A terminal of its own, not the caller's: nothing can be typed into that (TIOCSTI), and it is a session's leader.
    let out = on_tty("rows 10 cols 10", "sh -c 'test $(cut -d\" \" -f6 /proc/$$/stat) = $$ && echo leader'");
    assert_eq!(out.stdout, "leader\n", "{out:?}");
    let out = world.quilt(&["exec", "-t", "box", "true"]);
    assert!(out.status == 0 || out.stderr.lines().count() == 1, "{out:?}");
}

#[test]
fn a_terminal_is_resized() {
    let world = world();
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    // Python's pty, so that the size of the outer terminal can be changed while the command runs.
    let script = format!(
        r#"
import fcntl, os, pty, signal, struct, termios
pid, fd = pty.fork()
if pid == 0:
    os.execv("{quilt}", ["quilt", "exec", "-i", "-t", "box", "sh", "-c", "trap 'stty size; exit' WINCH; echo on; while :; do sleep 0.01; done"])
out = b""
while b"on" not in out:
    out += os.read(fd, 100)
fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 123, 0, 0))
try:
    while True:
        more = os.read(fd, 100)
        if not more: break
        out += more
except OSError:
    pass
os.waitpid(pid, 0)
print(out.decode().split())
"#
    );
    world.run("python3", &["-c", &script]).go().is(0, "['on', '44', '123']\n", "");
}

#[test]
fn a_hundred_at_once() {
    let world = world();
    let before = world.inventory();
    let all: Vec<_> =
        (0..pace::rounds(100)).map(|n| world.command(&["exec", "box", "echo", &n.to_string()]).start()).collect();
    for (n, exec) in all.into_iter().enumerate() {
        exec.finish().is(0, &format!("{n}\n"), "");
    }
    world.assert_same(&before, SECOND);
}

#[test]
fn no_zombies_stay() {
    let world = world();
    world.quilt(&["exec", "box", "sh", "-c", "for i in $(seq 50); do (setsid true &); done"]).ok();
    let zombies = || world.exec("box", &["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '; true"]);
    assert!(eventually(SECOND, || zombies().trim() == "0"), "{}", zombies());
    let _ = Run::new("true").go();
}
