//! The phases as they are gone through: what each saw, how long it took, and which of them said no.

use std::time::Instant;

use quilt_record::claim::Work;
use quilt_record::have::{self, Phase, Probe};
use quilt_record::process::boot_id;
use quilt_record::{Code, Container, Error, Record, oom};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::watch::Stop;

/// How much of a container's log is shown when it died, in bytes.
const LOG_END: usize = 500;

/// What a phase saw.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// How often it was tried.
    pub(crate) tries: u32,
    seen: Map<String, Value>,
}

impl Evidence {
    /// Notes something.
    pub(crate) fn note(&mut self, key: &str, value: impl Serialize) {
        self.seen.insert(key.to_owned(), serde_json::to_value(value).unwrap_or_default());
    }
}

/// The report.
pub(crate) struct Report<'a> {
    container: Option<&'a Container>,
    record: &'a Record,
    started: Instant,
    overall: std::time::Duration,
    phases: Vec<Phase>,
    /// Why the container is not ready.
    pub(crate) refusal: Option<Error>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(
        container: Option<&'a Container>,
        record: &'a Record,
        overall: std::time::Duration,
    ) -> Report<'a> {
        Report { container, record, started: Instant::now(), overall, phases: Vec::with_capacity(5), refusal: None }
    }

    /// When all the time there is will be up.
    pub(crate) fn overall(&self) -> Instant {
        self.started + self.overall
    }

    /// Goes through a phase. `None` if it said no; the error is for what says nothing about the container.
    pub(crate) fn phase<T>(
        &mut self,
        name: &str,
        look: impl FnOnce(&mut Evidence) -> Result<T, Stop>,
    ) -> Result<Option<T>, Error> {
        let started = Instant::now();
        let mut evidence = Evidence { tries: 1, ..Evidence::default() };
        let found = look(&mut evidence);
        let refusal = match &found {
            Ok(_) => None,
            Err(Stop::Broken(error)) => return Err(error.clone()),
            Err(Stop::Failed(error)) => Some(Error { step: name.to_owned(), ..error.clone() }),
            Err(Stop::Dead) => Some(self.death(name)),
            Err(Stop::Overall) => {
                let limit = humantime(self.overall);
                let message = match evidence.seen.get("output").and_then(Value::as_str).filter(|o| !o.is_empty()) {
                    Some(output) => format!("not done within {limit} (--timeout); the output ends: {}", output.trim()),
                    None => format!("not done within {limit} (--timeout)"),
                };
                Some(Error::new(Code::Timeout, name, message))
            }
        };
        if let Some(error) = &refusal {
            evidence.note("error", error.to_string());
        }
        self.phases.push(Phase {
            name: name.to_owned(),
            ok: refusal.is_none(),
            tries: evidence.tries,
            us: started.elapsed().as_micros() as u64,
            evidence: Value::Object(evidence.seen),
        });
        self.refusal = refusal;
        Ok(found.ok())
    }

    /// What is known about the end of the container.
    fn death(&self, phase: &str) -> Error {
        let read = |name| self.container.and_then(|c| c.read(name).ok().flatten()).unwrap_or_default();
        let (status, log) = (read("exit"), read("log"));
        let mut message = match phase {
            "process" => "the container's init has ended".to_owned(),
            phase => format!("the container's init ended during the phase {phase}"),
        };
        if !status.trim().is_empty() {
            message.push_str(&format!(", with exit status {}", status.trim()));
        }
        let end = end_of(log.as_bytes(), LOG_END);
        if !end.is_empty() {
            message.push_str(&format!("; its log ends: {end}"));
        }
        Error::new(Code::NotReady, "process", message)
    }

    /// How often the kernel has killed in the container for lack of memory. Asked only of one that has had the time for
    /// it, or a reason.
    fn oom_kills(&self) -> Option<u64> {
        let settled = || self.container?.holder().ok().map(|holder| holder.work == Work::Settled);
        if self.refusal.is_none() && settled() != Some(true) {
            return None;
        }
        let cgroup: have::Cgroup = self.record.have("cgroup").ok()??;
        oom::kills(&cgroup.hierarchies)
    }

    /// The section.
    pub(crate) fn have(mut self) -> (Probe, Option<Error>) {
        if let Some(count) = self.oom_kills() {
            if let Some(Value::Object(evidence)) = self.phases.first_mut().map(|phase| &mut phase.evidence) {
                evidence.insert("oom_kills".to_owned(), count.into());
            }
            if let Some(refusal) = self.refusal.as_mut().filter(|_| count > 0) {
                refusal.message.push_str(&format!("; {}", oom::sentence(count)));
            }
        }
        let us = self.started.elapsed().as_micros() as u64;
        let ready = self.refusal.is_none();
        (Probe { ready, boot: boot_id().to_owned(), us, phases: self.phases }, self.refusal)
    }
}

fn humantime(limit: std::time::Duration) -> String {
    quilt_record::units::Span(limit).to_string()
}

/// The last of what somebody printed, fit to be shown: at most `most` bytes, no control characters but line feeds.
pub(crate) fn end_of(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(most)..]);
    let shown = text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c });
    shown.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_fit_to_be_shown() {
        assert_eq!(end_of(b"\x1b[2Jred\r\n", 100), "\u{fffd}[2Jred\u{fffd}");
        assert_eq!(end_of(b"0123456789\n", 4), "789");
        assert_eq!(end_of(b"\xff\xfe", 10), "\u{fffd}\u{fffd}");
    }
}
