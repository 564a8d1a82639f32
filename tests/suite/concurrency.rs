//! Many at once: the kernel decides who was first, and nobody else is harmed.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::{Out, Running, SETTLE, World, images, pace};

fn start(world: &World, name: &str) -> Running {
    let image = images::busybox().display().to_string();
    world.command(&["create", &image, "--name", name, "--timeout", "60000"]).limit(Duration::from_secs(90)).start()
}

fn address(out: &Out) -> String {
    out.record()["netns"]["have"]["link"]["address"].as_str().unwrap().to_owned()
}

#[test]
fn a_hundred_creates_on_a_cold_machine() {
    let world = World::new("hundred");
    let count = pace::rounds(100);
    let all: Vec<Running> = (0..count).map(|n| start(&world, &format!("c{n}"))).collect();
    let outs: Vec<Out> = all.into_iter().map(|run| run.finish().ok()).collect();
    assert_eq!(outs.iter().filter(|o| !o.stderr.is_empty()).map(|o| o.stderr.clone()).collect::<Vec<_>>(), [""; 0]);
    let addresses: BTreeSet<String> = outs.iter().map(address).collect();
    assert_eq!(addresses.len(), count as usize, "an address was given twice");
    let listed = world.quilt(&["ls", "--json"]).ok().objects();
    assert_eq!(listed.iter().filter(|c| c["status"] == "running").count(), count as usize);
    for n in [0, count / 2, count - 1] {
        let name = format!("c{n}");
        assert_eq!(world.exec(&name, &["hostname"]), format!("{name}\n"));
    }
    // One of everything that is shared.
    let now = world.inventory();
    let bridges = now.of("links").iter().filter(|l| l.split(' ').nth(1).unwrap().starts_with('q')).count();
    assert_eq!(bridges, 1, "{:?}", now.of("links"));
    assert_eq!(now.of("nftables").iter().filter(|l| l.starts_with("table ")).count(), 2, "{:?}", now.of("nftables"));
    let rules: BTreeSet<&String> = now.of("nftables").iter().collect();
    assert!(now.of("nftables").len() < rules.len() + 20, "rules twice: {:?}", now.of("nftables"));
    let rm = world.command(&["rm", "-f", "--all"]).limit(Duration::from_secs(60)).go();
    rm.ok();
    world.quilt(&["ls", "--json"]).is(0, "", "");
}

#[test]
fn of_twenty_creates_of_one_name_one_wins() {
    let world = World::new("one-name");
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    for round in 0..3 {
        let outs: Vec<Out> =
            (0..20).map(|_| start(&world, "box")).collect::<Vec<_>>().into_iter().map(Running::finish).collect();
        let (won, lost): (Vec<&Out>, Vec<&Out>) = outs.iter().partition(|o| o.status == 0);
        assert_eq!(won.len(), 1, "round {round}: {outs:#?}");
        for out in lost {
            let error = out.record()["error"].clone();
            assert_eq!((out.status, error["code"].as_str()), (10, Some("exists")), "{out:#?}");
            assert_eq!(out.stderr.lines().count(), 1, "{out:#?}");
        }
        let record = won[0].record();
        let shown = world.quilt(&["inspect", "box"]).ok().record();
        assert_eq!((&shown["claim"], &shown["netns"]), (&record["claim"], &record["netns"]));
        world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
        // The losers left nothing: there is what one container makes, and no more.
        let one = world.inventory();
        world.quilt(&["rm", "-f", "box"]).ok();
        world.create("box", &["--ip", record["netns"]["have"]["link"]["address"].as_str().unwrap()]);
        let alone = world.inventory();
        for kind in ["links", "mounts", "cgroups", "processes", "nftables", "state"] {
            assert_eq!(one.of(kind).len(), alone.of(kind).len(), "{kind}: {}", alone.diff(&one));
        }
        world.quilt(&["rm", "-f", "box"]).ok();
    }
}

#[test]
fn losers_leave_a_running_container_as_it_is() {
    let world = World::new("untouched");
    let record = world.create("box", &[]);
    let before = world.inventory();
    let outs: Vec<Out> =
        (0..20).map(|_| start(&world, "box")).collect::<Vec<_>>().into_iter().map(Running::finish).collect();
    assert!(outs.iter().all(|o| o.status == 10), "{outs:#?}");
    // Links with their indices, the lease, processes: all the same.
    world.assert_same(&before, SETTLE);
    assert_eq!(world.quilt(&["inspect", "box"]).ok().record()["netns"], record["netns"]);
    world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
}

#[test]
fn create_against_rm() {
    let world = World::new("against-rm");
    world.create("warm", &[]);
    world.quilt(&["rm", "-f", "warm"]).ok();
    let before = world.inventory();
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        let create = start(&world, "box");
        let rm = world.command(&["rm", "-f", "box"]).start();
        let (create, rm) = (create.finish(), rm.finish());
        seen.insert((create.status, rm.status));
        if create.status == 0 && world.root.join("containers/box").exists() {
            // rm came too early to find anything: the container is whole.
            world.quilt(&["exec", "box", "hostname"]).is(0, "box\n", "");
            world.quilt(&["rm", "-f", "box"]).ok();
        }
        world.assert_same(&before, SETTLE);
    }
    assert!(!seen.is_empty(), "{seen:?}");
}

#[test]
fn ten_instances_worth_of_execs_and_removals() {
    let world = World::new("mixed");
    let names: Vec<String> = (0..10).map(|n| format!("c{n}")).collect();
    let all: Vec<Running> = names.iter().map(|n| start(&world, n)).collect();
    all.into_iter().for_each(|run| drop(run.finish().ok()));
    let execs: Vec<Running> =
        (0..50).map(|n| world.command(&["exec", &names[n % 10], "echo", &n.to_string()]).start()).collect();
    for (n, run) in execs.into_iter().enumerate() {
        run.finish().is(0, &format!("{n}\n"), "");
    }
    let removals: Vec<Running> = names.iter().map(|n| world.command(&["rm", "-f", n]).start()).collect();
    removals.into_iter().for_each(|run| drop(run.finish().ok()));
    world.quilt(&["ls", "--json"]).is(0, "", "");
}
