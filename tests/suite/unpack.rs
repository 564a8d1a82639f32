//! quilt-unpack: the tree that GNU tar would make, once per image, and no second look at the file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Run, World, images};

/// Prints everything that matters about a tree, a line per path: type, mode, owner, size, time to the nanosecond,
/// links, content, targets, extended attributes.
const DUMP: &str = r#"
import hashlib, os, stat, sys
root = os.fsencode(sys.argv[1])
inodes = {}
def line(path, shown):
    s = os.lstat(path)
    kind = stat.S_IFMT(s.st_mode)
    what = b""
    if stat.S_ISREG(s.st_mode):
        what = hashlib.sha256(open(path, "rb").read()).hexdigest()
    elif stat.S_ISLNK(s.st_mode):
        what = os.readlink(path)
    first = inodes.setdefault(s.st_ino, shown) if kind != stat.S_IFDIR else shown
    names = sorted(n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.overlay"))
    xattrs = [(n, os.getxattr(path, n, follow_symlinks=False)) for n in names]
    size = 0 if kind == stat.S_IFDIR else s.st_size
    print(shown, oct(s.st_mode), s.st_uid, s.st_gid, size, s.st_mtime_ns, s.st_rdev, first, what, xattrs)
def walk(path, shown):
    line(path, shown)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for name in sorted(os.listdir(path)):
            walk(os.path.join(path, name), shown + b"/" + name)
walk(root, b"")
"#;

fn dump(world: &World, tree: &Path) -> Vec<String> {
    let out = world.run("python3", &["-c", DUMP, tree.to_str().unwrap()]).go().ok();
    out.stdout.lines().map(str::to_owned).collect()
}

/// A tree with everything that an honest image may hold.
fn tricky(world: &World) -> PathBuf {
    let tree = world.path("tree");
    let script = r#"
        mkdir -p "$1" && cd "$1"
        mkdir -p a/b/c 'with space' empty deep/1/2/3/4/5/6/7/8/9
        echo text > a/file; head -c 3000000 /dev/urandom > a/big; : > a/empty
        ln a/file a/b/hard; ln a/file 'with space/hard too'
        ln -s ../file a/b/relative; ln -s /etc/passwd a/absolute; ln -s nowhere dangling; ln -s a link-to-dir
        ln -s "$(printf '%0200d' 7)" long-target
        mkfifo fifo
        long=$(printf '%0150d' 3); mkdir -p "$long/$long"; echo deep > "$long/$long/$long"
        printf 'x' > "$(printf 'umlaut-\303\244')"; printf 'x' > "$(printf 'bytes-\377')"; printf 'x' > 'new
line'
        chmod 4755 a/file; chmod 0000 a/empty; chmod 1777 empty; chmod 2750 a/b; chmod 0555 deep
        chown 1000:2000 a/b a/big; chown -h 7:8 dangling; chown 4000000:5 a/empty
        chmod 6711 a/big
        dd if=/dev/zero of=sparse bs=1 count=1 seek=5000000 2>/dev/null
    "#;
    Run::new("sh").args(&["-ec", script, "sh", tree.to_str().unwrap()]).go().ok();
    let xattrs = r#"
import os, sys
os.chdir(sys.argv[1])
os.setxattr("a/big", "user.note", b"with\0zero and \n line")
os.setxattr("a", "user.dir", b"d")
os.setxattr("a/b/c", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
for n, (path, _, names) in enumerate(os.walk(b".", topdown=False)):
    for name in names + [b""]:
        os.utime(os.path.join(path, name), ns=(10**18, 10**18 + n * 10**9 + 123456789), follow_symlinks=False)
"#;
    // Capabilities are of files only.
    let xattrs = xattrs.replace("\"a/b/c\", \"security", "\"a/file\", \"security");
    Run::new("python3").args(&["-c", &xattrs, tree.to_str().unwrap()]).go().ok();
    tree
}

/// Unpacks an archive and returns the record.
fn unpack(world: &World, id: &str, image: &Path) -> Value {
    world.tool("quilt-unpack", &["--id", id, image.to_str().unwrap()]).go().ok().record()
}

fn lower(record: &Value) -> PathBuf {
    let lower = record["unpack"]["have"]["lower"].as_array().unwrap();
    assert_eq!(lower.len(), 1);
    lower[0].as_str().unwrap().into()
}

#[test]
fn the_same_tree_as_gnu_tar() {
    let world = World::new("differential");
    let tree = tricky(&world);
    for kind in ["tar", "tar.gz", "tar.zst"] {
        // By content, not by name.
        let file = world.path("image.bin");
        images::archive(&tree, &file, kind).unwrap();
        let theirs = world.path(&format!("gnu-{kind}"));
        fs::create_dir(&theirs).unwrap();
        let flags = ["--xattrs", "--xattrs-include=*", "--same-owner", "--same-permissions", "--numeric-owner"];
        let decompress = match kind {
            "tar" => "cat",
            "tar.gz" => "gzip -dc",
            _ => "zstd -dc",
        };
        let script = format!("{decompress} {} | tar {} -C {} -xf -", file.display(), flags.join(" "), theirs.display());
        Run::new("sh").args(&["-ec", &script]).go().ok();
        let ours = lower(&unpack(&world, kind, &file));
        let (ours, theirs) = (dump(&world, &ours), dump(&world, &theirs));
        let differ: Vec<_> = theirs.iter().zip(&ours).filter(|(t, o)| t != o).collect();
        assert!(differ.is_empty() && ours.len() == theirs.len(), "{kind}: GNU tar against Quilt: {differ:#?}");
        assert!(ours.len() > 30);
        // And what went into the archive is what came out: GNU tar could be wrong too.
        assert_eq!(ours[1..], dump(&world, &tree)[1..]);
        world.quilt(&["rm", kind]).ok();
    }
}

#[test]
fn the_second_create_does_not_read_the_image() {
    let world = World::new("cached");
    let image = world.path("image");
    fs::copy(images::busybox_archive("tar.gz"), &image).unwrap();
    let looks = |id: &str| {
        let log = world.path(&format!("trace-{id}")).display().to_string();
        let calls = "read,pread64,readv,preadv,preadv2,mmap,sendfile,splice,copy_file_range,io_uring_enter";
        let trace = ["-f", "-y", "-qq", "-e", &format!("trace={calls}"), "-o", &log];
        let tool = crate::harness::bin().join("quilt-unpack").display().to_string();
        let args = [&trace[..], &[&tool, "--id", id, image.to_str().unwrap()]].concat();
        let record = world.run("strace", &args).go().ok().record();
        let needle = format!("<{}>", image.display());
        let text = fs::read_to_string(log).unwrap();
        (record["unpack"]["have"].clone(), text.lines().filter(|l| l.contains(&needle)).count())
    };
    let (first, reads) = looks("one");
    assert_eq!(first["cached"], false);
    assert!(reads > 0, "the trace does not see what it is for");
    let (second, reads) = looks("two");
    assert_eq!((&second["cached"], reads), (&Value::Bool(true), 0));
    assert_eq!((&second["digest"], &second["lower"]), (&first["digest"], &first["lower"]));
    assert_ne!(second["upper"], first["upper"]);
    // The same bytes under another name are the same image; other bytes under the same name are another.
    let copy = world.path("copy");
    fs::copy(&image, &copy).unwrap();
    assert_eq!(unpack(&world, "three", &copy)["unpack"]["have"]["lower"], first["lower"]);
    fs::copy(images::busybox_archive("tar"), &image).unwrap();
    assert_ne!(unpack(&world, "four", &image)["unpack"]["have"]["digest"], first["digest"]);
    world.quilt(&["rm", "one", "two", "three", "four"]).ok();
}

#[test]
fn many_first_creates_unpack_once() {
    let world = World::new("once");
    let image = images::busybox_archive("tar.gz").display().to_string();
    let ids: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    let all: Vec<_> = ids.iter().map(|id| world.tool("quilt-unpack", &["--id", id, &image]).start()).collect();
    let records: Vec<Value> = all.into_iter().map(|run| run.finish().ok().record()).collect();
    let lowers: std::collections::BTreeSet<_> = records.iter().map(lower).collect();
    assert_eq!(lowers.len(), 1);
    let fresh = records.iter().filter(|r| r["unpack"]["have"]["cached"] == false).count();
    assert_eq!(fresh, 1, "unpacked {fresh} times");
    let kept = world.inventory().of("state").iter().filter(|s| s.starts_with("images/")).count();
    assert!((1..=2).contains(&kept), "{:?}", world.inventory().of("state"));
}

#[test]
fn a_layer_of_its_own_for_each() {
    let world = World::new("layers");
    let image = images::busybox_archive("tar.gz");
    world.create_from(&image, "one", &[]);
    world.create_from(&image, "two", &[]);
    world.exec("one", &["sh", "-c", "echo changed > /etc/passwd; rm /bin/vi; mkdir /new"]);
    assert!(world.exec("two", &["cat", "/etc/passwd"]).starts_with("root:"));
    world.exec("two", &["test", "-e", "/bin/vi"]);
    world.quilt(&["exec", "two", "test", "-e", "/new"]).is(1, "", "");
    world.quilt(&["rm", "-f", "one"]).ok();
    world.create_from(&image, "one", &[]);
    assert!(world.exec("one", &["cat", "/etc/passwd"]).starts_with("root:"), "a new container starts from its image");
}

#[test]
fn a_bar_for_people_only() {
    let world = World::new("bar");
    let image = match images::debian() {
        Ok(image) => image.display().to_string(),
        Err(why) => return crate::harness::skip("a_bar_for_people_only", &why),
    };
    let tool = crate::harness::bin().join("quilt-unpack").display().to_string();
    let silent = world.run(&tool, &["--id", "one", &image]).go().ok();
    assert_eq!(silent.stderr, "", "not a terminal");
    world.quilt(&["rm", "one"]).ok();
    world.command(&["gc", "--purge", "--yes"]).limit(std::time::Duration::from_secs(120)).go().ok();
    world.subnet("10.91.0.0/16");
    // A terminal as standard error; standard output stays the record's.
    let line = format!("{tool} --id two {image} >{}", world.path("out").display());
    let seen = world.on_terminal(24, 80, &line).ok();
    assert!(fs::read_to_string(world.path("out")).unwrap().starts_with("{\"format\":1,"));
    if silent.took > std::time::Duration::from_millis(1500) {
        assert!(seen.stdout.contains('%') || seen.stdout.contains("MiB"), "no bar: {:?}", seen.stdout);
    }
    // A short piece of work has none.
    let line = format!("{tool} --id three {} >/dev/null", images::busybox_archive("tar").display());
    world.on_terminal(24, 80, &line).is(0, "", "");
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    let world = World::new("no-image");
    let cases = [
        ("empty", Vec::new()),
        ("text", b"hello, I am no archive\n".repeat(50)),
        ("zeros", vec![0u8; 100]),
        ("gzip-of-text", gzip(b"not a tar")),
        ("cut-gzip", fs::read(images::busybox_archive("tar.gz")).unwrap()[..60_000].to_vec()),
        ("cut-tar", fs::read(images::busybox_archive("tar")).unwrap()[..700_000].to_vec()),
        ("cut-zstd", fs::read(images::busybox_archive("tar.zst")).unwrap()[..60_000].to_vec()),
    ];
    world.create("warm", &[]);
    let before = world.inventory();
    for (name, bytes) in cases {
        let file = world.path(name);
        fs::write(&file, bytes).unwrap();
        let out = world.quilt(&["create", file.to_str().unwrap(), "--name", "bad"]);
        out.failed("quilt-unpack", "invalid");
        assert!(out.stderr.contains(name), "the file's name: {}", out.stderr);
        world.assert_same(&before, crate::harness::SETTLE);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let dir = std::env::temp_dir().join(format!("quilt-tests-gzip-{}", std::process::id()));
    fs::write(&dir, bytes).unwrap();
    Run::new("gzip").args(&["-f", dir.to_str().unwrap()]).go().ok();
    let packed = dir.with_extension("gz");
    let bytes = fs::read(&packed).unwrap();
    fs::remove_file(&packed).unwrap();
    bytes
}
