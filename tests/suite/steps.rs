//! Every step alone, any number of them together, stopped after any, gone on with, and taken back.

use serde_json::{Value, json};

use crate::harness::{Out, Run, SETTLE, World, images};

const STAGES: [&str; 5] = ["unpack", "netns", "cgroup", "spawn", "probe"];

fn image() -> String {
    images::busybox().display().to_string()
}

/// A stage that reads `record` from standard input.
fn stage(world: &World, name: &str, record: &str) -> Out {
    let line = format!("{}\n", record.trim_end());
    world.tool(&format!("quilt-{name}"), &["-"]).stdin(line).go()
}

/// The stages that a record says are done.
fn done(record: &Value) -> Vec<&str> {
    STAGES.into_iter().filter(|s| record[s].get("have").is_some()).collect()
}

#[test]
fn a_pipeline_by_hand() {
    let world = World::new("by-hand");
    let tool = |name: &str| format!("{}/quilt-{name}", crate::harness::bin().display());
    let line = format!(
        "{} --id web {} | {} - | {} - --memory 64 | {} - --env A=1 | {} -",
        tool("unpack"),
        images::busybox_archive("tar.zst").display(),
        tool("netns"),
        tool("cgroup"),
        tool("spawn"),
        tool("probe"),
    );
    let record = world.run("sh", &["-c", &line]).go().ok().record();
    assert_eq!(done(&record), STAGES);
    assert_eq!(record["cgroup"]["want"], json!({"memory": "64MiB"}));
    assert_eq!(world.exec("web", &["sh", "-c", "echo $A"]), "1\n");
    world.quilt(&["rm", "-f", "web"]).ok();
}

/// Tools of a directory in which one was replaced: that one is what runs, be it the first of the pipeline, which is one
/// process with quilt-spec otherwise.
#[test]
fn a_replaced_step_is_what_runs() {
    let world = World::new("replaced");
    let bin = world.path("bin");
    world.run("cp", &["-a", crate::harness::bin().to_str().unwrap(), bin.to_str().unwrap()]).go().ok();
    std::fs::create_dir(bin.join("own")).unwrap();
    for own in ["quilt-unpack", "quilt-cgroup"] {
        std::fs::rename(bin.join(own), bin.join("own").join(own)).unwrap();
        world.write(
            &format!("bin/{own}"),
            &format!("#!/bin/sh\necho mine: {own} >&2\nexec \"${{0%/*}}\"/own/{own} \"$@\"\n"),
        );
        world.run("chmod", &["755", bin.join(own).to_str().unwrap()]).go().ok();
    }
    let out = world.command(&["create", &image(), "--name", "web"]).env("QUILT_BIN", &bin).go();
    let mut said: Vec<_> = out.stderr.lines().collect();
    said.sort_unstable();
    assert_eq!((out.status, said), (0, vec!["mine: quilt-cgroup", "mine: quilt-unpack"]), "{out:?}");
    assert_eq!(done(&out.record()), STAGES);
    world.command(&["rm", "-f", "web"]).env("QUILT_BIN", &bin).go().ok();
}

#[test]
fn each_alone_on_the_saved_record() {
    let world = World::new("alone");
    world.create("warm", &[]);
    let before = world.inventory();
    let args = [
        ("unpack", vec![image()]),
        ("netns", vec!["--hostname".to_owned(), "alone".to_owned()]),
        ("cgroup", vec!["--memory".to_owned(), "64".to_owned()]),
        ("spawn", vec![]),
        ("probe", vec![]),
    ];
    for (n, (stage, own)) in args.iter().enumerate() {
        let mut args = vec!["--id", "web"];
        args.extend(own.iter().map(String::as_str));
        let record = world.tool(&format!("quilt-{stage}"), &args).go().ok().record();
        assert_eq!(done(&record), STAGES[..=n], "{record}");
        // What the step did is on disk, in a file of its own, and the same.
        let file = world.root.join(format!("containers/web/{stage}.json"));
        let saved: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(saved, record[stage]);
        if *stage != "probe" {
            world.tool(&format!("quilt-{stage}"), &args).go().failed(&format!("quilt-{stage}"), "exists");
        }
    }
    assert_eq!(world.exec("web", &["hostname"]), "alone\n");
    world.quilt(&["rm", "-f", "web"]).ok();
    world.assert_same(&before, SETTLE);
}

#[test]
fn a_step_alone_needs_no_other() {
    let world = World::new("only");
    world.create("warm", &[]);
    let before = world.inventory();
    let record = world.tool("quilt-netns", &["--id", "web"]).go().ok().record();
    assert_eq!(done(&record), ["netns"]);
    assert_ne!(world.inventory(), before);
    world.tool("quilt-netns", &["--id", "web", "--undo"]).go().ok();
    world.tool("quilt-netns", &["--id", "web", "--undo"]).go().ok();
    world.quilt(&["rm", "web"]).ok();
    world.assert_same(&before, SETTLE);

    let record = world.tool("quilt-cgroup", &["--id", "web", "--memory", "32"]).go().ok().record();
    let dirs: Vec<&str> = record["cgroup"]["have"]["hierarchies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h["path"].as_str().unwrap())
        .collect();
    assert!(!dirs.is_empty() && dirs.iter().all(|dir| std::path::Path::new(dir).is_dir()), "{dirs:?}");
    world.tool("quilt-cgroup", &["--id", "web", "--undo"]).go().ok();
    assert!(dirs.iter().all(|dir| !std::path::Path::new(dir).exists()), "{dirs:?}");
    world.quilt(&["rm", "web"]).ok();
    world.assert_same(&before, SETTLE);
    // Nothing to take back is no failure.
    for stage in STAGES {
        world.tool(&format!("quilt-{stage}"), &["--id", "nobody", "--undo"]).go().is(0, "", "");
    }
}

#[test]
fn stopped_after_each_stage_and_gone_on_with() {
    let world = World::new("stop-after");
    world.create("warm", &[]);
    let before = world.inventory();
    for (n, last) in STAGES.iter().enumerate() {
        let create =
            ["create", &image(), "--name", "web", "--memory", "64", "--health-check", "true", "--stop-after", last];
        let stopped = world.quilt(&create).ok().stdout;
        let record: Value = serde_json::from_str(&stopped).unwrap();
        assert_eq!(done(&record), STAGES[..=n], "{last}");
        // It stays as it is: gc does not take it for a create that died.
        world.quilt(&["gc"]).ok();
        // Go on by the rest of the stages, by hand …
        let mut line = stopped.clone();
        for name in STAGES {
            line = stage(&world, name, &line).ok().stdout;
        }
        assert_eq!(done(&serde_json::from_str(&line).unwrap()), STAGES, "{last}");
        world.quilt(&["exec", "web", "echo", "on"]).is(0, "on\n", "");
        world.quilt(&["rm", "-f", "web"]).ok();
        world.assert_same(&before, SETTLE);
        // … or by the wrapper.
        let stopped = world.quilt(&create).ok().stdout;
        let record = world.command(&["create", "-f", "-"]).stdin(stopped).go().ok().record();
        assert_eq!(done(&record), STAGES, "{last}");
        assert_eq!(record["probe"]["have"]["ready"], true);
        world.quilt(&["rm", "-f", "web"]).ok();
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn a_stopped_create_is_undone_like_any_container() {
    let world = World::new("stop-rm");
    world.create("warm", &[]);
    let before = world.inventory();
    for last in STAGES {
        world.quilt(&["create", &image(), "--name", "web", "--stop-after", last]).ok();
        world.quilt(&["rm", "-f", "web"]).ok();
        world.assert_same(&before, SETTLE);
    }
}

#[test]
fn what_a_stage_does_not_know_passes() {
    let world = World::new("unknown");
    let line = world.tool("quilt-spec", &[&image(), "--name", "web"]).go().ok().stdout;
    let strange = r#""x-mine":{"b" : 1e400,"a":[18446744073709551616]}"#;
    let mut line = line.trim_end().strip_suffix('}').unwrap().to_owned() + "," + strange + "}";
    for name in STAGES {
        line = stage(&world, name, &line).ok().stdout;
        assert!(line.contains(strange), "{name} changed what is not its own: {line}");
    }
    assert!(world.quilt(&["inspect", "web"]).ok().stdout.contains("18446744073709551616"));
    world.quilt(&["rm", "-f", "web"]).ok();
}

#[test]
fn a_failed_record_passes_unchanged_and_silently() {
    let world = World::new("error");
    let failed = "{\"format\":1,\"id\":\"web\",\"claim\":\"0123abcd456789abcdef0123456789ab\",\"x\":1,\"error\":\
        {\"tool\":\"quilt-spec\",\"step\":\"s\",\"code\":\"no_space\",\"errno\":28,\"message\":\"m\"}}\n";
    for name in STAGES {
        stage(&world, name, failed).is(18, failed, "");
    }
}

#[test]
fn no_record_is_a_failure() {
    let world = World::new("nothing");
    for name in STAGES {
        let tool = format!("quilt-{name}");
        world.tool(&tool, &["-"]).go().failed(&tool, "interrupted");
        world.tool(&tool, &["-"]).stdin("{\"format\":1").go().failed(&tool, "invalid");
        world.tool(&tool, &["-"]).stdin("{}\n").go().failed(&tool, "invalid");
        world.tool(&tool, &["-"]).stdin("{\"format\":1}\n").go().failed(&tool, "invalid");
        world.tool(&tool, &[]).go().misused();
        world.tool(&tool, &["--id", "../x"]).go().misused();
    }
}

#[test]
fn a_record_of_another_claim_touches_nothing() {
    let world = World::new("claim");
    world.create("web", &[]);
    let before = world.inventory();
    let forged = format!(
        "{{\"format\":1,\"id\":\"web\",\"claim\":\"{}\",\"unpack\":{{\"want\":{{\"image\":\"{}\"}}}}}}",
        "0123abcd456789abcdef0123456789ab",
        image()
    );
    for name in STAGES {
        stage(&world, name, &forged).failed(&format!("quilt-{name}"), "exists");
        let undo = world.tool(&format!("quilt-{name}"), &["-", "--undo"]).stdin(format!("{forged}\n")).go();
        assert_ne!(undo.status, 0, "{undo:?}");
    }
    assert_eq!(world.inventory(), before);
    world.quilt(&["exec", "web", "echo", "untouched"]).is(0, "untouched\n", "");
}

#[test]
fn a_step_that_fails_alone_takes_back_its_own_part() {
    let world = World::new("own-part");
    world.create("warm", &[]);
    let before = world.inventory();
    world.tool("quilt-netns", &["--id", "web", "--ip", "10.99.0.1"]).go().failed("quilt-netns", "invalid");
    world.tool("quilt-unpack", &["--id", "web", "/no/such/image"]).go().failed("quilt-unpack", "not_found");
    world.assert_same(&before, SETTLE);
    let _ = Run::new("true").go();
}

#[test]
fn each_stage_undone_where_it_stands() {
    let world = World::new("undo");
    let cold = world.create("web", &["--memory", "64"]);
    world.quilt(&["stop", "web"]).ok();
    for name in ["spawn", "cgroup", "netns"] {
        world.tool(&format!("quilt-{name}"), &["--id", "web", "--undo"]).go().ok();
        let record = world.quilt(&["inspect", "web"]).ok().record();
        assert_eq!(record[name].get("have"), None, "{record}");
        assert_eq!(record[name]["want"], cold[name]["want"]);
    }
    world.quilt(&["start", "web"]).ok();
    world.quilt(&["exec", "web", "echo", "again"]).is(0, "again\n", "");
    world.quilt(&["rm", "-f", "web"]).ok();
}
