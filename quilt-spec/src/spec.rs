//! Puts a record together: what the flags say over what the spec file says.

use std::path::{Path, PathBuf};

use quilt_record::process::boot_id;
use quilt_record::record::STAGES;
use quilt_record::{Claim, Code, Container, Error, Id, Instance, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::env;
use crate::wants;

/// Why there is no record.
#[derive(Debug)]
pub enum Refusal {
    /// The command line makes no sense: exit status 2.
    Usage(String),
    /// Something that the command line names is not what it must be.
    Failure(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Failure(error)
    }
}

/// What is asked, by flags or by the builder.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The container's name; one is made up if neither this nor the file has one.
    pub name: Option<Id>,
    /// Labels, by name.
    pub labels: Vec<(String, String)>,
    /// The stage after which to stop.
    pub until: Option<String>,
    /// Whether to show what would be done only.
    pub dry_run: bool,
    /// The command of `quilt run`; `None` for a container that stays.
    pub run: Option<Run>,
    /// What is asked of each stage.
    pub unpack: wants::Unpack,
    /// See `unpack`.
    pub netns: wants::Netns,
    /// See `unpack`.
    pub cgroup: wants::Cgroup,
    /// See `unpack`.
    pub spawn: wants::Spawn,
    /// See `unpack`.
    pub probe: wants::Probe,
}

/// The record's `run`: the one command that the container is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The command and its arguments.
    pub argv: Vec<String>,
    /// Whether it gets the caller's standard input.
    pub interactive: bool,
    /// Whether it gets a terminal of its own.
    pub tty: bool,
}

/// A section as far as it matters here.
#[derive(Serialize, Deserialize)]
struct Part {
    #[serde(default)]
    want: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    have: Option<Box<RawValue>>,
}

impl Spec {
    /// The record: for a new container under `claim`, or, if `file` is the record of one that is there under the claim
    /// that it names, for going on with that one.
    pub fn record(&self, file: Option<Record>, claim: Option<Claim>) -> Result<Record, Refusal> {
        let mut file = file.unwrap_or_default();
        let saved = self.saved(&file)?;
        let resumed = saved.is_some();
        let old: Option<String> = if resumed { file.get("created")? } else { None };
        file.remove("error");
        take_haves(&mut file, saved.as_ref())?;
        let claim = match file.get("claim")? {
            Some(old) if resumed => old,
            _ => claim.unwrap_or_else(Claim::generate),
        };
        let id = match (&self.name, file.get::<Id>("id")?) {
            (Some(name), _) => name.clone(),
            (None, Some(id)) => id,
            (None, None) => Id::generate(claim.bits()),
        };
        let mut record = Record::new(&id, &claim);
        let created = old.or(record.get::<String>("created")?);
        self.labels(&mut file)?;
        for key in ["format", "id", "claim", "created", "until", "dry_run", "run", "status", "in_force"] {
            file.remove(key);
        }
        self.sections(&mut file, resumed)?;
        record.overlay(file);
        record.set("created", &created);
        if let Some(until) = &self.until {
            record.set("until", until);
        }
        if self.dry_run {
            record.set("dry_run", &true);
        }
        if let Some(run) = &self.run {
            record.set("run", run);
        }
        Ok(record)
    }

    /// The saved record of the container that `record` is of, if it is there under the claim that the record names; under
    /// another name it would be another one.
    fn saved(&self, record: &Record) -> Result<Option<Record>, Error> {
        let begun = STAGES.iter().any(|stage| matches!(record.have::<Box<RawValue>>(stage), Ok(Some(_))));
        let (Some(id), Some(claim), true) = (record.get::<Id>("id")?, record.get::<Claim>("claim")?, begun) else {
            return Ok(None);
        };
        if self.name.as_ref().is_some_and(|name| *name != id) {
            return Ok(None);
        }
        let Ok(container) = Container::open(&Instance::locate(None)?, &id) else { return Ok(None) };
        if container.holder().is_ok_and(|holder| holder.claim == claim) {
            container.record().map(Some)
        } else {
            Ok(None)
        }
    }

    fn labels(&self, file: &mut Record) -> Result<(), Error> {
        let mut labels: Map<String, Value> = file.get("labels")?.unwrap_or_default();
        labels.extend(self.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))));
        if let Some((name, _)) = labels.iter().find(|(_, value)| !value.is_string()) {
            return Err(Error::new(
                Code::Invalid,
                "read `labels` of the record",
                format!("the label `{name}` is no string"),
            ));
        }
        if !labels.is_empty() {
            file.set("labels", &labels);
        }
        Ok(())
    }

    fn sections(&self, file: &mut Record, resumed: bool) -> Result<(), Refusal> {
        // What is right for one stage may be wrong for what is asked of another.
        let mut hosts_network = false;
        for stage in STAGES {
            match stage {
                "unpack" => section(file, stage, &self.unpack, |_| Ok(()), resumed)?,
                "netns" => {
                    let check = |want: &wants::Netns| {
                        hosts_network = want.network == Some(quilt_netns::Network::Host);
                        want.check()
                    };
                    section(file, stage, &self.netns, check, resumed)?;
                }
                "cgroup" => section(file, stage, &self.cgroup, wants::Cgroup::check, resumed)?,
                "spawn" => {
                    let check = |want: &wants::Spawn| {
                        want.check()?;
                        if hosts_network { want.check_with_hosts_network() } else { Ok(()) }
                    };
                    section(file, stage, &self.spawn, check, resumed)?;
                }
                _ => section(file, stage, &self.probe, wants::Probe::check, resumed)?,
            }
        }
        Ok(())
    }
}

/// What was done is what the container's directory says, whatever has happened since the record was printed; for a new
/// container it is nothing.
fn take_haves(record: &mut Record, saved: Option<&Record>) -> Result<(), Error> {
    for stage in STAGES {
        let saved: Option<Part> = saved.map_or(Ok(None), |saved| saved.get(stage))?;
        match (record.get::<Part>(stage)?, saved) {
            (Some(part), saved) => {
                record.set(stage, &Part { have: saved.and_then(|saved| saved.have), ..part });
            }
            (None, Some(saved)) => record.set(stage, &saved),
            (None, None) => {}
        }
    }
    Ok(())
}

/// Writes a stage's section into the record: the flags' `want` over the file's, checked as the stage itself would.
fn section<W: Serialize + DeserializeOwned>(
    file: &mut Record,
    stage: &str,
    flags: &W,
    check: impl FnOnce(&W) -> Result<(), Error>,
    resumed: bool,
) -> Result<(), Refusal> {
    let flags = match serde_json::to_value(flags) {
        Ok(Value::Object(flags)) => flags,
        Ok(_) => Map::new(),
        Err(e) => return Err(Refusal::Usage(e.to_string())),
    };
    // The numbers that JSON does not have become nulls.
    if let Some((key, _)) = flags.iter().find(|(_, value)| value.is_null()) {
        return Err(Refusal::Usage(format!("--{}: a number is needed", key.replace('_', "-"))));
    }
    let part: Option<Part> = file.get(stage)?;
    if part.is_none() && flags.is_empty() && stage != "unpack" {
        return Ok(());
    }
    let mut part = part.unwrap_or(Part { want: Map::new(), have: None });
    if resumed && stage != "probe" && !flags.is_empty() && done(file, stage) {
        let changed = flags.iter().find(|(key, value)| part.want.get(*key) != Some(value));
        if let Some((key, _)) = changed {
            let flag = key.replace('_', "-");
            return Err(Refusal::Usage(format!("{stage} is done for this container: --{flag} comes too late")));
        }
    }
    merge(&mut part.want, flags);
    let bad = |why: String| Error::new(Code::Invalid, format!("read `{stage}.want` of the spec"), why);
    match stage {
        "unpack" => absolute(&mut part.want)?,
        "spawn" => environment(&mut part.want).and_then(|()| volumes(&mut part.want)).map_err(bad)?,
        _ => {}
    }
    let want: W = serde_json::from_value(Value::Object(part.want.clone())).map_err(|e| bad(e.to_string()))?;
    check(&want)?;
    file.set(stage, &part);
    Ok(())
}

/// Whether what the stage did can still be there.
fn done(record: &Record, stage: &str) -> bool {
    #[derive(Deserialize)]
    struct Boot {
        boot: Option<String>,
    }
    record.have::<Boot>(stage).is_ok_and(|have| have.is_some_and(|h| h.boot.is_none_or(|boot| boot == boot_id())))
}

/// The flags over the file; only environments add up.
fn merge(want: &mut Map<String, Value>, flags: Map<String, Value>) {
    for (key, value) in flags {
        match (want.get_mut(&key), value) {
            (Some(Value::Array(old)), Value::Array(new)) if key == "env" => old.extend(new),
            (_, value) => drop(want.insert(key, value)),
        }
    }
}

/// The image's path from the root on: a record means the same wherever it is replayed.
fn absolute(want: &mut Map<String, Value>) -> Result<(), Refusal> {
    let Some(Value::String(image)) = want.get("image") else {
        return Err(Refusal::Usage("no image: give the path of a tar file or a directory".to_owned()));
    };
    if image.is_empty() || image == "-" {
        return Err(Refusal::Usage(format!("`{image}` is no image: give the path of a tar file or a directory")));
    }
    let path: PathBuf = std::path::absolute(Path::new(image))
        .map_err(|e| Refusal::Failure(Error::os(format!("find the image {image}"), e)))?;
    want.insert("image".to_owned(), Value::from(path.to_string_lossy()));
    Ok(())
}

/// The volumes with absolute sources, for the same reason.
fn volumes(want: &mut Map<String, Value>) -> Result<(), String> {
    let Some(Value::Array(volumes)) = want.get_mut("volume") else { return Ok(()) };
    let dir = std::env::current_dir().map_err(|e| format!("volume: the working directory: {e}"))?;
    for volume in volumes {
        if let Value::String(text) = volume {
            *text = quilt_spawn::absolute_volume(text, &dir);
        }
    }
    Ok(())
}

/// The environment with the caller's values in place.
fn environment(want: &mut Map<String, Value>) -> Result<(), String> {
    let Some(entries) = want.remove("env") else { return Ok(()) };
    let entries = serde_json::from_value(entries).map_err(|e| format!("env: {e}"))?;
    let entries = env::resolve(entries, |name| std::env::var_os(name))?;
    want.insert("env".to_owned(), Value::from(entries));
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{CreateCli, RunCli};

    const CLAIM: &str = "0123abcd456789abcdef0123456789ab";

    fn create(args: &[&str]) -> Result<Record, Refusal> {
        let cli = CreateCli::try_parse_from([&["quilt"], args].concat()).map_err(|e| Refusal::Usage(e.to_string()))?;
        cli.record(CLAIM.parse().ok())
    }

    fn value(record: Record) -> Value {
        let mut value = serde_json::to_value(&record).unwrap_or_default();
        if let Some(fields) = value.as_object_mut() {
            fields.remove("created");
        }
        value
    }

    #[test]
    fn the_builder_and_the_command_line_say_the_same() -> Result<(), Refusal> {
        let args = "/image.tar.gz --name web --memory 512 --cpu 50 --env A=1 --label x=y --timeout 10s -- sleep 5";
        let record = create(&args.split(' ').collect::<Vec<_>>())?;
        let built = crate::ContainerBuilder::new("/image.tar.gz")
            .name("web")
            .memory(quilt_record::units::Size(512 << 20))
            .cpu(50.0)
            .env("A", "1")
            .label("x", "y")
            .timeout(std::time::Duration::from_secs(10))
            .command(["sleep", "5"])
            .build()?;
        let (mut record, mut built) = (value(record), value(built));
        assert_eq!(record["claim"].take(), Value::from(CLAIM));
        built["claim"].take();
        assert_eq!(record, built);
        Ok(())
    }

    #[test]
    fn flags_go_over_the_file_and_what_is_unknown_stays() -> Result<(), Refusal> {
        let old = r#"{"format":1,"id":"old","claim":"ffffffffffffffffffffffffffffffff","created":"c","until":"netns","x":1e400,
            "labels":{"a":"1","b":"1"},"unpack":{"want":{"image":"/i"},"have":{"lower":[]}},"error":{"code":"io"},
            "cgroup":{"want":{"memory":"1MiB","pids":7}},"spawn":{"want":{"env":["A=1","B=1"]}}}"#;
        let file = std::env::temp_dir().join(format!("quilt-spec-{}.json", std::process::id()));
        std::fs::write(&file, old).map_err(|e| Error::os("write", e))?;
        let path = file.display().to_string();
        let record = create(&["-f", &path, "--name", "new", "--label", "b=2", "--memory", "2M", "-e", "A=2"]);
        let again = create(&["-f", &path]);
        let _ = std::fs::remove_file(&file);
        let record = record?.to_string();
        let (_, record) = record.split_once(r#"Z","#).unwrap_or_default();
        let expected = r#""x":1e400,"labels":{"a":"1","b":"2"},"unpack":{"want":{"image":"/i"}},"cgroup":{"want":{"memory":"2MiB","pids":7}},"spawn":{"want":{"env":["B=1","A=2"]}}}"#;
        assert_eq!(record, expected);
        // Nobody has a container of that claim: a new one.
        assert_eq!((again?.claim()?.to_string().as_str()), CLAIM);
        Ok(())
    }

    #[test]
    fn a_run_has_its_command_beside_the_sections() -> Result<(), Refusal> {
        let run = |args: &str| {
            let words = args.split(' ').collect::<Vec<_>>();
            let cli = RunCli::try_parse_from(words).map_err(|e| Refusal::Usage(e.to_string()))?;
            cli.record(CLAIM.parse().ok())
        };
        let record = run("quilt -it /i -- make test")?;
        let expected = Run { argv: vec!["make".into(), "test".into()], interactive: true, tty: true };
        assert_eq!((record.get("run")?, record.get::<Value>("spawn")?), (Some(expected), None));
        for bad in
            ["quilt /i", "quilt /i --keep-failed -- true", "quilt /i --stop-after netns -- true", "quilt -- true"]
        {
            assert!(matches!(run(bad), Err(Refusal::Usage(_))), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for bad in [
            &[][..],
            &["-"],
            &[""],
            &["/i", "-e", "=1"],
            &["/i", "--label", "=1"],
            &["/i", "--name", "a/b"],
            &["/i", "--cpu", "nan"],
        ] {
            assert!(matches!(create(bad), Err(Refusal::Usage(_))), "{bad:?}");
        }
    }
}
