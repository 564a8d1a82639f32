//! The record: one JSON object on one line, which is specification and state at once.

use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::claim::Claim;
use crate::error::{Code, Error, Failure};
use crate::id::Id;

/// The version of the format that this program writes and reads.
pub const FORMAT: u64 = 1;

/// The stages of a create, in their order; each is also the key of its section.
pub const STAGES: [&str; 5] = ["unpack", "netns", "cgroup", "spawn", "probe"];

/// The longest record that is read, in bytes.
pub const RECORD_MAX: u64 = 16 << 20;

/// A record. Keeps the order and the exact text of every key, those it does not know included.
#[derive(Clone, Debug, Default)]
pub struct Record {
    fields: Vec<(String, Box<RawValue>)>,
}

/// What `quilt-spec` passes on in place of a record when there is nothing to make: a usage error, or help. A pipeline
/// has one status and one answer, the last stage's; so this travels through all of them, and each exits with `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The stage that must not pass it on.
    pub last: String,
    /// The exit status: 2, or 0 for help.
    pub status: u8,
    /// What the last stage prints on standard output: the help.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
}

/// One tool's part of the record: what was asked, and what was done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section<W, H> {
    /// What was asked.
    pub want: W,
    /// What was done; absent while it has not been.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub have: Option<H>,
    /// What would be done, step by step: only in the answer of a dry run.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub plan: Option<Vec<String>>,
}

fn none<T>() -> Option<T> {
    None
}

impl<W: Default, H> Default for Section<W, H> {
    fn default() -> Self {
        Section { want: W::default(), have: None, plan: None }
    }
}

impl Record {
    /// A record that asks for nothing yet.
    pub fn new(id: &Id, claim: &Claim) -> Record {
        let mut record = Record::default();
        record.set("format", &FORMAT);
        record.set("id", id);
        record.set("claim", claim);
        record.set("created", &humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string());
        record
    }

    /// Parses one record and checks its format.
    pub fn parse(text: &str) -> Result<Record, Error> {
        let bad = |message: String| Error::new(Code::Invalid, "read the record", message);
        let record: Record = serde_json::from_str(text.trim()).map_err(|e| bad(e.to_string()))?;
        match record.get::<u64>("format")? {
            Some(FORMAT) => Ok(record),
            Some(n) => Err(bad(format!("format {n} is not known to this version, which reads format {FORMAT}"))),
            None => Err(bad("no `format`: this is not a record (a spec starts with {\"format\":1})".to_owned())),
        }
    }

    /// The value of a key, if it is there.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some((_, raw)) = self.fields.iter().find(|(name, _)| name == key) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|e| Error::new(Code::Invalid, format!("read `{key}` of the record"), e.to_string()))
    }

    /// Sets a key, in its place if it is there and at the end if it is not.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        // Only a map with keys that are no strings, or a failing Serialize, can make this fail; no type here has either.
        let Ok(raw) = serde_json::value::to_raw_value(value) else { return };
        match self.fields.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = raw,
            None => self.fields.push((key.to_owned(), raw)),
        }
    }

    /// Drops a key; returns whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let before = self.fields.len();
        self.fields.retain(|(name, _)| name != key);
        self.fields.len() != before
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// Takes over every key of `other`, over one of the same name here.
    pub fn overlay(&mut self, other: Record) {
        for (key, raw) in other.fields {
            match self.fields.iter_mut().find(|(name, _)| *name == key) {
                Some((_, old)) => *old = raw,
                None => self.fields.push((key, raw)),
            }
        }
    }

    /// The id. Every record past `quilt-spec` has one.
    pub fn id(&self) -> Result<Id, Error> {
        self.get("id")?.ok_or_else(|| Error::new(Code::Invalid, "read the record", "it has no `id`"))
    }

    /// The claim. Every record past `quilt-spec` has one.
    pub fn claim(&self) -> Result<Claim, Error> {
        self.get("claim")?.ok_or_else(|| Error::new(Code::Invalid, "read the record", "it has no `claim`"))
    }

    /// The section of a tool; `None` if the record does not mention it.
    pub fn section<W, H>(&self, stage: &str) -> Result<Option<Section<W, H>>, Error>
    where
        Section<W, H>: DeserializeOwned,
    {
        self.get(stage)
    }

    /// What a tool did, if it did; looks at nothing of what was asked.
    pub fn have<H: DeserializeOwned>(&self, stage: &str) -> Result<Option<H>, Error> {
        #[derive(Deserialize)]
        struct Done<H> {
            #[serde(default = "none")]
            have: Option<H>,
        }
        Ok(self.get::<Done<H>>(stage)?.and_then(|s| s.have))
    }

    /// What was asked of a tool; the default if the record does not mention it.
    pub fn want<W: DeserializeOwned + Default>(&self, stage: &str) -> Result<W, Error> {
        #[derive(Deserialize)]
        struct Asked<W> {
            #[serde(default = "none")]
            want: Option<W>,
        }
        Ok(self.get::<Asked<W>>(stage)?.and_then(|s| s.want).unwrap_or_default())
    }

    /// The failure that the record carries, if any.
    pub fn error(&self) -> Result<Option<Failure>, Error> {
        self.get("error")
    }

    /// The end that a usage error or a call for help comes to, in place of a record.
    pub fn end(&self) -> Result<Option<End>, Error> {
        self.get("end")
    }

    /// Drops what was done, so that the record is a spec again: a restart is a replay of it.
    pub fn drop_have(&mut self) {
        for stage in STAGES {
            if let Ok(Some(section)) = self.get::<Section<Box<RawValue>, serde::de::IgnoredAny>>(stage) {
                self.set(stage, &Section::<_, ()> { want: section.want, have: None, plan: None });
            }
        }
    }
}

impl fmt::Display for Record {
    /// One line, without the line feed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.fields.len()))?;
        for (key, raw) in &self.fields {
            map.serialize_entry(key, raw)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Record, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Record;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record (a JSON object)")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
                let mut fields: Vec<(String, Box<RawValue>)> = Vec::with_capacity(12);
                while let Some((key, raw)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.iter().any(|(name, _)| *name == key) {
                        return Err(serde::de::Error::custom(format_args!("the key `{key}` stands twice")));
                    }
                    fields.push((key, raw));
                }
                Ok(Record { fields })
            }
        }
        d.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_pass_byte_for_byte() -> Result<(), Error> {
        let line = r#"{"format":1,"x":{"b" : 1e400,"a":[18446744073709551616]},"id":"web","netns":{"want":{},"y":0}}"#;
        let mut record = Record::parse(line)?;
        assert_eq!(record.to_string(), line);
        record.set("id", "web2");
        assert_eq!(record.to_string(), line.replace("\"web\"", "\"web2\""));
        Ok(())
    }

    #[test]
    fn what_is_no_record_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "EOF"),
            ("[]", "a record"),
            ("{}", "no `format`"),
            (r#"{"format":2}"#, "format 2"),
            (r#"{"format":1,"id":"a","id":"b"}"#, "twice"),
            (r#"{"format":1} x"#, "trailing"),
        ] {
            let error = Record::parse(text).err().map(|e| e.message).unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_replay_keeps_what_was_asked_only() -> Result<(), Error> {
        let mut record =
            Record::parse(r#"{"format":1,"netns":{"want":{"ip":"10.42.0.9"},"have":{"boot":"b"}},"z":1}"#)?;
        record.drop_have();
        assert_eq!(record.to_string(), r#"{"format":1,"netns":{"want":{"ip":"10.42.0.9"}},"z":1}"#);
        Ok(())
    }
}
