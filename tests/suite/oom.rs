//! A container that runs out of memory: who is killed, and who is told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{World, eventually};

const SAID: &str = "quilt-exec: the kernel killed a process of the container for lack of memory (oom_kill)\n";

#[test]
fn the_command_dies_says_why_and_nothing_else_does() {
    let world = World::new("memory");
    world.create("box", &["--memory", "32", "--swap", "0"]);
    let init = world.init("box");
    // tail keeps a line whole in memory: /dev/zero has no end of line.
    world.quilt(&["exec", "box", "tail", "/dev/zero"]).is(137, "", SAID);
    // A child of the command's: the command goes on, and may not care.
    let out = world.quilt(&["exec", "box", "sh", "-c", "tail /dev/zero; echo $?"]);
    assert_eq!((out.status, out.stdout.as_str()), (0, "137\n"), "{out:?}");
    let out = world.quilt(&["exec", "box", "sh", "-c", "tail /dev/zero 2>/dev/null; exit 3"]);
    assert_eq!((out.status, out.stdout.as_str()), (3, ""), "{out:?}");
    assert!(out.stderr.ends_with(SAID), "{out:?}");
    // One that fails for another reason is not said to be out of memory.
    world.quilt(&["exec", "box", "sh", "-c", "kill -9 $$"]).is(137, "", "");
    world.quilt(&["exec", "box", "echo", "alive"]).is(0, "alive\n", "");
    assert_eq!(world.init("box"), init);
    let probe = world.quilt(&["probe", "box"]).ok().record();
    assert_eq!(probe["probe"]["have"]["phases"][0]["evidence"]["oom_kills"], 3, "{probe}");
}

#[test]
fn a_receipt_says_how_a_command_ended() {
    let world = World::new("receipt");
    world.create("box", &["--memory", "32", "--swap", "0"]);
    let file = world.path("receipt").display().to_string();
    let receipt = |args: &[&str]| {
        let out = world.quilt(&[&["exec", "--receipt", &file], args].concat());
        let mut receipt: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let us = receipt.as_object_mut().unwrap().remove("us").unwrap().as_u64().unwrap();
        assert!(us > 0 && receipt["status"] == out.status, "{us} {receipt} {out:?}");
        receipt
    };
    let plain =
        |status: i32| json!({"status": status, "signal": null, "timed_out": false, "oom_kills": 0, "error": null});
    assert_eq!(receipt(&["box", "true"]), plain(0));
    assert_eq!(receipt(&["box", "sh", "-c", "exit 7"]), plain(7));
    let killed = json!({"status": 137, "signal": 9, "timed_out": false, "oom_kills": 1, "error": null});
    assert_eq!(receipt(&["box", "tail", "/dev/zero"]), killed);
    // As well if the command does not mind.
    let ended = json!({"status": 0, "signal": null, "timed_out": false, "oom_kills": 1, "error": null});
    assert_eq!(receipt(&["box", "sh", "-c", "tail /dev/zero; true"]), ended);
    let late = json!({"status": 124, "signal": null, "timed_out": true, "oom_kills": 0, "error": null});
    assert_eq!(receipt(&["--timeout", "200ms", "box", "sleep", "60"]), late);
    // Of a command that did not come to run as well, in place of the last one's.
    for (status, code, command) in [(127, "not_found", ["box", "nothing"]), (125, "not_found", ["nobody", "true"])] {
        let out = world.quilt(&[&["exec", "--receipt", &file], &command[..]].concat());
        let receipt: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!((out.status, &receipt["status"], &receipt["error"]["code"]), (status, &json!(status), &json!(code)));
    }
    // 128 + n is no signal where there is none of that number.
    assert_eq!(receipt(&["box", "sh", "-c", "exit 255"]), plain(255));
    // One that cannot be written is told before anything is run.
    let out = world.quilt(&["exec", "--receipt", "/no/such/dir/r", "box", "echo", "ran"]);
    assert_eq!((out.status, out.stdout.as_str(), out.stderr.lines().count()), (125, "", 1), "{out:?}");
}

#[test]
fn a_health_check_that_takes_too_much_is_told() {
    let world = World::new("check");
    let image = crate::harness::images::busybox().display().to_string();
    let check = ["--health-check", "tail /dev/zero", "--timeout", "5s", "--health-retries", "1"];
    let args = [&["create", &image, "--name", "box", "--memory", "32", "--swap", "0"], &check[..]].concat();
    let out = world.quilt(&args);
    out.failed("quilt-probe", "not_ready");
    assert!(out.stderr.contains("for lack of memory (oom_kill)"), "{out:?}");
}

#[test]
fn a_container_that_ended_of_it_says_so() {
    let world = World::new("ended");
    // It waits until it is told, so that it is ready first.
    let command = ["--", "sh", "-c", "until [ -e /go ]; do sleep 0.05; done; exec tail /dev/zero"];
    world.create("box", &[&["--memory", "32", "--swap", "0"], &command[..]].concat());
    world.exec("box", &["touch", "/go"]);
    assert!(eventually(Duration::from_secs(20), || world.quilt(&["ls", "--quiet", "--running"]).stdout.is_empty()));
    let out = world.quilt(&["probe", "box"]);
    out.failed("quilt-probe", "not_ready");
    assert!(out.stderr.contains("init has ended, with exit status 137"), "{out:?}");
    assert!(
        out.stderr.contains("the kernel killed a process of the container for lack of memory (oom_kill)"),
        "{out:?}"
    );
}
