//! Images whose directories are not what they seem: what is there in the place of a mount point, word for word what is said
//! to it, and that nothing outside of the container is touched, made or waited for.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::teeth::attack;
use crate::harness::{Out, Run, World, images, patient};

/// What any of it may take: a second, or more on a busy machine. What it is not to do is wait for ever.
const PROMPT: Duration = Duration::from_secs(8);

/// All kinds of objects that are put in the place of a directory. `OUT` is a directory outside, which is not there inside.
const KINDS: [&str; 14] = [
    "missing",
    "file",
    "fifo",
    "socket",
    "-> /var",
    "-> var",
    "-> OUT",
    "-> ../../../../../../../..OUT",
    "-> OUT/made",
    "-> /nowhere",
    "-> itself",
    "-> /proc/self/fd/3",
    "-> /proc/1/root",
    "-> /proc/self/root/OUT",
];

/// An image that one place after the other is spoilt of, and what nothing may touch.
struct Bench {
    world: World,
    image: PathBuf,
    out: PathBuf,
    before: String,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let world = World::new(name);
        let (image, out) = (world.path("image"), world.path("out"));
        Run::new("cp").args(&[Path::new("-a"), &images::busybox(), &image]).go().ok();
        fs::create_dir_all(out.join("below")).unwrap();
        for file in ["hosts", "hostname", "resolv.conf", "null", "keys"] {
            fs::write(out.join(file), "canary\n").unwrap();
        }
        let before = look(&out);
        Bench { world, image, out, before }
    }

    /// Puts an object of that kind at `at`.
    fn plant(&self, kind: &str, at: &str) {
        let at = self.image.join(at);
        let _ = fs::remove_dir_all(&at).or_else(|_| fs::remove_file(&at));
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let name = at.file_name().unwrap().to_str().unwrap().to_owned();
        match kind {
            "missing" => {}
            "directory" => fs::create_dir(&at).unwrap(),
            "file" => fs::write(&at, "").unwrap(),
            "fifo" => nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "socket" => drop(UnixListener::bind(&at).unwrap()),
            "-> itself" => symlink(name, &at).unwrap(),
            link => symlink(link.strip_prefix("-> ").unwrap().replace("OUT", self.out.to_str().unwrap()), &at).unwrap(),
        }
    }

    /// Creates a container of the image as it is.
    fn create(&self, args: &[&str]) -> Out {
        let base = ["create", self.image.to_str().unwrap(), "--name", "box", "--network", "none"];
        self.world.command(&[&base, args].concat()).limit(PROMPT).go()
    }

    /// The container was made, and is like any other; or was not, for the reason given. Nothing outside was touched.
    #[track_caller]
    fn comes_to(&self, what: &str, args: &[&str], why_not: Option<&str>) {
        let out = self.create(args);
        assert!(out.took < patient(PROMPT), "{what}: {out:#?}");
        match why_not {
            Some(why) => {
                out.failed("quilt-spawn", "invalid");
                assert_eq!(out.stderr, format!("quilt-spawn: {why}\n"), "{what}");
            }
            None => {
                let out = out.ok();
                assert_eq!(out.stderr, "", "{what}");
                // What is mounted at the three, by the types' numbers, and that /dev/null is it.
                let look = "stat -f -c %t /proc /sys /dev; stat -c %t:%T /dev/null; cat /proc/keys";
                assert_eq!(self.world.exec("box", &["sh", "-c", look]), "9fa0\n62656572\n1021994\n1:3\n", "{what}");
                self.world.quilt(&["rm", "-f", "box"]).ok();
            }
        }
        assert_eq!(look(&self.out), self.before, "{what}");
    }
}

/// Every file with its type, mode, owner, times and content.
fn look(dir: &Path) -> String {
    let find = "find . -printf '%p %y %m %U %G %n %T@ %C@ %s %l\\n' | sort; find . -type f | sort | xargs sha256sum";
    Run::new("sh").args(&["-c", find]).dir(dir).go().ok().stdout
}

/// Fails if a file system of the kernel is mounted anywhere but in a directory of the image, or on what it links to.
#[test]
fn dev_proc_and_sys_are_directories_or_missing() {
    let bench = Bench::new("kernels");
    for (at, step) in [
        ("proc", "mount proc on /proc (nosuid,nodev,noexec)"),
        ("sys", "mount sysfs on /sys (ro,nosuid,nodev,noexec)"),
        ("dev", "mount tmpfs on /dev (nosuid,mode=755,size=64k)"),
    ] {
        for kind in KINDS {
            bench.plant(kind, at);
            let is = match kind {
                "missing" => None,
                "file" | "fifo" | "socket" => Some(format!("a {kind}")),
                _ => Some("a symlink".to_owned()),
            };
            let why = is.map(|is| format!("{step}: /{at} of the image must be a directory or missing, and is {is}"));
            bench.comes_to(&format!("/{at} {kind}"), &[], why.as_deref());
        }
        bench.plant("directory", at);
    }
}

/// Fails if a network file is written outside of the container, or a directory made there, whatever /etc is.
#[test]
fn etc_is_what_it_is_inside() {
    let bench = Bench::new("etc");
    for kind in KINDS {
        bench.plant(kind, "etc");
        let is = match kind {
            "missing" | "-> /var" | "-> var" => None,
            "file" | "fifo" | "socket" => Some("is not a directory"),
            "-> itself" => Some("is a loop of links, or a link of /proc"),
            _ => Some("is a link that leads nowhere"),
        };
        let why = is.map(|is| format!("find /etc of the image: /etc of the image {is}"));
        bench.comes_to(&format!("/etc {kind}"), &[], why.as_deref());
    }
    bench.plant("directory", "etc");
    // What is there in the file's place is covered by the container's own layer.
    for kind in KINDS.iter().chain(&["directory", "-> /run/systemd/resolve/stub-resolv.conf"]) {
        bench.plant(kind, "etc/resolv.conf");
        bench.comes_to(&format!("/etc/resolv.conf {kind}"), &[], None);
    }
    bench.create(&[]).ok();
    let text = bench.world.exec("box", &["cat", "/etc/resolv.conf"]);
    assert!(text.starts_with('#') || text.starts_with("nameserver "), "{text:?}");
    bench.world.quilt(&["rm", "-f", "box"]).ok();
    // With the two of them.
    bench.plant("-> var", "etc");
    for kind in KINDS {
        bench.plant(kind, "var/resolv.conf");
        bench.comes_to(&format!("/etc/resolv.conf {kind}, by a link"), &[], None);
    }
    bench.plant("directory", "var/resolv.conf");
    bench.comes_to("a directory by a link", &[], Some("write /etc/resolv.conf: Is a directory"));
}

/// Fails if what an image has at /tmp or /run, where nothing is mounted unless it is asked for, keeps it from starting.
#[test]
fn tmp_and_run_are_left_alone() {
    let bench = Bench::new("left-alone");
    for at in ["tmp", "run"] {
        for kind in KINDS {
            bench.plant(kind, at);
            bench.comes_to(&format!("/{at} {kind}"), &[], None);
        }
    }
    let mounts = |world: &World| world.exec("box", &["cat", "/proc/self/mountinfo"]);
    bench.create(&[]).ok();
    assert!(!mounts(&bench.world).contains(" /tmp ") && !mounts(&bench.world).contains(" /run "));
    bench.world.quilt(&["rm", "-f", "box"]).ok();
}

/// Fails if a volume or a tmpfs lands on what a mount point of the image links to outside, or in /proc, /sys or /dev
/// inside, or if a mount point is made there.
#[test]
fn mount_points_are_found_inside() {
    let bench = Bench::new("points");
    let shown = bench.world.path("shown");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("f"), "shown\n").unwrap();
    let (dir, file) = (shown.display().to_string(), shown.join("f").display().to_string());
    let volume = (format!("{dir}:/data"), format!("bind {dir} on /data (nosuid,nodev)"));
    let single = (format!("{file}:/data"), format!("bind {file} on /data (nosuid,nodev)"));
    let memory = ("/data".to_owned(), "mount tmpfs on /data (nosuid,nodev,noexec,mode=1777)".to_owned());
    let loops = "/data of the image is a loop of links, or a link of /proc";
    for kind in KINDS {
        bench.plant(kind, "data");
        let is = |is_dir: bool| match kind {
            "missing" => None,
            "-> /var" | "-> var" if is_dir => None,
            "-> /var" | "-> var" => {
                Some("/data of the image is a directory, and what is to be there is not".to_owned())
            }
            "file" | "fifo" | "socket" if !is_dir => None,
            "file" | "fifo" | "socket" => {
                Some("/data of the image is not a directory, and what is to be there is one".to_owned())
            }
            "-> itself" | "-> /proc/self/fd/3" | "-> /proc/1/root" | "-> /proc/self/root/OUT" => Some(loops.to_owned()),
            _ => Some("/data of the image is a link that leads nowhere".to_owned()),
        };
        for ((asked, step), option, is_dir) in
            [(&volume, "--volume", true), (&single, "--volume", false), (&memory, "--tmpfs", true)]
        {
            let why = is(is_dir).map(|is| format!("{step}: {is}"));
            bench.comes_to(&format!("/data {kind} {option} {asked}"), &[option, asked], why.as_deref());
        }
    }
    // What the image leads into the container's own file systems.
    for (to, place) in [
        ("/", "the root"),
        (".", "the root"),
        ("/proc", "/proc"),
        ("/proc/sys/kernel", "/proc/sys/kernel"),
        ("sys/kernel", "/sys/kernel"),
        ("/dev", "/dev"),
        ("/var/../dev/shm", "/dev/shm"),
    ] {
        bench.plant(&format!("-> {to}"), "data");
        let why = format!("{}: /data of the image leads to {place}, which is the container's own", volume.1);
        bench.comes_to(&format!("/data -> {to}"), &["--volume", &volume.0], Some(&why));
    }
    // Nothing is made there, either.
    for to in ["/dev", "/sys/fs", "/proc/1"] {
        bench.plant(&format!("-> {to}"), "data");
        let asked = format!("{dir}:/data/new/er");
        let why = format!(
            "bind {dir} on /data/new/er (nosuid,nodev): /data/new/er of the image leads to {to}, which is the container's own"
        );
        bench.comes_to(&format!("/data/new/er -> {to}"), &["--volume", &asked], Some(&why));
    }
    bench.plant("-> /dev/null", "data");
    let why = format!("{}: /data of the image leads to /dev/null, which is the container's own", single.1);
    bench.comes_to("/data -> /dev/null", &["--volume", &single.0], Some(&why));
    assert_eq!(fs::read_dir(&shown).unwrap().count(), 1);
}

/// Fails if a chain of as many links as the kernel follows is not followed, or one more than that is waited for.
#[test]
fn chains_of_links() {
    let bench = Bench::new("chains");
    let shown = bench.world.path("shown");
    fs::create_dir(&shown).unwrap();
    fs::write(shown.join("f"), "shown\n").unwrap();
    fs::create_dir(bench.image.join("end")).unwrap();
    symlink("/end", bench.image.join("link1")).unwrap();
    for n in 2..=41 {
        symlink(format!("link{}", n - 1), bench.image.join(format!("link{n}"))).unwrap();
    }
    let asked = |n: u32| format!("{}:/link{n}/below:ro", shown.display());
    bench.create(&["--volume", &asked(40), "--tmpfs", "/link40/run"]).ok();
    let world = &bench.world;
    assert_eq!(world.exec("box", &["cat", "/end/below/f"]), "shown\n");
    assert_eq!(world.exec("box", &["stat", "-f", "-c", "%T", "/end/run"]), "tmpfs\n");
    world.quilt(&["rm", "-f", "box"]).ok();
    let why = format!(
        "bind {} on /link41/below (ro,nosuid,nodev): /link41/below of the image is a loop of links, or a link of /proc",
        shown.display()
    );
    bench.comes_to("41 links", &["--volume", &asked(41)], Some(&why));
    // Two ways to one place: only one of the two would be seen.
    let out = bench.create(&["--volume", &asked(2), "--tmpfs", "/link1/below"]);
    let why = "what was mounted at /link2/below is not what is there now: two paths lead to the same place";
    assert_eq!(out.failed("quilt-spawn", "invalid")["message"], why);
}

/// Fails if a volume's mount point is made outside, where a link of the image leads to.
#[test]
fn no_mount_point_is_made_outside() {
    let done = attack("outside", "volume-target", |world| {
        let (image, shown, out) = (world.path("image"), world.path("shown"), world.path("out"));
        [&shown, &out].iter().for_each(|dir| fs::create_dir(dir).unwrap());
        Run::new("cp").args(&[Path::new("-a"), &images::busybox(), &image]).go().ok();
        symlink(out.join("made"), image.join("data")).unwrap();
        let volume = format!("{}:/data", shown.display());
        world.quilt(&["create", image.to_str().unwrap(), "--name", "box", "--network", "none", "--volume", &volume]);
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    });
    assert_eq!(done, ["made"]);
}
