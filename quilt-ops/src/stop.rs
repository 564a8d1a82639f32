//! Stopping a container, and sending it a signal.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use quilt_record::claim::Work;
use quilt_record::signals::Waiter;
use quilt_record::units::Span;
use quilt_record::{Code, Container, Error, Id, Instance, Record, Step, leaf, sys};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::remove::{KILL_LIMIT, LOCK_LIMIT, after, end};
use crate::state;

/// What a stop waits for the container to end by itself, where nobody said.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Stops a container: TERM to its init, then, after `limit` (default: what it was created with), the end of all of it.
/// Its files and its address stay. One that is stopped already is no error. `if_dead`: one whose init lives is left alone.
pub fn stop(instance: &Instance, id: &Id, limit: Option<Duration>, if_dead: bool) -> anyhow::Result<()> {
    let container = Container::open(instance, id)?;
    container.lock(LOCK_LIMIT)?;
    let holder = container.holder()?;
    match &holder.work {
        Work::Removing => return Err(Error::new(Code::Busy, "", format!("the container {id} is being removed")).into()),
        Work::Creating(maker) | Work::Starting(maker) if maker.alive() => {
            return Err(Error::new(Code::Busy, "", format!("the container {id} is being created")).into());
        }
        _ => {}
    }
    let mut init = state::init(&container)?;
    if if_dead && init.is_some() {
        return Ok(());
    }
    if let Some(pidfd) = &init {
        let limit = limit.unwrap_or_else(|| stop_timeout(&container));
        sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGTERM).step(|| format!("send SIGTERM to the init of {id}"))?;
        // One that is paused is to act on it.
        let hierarchies = quilt_cgroup::Place::find(instance, id)?.hierarchies;
        if leaf::is_paused(&hierarchies)? {
            leaf::unpause(&hierarchies)?;
        }
        if ended(pidfd, limit)? {
            init = None;
        }
    }
    end(instance, id, init.as_ref())?;
    forget(&container)?;
    if matches!(holder.work, Work::Starting(_)) {
        // Of a start that was killed.
        container.set_work(holder.claim, Work::Settled)?;
    }
    Ok(())
}

fn ended(pidfd: &OwnedFd, limit: Duration) -> Result<bool, Error> {
    Ok(Waiter::new()?.wait(&[pidfd.as_fd()], Some(after(limit)))?.is_some())
}

fn stop_timeout(container: &Container) -> Duration {
    #[derive(Deserialize)]
    struct Section {
        want: Asked,
    }
    #[derive(Deserialize)]
    struct Asked {
        stop_timeout: Option<Span>,
    }
    let text = container.read("spawn.json").ok().flatten();
    let section = text.and_then(|text| serde_json::from_str::<Section>(&text).ok());
    section.and_then(|s| s.want.stop_timeout).map_or(STOP_TIMEOUT, |span| span.0)
}

/// Drops from the saved record what is gone with the processes, so that a start does it again. On a disk that is full, a
/// section that says no more than the record does, which is nearly every one, goes as a whole, and makes room for others.
pub fn forget(container: &Container) -> Result<(), Error> {
    let full = |written: &Result<(), Error>| written.as_ref().is_err_and(|e| e.code == Code::NoSpace);
    let mut left = Vec::new();
    for stage in ["probe", "spawn", "cgroup", "netns"] {
        let file = format!("{stage}.json");
        let Some(text) = container.read(&file)? else { continue };
        let Ok(mut section) = serde_json::from_str::<Map<String, Value>>(&text) else { continue };
        if section.remove("have").is_none() {
            continue;
        }
        let written = container.write_section(stage, &Value::Object(section.clone()).to_string());
        if !full(&written) {
            written?;
        } else if says_the_same(container, stage, &section) {
            container.unlink(&file)?;
        } else {
            left.push((stage, Value::Object(section).to_string()));
        }
    }
    for (stage, text) in left {
        let written = container.write_section(stage, &text);
        // As it stands it is that of a container which died by itself, and that can be started, too.
        if !full(&written) {
            written?;
        }
    }
    Ok(())
}

/// Whether what was claimed with asks for the same. One that cannot be read does not.
fn says_the_same(container: &Container, stage: &str, section: &Map<String, Value>) -> bool {
    let text = container.read("record.json").ok().flatten();
    text.and_then(|text| Record::parse(&text).ok()).is_some_and(|record| asks_the_same(&record, stage, section))
}

/// Whether the record's own section is this one. One that is not there asks for nothing.
fn asks_the_same(record: &Record, stage: &str, section: &Map<String, Value>) -> bool {
    let asks = |mut section: Map<String, Value>| {
        section.entry("want").or_insert_with(|| Value::Object(Map::new()));
        section
    };
    record.get(stage).is_ok_and(|own| asks(own.unwrap_or_default()) == asks(section.clone()))
}

/// Sends a signal to the container's init. SIGKILL ends all of the container.
pub fn kill(instance: &Instance, id: &Id, signal: Signal) -> anyhow::Result<()> {
    let container = Container::open(instance, id)?;
    let init = state::running(&container)?;
    sys::pidfd_send_signal(init.as_fd(), signal).step(|| format!("send {signal} to the init of {id}"))?;
    if signal == Signal::SIGKILL {
        // What has the name now may be another one.
        match container.lock(LOCK_LIMIT) {
            Err(e) if e.code == Code::NotFound => return Ok(()),
            locked => locked?,
        }
        // With a pid namespace of its own that was all; with the host's, the others are still there.
        let hierarchies = quilt_cgroup::Place::find(instance, id)?.hierarchies;
        leaf::kill_all(&hierarchies, KILL_LIMIT)?;
        // What a pause left; the cgroup may be removed by now.
        if leaf::is_paused(&hierarchies)? {
            let _ = leaf::unpause(&hierarchies);
        }
    }
    Ok(())
}

/// A signal by number or by name, with `SIG` or without.
pub fn signal(text: &str) -> Result<Signal, String> {
    let bad = || format!("`{text}` is not a signal: write TERM, SIGUSR1 or a number");
    if let Ok(number) = text.parse::<i32>() {
        return Signal::try_from(number).map_err(|_| bad());
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_dropped_only_if_the_record_asks_for_the_same() -> Result<(), Box<dyn std::error::Error>> {
        let record = Record::parse(r#"{"format":1,"spawn":{"want":{"user":"1"}},"probe":{"want":{},"have":{}}}"#)?;
        for (stage, section, same) in [
            ("spawn", r#"{"want":{"user":"1"}}"#, true),
            ("spawn", r#"{"want":{"user":"2"}}"#, false),
            ("spawn", r#"{"want":{"user":"1"},"plan":[]}"#, false),
            ("netns", r#"{"want":{}}"#, true),
            ("netns", r#"{"want":{"network":"none"}}"#, false),
            ("probe", r#"{"want":{}}"#, false),
        ] {
            assert_eq!(asks_the_same(&record, stage, &serde_json::from_str(section)?), same, "{stage} {section}");
        }
        Ok(())
    }

    #[test]
    fn signals_by_every_name() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal(text), Ok(Signal::SIGTERM), "{text}");
        }
        for bad in ["", "0", "-9", "99", "SIG", "KILLL"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
