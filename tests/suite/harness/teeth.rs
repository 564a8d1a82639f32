//! Test builds of the tools, out of which a defence can be taken (quilt-record/src/defence.rs): the same attack that fails
//! on the tools as they are released succeeds on them, or the test proves nothing.

use std::fs;
use std::path::PathBuf;

use super::run::LIMIT;
use super::{World, eventually, images, repo};

impl World {
    /// A world whose tools are a test build, with these defences out: names separated by commas. User namespaces are out as
    /// well: they alone stop most of what the others stop.
    pub fn without(name: &str, defences: &str) -> World {
        World::of(name, bin(), &format!("{defences},userns"))
    }

    /// The same, and user namespaces are in.
    pub fn without_only(name: &str, defences: &str) -> World {
        World::of(name, bin(), defences)
    }
}

/// The tools of the test build: `QUILT_TEETH_BIN`, else what `scripts/build --teeth` built.
pub fn bin() -> PathBuf {
    let dir = repo().join(std::env::var_os("QUILT_TEETH_BIN").unwrap_or_else(|| "target/teeth".into()));
    let why = "no test build of the tools: run scripts/build --teeth, or set QUILT_TEETH_BIN";
    assert!(dir.join("quilt-spec").exists(), "{}: {why}", dir.display());
    dir
}

/// Runs an attack twice: on the tools as they are released, where it must come to nothing, and on a test build with these
/// defences out, where it must come to something. What it comes to is a list of what it could do, a line each; the latter is
/// returned.
#[track_caller]
pub fn attack(name: &str, defences: &str, attack: impl Fn(&World) -> Vec<String>) -> Vec<String> {
    let world = World::new(name);
    assert_eq!(attack(&world), [""; 0], "with all defences");
    drop(world);
    let done = attack(&World::without(name, defences));
    assert!(!done.is_empty(), "without {defences} it came to nothing either");
    done
}

/// Runs a line of shell in each of the ways in which code gets to run inside: as the command of a container that is made
/// with these options from the prober's image, by exec, and as a health check. What each printed, by the name of the way.
/// `caller` is what Quilt is called by, as in `env A=1`.
pub fn everywhere(world: &World, caller: &[&str], options: &[&str], line: &str) -> Vec<(&'static str, String)> {
    let (quilt, image) = (repo().join("scripts/quilt"), images::prober());
    let (quilt, image) = (quilt.to_str().unwrap(), image.to_str().unwrap());
    let run = |args: &[&str]| {
        let words = [caller, &[quilt], args].concat();
        world.run(words[0], &words[1..]).go()
    };
    let upper = world.root.join("containers/box/upper");
    let into = |way: &str, then: &str| format!("({line}) >/.{way} 2>&1; mv /.{way} /{way}{then}");
    let command = into("start", "; exec sleep 1000");
    run(&[&["create", image, "--name", "box"], options, &["--", "sh", "-c", &command]].concat()).ok();
    assert!(eventually(LIMIT, || upper.join("start").exists()), "it never came to its end: {line}");
    run(&["exec", "box", "sh", "-c", &into("exec", "")]).ok();
    run(&["probe", "--health-check", &into("check", ""), "box"]).ok();
    let said = ["start", "exec", "check"].map(|way| (way, fs::read_to_string(upper.join(way)).unwrap()));
    world.quilt(&["rm", "-f", "box"]).ok();
    said.into()
}
