//! What the processes of a container are held to: capabilities, no_new_privs, the filter of system calls, resource
//! limits; the same for init, commands and checks, and as the flags say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{World, images};

/// Prints what the kernel says about the one who asks.
const LOOK: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; umask; cat /proc/self/limits";

fn status(capabilities: &str, bounding: &str, no_new_privs: u8, seccomp: u8) -> String {
    format!(
        "CapInh:\t0000000000000000\nCapPrm:\t{capabilities}\nCapEff:\t{capabilities}\nCapBnd:\t{bounding}\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\n"
    )
}

/// The lines of [`LOOK`] that [`status`] makes.
fn of_status(look: &str) -> String {
    look.lines().take(7).map(|line| format!("{line}\n")).collect()
}

const DEFAULT: &str = "00000000800405fb";
const NONE: &str = "0000000000000000";

/// Fails if a command, a check or the container's own command is held to something else than the others.
#[test]
fn confinement_is_the_same_for_all() {
    let world = World::new("same");
    let own = format!("({LOOK}) > /own; sleep 1000");
    let check = format!("({LOOK}) > /check");
    world.create("box", &["--health-check", &check, "--", "sh", "-c", &own]);
    let command = world.exec("box", &["sh", "-c", LOOK]);
    assert_eq!(of_status(&command), status(DEFAULT, DEFAULT, 1, 2));
    assert!(command.contains("\n0022\n"), "{command}");
    assert!(
        command.lines().any(|line| line.split_whitespace().eq("Max core file size 0 0 bytes".split(' '))),
        "{command}"
    );
    let upper = world.root.join("containers/box/upper");
    assert_eq!(fs::read_to_string(upper.join("check")).unwrap(), command);
    assert_eq!(fs::read_to_string(upper.join("own")).unwrap(), command);
    // Init has what its command has, but for the limits, and the bounding set of both is the same.
    let init = fs::read_to_string(format!("/proc/{}/status", world.init("box"))).unwrap();
    let line = |name: &str| init.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert_eq!([line("CapBnd"), line("Seccomp:")], [format!("CapBnd:\t{DEFAULT}"), "Seccomp:\t2".to_owned()]);
    // As another user, and on a terminal.
    let user = world.exec("box", &["--user", "agent", "sh", "-c", LOOK]);
    let user = user.as_str();
    assert_eq!(of_status(user), status(NONE, DEFAULT, 1, 2));
    let exec = format!("{}/quilt-exec -t box sh -c \"{LOOK}\"", crate::harness::bin().display());
    assert_eq!(world.on_terminal(24, 80, &exec).ok().stdout.replace('\r', ""), command);
}

/// Fails if a command that names no user is in other groups than the container's own, or than one that names the same.
#[test]
fn groups_are_the_same_for_all() {
    let world = World::new("groups");
    let image = images::hostile(&world.path("image"));
    fs::write(image.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").unwrap();
    fs::write(image.join("etc/group"), "root:x:0:\nlog:x:50:root,web\naudio:x:40:web\n").unwrap();
    let look = "(grep -E '^(Uid|Gid|Groups):' /proc/self/status; echo $HOME)";
    for (user, groups, home) in [(None, "50 ", "/root"), (Some("web"), "40 50 ", "/srv"), (Some("web:log"), "", "/srv")]
    {
        let [own, check] =
            ["own", "check"].map(|file| format!("{look} > /tmp/{file}; test {file} = check || sleep 1000"));
        let named = user.map(|user| ["--user", user]);
        let args = [named.as_ref().map_or(&[][..], |named| named), &["--health-check", &check, "--", "sh", "-c", &own]];
        world.create_from(&image, "box", &args.concat());
        let command = world.exec("box", &["sh", "-c", look]);
        assert!(
            command.contains(&format!("\nGroups:\t{groups}")) && command.ends_with(&format!("\n{home}\n")),
            "{command}"
        );
        assert_eq!(
            command,
            world.quilt(&["exec", "-u", user.unwrap_or("0"), "box", "sh", "-c", look]).ok().stdout,
            "{user:?}"
        );
        let upper = world.root.join("containers/box/upper/tmp");
        for file in ["own", "check"] {
            assert_eq!(fs::read_to_string(upper.join(file)).unwrap(), command, "{user:?}");
        }
        world.quilt(&["rm", "-f", "box"]).ok();
    }
}

/// Fails if a flag does not do what it says, for the container's command and for those that come later.
#[test]
fn confinement_by_flags() {
    let world = World::new("flags");
    let look = |name: &str| world.exec(name, &["sh", "-c", LOOK]);
    world.create("raw", &["--cap-add", "NET_RAW", "--cap-add=sys_ptrace", "--cap-drop", "CAP_CHOWN"]);
    let raw = "00000000800c25fa";
    assert_eq!(of_status(&look("raw")), status(raw, raw, 1, 2));
    world.create("none", &["--cap-drop", "ALL", "--user", "agent", "--", "sleep", "1000"]);
    assert_eq!(of_status(&look("none")), status(NONE, NONE, 1, 2));
    // It runs as another user although nothing inside can become one.
    let own = fs::read_to_string(format!("/proc/{}/task/{0}/children", world.init("none"))).unwrap();
    let own = fs::read_to_string(format!("/proc/{}/status", own.trim())).unwrap();
    let uid = world.outside("none", 1000);
    assert!(
        own.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")) && own.contains(&format!("\nCapBnd:\t{NONE}\n")),
        "{own}"
    );
    world.create("open", &["--seccomp", "off", "--no-new-privs=off"]);
    assert_eq!(of_status(&look("open")), status(DEFAULT, DEFAULT, 0, 0));
    world.create(
        "limited",
        &["--ulimit", "nofile=100:200", "--ulimit=nproc=50", "--ulimit", "cpu=7:9", "--", "sleep", "1000"],
    );
    for limits in [look("limited"), world.exec("limited", &["sh", "-c", "cat /proc/$(pidof sleep)/limits"])] {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = limits.lines().map(words).collect();
        for line in ["Max open files 100 200 files", "Max processes 50 50 processes", "Max cpu time 7 9 seconds"] {
            assert!(lines.iter().any(|is| is == line), "{line}: {limits}");
        }
    }
    // The limits are the create's, not those of whoever calls exec, who can only have lower ones.
    let exec = format!(
        "ulimit -S -n 64; ulimit -H -n 80; {}/quilt-exec limited sh -c 'ulimit -S -n; ulimit -H -n'",
        crate::harness::bin().display()
    );
    // But not by one who may raise limits.
    let may_raise = u64::from_str_radix(own_capabilities().as_str(), 16).unwrap() & 1 << 24 != 0;
    world.run("sh", &["-c", &exec]).go().is(0, if may_raise { "100\n200\n" } else { "80\n80\n" }, "");
    let all: u64 = u64::from_str_radix(own_capabilities().as_str(), 16).unwrap();
    world.create("all", &["--privileged"]);
    let all = format!("{all:016x}");
    assert_eq!(of_status(&look("all")), status(&all, &all, 0, 0));
    // What the kernel says is shown beside what was asked.
    let shown = world.quilt(&["inspect", "raw"]).ok().record();
    assert_eq!(shown["in_force"]["capabilities"], shown["spawn"]["have"]["confine"]["capabilities"]);
    assert_eq!((&shown["in_force"]["seccomp"], &shown["in_force"]["no_new_privs"]), (&true.into(), &true.into()));
    let covered = shown["in_force"]["covered"].as_array().unwrap();
    assert!(
        ["/proc/keys", "/proc/sys", "/sys/firmware"].iter().all(|path| covered.contains(&(*path).into())),
        "{covered:?}"
    );
    // The same again after a stop.
    world.quilt(&["stop", "raw"]).ok();
    world.quilt(&["start", "raw"]).ok();
    assert_eq!(of_status(&look("raw")), status(raw, raw, 1, 2));
}

/// What the test, and so Quilt, has.
fn own_capabilities() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap().to_owned()
}

/// Fails if a setuid program gains anything by default, or does not with `--no-new-privs=off`.
#[test]
fn confinement_of_setuid_programs() {
    let world = World::new("setuid");
    let image = images::hostile(&world.path("image"));
    let source = world.write("euid.c", "#include <unistd.h>\nint main(void) { return geteuid() == 0 ? 0 : 1; }\n");
    let program = image.join("bin/euid");
    world.run("cc", &["-static", "-o", program.to_str().unwrap(), &source]).go().is(0, "", "");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    world.create_from(&image, "box", &[]);
    world.quilt(&["exec", "--user", "agent", "box", "euid"]).is(1, "", "");
    world.create_from(&image, "sudo", &["--no-new-privs=off"]);
    world.quilt(&["exec", "--user", "agent", "sudo", "euid"]).is(0, "", "");
}

fn profile(world: &World, name: &str, errno: &str) -> String {
    let text = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"{errno}}},
            {{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}}]}}
        ]}}"#
    );
    world.write(name, &text)
}

/// Fails if a profile in docker's format does not do what it says, or is not kept with the container.
#[test]
fn confinement_by_a_profile() {
    let world = World::new("profile");
    let file = profile(&world, "profile.json", ", \"errnoRet\": 28");
    let record = world.create("box", &["--seccomp", &file]);
    assert_eq!(record["spawn"]["have"]["confine"]["seccomp"], "file");
    let refused = "mkdir: can't create directory '/x': No space left on device\n";
    let mkdir = ["exec", "box", "mkdir", "/x"];
    world.quilt(&mkdir).is(1, "", refused);
    let kill = "kill -USR1 $$ 2>/dev/null || echo refused; kill -CONT $$ && echo alive";
    world.quilt(&["exec", "box", "sh", "-c", kill]).is(0, "refused\nalive\n", "");
    fs::remove_file(&file).unwrap();
    world.quilt(&["stop", "box"]).ok();
    world.quilt(&["start", "box"]).ok();
    world.quilt(&mkdir).is(1, "", refused);
    assert!(world.root.join("containers/box/seccomp.bpf").exists());
}

/// Fails if a profile that refuses what it takes to start a command makes that fail with a riddle.
#[test]
fn confinement_by_a_profile_that_refuses_too_much() {
    let world = World::new("refuses");
    let refusing = |names: &str| {
        let rule = format!(r#"{{"names": [{names}], "action": "SCMP_ACT_ERRNO"}}"#);
        world.write("profile.json", &format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#))
    };
    let image = images::busybox().display().to_string();
    let file = refusing(r#""setgroups", "setresuid""#);
    let why = "the profile refuses setgroups, setresuid, which it takes to start";
    let create = ["create", &image, "--name", "box", "--seccomp", &file];
    let error = world.quilt(&[&create[..], &["--", "true"]].concat()).failed("quilt-spec", "invalid");
    assert_eq!(error["message"], format!("{why} a command in a container of its own"));
    let error = world.quilt(&[&create[..], &["--no-new-privs=off"]].concat()).failed("quilt-spec", "invalid");
    assert_eq!(error["message"], format!("{why} a container"));
    // Without a command of its own init needs none of them, and a command has the filter last of all.
    world.quilt(&create).ok();
    world.quilt(&["exec", "--user", "agent", "box", "id", "-u"]).is(0, "1000\n", "");
    world.quilt(&["rm", "-f", "box"]).ok();
    let file = refusing(r#""execve""#);
    world.quilt(&["create", &image, "--name", "box", "--seccomp", &file]).ok();
    let why = "quilt-exec: run true: Operation not permitted: the container's seccomp profile refuses execve\n";
    world.quilt(&["exec", "box", "true"]).is(126, "", why);
    world.quilt(&["rm", "-f", "box"]).ok();
    // Where the container may trace, a command has it before it has its terminal.
    let file = refusing(r#""ioctl""#);
    world.quilt(&["create", &image, "--name", "box", "--seccomp", &file, "--cap-add=SYS_PTRACE"]).ok();
    world.quilt(&["exec", "box", "true"]).is(0, "", "");
    let why = "quilt-exec: make the terminal the command's own: Operation not permitted: the container's seccomp profile \
        refuses ioctl\n";
    world.quilt(&["exec", "-t", "box", "true"]).is(125, "", why);
}

/// Fails if bad input is not refused by one line, before anything is made.
#[test]
fn confinement_that_cannot_be() {
    let world = World::new("bad");
    let image = images::busybox();
    let image = image.to_str().unwrap();
    let bad_json = world.write("bad.json", "{\"defaultAction\": ");
    let bad_action = world.write("action.json", "{\"defaultAction\": \"SCMP_ACT_MAYBE\"}");
    let array = world.write("array.json", "[]");
    let before = world.inventory();
    for args in [
        ["--cap-add", "FOO"],
        ["--cap-drop", ""],
        ["--ulimit", "nofile"],
        ["--ulimit", "nofile=2:1"],
        ["--ulimit", "files=2"],
        ["--ulimit", "nproc=0"],
        ["--seccomp", &bad_json],
        ["--seccomp", &bad_action],
        ["--seccomp", &array],
        ["--seccomp", "/dev/null"],
    ] {
        let out = world.quilt(&["create", image, "--name", "box", args[0], args[1]]);
        out.failed("quilt-spec", "invalid");
        assert_eq!(out.stderr.lines().count(), 1, "{out:?}");
    }
    world.quilt(&["create", image, "--seccomp", "/nowhere"]).failed("quilt-spec", "not_found");
    world.assert_same(&before, crate::harness::SETTLE);
    let nothing: PathBuf = world.root.join("containers/box");
    assert!(!Path::new(&nothing).exists());
}

/// Fails if what holds for Quilt itself, and so for all that it starts, is not said, or is taken for a deviation.
#[test]
fn confinement_that_quilt_is_under_itself() {
    // A filter that allows everything: `struct sock_filter` and `sock_fprog`.
    let filtered = "import ctypes, os, struct, sys\n\
                    one = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\n\
                    all = ctypes.create_string_buffer(struct.pack('HL', 1, ctypes.addressof(one)))\n\
                    assert ctypes.CDLL(None).prctl(22, 2, ctypes.c_long(ctypes.addressof(all)), 0, 0) == 0\n\
                    os.execv(sys.argv[1], sys.argv[1:])";
    let world = World::new("held");
    let (image, quilt) = (images::busybox().display().to_string(), crate::harness::repo().join("scripts/quilt"));
    let quilt = quilt.display().to_string();
    let under =
        |wrapper: &[&str], args: &[&str]| world.run(wrapper[0], &[&wrapper[1..], &[&quilt], args].concat()).go();
    let (filter, no_new_privs) = (["python3", "-c", filtered], ["setpriv", "--no-new-privs"]);
    let create = |name: &'static str| ["create", &image, "--name", name, "--network", "none", "--security"];

    let kept = "it has no seccomp filter of its own, but keeps the one that Quilt itself runs under here";
    let out = under(&filter, &[&create("off")[..], &["--seccomp", "off"]].concat()).ok();
    assert_eq!(out.stderr, format!("quilt-spawn: {kept}\n"));
    let have = &out.record()["spawn"]["have"];
    assert_eq!((&have["confine"]["seccomp"], &have["notes"]), (&"inherited".into(), &serde_json::json!([kept])));
    // Whoever looks is under it, or is not: what he sends inside is so, too.
    under(&filter, &["probe", "--security", "off"]).ok();
    world.quilt(&["probe", "--security", "off"]).ok();
    under(&filter, &create("on")).ok();

    let out = under(&no_new_privs, &[&create("none")[..], &["--no-new-privs", "off"]].concat());
    out.failed("quilt-spawn", "unsupported");
    let why = "Quilt itself runs with no_new_privs here, which whatever it starts keeps";
    assert_eq!(out.stderr, format!("quilt-spawn: read --no-new-privs: {why}\n"));
    let record = under(&no_new_privs, &[&create("all")[..], &["--privileged"]].concat()).ok().record();
    assert_eq!(record["spawn"]["have"]["confine"]["no_new_privs"], true);
    world.create("free", &["--no-new-privs", "off", "--security"]);
    under(&no_new_privs, &["probe", "--security", "free"]).ok();
}

/// Fails if the look from inside finds anything to say about containers that are as they ought to be, whatever they ask
/// for. What it says about others is in attacks of each defence.
#[test]
fn confinement_is_verified_from_inside() {
    let world = World::new("verified");
    world.create("box", &["--security"]);
    world.create("none", &["--network=none", "--cap-drop=ALL", "--ulimit=nofile=64", "--security"]);
    world.create("open", &["--seccomp=off", "--no-new-privs=off", "--cap-add=NET_RAW", "--security"]);
    world.create("all", &["--privileged", "--security"]);
    world.create_from(Path::new("/"), "host", &["--security"]);
    // What is mounted is where the image's links lead to.
    let image = images::hostile(&world.path("image"));
    std::os::unix::fs::symlink("/var", image.join("link")).unwrap();
    let volume = format!("{}:/link//data", image.join("home").display());
    let mounts = ["--volume", &volume, "--tmpfs=/link/t", "--device=/dev/zero:/dev/other", "--read-only", "--security"];
    world.create_from(&image, "mounts", &mounts);
    let record = world.quilt(&["probe", "--security", "box"]).ok().record();
    let phases = record["probe"]["have"]["phases"].as_array().unwrap();
    let phase = phases.iter().find(|phase| phase["name"] == "security").unwrap();
    assert_eq!(phase["ok"], true);
    assert_eq!(phase["evidence"]["deviations"].as_array().map(Vec::len), Some(0));
    assert_eq!(phase["evidence"]["calls"]["clone3"], "ENOSYS");
    // One who says that he is held to less than he is: the record is changed under it.
    let path = world.root.join("containers/box/spawn.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"CAP_CHOWN\",", "")).unwrap();
    let refused = world.quilt(&["probe", "--security", "box"]);
    assert_eq!(refused.status, 19, "{refused:?}");
    assert!(refused.stderr.starts_with("quilt-probe: security: "), "{refused:?}");
    fs::write(&path, text).unwrap();
}

/// Fails if a defence can be missing without the look from inside saying so.
#[test]
fn confinement_that_is_missing_is_found_from_inside() {
    for (defence, found) in [
        ("capabilities", "CapBnd is "),
        ("no-new-privs", "NoNewPrivs is 0 and must be 1"),
        ("seccomp", "Seccomp is 0 and must be 2"),
        ("masks", "/proc/keys can be read"),
        ("read-only-paths", "/proc/sys/kernel/core_pattern can be written"),
        ("umask", "Umask is "),
        ("rlimits", "the resource limit core is "),
        ("cgroup-mount", "/sys/fs/cgroup can be written"),
        ("devices", "keeps the container from devices"),
    ] {
        let world = World::without("missing", defence);
        let image = images::busybox();
        // Its caller's own limit and umask are others than the container's.
        let create = format!(
            "umask 0; ulimit -S -c 0; ulimit -H -c unlimited; exec {}/scripts/quilt create {} --name box --security",
            crate::harness::repo().display(),
            image.display()
        );
        let out = world.run("sh", &["-c", &create]).go();
        out.failed("quilt-probe", "not_ready");
        assert!(out.stderr.contains(found), "without {defence}: {}", out.stderr);
    }
}
