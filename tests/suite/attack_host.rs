//! What reaches the host in words and numbers: removal that is led out (A11), state that others read (A12), names that a
//! shell takes for more (A16), floods (A18).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::harness::run::LIMIT;
use crate::harness::teeth::attack;
use crate::harness::{Run, World, eventually, images, repo};

/// Swaps every `dirN` with a link to `$1`, and back, as fast as it can.
const RACER: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None)
for n in range(60):
    os.symlink(sys.argv[1], f"link{n}")
open("racing", "w").close()
names = [(f"dir{n}".encode(), f"link{n}".encode()) for n in range(60)]
while True:
    for a, b in names:
        libc.renameat2(-100, a, -100, b, 2)
"#;

/// Fails if the removal of a container goes on in what takes a directory's place meanwhile.
#[test]
fn removal_stays_in_the_layer() {
    attack("removal", "no-follow", |world| {
        let canary = world.path("canary");
        fs::create_dir_all(&canary).unwrap();
        for _ in 0..4 {
            fs::write(canary.join("file"), "canary\n").unwrap();
            world.create("box", &[]);
            let farm = world.root.join("containers/box/upper/farm");
            (0..60).for_each(|n| fs::create_dir_all(farm.join(format!("dir{n}/below"))).unwrap());
            let racer = Run::new("python3").args(&["-c", RACER]).args(&[&canary]).dir(&farm).start();
            assert!(eventually(LIMIT, || farm.join("racing").exists()), "no racer");
            // Time for the racer between every two steps.
            let slow = ["-f", "-qqq", "-o", "/dev/null", "-e", "signal=none", "-e", "trace=unlinkat"];
            let rm = world.bin.join("quilt-rm");
            let words = ["-e", "inject=unlinkat:delay_exit=500", rm.to_str().unwrap(), "-f", "box"];
            let out = world.run("strace", &[&slow[..], &words].concat()).go();
            racer.kill_group();
            if out.status != 0 {
                world.quilt(&["rm", "-f", "box"]).ok();
            }
            if !canary.join("file").exists() {
                return vec!["a file outside is gone".to_owned()];
            }
        }
        Vec::new()
    });
}

/// Fails if another user of the host reads the state, or an instance is used that others could change.
#[test]
fn state_is_roots_alone() {
    attack("state", "state-mode", |world| {
        let mut done = Vec::new();
        let root = world.path("fresh");
        let image = images::busybox();
        let create = ["create", image.to_str().unwrap(), "--name", "box", "--network", "none"];
        let create = |root: &Path| world.command(&create).env("QUILT_ROOT", root).go().status == 0;
        let purge = |root: &Path| world.command(&["gc", "--purge", "--yes"]).env("QUILT_ROOT", root).go().ok();
        assert!(create(&root));
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
        for below in
            ["", "containers", "containers/box", "containers/box/upper", "containers/box/record.json", "run", "images"]
        {
            let path = root.join(below);
            let see = Run::new("setpriv").args(&nobody).args(&["test", "-r"]).args(&[&path]).go();
            done.extend((see.status == 0).then(|| format!("others read {below}/")));
        }
        purge(&root);
        for (mode, above) in [(0o777, 0o755), (0o770, 0o755), (0o700, 0o777)] {
            let parent = world.path(&format!("above-{mode:o}-{above:o}"));
            let root = parent.join("root");
            fs::create_dir_all(&root).unwrap();
            fs::set_permissions(&root, fs::Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&parent, fs::Permissions::from_mode(above)).unwrap();
            if create(&root) {
                done.push(format!("used with mode {mode:o} below {above:o}"));
                purge(&root);
            }
        }
        done
    });
}

/// Fails if a word that a caller passes on from somebody else (a name, a variable, a label, a command) is taken for more.
#[test]
fn words_stay_words() {
    let world = World::new("words");
    let canary = world.path("canary");
    let touch = format!("touch {}", canary.display());
    let kib = "x".repeat(4096);
    let words = [
        &format!("$({touch})"),
        &format!("`{touch}`"),
        &format!(";{touch};"),
        &format!("'; {touch}; '"),
        &format!("\" ; {touch} ; \""),
        &format!("|{touch}"),
        &format!("\n{touch}\n"),
        &format!("&&{touch}"),
        "-rf",
        "*",
        "..",
        "../..",
        "/",
        "",
        " ",
        "a b",
        "~",
        "$HOME",
        "--",
        "-",
        "%s%n",
        "\\",
        "#",
        "a=b",
        &kib,
    ];
    let mutant = fs::read_to_string(repo().join("scripts/quilt")).unwrap();
    let mutant: String = mutant
        .lines()
        .map(|line| match line.split_once("\"$@\"") {
            Some((before, after))
                if before.trim_start().starts_with("exec ") || before.trim_start().starts_with("pipeline ") =>
            {
                format!("eval '{before} '\"$*\"'{after}'\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let mutant = world.write("mutant", &mutant);
    fs::set_permissions(&mutant, fs::Permissions::from_mode(0o755)).unwrap();
    let attempt = |wrapper: &Path| {
        // What a script that evaluates its words makes of them stays in the test's directory.
        let quilt = |args: &[&str]| world.run(wrapper, args).dir(&world.dir).go();
        for word in words {
            let image = images::busybox();
            let image = image.to_str().unwrap();
            let (label, env) = (format!("--label=k={word}"), format!("--env=K={word}"));
            let made = quilt(&[
                "create",
                image,
                "--name",
                "box",
                "--network",
                "none",
                &label,
                &env,
                "--",
                "sh",
                "-c",
                "printf %s \"$0\"; sleep 99",
                word,
            ]);
            if made.status == 0 {
                assert_eq!(made.record()["labels"]["k"], word);
                quilt(&["exec", "box", "sh", "-c", "printf %s \"$K\""]).is(0, word, "");
                quilt(&["exec", "box", "printf", "%s", word]).is(0, word, "");
                quilt(&["exec", &format!("--env=L={word}"), "box", "sh", "-c", "printf %s \"$L\""]).is(0, word, "");
                assert!(
                    eventually(LIMIT, || quilt(&["logs", "box"]).stdout == word),
                    "logged: {:?}",
                    quilt(&["logs", "box"])
                );
                quilt(&[
                    "probe",
                    "--timeout=1s",
                    "--health-retries=1",
                    "--health-check",
                    &serde_json::json!(["printf", "%s", word]).to_string(),
                    "box",
                ])
                .ok();
                quilt(&["rm", "-f", "box"]).ok();
            }
            for args in [
                &["create", image, "--name", word][..],
                &["exec", word, "true"],
                &["exec", "-w", word, "box", "true"],
                &["logs", word],
                &["rm", word],
                &["inspect", word],
                &["stop", word],
                &["start", word],
                &[word],
                &["--root", word],
            ] {
                quilt(args);
            }
        }
        canary.exists()
    };
    assert!(!attempt(&repo().join("scripts/quilt")));
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(Path::new(&mutant)))).is_err()
            | canary.exists()
    );
    assert!(canary.exists(), "a script that evaluates its words did nothing either");
    world.quilt(&["rm", "-f", "box"]);
}

/// Fails if what runs inside can fill the disk by its output, or the memory of who looks at it.
#[test]
fn output_is_bounded() {
    attack("flood", "output-bound", |world| {
        let mut done = Vec::new();
        world.create("box", &["--log-size", "64KiB", "--", "sh", "-c", "yes | head -c 4000000; echo end; sleep 99"]);
        let dir = world.root.join("containers/box");
        let size = || {
            ["log", "log.1"].map(|file| fs::metadata(dir.join(file)).map_or(0, |meta| meta.len())).iter().sum::<u64>()
        };
        assert!(eventually(LIMIT, || world.quilt(&["logs", "box"]).stdout.ends_with("end\n")));
        done.extend((size() > 64 << 10).then(|| format!("logs: {} bytes", size())));
        let check =
            ["probe", "--timeout=2s", "--health-retries=1", "--health-check", "yes | head -c 1000000; exit 1", "box"];
        let out = world.command(&check).limit(LIMIT).go();
        assert_ne!(out.status, 0);
        let told = out.stdout.len() + out.stderr.len();
        done.extend((told > 20000).then(|| format!("probe: {told} bytes")));
        world.quilt(&["rm", "-f", "box"]).ok();
        done
    });
}

/// Fails if anything of a check outlives its time: what daemonises, what ignores signals, what forks as fast as it can.
#[test]
fn a_check_ends_with_all_that_it_started() {
    attack("check", "leaf-kill", |world| {
        let mut done = Vec::new();
        for check in [
            "setsid sleep 71 & sleep 71",
            "trap '' TERM HUP INT; (setsid sh -c 'trap \"\" TERM; sleep 71; sleep 71' &) ; sleep 71",
            "for i in $(seq 300); do setsid sleep 71 & done; sleep 71",
            "f() { (setsid sleep 71 &); f & f; }; f",
        ] {
            world.create("box", &["--pids", "512"]);
            let args = [
                "probe",
                "--timeout=5s",
                "--health-timeout=500ms",
                "--health-retries=1",
                "--health-check",
                check,
                "box",
            ];
            let out = world.command(&args).limit(LIMIT).go();
            assert_ne!(out.status, 0, "{out:?}");
            let left = crate::exec::running("sleep 71");
            done.extend((left > 0).then(|| format!("{left} left of: {check}")));
            world.quilt(&["rm", "-f", "box"]).ok();
            assert!(eventually(Duration::from_secs(2), || crate::exec::running("sleep 71") == 0));
        }
        done
    });
}
