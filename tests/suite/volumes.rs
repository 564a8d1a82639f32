//! `--volume`: what of the host is shown inside, how, and what is not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::harness::{World, images};

/// A directory `shown` with a file in it.
fn shown(world: &World) -> String {
    let dir = world.path("shown");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("f"), "shown\n").unwrap();
    dir.display().to_string()
}

/// What is mounted in the container at paths that begin so: path, options (but for how times of access are kept, which
/// is as the host has it; nor `idmapped`, which is for the user namespace).
fn mounted(world: &World, below: &str) -> Vec<String> {
    let table = world.exec("box", &["cat", "/proc/self/mountinfo"]);
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let options = |all: &str| {
        all.split(',')
            .filter(|option| !option.ends_with("atime") && *option != "idmapped")
            .collect::<Vec<_>>()
            .join(",")
    };
    let ours = fields.filter(|f| f[4].starts_with(below));
    let mut lines: Vec<String> = ours.map(|f| format!("{} {}", f[4], options(f[5]))).collect();
    lines.sort();
    lines
}

/// Fails if a volume is not there in the container, its commands and its checks, or can be written where it is protected,
/// or is a place for devices and setuid programs.
#[test]
fn read_write_and_read_only() {
    let world = World::new("volume");
    let dir = shown(&world);
    let (rw, ro, file) = (format!("{dir}:/rw"), format!("{dir}:/ro:ro"), format!("{dir}/f:/etc/one:ro"));
    let check = "cat /rw/f /ro/f /etc/one; touch /rw/check; ! touch /ro/check && ! touch /etc/one";
    world.create("box", &["--volume", &rw, "--volume", &ro, "--volume", &file, "--health-check", check]);
    let line = |path: &str, flags: &str| format!("{path} {flags},nosuid,nodev");
    assert_eq!(mounted(&world, "/r"), [line("/ro", "ro"), line("/rw", "rw")]);
    assert_eq!(mounted(&world, "/etc"), [line("/etc/one", "ro")]);
    world.exec("box", &["sh", "-c", "echo more >>/rw/f && mkdir /rw/made"]);
    assert_eq!(fs::read_to_string(format!("{dir}/f")).unwrap(), "shown\nmore\n");
    assert_eq!(world.exec("box", &["cat", "/ro/f", "/etc/one"]), "shown\nmore\n".repeat(2));
    let names = |dir: &str| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&dir), ["check", "f", "made"]);
    for write in ["echo x >>/ro/f", "rm /ro/f", "mkdir /ro/d", "echo x >>/etc/one", "chmod 777 /ro/f"] {
        assert_ne!(world.quilt(&["exec", "box", "sh", "-c", write]).status, 0, "{write}");
    }
    // Nor by mounting it anew.
    let out = world.quilt(&["exec", "box", "mount", "-o", "remount,rw,bind", "/ro"]);
    assert_ne!(out.status, 0, "{out:?}");
    // What it was made of is not part of the container, and stays.
    world.quilt(&["rm", "-f", "box"]).ok();
    assert_eq!(names(&dir), ["check", "f", "made"]);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o755);
}

/// Fails if what is mounted below a source is missing, or can be written though the volume is protected; or if what is
/// mounted later on one side shows on the other.
#[test]
fn mounts_below_and_propagation() {
    let world = World::new("submounts");
    let dir = shown(&world);
    let tmpfs = |at: &str, data: &str| {
        fs::create_dir_all(at).unwrap();
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::MS_NOEXEC, Some(data)).unwrap();
    };
    let (below, odd) = (format!("{dir}/below"), format!("{dir}/below/a b\\c"));
    // Everybody's: a tmpfs is idmapped since 6.3 only, and before the container is not its owner.
    tmpfs(&below, "mode=777");
    tmpfs(&odd, "mode=711");
    let (rw, ro) = (format!("{dir}:/rw"), format!("{dir}:/ro:ro"));
    world.create("box", &["--volume", &rw, "--volume", &ro]);
    let expected = [
        "/ro ro,nosuid,nodev",
        "/ro/below ro,nosuid,nodev,noexec",
        "/ro/below/a\\040b\\134c ro,nosuid,nodev,noexec",
        "/rw rw,nosuid,nodev",
        "/rw/below rw,nosuid,nodev,noexec",
        "/rw/below/a\\040b\\134c rw,nosuid,nodev,noexec",
    ];
    assert_eq!(mounted(&world, "/r"), expected);
    world.exec("box", &["touch", "/rw/below/x"]);
    assert_ne!(world.quilt(&["exec", "box", "touch", "/ro/below/y"]).status, 0);
    // The test's own mounts are shared, as a host's are.
    let table = world.exec("box", &["cat", "/proc/self/mountinfo"]);
    assert!(table.lines().all(|line| line.split(' ').nth(6) == Some("-")), "not all private:\n{table}");
    let later = format!("{dir}/later");
    tmpfs(&later, "mode=700");
    umount2(odd.as_str(), MntFlags::MNT_DETACH).unwrap();
    assert_eq!(mounted(&world, "/r"), expected);
    world.quilt(&["rm", "-f", "box"]).ok();
    for at in [&later, &below] {
        umount2(at.as_str(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Fails if what is inside another volume or a tmpfs is hidden by it, in whatever order they are given; or if a mount
/// point that is missing is not made, as a directory or as an empty file.
#[test]
fn inside_each_other() {
    let world = World::new("nested");
    let (dir, other) = (shown(&world), world.path("other"));
    fs::create_dir(&other).unwrap();
    fs::write(other.join("g"), "other\n").unwrap();
    let other = other.display().to_string();
    let all = [
        ("--volume", format!("{dir}/f:/run/outer/new/inner/file:ro")),
        ("--volume", format!("{dir}:/run/outer/new/inner/deep/dir")),
        ("--tmpfs", "/run/outer/new/inner".to_owned()),
        ("--volume", format!("{other}:/run/outer")),
        ("--tmpfs", "/run:mode=755".to_owned()),
    ];
    let args: Vec<&str> = all.iter().flat_map(|(option, value)| [*option, value.as_str()]).collect();
    world.create("box", &args);
    let look = "cd /run && find . | sort && cat outer/g outer/new/inner/file outer/new/inner/deep/dir/f";
    let expected = "\
.
./outer
./outer/g
./outer/new
./outer/new/inner
./outer/new/inner/deep
./outer/new/inner/deep/dir
./outer/new/inner/deep/dir/f
./outer/new/inner/file
other
shown
shown
";
    assert_eq!(world.exec("box", &["sh", "-c", look]), expected);
    // A mount point inside a volume is made on the host, as anything that is made there.
    assert!(Path::new(&other).join("new/inner").is_dir());
    world.quilt(&["rm", "-f", "box"]).ok();
    // But not in one that is protected.
    let (outer, inner) = (format!("{dir}:/v:ro"), format!("{other}:/v/missing"));
    let out = world.quilt(&[
        "create",
        images::busybox().to_str().unwrap(),
        "--name",
        "box",
        "--volume",
        &outer,
        "--volume",
        &inner,
    ]);
    out.failed("quilt-spawn", "denied");
    let said = format!("quilt-spawn: bind {other} on /v/missing (nosuid,nodev): Read-only file system\n");
    assert_eq!(out.stderr, said);
}

/// Fails if a source that is not there is made, or Quilt's own state is shown, by whatever path; or if the user is told
/// something else.
#[test]
fn sources_that_are_refused() {
    let world = World::new("refused");
    let image = images::busybox().display().to_string();
    let refuse = |volume: &str, code: &str, why: &str| {
        let args = ["create", &image, "--name", "box", "--network", "none", "--volume", volume];
        for dry in [true, false] {
            let out = if dry { world.quilt(&[&args[..], &["--dry-run"]].concat()) } else { world.quilt(&args) };
            out.failed("quilt-spawn", code);
            let source = volume.split(':').next().unwrap();
            assert_eq!(out.stderr, format!("quilt-spawn: use {source} as a volume: {why}\n"));
        }
    };
    let missing = world.path("missing").display().to_string();
    refuse(&format!("{missing}:/x"), "not_found", "there is no such file or directory: make it first");
    assert!(!Path::new(&missing).exists());
    world.quilt(&["create", &image, "--name", "first", "--network", "none"]).ok();
    let root = world.root.canonicalize().unwrap().display().to_string();
    let belongs = format!("it belongs to Quilt's own state, {root}");
    let contains = format!("it contains Quilt's own state, {root}");
    refuse(&format!("{root}:/x:ro"), "invalid", &belongs);
    refuse(&format!("{root}/containers/first:/x"), "invalid", &belongs);
    refuse(&format!("{}:/x", world.dir.display()), "invalid", &contains);
    // Where the state's own file system is mounted, unless that is at `/`.
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    let above = Path::new(&root).ancestors().filter(|path| device(path) != device(Path::new("/"))).last();
    let whole = above.map(|at| format!("{}, which is mounted below it, {}", at.display(), &contains[3..]));
    refuse("/:/x:ro", "invalid", &whole.unwrap_or_else(|| contains.clone()));
    let link = world.path("link").display().to_string();
    symlink(&world.root, &link).unwrap();
    refuse(&format!("{link}:/x"), "invalid", &belongs);
    refuse(&format!("{link}/containers:/x"), "invalid", &belongs);
    // By another path that is no link.
    let alias = world.path("").join("../alias-of-the-test").display().to_string();
    fs::create_dir(&alias).unwrap();
    mount(Some(&world.dir), alias.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    refuse(&format!("{alias}:/x"), "invalid", &contains);
    refuse(&format!("{alias}/root:/x"), "invalid", &belongs);
    umount2(alias.as_str(), MntFlags::MNT_DETACH).unwrap();
    // By a mount of a directory in it, which has neither the path nor the number of any that is above it; and by one that is
    // below what is asked for.
    fs::create_dir(format!("{alias}/below")).unwrap();
    let below = fs::canonicalize(format!("{alias}/below")).unwrap().display().to_string();
    for (inside, at, volume, why) in [
        ("containers/first", "", "", belongs.clone()),
        ("containers/first/upper", "", "/etc", belongs.clone()),
        ("images", "/below", "", format!("{below}, which is mounted below it, {}", &belongs[3..])),
        ("..", "/below", "", format!("{below}, which is mounted below it, {}", &contains[3..])),
    ] {
        let (from, at) = (world.root.join(inside), format!("{alias}{at}"));
        mount(Some(&from), at.as_str(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        fs::create_dir_all(world.root.join("containers/first/upper/etc")).unwrap();
        refuse(&format!("{alias}{volume}:/x:ro"), "invalid", &why);
        umount2(at.as_str(), MntFlags::MNT_DETACH).unwrap();
    }
    // What is not there any more is no matter.
    world.create("second", &["--network", "none", "--volume", &format!("{alias}:/x")]);
    world.quilt(&["rm", "-f", "second"]).ok();
    fs::remove_dir_all(&alias).unwrap();
    // Another mount namespace's is not looked into.
    let other = world.run("busybox", &["unshare", "-m", "sleep", "60"]).start();
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let there = format!("/proc/{}", other.pid);
    let apart = || fs::read_link(format!("{there}/ns/mnt")).is_ok_and(|ns| ns != own);
    assert!(crate::harness::eventually(std::time::Duration::from_secs(5), apart));
    let why = "it is in another mount namespace, or somebody moves it about";
    refuse(&format!("{there}/root{}:/x", world.dir.display()), "invalid", why);
    other.signal(nix::sys::signal::Signal::SIGKILL);
    other.finish();
    world.quilt(&["rm", "-f", "first"]).ok();
}

/// Fails if an image that is a directory of the host shows Quilt's state, by whatever path it is given.
#[test]
fn images_that_hold_the_state() {
    let world = World::new("holds");
    let tree = world.path("tree");
    fs::create_dir(&tree).unwrap();
    let image = images::busybox();
    let all = format!("{}/.", image.display());
    world.run("cp", &["-a", &all, world.dir.to_str().unwrap()]).go().ok();
    world.create("first", &["--network", "none"]);
    mount(Some(&world.dir), &tree, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let inside = format!("/{}", world.root.file_name().unwrap().to_str().unwrap());
    for image in [&world.dir, &tree] {
        world.create_from(image, "box", &["--network", "none"]);
        assert_eq!(world.exec("box", &["ls", "-A", &inside]), "", "{}", image.display());
        world.quilt(&["rm", "-f", "box"]).ok();
    }
    umount2(&tree, MntFlags::MNT_DETACH).unwrap();
    mount(Some(&world.root.join("containers")), &tree, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let out = world.quilt(&["create", tree.to_str().unwrap(), "--name", "box", "--network", "none"]);
    umount2(&tree, MntFlags::MNT_DETACH).unwrap();
    out.failed("quilt-spawn", "invalid");
    assert_eq!(out.stderr, format!("quilt-spawn: use the image {}: it belongs to Quilt's own state\n", tree.display()));
    world.quilt(&["rm", "-f", "first"]).ok();
}

/// Fails if a volume that makes no sense is not refused at once, with what to write.
#[test]
fn what_makes_no_sense() {
    let world = World::new("nonsense");
    let image = images::busybox().display().to_string();
    let twice = "something else is to be at /b already: give each a place of its own";
    let own = "/, and all of /proc, /sys and /dev, are the container's own";
    for (args, why) in [
        (&["--volume", "/a"][..], "`/a` is not SRC:DST or SRC:DST:ro (paths with a colon cannot be given)".to_owned()),
        (
            &["--volume", "/a:/b:ro:z"],
            "`/a:/b:ro:z` is not SRC:DST or SRC:DST:ro (paths with a colon cannot be given)".to_owned(),
        ),
        (&["--volume", "/a:/b:Z"], "`Z` is not an option of a volume: write ro or rw".to_owned()),
        (&["--volume", "/a:/b:rshared"], "`rshared` is not an option of a volume: write ro or rw".to_owned()),
        (&["--volume", ":/b"], "`` is not an absolute path of the host".to_owned()),
        (&["--volume", "/a:b"], "`b` is not an absolute path inside the container".to_owned()),
        (&["--volume", "/a:/b/../c"], "`/b/../c` has a `..` in it: write the path that is meant".to_owned()),
        (&["--volume", "/a:/"], format!("nothing can be mounted at `/`: {own}")),
        (&["--volume", "/a://proc/./x"], format!("nothing can be mounted at `//proc/./x`: {own}")),
        (&["--volume", "/a:/sys"], format!("nothing can be mounted at `/sys`: {own}")),
        (&["--volume", "/a:/dev/shm"], format!("nothing can be mounted at `/dev/shm`: {own}")),
        (&["--volume", "/a:/b", "--volume", "/c:/b/"], twice.to_owned()),
        (&["--volume", "/a:/b", "--tmpfs", "/b:ro"], twice.to_owned()),
    ] {
        let out = world.quilt(&[&["create", &image, "--name", "box"], args].concat());
        out.failed("quilt-spec", "invalid");
        assert_eq!(out.stderr, format!("quilt-spec: read {}: {why}\n", args[args.len() - 2]));
    }
    assert!(!world.root.join("containers").exists());
}

/// Fails if a relative source is not the caller's, or the record does not hold the absolute one; if a source is looked up
/// again after the start; or if `start` does not show it again, or does not say that it is gone.
#[test]
fn once_and_again() {
    let world = World::new("again");
    let dir = shown(&world);
    let link = world.path("link");
    symlink("shown", &link).unwrap();
    let image = images::busybox().display().to_string();
    let args = ["create", &image, "--name", "box", "--network", "none", "--volume", "./link:/data:ro"];
    let record = world.command(&args).dir(&world.dir).go().ok().record();
    let absolute = format!("{}/link:/data:ro", world.dir.display());
    assert_eq!(record["spawn"]["want"]["volume"], serde_json::json!([absolute]));
    fs::remove_file(&link).unwrap();
    symlink("/", &link).unwrap();
    assert_eq!(world.exec("box", &["cat", "/data/f"]), "shown\n");
    fs::remove_file(&link).unwrap();
    world.quilt(&["stop", "-t", "0s", "box"]).ok();
    let out = world.quilt(&["start", "box"]);
    out.failed("quilt-spawn", "not_found");
    let why = format!("use {} as a volume: there is no such file or directory: make it first", link.display());
    assert_eq!(out.stderr, format!("quilt-spawn: {why}\n"));
    symlink(&dir, &link).unwrap();
    world.quilt(&["start", "box"]).ok();
    assert_eq!(world.exec("box", &["cat", "/data/f"]), "shown\n");
    // A tool by itself takes the caller's directory as well.
    world.quilt(&["rm", "-f", "box"]).ok();
    let args = ["create", &image, "--name", "box", "--network", "none", "--stop-after", "cgroup"];
    world.quilt(&args).ok();
    world.tool("quilt-spawn", &["--id", "box", "--volume", "shown:/data"]).dir(&world.dir).go().ok();
    assert_eq!(world.exec("box", &["cat", "/data/f"]), "shown\n");
}

/// Fails if protection does not reach what is mounted below a source, or the root, on a kernel without mount_setattr(2)
/// (before Linux 5.12), or if a flag that a mount had is lost by it.
#[test]
fn before_linux_5_12() {
    let world = World::new("old");
    let dir = shown(&world);
    let odd = format!("{dir}/a b\\c");
    fs::create_dir(&odd).unwrap();
    mount(Some("tmpfs"), odd.as_str(), Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
    let (image, rw, ro) = (images::busybox().display().to_string(), format!("{dir}:/rw"), format!("{dir}:/ro:ro"));
    let args = [
        "create",
        &image,
        "--name",
        "box",
        "--network",
        "none",
        "--stop-after",
        "cgroup",
        "--read-only",
        "--userns",
        "host",
    ];
    let record = world.quilt(&[&args[..], &["--volume", &rw, "--volume", &ro]].concat()).ok().stdout;
    let tool = crate::harness::bin().join("quilt-spawn").display().to_string();
    let inject =
        ["-f", "-qqq", "-e", "trace=mount_setattr,execveat", "-e", "inject=mount_setattr:error=ENOSYS", &tool, "-"];
    let run = world.run("strace", &inject).stdin(record).start();
    let done = world.root.join("containers/box/spawn.json");
    assert!(crate::harness::eventually(std::time::Duration::from_secs(15), || done.exists()));
    let expected = [
        "/ro ro,nosuid,nodev",
        "/ro/a\\040b\\134c ro,nosuid,nodev,noexec",
        "/rw rw,nosuid,nodev",
        "/rw/a\\040b\\134c rw,nosuid,nodev,noexec",
    ];
    assert_eq!(mounted(&world, "/r"), expected);
    assert_eq!(mounted(&world, "/")[0], "/ ro,nodev");
    let table = world.exec("box", &["cat", "/proc/self/mountinfo"]);
    assert!(table.lines().all(|line| line.split(' ').nth(6) == Some("-")), "not all private:\n{table}");
    world.quilt(&["rm", "-f", "box"]).ok();
    run.finish();
    umount2(odd.as_str(), MntFlags::MNT_DETACH).unwrap();
}
