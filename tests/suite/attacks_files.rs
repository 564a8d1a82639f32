//! Hostile files: in the image, in a container's own layer, at the roots of instances. Programs are in attacks.rs.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::{Out, Run, World, eventually, images, run::status_of};

/// What any of this may take on a busy machine. All that is held to it hung for ever once, or could.
const PROMPT: Duration = Duration::from_secs(8);

/// A directory outside of every container that nothing may touch.
struct Canary {
    dir: PathBuf,
    before: String,
}

impl Canary {
    fn new(world: &World) -> Canary {
        let dir = world.path("canary");
        for below in ["pts", "shm", "mqueue", "sys", "net", "1"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        for file in ["hosts", "hostname", "resolv.conf", "passwd", "null", "keys", "sys/x"] {
            fs::write(dir.join(file), "canary\n").unwrap();
        }
        let before = Canary::look(&dir);
        Canary { dir, before }
    }

    /// Every file with its type, mode, owner, times and content.
    fn look(dir: &Path) -> String {
        let find =
            "find . -printf '%p %y %m %U %G %n %T@ %C@ %s %l\\n' | sort; find . -type f | sort | xargs sha256sum";
        Run::new("sh").args(&["-c", find]).dir(dir).go().ok().stdout
    }

    #[track_caller]
    fn untouched(&self, what: &str) {
        assert_eq!(Canary::look(&self.dir), self.before, "{what}");
    }

    /// Puts a hostile object of that kind at `at`, in place of what is there.
    fn plant(&self, kind: &str, at: &Path) {
        let _ = fs::remove_dir_all(at).or_else(|_| fs::remove_file(at));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let out = self.dir.strip_prefix("/").unwrap();
        match kind {
            "absolute link" => symlink(&self.dir, at).unwrap(),
            "relative link" => symlink(Path::new(&"../".repeat(30)).join(out), at).unwrap(),
            "link by a process" => symlink(Path::new("/proc/self/root").join(out), at).unwrap(),
            "file" => fs::write(at, "").unwrap(),
            "socket" => drop(UnixListener::bind(at).unwrap()),
            "fifo" => nix::unistd::mkfifo(at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            _ => panic!("{kind}?"),
        }
    }
}

const LINKS: [&str; 3] = ["absolute link", "relative link", "link by a process"];
const NO_LINKS: [&str; 3] = ["file", "socket", "fifo"];
/// The types of what is mounted at `/proc`, `/sys`, `/dev` and `/dev/pts` in every container.
const MOUNTED: &str = "9fa0\n62656572\n1021994\n1cd1\n";

/// A create or a start over a hostile object: it worked, with the right mounts in the right places, or said why not.
#[track_caller]
fn contained(world: &World, what: &str, out: &Out) -> bool {
    if out.status != 0 {
        assert!(out.status == status_of("invalid") && out.stderr.lines().count() == 1, "{what}: {out:#?}");
        return false;
    }
    let look = ["exec", "box", "/bin/busybox", "stat", "-f", "-c", "%t", "/proc", "/sys", "/dev", "/dev/pts"];
    let out = world.command(&look).limit(PROMPT).go();
    assert!(out.status == 0 && out.stdout == MOUNTED, "{what}: {out:#?}");
    true
}

/// Fails if a mount or a file that every container gets lands where an image's object in that place points to, or if
/// such an object is waited for.
#[test]
fn attacks_files_where_an_image_has_its_directories() {
    let world = World::new("objects");
    let canary = Canary::new(&world);
    let cases =
        ["dev", "proc", "sys", "etc"].iter().flat_map(|at| LINKS.iter().chain(&NO_LINKS).map(move |k| (*k, *at)));
    let below = ["tmp", "run", "dev/pts", "dev/shm", "etc/hosts", "etc/resolv.conf", "etc/passwd"];
    let cases = cases.chain(below.iter().flat_map(|at| ["absolute link", "fifo"].map(|k| (k, *at))));
    let image = world.path("image");
    for (kind, at) in cases {
        let what = format!("{kind} at {at}");
        let _ = fs::remove_dir_all(&image);
        fs::create_dir_all(image.join("bin")).unwrap();
        fs::copy(images::busybox().join("bin/busybox"), image.join("bin/busybox")).unwrap();
        canary.plant(kind, &image.join(at));
        let out = world.command(&["create", image.to_str().unwrap(), "--name", "box"]).limit(PROMPT).go();
        if contained(&world, &what, &out) {
            world.quilt(&["rm", "-f", "box"]).ok();
        }
        canary.untouched(&what);
    }
}

/// Fails if the same works on a container that a process inside has prepared before it was stopped.
#[test]
fn attacks_files_where_a_stopped_container_has_them() {
    let world = World::new("restart");
    let canary = Canary::new(&world);
    for at in ["dev", "proc", "sys", "etc", "etc/hosts", "etc/resolv.conf"] {
        for kind in ["absolute link", "link by a process", "fifo"] {
            let what = format!("{kind} at {at}");
            world.create("box", &[]);
            world.quilt(&["stop", "-t", "0s", "box"]).ok();
            canary.plant(kind, &world.root.join("containers/box/upper").join(at));
            let out = world.command(&["start", "box"]).limit(PROMPT).go();
            contained(&world, &what, &out);
            canary.untouched(&what);
            world.quilt(&["rm", "-f", "box"]).ok();
        }
    }
}

/// Fails if a tool that joins a container opens what has taken the place of its `/dev/null` or its users.
#[test]
fn attacks_files_that_a_tool_opens() {
    let world = World::new("opened");
    world.create("box", &[]);
    let exec = |args: &[&str]| world.command(&[&["exec", "--timeout=5s"], args].concat()).limit(PROMPT).go();
    for null in ["true", "mkfifo /dev/null", "ln -s /proc/kmsg /dev/null", "echo text > /dev/null", "mkdir /dev/null"] {
        let replace = if null == "true" { String::new() } else { format!("rm -rf /dev/null; {null}") };
        world.exec("box", &["sh", "-c", &replace]);
        exec(&["box", "sh", "-c", "echo hi; cat"]).is(0, "hi\n", "");
        exec(&["-t", "box", "true"]).ok();
        // A check gets the container's own /dev/null, and so may fail; but only by what it reads as the container.
        let check = ["probe", "--timeout=1s", "--health-retries=1", "--health-check=cat; echo fine", "box"];
        let out = world.command(&check).limit(PROMPT).go();
        assert!(matches!(out.status, 0 | 16 | 19), "{null}: {out:#?}");
        assert!(out.status == 0 || null != "true", "{out:#?}");
    }
    let users = |make: &str| {
        world.exec("box", &["sh", "-c", &format!("rm -rf /etc/passwd; {make}")]);
        let out = exec(&["-u", "bob", "box", "true"]);
        assert!(out.status == 125 && out.stdout.is_empty() && out.stderr.lines().count() == 1, "{make}: {out:#?}");
        out.stderr
    };
    for file in ["/proc/kmsg", "/sys/kernel/notes"] {
        let said = users(&format!("ln -s {file} /etc/passwd"));
        assert!(said.contains("it is a file of the kernel"), "{file}: {said}");
    }
    users("ln -s /proc/self/environ /etc/passwd");
    users("mkfifo /etc/passwd");
    users("mkdir /etc/passwd");
    users("ln -s passwd /etc/passwd");
    users("truncate -s 1G /etc/passwd");
    users("ln -s /dev/zero /etc/passwd");
}

/// Puts a link to `$1` in the place of every `dirN`, and the directory back, again and again.
const RACER: &str = r#"
import os, sys
os.mkdir("racing")
while True:
    for n in range(60):
        try:
            os.rename(f"dir{n}", "x")
            os.symlink(sys.argv[1], f"dir{n}")
            os.unlink(f"dir{n}")
        except OSError:
            pass
        try:
            os.rename("x", f"dir{n}")
        except OSError:
            pass
"#;

/// Fails if the removal of a container leaves its layer by a link, also by one that takes a directory's place meanwhile,
/// or gives up over that, or over depth.
#[test]
fn attacks_files_that_are_removed() {
    let world = World::new("removed");
    let canary = Canary::new(&world);
    let upper = world.root.join("containers/box/upper");
    for _ in 0..2 {
        world.create("box", &[]);
        let farm = upper.join("farm");
        for n in 0..60 {
            fs::create_dir_all(farm.join(format!("dir{n}"))).unwrap();
            symlink(&canary.dir, farm.join(format!("link{n}"))).unwrap();
            symlink("../../../../../../canary", farm.join(format!("dir{n}/link"))).unwrap();
        }
        // A process's current directory goes with it, wherever the layer is renamed to.
        let racer = Run::new("python3").args(&["-c", RACER]).args(&[&canary.dir]).dir(&farm).start();
        assert!(eventually(PROMPT, || farm.join("racing").exists()), "no racer");
        let out = world.command(&["rm", "-f", "box"]).limit(PROMPT).go();
        racer.kill_group();
        // Against a racer on the host's side it may give up, with what it has done so far done.
        if out.status != 0 {
            assert!(out.stdout.is_empty() && out.stderr.lines().count() == 1, "{out:#?}");
            world.quilt(&["rm", "-f", "box"]).is(0, "", "");
        }
        assert_eq!(fs::read_dir(world.root.join("containers")).unwrap().count(), 0, "it is not all gone");
        canary.untouched("removed with a racer");
    }
    world.create("box", &[]);
    // Longer than any path, deeper than there may be descriptors. (A directory may cost the disk milliseconds.)
    let deep = "import os\nfor _ in range(1100):\n  os.mkdir('deep')\n  os.chdir('deep')";
    Run::new("python3").args(&["-c", deep]).dir(&upper).go().ok();
    world.quilt(&["rm", "-f", "box"]).ok();
}

/// Fails if what a container prints can do anything to the terminal of the one who reads Quilt's messages.
#[test]
fn attacks_files_no_terminal_by_messages() {
    let world = World::new("escapes");
    world.create("box", &[]);
    let plain = |what: &str, out: Out| {
        let odd = |c: char| c.is_control() && c != '\n';
        assert!(out.status != 0 && !out.stderr.contains(odd), "{what}: {out:#?}");
    };
    let evil = r"printf '\033]0;x\007\033[2J\r\b\177\302\233'";
    for end in ["sleep 9", "exit 1"] {
        let check = format!("{evil}; {end}");
        let args = ["probe", "--timeout=1s", "--health-retries=1", "--health-check", &check, "box"];
        plain(&check, world.command(&args).limit(PROMPT).go());
    }
    plain("a command", world.quilt(&["exec", "box", "\u{1b}[2J\u{9b}2J\u{7}"]));
    plain("a directory", world.quilt(&["exec", "-w", "/\u{1b}[2J\u{9b}", "box", "true"]));
    plain("a user", world.quilt(&["exec", "-u", "\u{1b}[2J\u{9b}", "box", "true"]));
    plain("an image", world.quilt(&["create", "/\u{1b}[2J\u{9b}", "--name", "other"]));
}

/// Fails if a character of a path means something to a mount's options, to a record or to a script on its way.
#[test]
fn attacks_files_at_odd_places() {
    let world = World::new("odd");
    let make = |dir: &Path| fs::DirBuilder::new().mode(0o700).create(dir).unwrap();
    let odd = OsStr::new("a b:c,d\\e\nf\u{1b}[2J'\"$(id)`id`*=%s\t\\040");
    let (root, image) = (world.path("").join(odd), world.path("image").join(odd));
    make(&root);
    make(&world.path("image"));
    images::hostile(&image);
    symlink("10.92.0.0/16", root.join("subnet")).unwrap();
    let quilt = |args: &[&str]| world.command(args).env("QUILT_ROOT", &root).go();
    quilt(&["create", image.to_str().unwrap(), "--name", "box"]).ok().record();
    for again in [false, true] {
        quilt(&["exec", "box", "sh", "-c", "echo hi >> /file; cat /file"]).is(
            0,
            if again { "hi\nhi\n" } else { "hi\n" },
            "",
        );
        quilt(&["inspect", "box"]).ok().record();
        if !again {
            quilt(&["stop", "-t", "0s", "box"]).ok();
            quilt(&["start", "box"]).ok().record();
        }
    }
    assert!(!image.join("file").exists(), "written into the image");
    quilt(&["rm", "-f", "box"]).ok();
    quilt(&["gc", "--purge", "--yes"]).ok();

    let root = world.path("").join(OsStr::from_bytes(b"not\xffutf-8"));
    let busybox = images::busybox().display().to_string();
    let out = world.command(&["create", &busybox, "--name", "box"]).env("QUILT_ROOT", &root).go();
    assert!(out.status == status_of("invalid"), "{out:#?}");
    assert!(!root.exists(), "made all the same");
}
