//! What the containers of the tests are made of. Made once, and kept in `$QUILT_TEST_CACHE` or `target/tmp`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use super::Run;

fn cache() -> PathBuf {
    let dir = std::env::var_os("QUILT_TEST_CACHE").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    fs::create_dir_all(&dir).unwrap();
    fs::canonicalize(dir).unwrap()
}

/// Makes `name` in the cache, if it is not there, whole or not at all.
fn made_once(name: &str, make: impl FnOnce(&Path) -> Option<()>) -> Option<PathBuf> {
    let (done, fresh) = (cache().join(name), cache().join(format!(".new-{}-{name}", std::process::id())));
    if !done.exists() {
        make(&fresh)?;
        fs::rename(&fresh, &done).unwrap();
    }
    Some(done)
}

/// A tree with nothing but busybox (Debian's `busybox-static`), two users and the usual directories.
pub fn busybox() -> PathBuf {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        made_once("busybox-tree", |tree| {
            make_busybox(tree);
            Some(())
        })
    };
    TREE.get_or_init(|| make().unwrap()).clone()
}

fn make_busybox(tree: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.expect("no /bin/busybox: install busybox-static");
    for dir in ["bin", "dev", "etc", "home/agent", "proc", "root", "sys", "tmp", "usr/bin", "var"] {
        fs::create_dir_all(tree.join(dir)).unwrap();
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy(busybox, tree.join("bin/busybox")).unwrap();
    for applet in Run::new(busybox).args(&["--list"]).go().ok().stdout.lines().filter(|a| *a != "busybox") {
        symlink("busybox", tree.join("bin").join(applet)).unwrap();
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:Agent:/home/agent:/bin/sh\n";
    fs::write(tree.join("etc/passwd"), users).unwrap();
    fs::write(tree.join("etc/group"), "root:x:0:\nagent:x:1000:\nextra:x:2000:agent\n").unwrap();
    nix::unistd::chown(&tree.join("home/agent"), Some(1000.into()), Some(1000.into())).unwrap();
}

/// The same with `/bin/attack` (attacker.c), as a directory of the test's own that it may spoil.
pub fn hostile(tree: &Path) -> PathBuf {
    let attacker = compiled("attacker", &[concat!(env!("CARGO_MANIFEST_DIR"), "/suite/harness/attacker.c").into()]);
    Run::new("cp").args(&[Path::new("-a"), &busybox(), tree]).go().ok();
    fs::copy(attacker, tree.join("bin/attack")).unwrap();
    tree.to_owned()
}

/// The same with `/bin/prober` (tests/prober).
pub fn prober() -> PathBuf {
    let files = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/prober")).unwrap();
    let mut sources: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    sources.retain(|path| path.extension().is_some_and(|end| end == "c"));
    sources.sort();
    let prober = compiled("prober", &sources);
    let name = format!("tree-{}", prober.file_name().unwrap().display());
    let make = |tree: &Path| {
        make_busybox(tree);
        fs::copy(&prober, tree.join("bin/prober")).ok().map(drop)
    };
    made_once(&name, make).unwrap()
}

/// A static program of these files of C; made anew when one has changed.
fn compiled(name: &str, sources: &[PathBuf]) -> PathBuf {
    let bytes: Vec<u8> = sources.iter().flat_map(|source| fs::read(source).unwrap()).collect();
    let hash = bytes.iter().fold(5381u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(*byte));
    let made = made_once(&format!("{name}-{hash:08x}"), |file| {
        let options = ["-static", "-O1", "-Wall", "-Wextra", "-Wno-format-truncation", "-o", file.to_str()?];
        Run::new("cc").args(&options).args(sources).limit(Duration::from_secs(60)).go().is(0, "", "");
        Some(())
    });
    made.unwrap()
}

/// The tree of busybox as an archive: `tar`, `tar.gz` or `tar.zst`.
pub fn busybox_archive(kind: &str) -> PathBuf {
    made_once(&format!("busybox.{kind}"), |file| archive(&busybox(), file, kind)).unwrap()
}

/// Archives a tree with GNU tar.
pub fn archive(tree: &Path, file: &Path, kind: &str) -> Option<()> {
    let flag = match kind {
        "tar" => "--no-auto-compress",
        "tar.gz" => "--gzip",
        "tar.zst" => "--zstd",
        _ => panic!("{kind}?"),
    };
    let (tree, file) = (tree.to_str()?, file.to_str()?);
    let args = ["-C", tree, "--xattrs", "--xattrs-include=*", "--format=posix", flag, "-cf", file, "."];
    Run::new("tar").args(&args).go().ok();
    Some(())
}

/// A Debian with python3, which also goes by `python`, as `.tar.gz`; the reason where it cannot be had.
pub fn debian() -> Result<PathBuf, String> {
    // The quick way to a small tree.
    let small =
        ["--variant=essential", "--include=python3-minimal", "--customize-hook=ln -s python3 \"$1/usr/bin/python\""];
    debian_with("debian.tar.gz", &small)
}

/// A Debian as people work in: apt, git, pip, sudo.
pub fn workshop() -> Result<PathBuf, String> {
    let packages = "adduser,ca-certificates,git,iputils-ping,libcap2-bin,python3,python3-pip,python3-venv,sudo";
    debian_with("workshop.tar.gz", &["--variant=apt", &format!("--include={packages}")])
}

fn debian_with(name: &str, what: &[&str]) -> Result<PathBuf, String> {
    let mut why = String::new();
    let made = made_once(name, |file| {
        // Documentation makes up half of the files.
        let path = "--dpkgopt=path-exclude=/usr/share/{doc,man,info,locale}/*";
        // `….tar.gz` without its end.
        let tar = file.with_extension("");
        if !Path::new("/usr/bin/mmdebstrap").exists() {
            why = "mmdebstrap is not installed".to_owned();
            return None;
        }
        let run = Run::new("mmdebstrap").args(&["--mode=root", "--quiet", path]).args(what).args(&["bookworm"]);
        match run.args(&[&tar]).limit(Duration::from_secs(600)).try_go() {
            Some(out) if out.status == 0 => {
                // `….tar` becomes `….tar.gz`, which is `file`.
                Run::new("gzip").args(&["-1f", tar.to_str()?]).limit(Duration::from_secs(120)).go().ok();
                Some(())
            }
            out => {
                let _ = fs::remove_file(&tar);
                why = format!("mmdebstrap failed: {:?}", out.map(|o| o.stderr));
                None
            }
        }
    });
    made.ok_or(why)
}
