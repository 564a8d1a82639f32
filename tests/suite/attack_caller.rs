//! What the one who calls Quilt has, and what runs inside must not get: descriptors and directories (A3), capabilities and
//! groups (A9), the terminal and the keyring (A13).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::teeth::{attack, everywhere};
use crate::harness::{Out, World, images, repo};

/// A directory outside that anybody may write to, and that nobody inside should come by.
fn canary(world: &World) -> PathBuf {
    let dir = world.path("canary");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// The ways in which the line said `reached`.
fn reached(said: Vec<(&'static str, String)>) -> Vec<String> {
    let mut reached: Vec<String> = said.iter().map(|(way, text)| format!("{way}: {text}")).collect();
    reached.retain(|line| line.contains("reached"));
    reached
}

/// Fails if a capability that the caller passes on (inheritable, ambient) or one of the caller's groups is passed on inside.
#[test]
fn a_callers_capabilities_and_groups_stay_outside() {
    let caller = ["setpriv", "--inh-caps=+sys_admin", "--ambient-caps=+sys_admin", "--groups=4242", "--"];
    for (defence, line) in [
        ("capabilities", "grep -E '^Cap.*0000000000200000' /proc/self/status"),
        ("groups", "grep '^Groups.*4242' /proc/self/status"),
    ] {
        let done = attack("caller", defence, |world| {
            reached(everywhere(world, &caller, &[], &format!("{line} && echo reached; true")))
        });
        assert_eq!(done.len(), 3, "{done:?}");
    }
}

/// Fails if a descriptor that the caller has open, close-on-exec or not, is open inside.
#[test]
fn a_callers_descriptors_stay_outside() {
    let done = attack("descriptors", "close-fds", |world| {
        let dir = canary(world);
        let caller = ["sh", "-c", "exec 9<\"$0\"; exec \"$@\"", dir.to_str().unwrap()];
        let line = "touch /proc/self/fd/9/touched && echo reached; true";
        let done = reached(everywhere(world, &caller, &[], line));
        assert_eq!(dir.join("touched").exists(), !done.is_empty());
        done
    });
    // A check's parent closes all in another way as well.
    assert!(done.len() >= 2, "{done:?}");
}

/// Fails if a command starts in a directory of the caller's, by a name that leads through a descriptor (CVE-2024-21626). Three
/// defences are in the way: such a name is refused, the descriptors are closed, and the directory would be found out. Each
/// alone is enough.
#[test]
fn a_callers_directories_are_no_working_directories() {
    let start = |world: &World| {
        let dir = canary(world);
        let (quilt, image) = (repo().join("scripts/quilt"), images::busybox());
        let run = |args: &[&str]| {
            let script = "exec 9<\"$0\"; exec \"$@\"";
            world.run("sh", &[&["-c", script, dir.to_str().unwrap(), quilt.to_str().unwrap()], args].concat()).go()
        };
        let command = ["sh", "-c", "touch touched; sleep 1000"];
        let mut done = Vec::new();
        for (way, place) in
            [("by its own", "/proc/self/fd/9"), ("by a link", "/dev/fd/9"), ("and up", "/proc/self/fd/9/..")]
        {
            let options = ["create", image.to_str().unwrap(), "--name", "box", "-w", place, "--"];
            run(&[&options[..], &command].concat());
            run(&["rm", "-f", "box"]);
            done.extend(dir.join("touched").exists().then(|| format!("start {way}")));
            let _ = fs::remove_file(dir.join("touched"));
        }
        done
    };
    attack("directory", "close-fds,cwd,mount-target", start);
    for two in ["close-fds,cwd", "close-fds,mount-target", "cwd,mount-target"] {
        assert_eq!(start(&World::without("directory", two)), [""; 0], "without {two} only");
    }
}

/// Fails if the terminal that Quilt is called on can be written or typed to from inside (TIOCSTI).
#[test]
fn a_callers_terminal_stays_outside() {
    let done = attack("terminal", "session", |world| {
        let (quilt, image) = (repo().join("scripts/quilt"), images::busybox());
        let (quilt, image) = (quilt.display(), image.display());
        let line = "sh -c 'echo reached >/dev/tty'";
        let start = format!("{quilt} create {image} --name box -- sh -c 'echo reached >/dev/tty; sleep 1000' >&2");
        let started = world.on_terminal(24, 80, &format!("{start} && sleep 0.3"));
        // That one may have ended with its terminal.
        world.quilt(&["rm", "-f", "box"]);
        world.create("box", &[]);
        let executed = world.on_terminal(24, 80, &format!("{quilt} exec box {line} </dev/null 2>&1 | cat >&2"));
        let check = format!("{quilt} probe --timeout 1s --health-check \"{line}\" box >/dev/null 2>&1");
        let shown = [started, executed, world.on_terminal(24, 80, &check)];
        world.quilt(&["rm", "-f", "box"]);
        let lines = |out: &Out| out.stdout.lines().any(|line| line == "reached");
        shown.iter().filter(|out| lines(out)).map(|out| format!("{out:?}")).collect()
    });
    assert_eq!(done.len(), 3, "{done:?}");
}

/// Puts a key into a session keyring of its own, and becomes a program that has that.
const KEYHOLDER: &str = r#"
import ctypes, os, platform, sys
libc = ctypes.CDLL(None)
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
if libc.syscall(keyctl, 1, None) < 0 or libc.syscall(add_key, b"user", b"quilt-canary", b"reached", 7, -3) < 0:
    sys.exit("no keys")
os.execvp(sys.argv[1], sys.argv[1:])
"#;

/// Fails if a key in the caller's session keyring can be read inside. Two defences are in the way.
#[test]
fn a_callers_keys_stay_outside() {
    let look = |world: &World| {
        let line = "prober privilege | grep -q \"the caller's key.done\" && echo reached; true";
        reached(everywhere(world, &["python3", "-c", KEYHOLDER], &[], line))
    };
    let done = attack("keys", "keyring,seccomp", look);
    assert_eq!(done.len(), 3, "{done:?}");
    assert_eq!(look(&World::without("keys", "seccomp")), [""; 0], "with a keyring of its own alone");
}
