//! A create that is interrupted, anywhere, by anything: nothing is left within a second.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::inventory::processes;
use crate::harness::{Inventory, SETTLE, World, images, pace};

/// A small generator of our own (xorshift64): the seed is printed, and decides everything but the kernel's timing.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Wrapper,
    Group,
    Stage(&'static str),
}

/// The processes of the pipeline; the first goes on as quilt-unpack.
const STAGES: [&str; 5] = ["quilt-spec", "quilt-netns", "quilt-cgroup", "quilt-spawn", "quilt-probe"];

/// The pid of the pipeline's stage: a child of the wrapper that runs it.
fn stage(wrapper: i32, name: &str) -> Option<i32> {
    let is = |pid: i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let argv0 = line.split(|b| *b == 0).next().unwrap_or_default();
            argv0.ends_with(name.as_bytes())
        })
    };
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    processes().into_iter().map(|p| p.pid).find(|pid| is(*pid) && parent(*pid) == Some(wrapper))
}

/// One create, hit once. Returns what happened, for the statistics.
fn round(world: &World, before: &Inventory, victim: Victim, signal: Signal, after: Duration) -> &'static str {
    let image = images::busybox().display().to_string();
    let create =
        world.command(&["create", &image, "--name", "box", "--memory", "64", "--health-check", "true"]).start();
    let until = Instant::now() + after;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    let hit = match victim {
        Victim::Wrapper => Some(create.pid),
        Victim::Group => None,
        Victim::Stage(name) => stage(create.pid, name),
    };
    match (victim, hit) {
        (Victim::Group, _) => create.signal_group(signal),
        (_, Some(pid)) => drop(kill(Pid::from_raw(pid), signal)),
        // That stage has come and gone: hit nothing, which must do no harm either.
        (_, None) => {}
    }
    let out = if matches!((victim, signal), (Victim::Group, Signal::SIGKILL)) {
        let out = create.kill_group();
        world.quilt(&["gc"]).ok();
        out
    } else {
        create.finish()
    };
    let what = format!("{victim:?} {signal} after {after:?}: {out:#?}");
    let complete = serde_json::from_str::<serde_json::Value>(&out.stdout)
        .is_ok_and(|r| r["probe"]["have"]["ready"] == true && r.get("error").is_none());
    if out.status == 0 || (complete && world.root.join("containers/box").exists()) {
        // Too late: it was done, and said so. Then it is whole.
        assert!(complete, "{what}");
        world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
        world.quilt(&["rm", "-f", "box"]).ok();
        world.assert_same(before, SETTLE);
        return "too late";
    }
    assert!(!out.stderr.contains("panicked"), "{what}");
    let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.assert_same(before, SETTLE)));
    let left = world.run("ls", &["-l"]).dir(world.root.join("containers")).go().stdout
        + &world.run("sh", &["-c", "ls -l box; cat box/*.json"]).dir(world.root.join("containers")).go().stdout;
    assert!(same.is_ok(), "left after {what}\n{left}");
    if hit.is_some() || matches!(victim, Victim::Group) { "undone" } else { "missed" }
}

/// The generator, its seed printed. `QUILT_TEST_SEED` repeats a run.
fn random() -> Random {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("QUILT_TEST_SEED").unwrap_or(now.as_nanos() as u64 | 1);
    println!("QUILT_TEST_SEED={seed}");
    Random(seed)
}

fn rounds(name: &str, victims: &[Victim], count: u64) {
    let mut random = random();
    let count = pace::rounds(count);
    let world = World::new(name);
    // How long it takes here, so that the moments are spread over all of it.
    let image = images::busybox().display().to_string();
    let mut whole = Duration::ZERO;
    for _ in 0..3 {
        whole = world.quilt(&["create", &image, "--name", "box", "--health-check", "true"]).ok().took;
        world.quilt(&["rm", "-f", "box"]).ok();
    }
    let before = world.inventory();
    let mut seen = std::collections::BTreeMap::new();
    for n in 0..count {
        let victim = victims[(n % victims.len() as u64) as usize];
        let signal = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL][random.below(3) as usize];
        let after = Duration::from_micros(random.below(whole.as_micros() as u64));
        *seen.entry(round(&world, &before, victim, signal, after)).or_insert(0u64) += 1;
    }
    println!("{name}: {seen:?} in {whole:?}");
    assert!(seen.get("undone").copied().unwrap_or(0) >= count / 20, "hardly any round hit anything: {seen:?}");
}

#[test]
fn the_wrapper_alone() {
    rounds("wrapper", &[Victim::Wrapper], 60);
}

#[test]
fn the_whole_group() {
    rounds("group", &[Victim::Group], 60);
}

#[test]
fn each_stage_alone() {
    rounds("stage", &STAGES.map(Victim::Stage), 80);
}

/// Hits a verb at a random moment of its run; how long it takes is found out first.
fn hit(world: &World, random: &mut Random, args: &[&str], whole: Duration) -> crate::harness::Out {
    let run = world.command(args).start();
    let until = Instant::now() + Duration::from_micros(random.below(whole.as_micros() as u64));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    match [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL][random.below(3) as usize] {
        Signal::SIGKILL => run.kill_group(),
        signal => {
            run.signal_group(signal);
            run.finish()
        }
    }
}

#[test]
fn a_removal_that_is_hit_can_be_finished() {
    let mut random = random();
    let world = World::new("rm-hit");
    world.create("box", &["--memory", "64"]);
    let whole = world.quilt(&["rm", "-f", "box"]).ok().took;
    let before = world.inventory();
    for n in 0..pace::rounds(30) {
        world.create("box", &["--memory", "64"]);
        let out = hit(&world, &mut random, &["rm", "-f", "box"], whole);
        // By the same command again, or by gc, which finishes a removal that was begun and touches nothing else.
        world.quilt(&["gc"]).ok();
        if world.root.join("containers/box").exists() {
            assert_ne!(out.status, 0, "{out:?}");
            if n % 2 == 0 {
                world.quilt(&["exec", "box", "hostname"]);
            }
            world.quilt(&["rm", "-f", "box"]).ok();
        }
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn a_start_or_stop_that_is_hit_keeps_the_container() {
    let mut random = random();
    let world = World::new("start-hit");
    world.create("box", &["--memory", "64"]);
    world.exec("box", &["sh", "-c", "echo kept >/file"]);
    let stop = world.quilt(&["stop", "box"]).ok().took;
    let start = world.quilt(&["start", "box"]).ok().took;
    for _ in 0..pace::rounds(20) {
        hit(&world, &mut random, &["stop", "box"], stop);
        world.quilt(&["gc"]).ok();
        world.quilt(&["stop", "box"]).ok();
        let out = hit(&world, &mut random, &["start", "box"], start);
        world.quilt(&["gc"]).ok();
        if crate::lifecycle::state_of(&world, "box") != "running" {
            world.quilt(&["start", "box"]).ok();
        }
        let after = world.quilt(&["exec", "box", "cat", "/file"]);
        assert_eq!((after.status, after.stdout.as_str()), (0, "kept\n"), "{after:?} after {out:?}");
    }
    world.quilt(&["rm", "-f", "box"]).ok();
}

#[test]
fn a_create_with_hangup_ignored_is_not_hung_up() {
    let world = World::new("nohup");
    let quilt = crate::harness::repo().join("scripts/quilt").display().to_string();
    let image = images::busybox().display().to_string();
    let line = format!(
        "trap '' HUP; {quilt} create {image} --name box --health-check 'sleep 0.3' & sleep 0.1; kill -HUP -$$; wait $!"
    );
    let out = world.run("sh", &["-c", &line]).go();
    assert_eq!((out.status, out.stderr.as_str()), (0, ""), "{out:?}");
    world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
}
