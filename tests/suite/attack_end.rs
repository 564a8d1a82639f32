//! Programs that make it hard to see that they have ended: for as long as one has not, in the eyes of the kernel, a
//! `quilt exec` would wait, its time limit or not, and the init of the container could not end.
//!
//! What stands in the way is a thread or a child that a process outside is to reap and does not.

use std::fs;
use std::time::Duration;

use crate::harness::{World, eventually, images};

const PROMPT: Duration = Duration::from_secs(8);

/// Fails if an exec, a check or the removal of a container waits for ever for a program that has ended.
#[test]
fn what_has_ended_is_seen_to_have() {
    let world = World::new("end");
    let image = images::hostile(&world.path("image"));
    world.create_from(&image, "box", &[]);
    for how in ["a traced thread", "traced itself", "siblings", "a thread that another traces"] {
        for terminal in [&[][..], &["-t"]] {
            let args = [&["exec"], terminal, &["box", "/bin/attack", "end", how]].concat();
            let out = world.command(&args).limit(PROMPT).go();
            // Who lets itself be traced, by one who does not want it, goes on.
            assert_eq!(out.status, 3, "{how}: {out:?}");
        }
        let check = serde_json::json!(["/bin/attack", "end", how]).to_string();
        let args = ["probe", "--timeout=6s", "--health-retries=1", "--health-check", &check, "box"];
        let out = world.command(&args).limit(PROMPT).go();
        assert!(out.status != 0 && out.stderr.contains("status 3"), "{how}: {out:?}");
    }
    world.command(&["rm", "-f", "box"]).limit(PROMPT).go().ok();
    // As the container's command, too: it ends by itself, and so does the container.
    for how in ["a traced thread", "traced itself", "siblings"] {
        world.create_from(&image, "box", &["--", "/bin/sh", "-c", "sleep 0.3; exec /bin/attack end \"$0\"", how]);
        world.command(&["wait", "box"]).limit(PROMPT).go().is(0, "3\n", "");
        world.quilt(&["rm", "-f", "box"]).ok();
    }
}

/// Fails if somebody else inside who traces a thread of a command, and never waits for its end, keeps an exec from ending
/// when its time is over.
#[test]
fn a_time_limit_holds_for_a_thread_that_is_held() {
    let world = World::new("hold");
    let image = images::hostile(&world.path("image"));
    world.create_from(&image, "box", &["--", "/bin/attack", "hold"]);
    let traced = world.root.join("containers/box/upper/traced");
    let limit = ["exec", "--timeout=2s", "box", "/bin/attack", "end", "a thread that another traces"];
    let mut held = 0;
    let seen = eventually(PROMPT, || {
        let out = world.command(&limit).limit(PROMPT).go();
        assert!(matches!(out.status, 3 | 124), "{out:?}");
        held += u32::from(out.status == 124);
        held > 0
    });
    assert!(seen, "nothing was held: {:?}", fs::read_to_string(traced));
    world.command(&["rm", "-f", "box"]).limit(PROMPT).go().ok();
}

/// Fails if the status of a program that a real-time signal ended is lost.
#[test]
fn real_time_signals_end_programs_too() {
    let world = World::new("real-time");
    world.create("box", &[]);
    world.quilt(&["exec", "box", "sh", "-c", "kill -34 $$"]).is(162, "", "");
    world.quilt(&["exec", "box", "sh", "-c", "kill -64 $$"]).is(192, "", "");
    world.create("dies", &["--", "sh", "-c", "sleep 0.3; kill -35 $$"]);
    world.command(&["wait", "dies"]).limit(PROMPT).go().is(0, "163\n", "");
}
