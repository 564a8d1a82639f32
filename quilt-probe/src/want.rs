//! What can be asked of the probe.

use std::time::Duration;

use clap::Args;
use quilt_record::units::{Span, Timeout};
use quilt_record::{Code, Error};
use serde::{Deserialize, Serialize};

/// What is asked of the probe. The rules of the health check are docker's; `health.rs` says what they mean in a create.
#[derive(Args, Serialize, Deserialize, Default, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// Command that says whether the container is healthy, by exit status 0: shell text for its /bin/sh, or a JSON array of words, run as they are [default: none]
    #[arg(long, value_name = "COMMAND", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<String>,

    /// Longest wait between two tries of the health check; the first is 50ms, each is twice the one before [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_interval: Option<Span>,

    /// Time that one try of the health check may take, above 0 [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_timeout: Option<Span>,

    /// Tries of the health check that may fail before the container is not ready, at least 1 [default: 3]
    #[arg(long, value_name = "COUNT", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_retries: Option<u32>,

    /// Time from the first try of the health check in which failures do not count [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_start_period: Option<Span>,

    /// Look from inside whether the confinement is in force: capabilities, filter, mounts, devices, limits
    #[arg(long, help_heading = "Readiness")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub security: bool,

    /// Time for all phases of readiness together, above 0: 15s, 500ms; a bare number is milliseconds [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,

    /// Keep a container that did not become ready, for looking at it
    #[arg(long, help_heading = "Readiness")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_failed: bool,
}

impl Want {
    /// Refuses what cannot be meant, before anything is touched.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |flag: &str, message: &str| Err(Error::new(Code::Invalid, format!("read --{flag}"), message));
        if self.health_retries == Some(0) {
            return refuse("health-retries", "must be at least 1");
        }
        if self.health_timeout.is_some_and(|t| t.0.is_zero()) {
            return refuse("health-timeout", "must be above 0");
        }
        if self.timeout.is_some_and(|t| t.0.is_zero()) {
            return refuse("timeout", "must be above 0");
        }
        self.command().map(drop)
    }

    /// The words of the health check; `None` if there is none. Empty text is none, as in docker.
    pub(crate) fn command(&self) -> Result<Option<Vec<String>>, Error> {
        let Some(text) = self.health_check.as_deref().filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let bad = |why: String| Error::new(Code::Invalid, "read --health-check", why);
        if text.contains('\0') {
            return Err(bad("it has a NUL byte".to_owned()));
        }
        // `[` followed by anything but a JSON value is the shell's own command: `[ -e /ready ]`.
        let array = text.trim_start().strip_prefix('[').map(str::trim_start);
        if !array.is_some_and(|rest| rest.starts_with(['"', ']'])) || is_shell_test(text) {
            return Ok(Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]));
        }
        let words: Vec<String> =
            serde_json::from_str(text).map_err(|e| bad(format!("not a JSON array of words: {e}")))?;
        match words.first() {
            Some(name) if !name.is_empty() && !words.iter().any(|word| word.contains('\0')) => Ok(Some(words)),
            _ => Err(bad("the array must start with the name of a program".to_owned())),
        }
    }

    pub(crate) fn interval(&self) -> Duration {
        self.health_interval.map_or(Duration::from_secs(30), |t| t.0)
    }

    pub(crate) fn try_limit(&self) -> Duration {
        self.health_timeout.map_or(Duration::from_secs(30), |t| t.0)
    }

    pub(crate) fn retries(&self) -> u32 {
        self.health_retries.unwrap_or(3)
    }

    pub(crate) fn start_period(&self) -> Duration {
        self.health_start_period.map_or(Duration::ZERO, |t| t.0)
    }

    pub(crate) fn overall(&self) -> Duration {
        self.timeout.map_or(Duration::from_secs(10), |t| t.0)
    }
}

/// `[ "$x" = 1 ]` starts like an array of words; the blank after the bracket, which a shell must have, tells them apart
/// unless it also parses as JSON.
fn is_shell_test(text: &str) -> bool {
    text.trim_start().starts_with("[ ") && serde_json::from_str::<Vec<String>>(text).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Option<Vec<String>>, Error> {
        Want { health_check: Some(text.to_owned()), ..Want::default() }.command()
    }

    #[test]
    fn shell_text_or_words() -> Result<(), Error> {
        let shell = |text: &str| Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]);
        for text in ["echo ok", "[ -e /ready ]", "[ \"$X\" = 1 ]", "[[ -e x ]]", "true && [ 1 ]"] {
            assert_eq!(words(text)?, shell(text));
        }
        assert_eq!(words(r#"["test", "-e", "/ready"]"#)?, Some(["test", "-e", "/ready"].map(str::to_owned).to_vec()));
        assert_eq!(words(r#"[ "true" ]"#)?, Some(vec!["true".to_owned()]));
        assert_eq!(words(" ")?, None);
        for bad in ["[]", r#"["unclosed""#, r#"[""]"#, r#"["a", 1]"#] {
            assert!(words(bad).is_err(), "{bad}");
        }
        Ok(())
    }

    #[test]
    fn a_want_shows_only_what_was_asked() -> Result<(), serde_json::Error> {
        assert_eq!(serde_json::to_string(&Want::default())?, "{}");
        let want: Want = serde_json::from_str(r#"{"timeout":15000,"health_interval":"2s"}"#)?;
        assert_eq!(serde_json::to_string(&want)?, r#"{"health_interval":"2s","timeout":"15s"}"#);
        Ok(())
    }
}
