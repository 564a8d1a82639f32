//! What runs inside with CAP_SYS_PTRACE attacks Quilt's own processes there, which are not dumpable: that is no defence
//! against whoever has the capability in the user namespace of their memory.
//!
//! The attacker is a program in the image (harness/attacker.c).

use std::fs;
use std::time::Duration;

use crate::harness::{World, eventually, images, skip};

const PROMPT: Duration = Duration::from_secs(8);

/// How often the tools join at most until an attack succeeds that ought to: it has to come at the right moment.
const LUCK: u32 = 200;

/// The lines that the attacker has put into `/FILE` of the container.
fn noted(world: &World, file: &str) -> Vec<String> {
    let text = fs::read_to_string(world.root.join("containers/box/upper").join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A container in which `/bin/attack ATTACK` loops, with the capability and these options.
fn attacking(world: &World, options: &[&str], attack: &[&str]) {
    let image = images::hostile(&world.path("image"));
    let all = [&["--cap-add=SYS_PTRACE"], options, &["--", "/bin/attack"], attack].concat();
    world.create_from(&image, "box", &all);
}

/// Lets the tools join, with a secret in their environment, until the attacker has seen some of them.
fn join(world: &World) {
    join_until(world, 20, || false);
}

/// The same until `hit`, which takes some luck, but no more than `rounds` times.
fn join_until(world: &World, rounds: u32, hit: impl Fn() -> bool) {
    for _ in 0..rounds {
        if hit() {
            return;
        }
        let secret = |name, args: &[&str]| world.tool(name, args).env("QUILT_TEST_SECRET", "CANARY").go().ok();
        secret("quilt-exec", &["box", "true"]);
        secret("quilt-probe", &["box"]);
        secret("quilt-probe", &["--health-check=true", "box"]);
    }
    assert!(eventually(PROMPT, || noted(world, "seen").len() > 10), "it saw {:?} only", noted(world, "seen"));
}

/// Fails if the container's init can be looked into by who may trace inside: what it has open are the container's log and
/// exit status, files of the host's.
#[test]
fn attacks_by_tracing_find_no_way_into_the_init() {
    let world = World::new("take");
    if !world.has_userns() {
        skip("attacks_by_tracing_find_no_way_into_the_init", "no user namespaces here");
        return;
    }
    for attack in [&["take"][..], &["spy", "containers/box"]] {
        attacking(&world, &["--userns=auto"], attack);
        join(&world);
        // A spy sees the descriptors of commands, which are the container's own.
        let own = |hit: &String| !hit.starts_with("/proc/1/") && hit.contains(" is open: ");
        let hits: Vec<String> = noted(&world, "hits").into_iter().filter(|hit| !own(hit)).collect();
        assert_eq!(hits, [""; 0], "{attack:?}");
        // The host's root looks at it as before.
        world.quilt(&["probe", "--security", "box"]).ok();
        assert_eq!(world.quilt(&["inspect", "box"]).ok().record()["in_force"]["seccomp"], true);
        world.quilt(&["rm", "-f", "box"]).ok();
    }
    drop(world);
    let world = World::without_only("take", "unreadable-init");
    attacking(&world, &["--userns=auto"], &["take"]);
    let has = |end: &str| noted(&world, "hits").iter().any(|hit| hit.ends_with(end));
    let found = eventually(PROMPT, || has("containers/box/exit") && has("containers/box/log") && has("traced"));
    assert!(found, "{:?}", noted(&world, "hits"));
}

/// Fails if what joins a container can be seen there before its filter of system calls is in force: whoever may trace it
/// there would have none.
#[test]
fn attacks_by_tracing_meet_nobody_without_a_filter() {
    let hits = |world: World, expected: bool| {
        attacking(&world, &["--userns=host"], &["unfiltered"]);
        let hits = || noted(&world, "hits");
        if expected {
            join_until(&world, LUCK, || !hits().is_empty())
        } else {
            join(&world)
        }
        let hits = hits();
        world.quilt(&["probe", "--security", "box"]).ok();
        world.quilt(&["rm", "-f", "box"]).ok();
        hits
    };
    assert_eq!(hits(World::new("unfiltered"), false), [""; 0]);
    assert_ne!(hits(World::without("unfiltered", "early-seal"), true), [""; 0]);
}

fn is_environment(hit: &str) -> bool {
    hit.ends_with("environ shows CANARY")
}

/// Fails if the environment of the caller can be read from what joins a container that has the host's ids.
#[test]
fn attacks_by_tracing_find_no_environment() {
    let hits = |world: World, expected: bool| {
        attacking(&world, &["--userns=host"], &["spy", "CANARY"]);
        let shown = |hit: &String| hit.ends_with("shows CANARY");
        let hits = || noted(&world, "hits").into_iter().filter(shown).collect::<Vec<_>>();
        if expected {
            join_until(&world, LUCK, || hits().iter().any(|hit| is_environment(hit)))
        } else {
            join(&world)
        }
        let hits = hits();
        world.quilt(&["rm", "-f", "box"]).ok();
        hits
    };
    assert_eq!(hits(World::new("environ"), false), [""; 0]);
    let hits = hits(World::without("environ", "blank-environment"), true);
    assert!(hits.iter().any(|hit| is_environment(hit)), "{hits:?}");
}

/// Fails if who keeps what a joiner has open can keep the tool waiting for it, beyond its time.
#[test]
fn attacks_by_tracing_hold_nobody_up() {
    let world = World::new("keep");
    attacking(&world, &["--userns=host"], &["keep"]);
    let kept = || noted(&world, "hits").len();
    let before = kept();
    for round in 0.. {
        for args in [&["exec", "--timeout=1s", "box", "true"][..], &["exec", "--timeout=1s", "-t", "box", "/nowhere"]] {
            let out = world.command(args).limit(PROMPT).go();
            assert!(matches!(out.status, 0 | 124 | 127), "{out:?}");
        }
        let out = world.command(&["probe", "--timeout=2s", "--health-check=true", "box"]).limit(PROMPT).go();
        assert!(matches!(out.status, 0 | 16 | 19), "{out:?}");
        if kept() > before + 10 {
            break;
        }
        assert!(round < 50, "it kept {} only of {}", kept(), noted(&world, "seen").len());
    }
    world.quilt(&["rm", "-f", "box"]).ok();
}
