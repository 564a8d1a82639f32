//! What an image may hold against the one who makes a container of it: directories that lead out (A4), users that are none
//! (A8), programs and libraries that wait to be run with the host's rights (A10), names that mean something to a mount (A17).
//!
//! More of A4 is in attacks_files.rs, where every kind of object stands in every place.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::harness::teeth::attack;
use crate::harness::{Run, World, eventually, images, run::LIMIT};

/// A copy of the tree of busybox that the test may spoil.
fn copy(world: &World, at: &str) -> PathBuf {
    let tree = world.path(at);
    fs::create_dir_all(tree.parent().unwrap()).unwrap();
    Run::new("cp").args(&[Path::new("-a"), &images::busybox(), &tree]).go().ok();
    tree
}

fn make_executable(file: &Path) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Fails if a link in the image leads what Quilt mounts or writes for a container out of it (CVE-2019-19921, CVE-2026-41579).
#[test]
fn links_of_an_image_lead_nowhere() {
    attack("links", "mount-target", |world| {
        let canary = world.path("canary");
        let mut done = Vec::new();
        for (at, look) in [("etc", "true"), ("work", "true"), ("sys", "[ $(stat -f -c %t /sys) = 62656572 ]")] {
            fs::create_dir_all(canary.join("fs")).unwrap();
            let image = copy(world, &format!("image-{at}"));
            let _ = fs::remove_dir(image.join(at));
            let _ = fs::rename(image.join(at), image.join("aside"));
            symlink(&canary, image.join(at)).unwrap();
            let args =
                ["create", image.to_str().unwrap(), "--name", "box", "--workdir", "/work/made", "--", "sleep", "99"];
            let made = world.quilt(&args).status == 0;
            let left = fs::read_dir(&canary).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| name != "fs").collect();
            done.extend((!left.is_empty()).then(|| format!("/{at}: made {left:?} outside")));
            let wrong = made && world.quilt(&["exec", "-w", "/", "box", "/bin/busybox", "sh", "-c", look]).status != 0;
            done.extend(wrong.then(|| format!("/{at}: mounted elsewhere")));
            if made {
                world.quilt(&["rm", "-f", "box"]).ok();
            }
            fs::remove_dir_all(&canary).unwrap();
        }
        done
    });
}

/// Fails if a user that cannot be means root (2^32 - 1 is "as before" to the kernel).
#[test]
fn a_user_that_cannot_be_is_not_root() {
    attack("user", "user-spec", |world| {
        let mut done = Vec::new();
        world.create("box", &[]);
        for user in
            ["4294967295", "-1", "18446744073709551615", "4294967296", "0x0", "00x", "+0", " 0", "0 ", "1:", ":0", ""]
        {
            let option = format!("--user={user}");
            let out = world.quilt(&["exec", &option, "box", "id", "-u"]);
            done.extend((out.stdout == "0\n").then(|| format!("exec as `{user}`")));
            let image = images::busybox();
            let create = ["create", image.to_str().unwrap(), "--name", "other", &option, "--", "sh", "-c"];
            if world.quilt(&[&create[..], &["id -u >/tmp/id; sleep 99"]].concat()).status == 0 {
                let said = world.root.join("containers/other/upper/tmp/id");
                assert!(eventually(LIMIT, || fs::read(&said).is_ok_and(|text| !text.is_empty())));
                done.extend((fs::read_to_string(said).unwrap() == "0\n").then(|| format!("start as `{user}`")));
                world.quilt(&["rm", "-f", "other"]).ok();
            }
        }
        done
    });
}

/// A library that notes that it was loaded.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    int fd = open("/ran", O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd >= 0 && write(fd, "library\n", 8)) close(fd);
}
"#;

/// Fails if Quilt runs a program of the image's, or loads a library, that nobody asked for; what is asked for is confined.
#[test]
fn nothing_of_an_image_runs_unasked() {
    let world = World::new("trojans");
    let image = copy(&world, "image");
    fs::create_dir(image.join(".own")).unwrap();
    fs::rename(image.join("bin/busybox"), image.join(".own/busybox")).unwrap();
    // What it notes, it does with what it has: the capabilities tell whose rights those are.
    let note = "#!/.own/busybox sh\necho $0 $(/.own/busybox grep CapEff /proc/self/status) >>/ran\n";
    for dir in ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"] {
        fs::create_dir_all(image.join(dir)).unwrap();
        for name in fs::read_dir(images::busybox().join("bin")).unwrap().map(|entry| entry.unwrap().file_name()) {
            let trojan = image.join(dir).join(name);
            let _ = fs::remove_file(&trojan);
            fs::write(&trojan, note).unwrap();
            make_executable(&trojan);
        }
    }
    let source = world.write("library.c", LIBRARY);
    fs::create_dir_all(image.join("lib")).unwrap();
    let library = image.join("lib/evil.so");
    Run::new("cc").args(&["-shared", "-fPIC", "-o", library.to_str().unwrap(), &source]).limit(LIMIT).go().ok();
    for name in ["libc.so.6", "libnss_files.so.2", "libnss_dns.so.2", "libpthread.so.0", "ld-linux-x86-64.so.2"] {
        fs::copy(&library, image.join("lib").join(name)).unwrap();
    }
    fs::write(image.join("etc/ld.so.preload"), "/lib/evil.so\n").unwrap();
    fs::write(image.join("etc/nsswitch.conf"), "passwd: files\nhosts: files dns\n").unwrap();

    let archive = world.path("image.tar.gz");
    images::archive(&image, &archive, "tar.gz").unwrap();
    let ran = world.root.join("containers/box/upper/ran");
    for image in [&image, &archive] {
        world.create_from(image, "box", &["--user", "agent"]);
        world.quilt(&["exec", "box", "/.own/busybox", "true"]).ok();
        world.quilt(&["exec", "-u", "agent:extra", "box", "/.own/busybox", "true"]).ok();
        world.quilt(&["probe", "box"]).ok();
        for verb in [
            &["stats", "--json", "box"][..],
            &["inspect", "box"],
            &["logs", "box"],
            &["top", "--json", "box"],
            &["pause", "box"],
            &["unpause", "box"],
            &["stop", "-t", "0s", "box"],
            &["start", "box"],
        ] {
            world.quilt(verb);
        }
        assert!(!ran.exists(), "{}", fs::read_to_string(&ran).unwrap_or_default());
        // It does see what runs, and that has the rights of what runs inside.
        world.quilt(&["exec", "-u", "0", "box", "ip"]).ok();
        assert_eq!(fs::read_to_string(&ran).unwrap(), "/usr/local/sbin/ip CapEff: 00000000800405fb\n");
        world.quilt(&["rm", "-f", "box"]).ok();
    }
}

/// Fails if a directory with a colon in its name brings another one into the image, as an option of overlayfs would have it.
#[test]
fn a_name_with_a_colon_is_one_name() {
    attack("colon", "layer-paths", |world| {
        let canary = world.path("canary");
        fs::create_dir_all(&canary).unwrap();
        fs::write(canary.join("secret"), "secret\n").unwrap();
        copy(world, "image");
        // By overlayfs' rules: `…/image` and `…/canary`.
        let odd = world.path("image:");
        let image = copy(world, &format!("image:{}", canary.display()));
        assert!(image.starts_with(&odd));
        world.create_from(&image, "box", &[]);
        let out = world.quilt(&["exec", "box", "cat", "/secret"]);
        world.quilt(&["rm", "-f", "box"]).ok();
        out.stdout.lines().map(str::to_owned).collect()
    });
}
