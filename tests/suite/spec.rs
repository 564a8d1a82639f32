//! quilt-spec: flags and spec files are two spellings of one record, and what is wrong is said before anything is done.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Out, World, images};

fn spec(world: &World, args: &[&str]) -> Out {
    world.tool("quilt-spec", args).env("FROM_CALLER", "caller's").go()
}

/// All flags there are, but for those that exclude each other.
const FLAGS: &str = "/img.tar --name web --label team=a --label flag --memory 512 --cpu 50 --cpus 1.5 --pids 99 \
    --network bridge --ip 10.91.0.9 --dns 192.0.2.1 --dns-search example.org --add-host db:192.0.2.7 --hostname web.example \
    --env A=1 -e FROM_CALLER --user agent:extra --workdir /tmp --pid host --log-size 1M --stop-timeout 3s \
    --health-check true --health-interval 5s --health-timeout 1s --health-retries 2 --health-start-period 250ms \
    --timeout 15000 --keep-failed -- sleep 5";

fn wants() -> Value {
    json!({
        "unpack": {"image": "/img.tar"},
        "netns": {
            "network": "bridge", "ip": "10.91.0.9", "dns": ["192.0.2.1"], "dns_search": ["example.org"],
            "add_host": ["db:192.0.2.7"], "hostname": "web.example",
        },
        "cgroup": {"memory": "512MiB", "cpu": 50.0, "cpus": 1.5, "pids": 99},
        "spawn": {
            "env": ["A=1", "FROM_CALLER=caller's"], "user": "agent:extra", "workdir": "/tmp", "pid": "host",
            "log_size": "1MiB", "stop_timeout": "3s", "command": ["sleep", "5"],
        },
        "probe": {
            "health_check": "true", "health_interval": "5s", "health_timeout": "1s", "health_retries": 2,
            "health_start_period": "250ms", "timeout": "15s", "keep_failed": true,
        },
    })
}

#[test]
fn all_flags_in_one_record() {
    let world = World::new("flags");
    let mut record = spec(&world, &FLAGS.split_whitespace().collect::<Vec<_>>()).ok().record();
    let top = record.as_object_mut().unwrap();
    let claim = top.remove("claim").unwrap();
    assert!(claim.as_str().is_some_and(|c| c.len() == 32 && c.bytes().all(|b| b.is_ascii_hexdigit())), "{claim}");
    assert!(top.remove("created").unwrap().as_str().unwrap().ends_with('Z'));
    let mut expected = json!({"format": 1, "id": "web", "labels": {"team": "a", "flag": ""}});
    for (stage, want) in wants().as_object().unwrap() {
        expected[stage] = json!({"want": want});
    }
    assert_eq!(record, expected);
}

#[test]
fn a_spec_file_says_the_same() {
    let world = World::new("spec-file");
    let flags = spec(&world, &FLAGS.split_whitespace().collect::<Vec<_>>()).ok().record();
    // As people write it: on several lines, without what only a record has, with a key of their own.
    let mut text =
        json!({"format": 1, "labels": {"team": "a", "flag": ""}, "x-mine": {"kept": [1, 2.50]}, "id": "web"});
    for (stage, want) in wants().as_object().unwrap() {
        text[stage] = json!({"want": want});
    }
    let file = world.write("spec.json", &serde_json::to_string_pretty(&text).unwrap());
    let strip = |mut record: Value| {
        for key in ["claim", "created"] {
            record.as_object_mut().unwrap().remove(key);
        }
        record
    };
    let from_file = strip(spec(&world, &["-f", &file]).ok().record());
    assert_eq!(from_file["x-mine"], json!({"kept": [1, 2.50]}));
    let mut expected = strip(flags);
    expected["x-mine"] = from_file["x-mine"].clone();
    assert_eq!(from_file, expected);
    let from_stdin = world.tool("quilt-spec", &["-f", "-"]).stdin(fs::read(&file).unwrap()).go().ok().record();
    assert_eq!(strip(from_stdin), expected);
    // A flag goes over the file.
    let over = spec(&world, &["-f", &file, "--memory", "64", "--name", "other"]).ok().record();
    assert_eq!((&over["cgroup"]["want"]["memory"], &over["id"]), (&json!("64MiB"), &json!("other")));
    assert_eq!(over["cgroup"]["want"]["pids"], 99);
}

#[test]
fn a_container_from_a_spec_and_from_its_own_record() {
    let world = World::new("from-spec");
    let image = images::busybox().display().to_string();
    let spec = json!({"format": 1, "unpack": {"want": {"image": image}}, "cgroup": {"want": {"memory": "64M"}},
                      "spawn": {"want": {"env": ["A=1"]}}, "x": {"y": 1}});
    let file = world.write("spec.json", &spec.to_string());
    let record = world.quilt(&["create", "-f", &file, "--name", "one"]).ok().record();
    assert_eq!((&record["x"], &record["cgroup"]["want"]), (&json!({"y": 1}), &json!({"memory": "64MiB"})));
    assert_eq!(world.exec("one", &["sh", "-c", "echo $A"]), "1\n");
    // The record of one is the spec of another; what was done for the first is not taken over.
    let again = world.command(&["create", "-f", "-", "--name", "two"]).stdin(record.to_string()).go().ok().record();
    assert_eq!(again["cgroup"]["want"], record["cgroup"]["want"]);
    assert_ne!(again["claim"], record["claim"]);
    assert_ne!(again["netns"]["have"]["link"]["address"], record["netns"]["have"]["link"]["address"]);
    assert_eq!(world.exec("two", &["sh", "-c", "echo $A"]), "1\n");
}

#[test]
fn env_files() {
    let world = World::new("env-file");
    let file =
        world.write("env", "# comment\nONE=1\n\nQUOTED=\"as it is\" $X\nEMPTY=\nFROM_CALLER\nNOT_SET\nTWO=file\n");
    let args = ["/img.tar", "--env-file", &file, "--env", "TWO=flag"];
    let env = spec(&world, &args).ok().record()["spawn"]["want"]["env"].clone();
    let expected = ["ONE=1", "QUOTED=\"as it is\" $X", "EMPTY=", "FROM_CALLER=caller's", "TWO=flag"];
    // The later of two with one name counts; whether the earlier is dropped at once is quilt-spec's business.
    let mut seen: Vec<&str> = env.as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    seen.retain(|e| *e != "TWO=file");
    assert_eq!(seen, expected);
    let missing = spec(&world, &["/img.tar", "--env-file", "/no/such/file"]);
    missing.failed("quilt-spec", "not_found");
    let bad = world.write("bad", "OK=1\n=value\n");
    let out = spec(&world, &["/img.tar", "--env-file", &bad]);
    assert!(out.status != 0 && out.stderr.contains("2"), "the line's number: {out:?}");
}

#[test]
fn bad_flags_are_usage_errors() {
    let world = World::new("usage");
    let image = images::busybox().display().to_string();
    let bad: [&[&str]; 16] = [
        &["--no-such-flag"],
        &["--memory", "512Q"],
        &["--memory", ""],
        &["--timeout", "soon"],
        &["--health-interval", "30"],
        &["--name", "-rf"],
        &["--name", "a/b"],
        &["--name", "../x"],
        &["--name", ""],
        &["--name", "$(id)"],
        &["--network", "moon"],
        &["--ip", "10.91.0"],
        &["--label", "=x"],
        &["--stop-after", "never"],
        &["--env", "=x"],
        &["--pid", "mine"],
    ];
    for args in bad {
        world.quilt(&[&["create", &image], args].concat()).misused();
    }
    world.quilt(&["create"]).misused();
    world.quilt(&["no-such-verb"]).misused();
    world.quilt(&["icc", "destroy"]).misused();
    assert!(!world.root.join("containers").exists(), "something was done");
    for verb in [
        "create", "run", "start", "exec", "rm", "stop", "ls", "inspect", "probe", "wait", "logs", "gc", "kill",
        "pause", "unpause",
    ] {
        let out = world.quilt(&[verb, "--help"]).ok();
        assert!(out.stdout.contains("Usage:") && out.stderr.is_empty(), "{out:?}");
    }
    assert!(world.quilt(&["help"]).ok().stdout.contains("create"));
    assert_eq!(world.quilt(&["version"]).ok().record()["format"], 1);
}

#[test]
fn a_spec_file_is_checked() {
    let world = World::new("bad-spec");
    let image = images::busybox().display().to_string();
    let base = || json!({"format": 1, "id": "box", "unpack": {"want": {"image": image}}});
    let with = |stage: &str, want: Value| {
        let mut spec = base();
        spec[stage] = json!({"want": want});
        spec.to_string()
    };
    for (text, says) in [
        (with("cgroup", json!({"memry": "1G"})), "memry"),
        (with("cgroup", json!({"memory": "much"})), "much"),
        (with("netns", json!({"network": "moon"})), "moon"),
        (with("spawn", json!({"env": "A=1"})), "env"),
        (with("probe", json!({"health_retries": -1})), "-1"),
        (base().to_string().replace("\"format\":1", "\"format\":2"), "format 2"),
        ("{\"format\":1,".to_owned(), "EOF"),
        (String::new(), "EOF"),
        ("[]".to_owned(), "record"),
    ] {
        let out = world.command(&["create", "-f", "-"]).stdin(text.clone()).go();
        let error = out.record()["error"].clone();
        assert_eq!((out.status, &error["code"]), (12, &json!("invalid")), "{text}: {out:?}");
        assert!(out.stderr.contains(says) && out.stderr.lines().count() == 1, "{says}: {out:?}");
    }
    let left = fs::read_dir(world.root.join("containers")).map_or(0, |dir| dir.count());
    assert_eq!(left, 0, "a bad spec left a container");
}

#[test]
fn the_builder_makes_a_real_container() {
    let world = World::new("builder");
    // quilt-spec's documented example, as a program of its own: the stages run in it, and they fork.
    let build = ["build", "-q", "-p", "quilt-spec", "--example", "create"];
    let limit = std::time::Duration::from_secs(300);
    world.run(env!("CARGO"), &build).dir(crate::harness::repo()).limit(limit).go().ok();
    let example = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("debug/examples/create");
    let image = images::busybox().display().to_string();
    let record = world.run(&example, &[&image, "worker"]).go().ok().record();
    assert_eq!(record["probe"]["have"]["ready"], true);
    assert_eq!(record["cgroup"]["want"], json!({"memory": "512MiB", "cpu": 50.0}));
    assert_eq!(world.exec("worker", &["sh", "-c", "echo $AGENT_ID"]), "worker\n");
    // The same in words is the same record.
    let flags = "--name other --label made-by=example --memory 512 --cpu 50 --env AGENT_ID=other --health-check";
    let words =
        [&[image.as_str()], &flags.split(' ').collect::<Vec<_>>()[..], &["echo ready", "--timeout", "10s"]].concat();
    let said = spec(&world, &words).ok().record();
    for key in ["labels", "unpack", "cgroup", "probe"] {
        assert_eq!(said[key]["want"], record[key]["want"], "{key}");
    }
    // A failure takes everything back, as in the pipeline.
    let before = world.inventory();
    let out = world.run(&example, &["/no/such/image", "bad"]).go();
    assert!(out.status == 11 && out.stderr.lines().count() == 1, "{out:?}");
    assert_eq!(world.run(&example, &[&image, "worker"]).go().status, 10);
    world.assert_same(&before, crate::harness::SETTLE);
    world.quilt(&["rm", "-f", "worker"]).ok();
}

/// The README and the seed of every question people ask: what it says can be typed must be what the program takes.
#[test]
fn the_readme_speaks_of_what_there_is() {
    let world = World::new("readme");
    let text = fs::read_to_string(crate::harness::repo().join("README.md")).unwrap();
    let mut helps = std::collections::BTreeMap::new();
    let mut checked = 0;
    // Commands stand in code: between backticks, or indented by four.
    for line in text.lines().filter(|line| line.starts_with("    ") || line.contains('`')) {
        for command in line.split(['`', ';', '|', '#']).map(str::trim).filter(|c| c.starts_with("quilt ")) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let Some(verb) = words.get(1).filter(|v| v.bytes().all(|b| b.is_ascii_lowercase())) else { continue };
            let help = helps.entry(verb.to_string()).or_insert_with(|| {
                let out = world.quilt(&[verb, "--help"]);
                assert_eq!(out.status, 0, "README: `{command}`: {out:?}");
                out.stdout
            });
            let own = words.iter().skip(2).take_while(|w| **w != "--");
            for flag in own.map(|w| w.trim_matches(['[', ']', '…', ','])).filter(|w| w.starts_with('-')) {
                let known = help.split([' ', ',', '\n', '[']).any(|word| word == flag.split('=').next().unwrap());
                assert!(known, "README: `{command}`: {verb} has no {flag}");
                checked += 1;
            }
        }
    }
    assert!(helps.len() > 8 && checked > 5, "the README is not read: {helps:?}");
}
