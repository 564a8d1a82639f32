//! Sizes and durations as people write them, on the command line and in a spec alike.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Gives a type that reads and prints as text the same form in JSON; a JSON number is read as the bare number.
macro_rules! as_text {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$type, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Form {
                    Text(String),
                    Number(serde_json::Number),
                }
                let text = match Form::deserialize(d)? {
                    Form::Text(text) => text,
                    Form::Number(number) => number.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// An amount of memory or storage in bytes. Read as `512M`, `1.5GiB`, `4096B`; a bare number is MiB (the seed's
/// unit). `K`, `M`, `G`, `T` are powers of 1024, as in docker and in systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] = [("B", 1), ("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30), ("T", 1 << 40)];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let bad = || format!("`{text}` is not a size: write 512M, 1.5GiB, or a bare number of MiB");
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let scale = match unit.to_ascii_uppercase().as_str() {
            "" => 1 << 20,
            unit => {
                let short =
                    unit.strip_suffix("IB").or(unit.strip_suffix('B').filter(|u| !u.is_empty())).unwrap_or(unit);
                UNITS.iter().find(|(name, _)| *name == short).ok_or_else(bad)?.1
            }
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Size).ok_or_else(bad);
        }
        let value = number.parse::<f64>().map_err(|_| bad())? * scale as f64;
        // f64 holds every byte count up to 8 PiB exactly; nothing here has more.
        if value.is_finite() && value < (1u64 << 53) as f64 { Ok(Size(value as u64)) } else { Err(bad()) }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[1..].iter().rev().find(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale)) {
            Some((name, scale)) => write!(f, "{}{name}iB", self.0 / scale),
            None => write!(f, "{}B", self.0),
        }
    }
}

as_text!(Size);

/// A limit that can be lifted: a value, or `max`, the kernel's word for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    /// No limit.
    Max,
    /// This much.
    Of(T),
}

impl<T> Limit<T> {
    /// The value; `None` for `max`.
    pub fn value(self) -> Option<T> {
        match self {
            Limit::Max => None,
            Limit::Of(value) => Some(value),
        }
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit<T>, String> {
        if text == "max" { Ok(Limit::Max) } else { text.parse().map(Limit::Of).map_err(|e: T::Err| e.to_string()) }
    }
}

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Limit::Max => s.serialize_str("max"),
            Limit::Of(value) => value.serialize(s),
        }
    }
}

impl<'de, T: serde::de::DeserializeOwned> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Limit<T>, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        if value == "max" {
            return Ok(Limit::Max);
        }
        serde_json::from_value(value).map(Limit::Of).map_err(serde::de::Error::custom)
    }
}

/// A duration with its unit: `250ms`, `30s`, `2m`, `1h30m`. A bare number is an error that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(format!("`{text}` has no unit: write {text}s or {text}ms"));
        }
        humantime::parse_duration(text)
            .map(Span)
            .map_err(|_| format!("`{text}` is not a duration: write 250ms, 30s, 2m"))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

as_text!(Span);

/// A duration in which a bare number means milliseconds: only `create --timeout`, for the seed's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(pub Duration);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Timeout, String> {
        match text.parse::<u64>() {
            Ok(ms) => Ok(Timeout(Duration::from_millis(ms))),
            Err(_) => text.parse::<Span>().map(|span| Timeout(span.0)),
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Span(self.0).fmt(f)
    }
}

as_text!(Timeout);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512", 512 << 20),
            ("512M", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("4096B", 4096),
            ("64kb", 65536),
            ("1t", 1 << 40),
        ] {
            assert_eq!(text.parse::<Size>(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "M", "-1", "1X", "1.5.5G", "99999999999T", "1 G", "inf"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!(Size(512 << 20).to_string(), "512MiB");
        assert_eq!(Size(1000).to_string(), "1000B");
    }

    #[test]
    fn durations() {
        assert_eq!("250ms".parse::<Span>(), Ok(Span(Duration::from_millis(250))));
        assert_eq!("1h30m".parse::<Span>(), Ok(Span(Duration::from_secs(5400))));
        assert_eq!("30".parse::<Span>(), Err("`30` has no unit: write 30s or 30ms".to_owned()));
        assert_eq!("15000".parse::<Timeout>(), Ok(Timeout(Duration::from_secs(15))));
        assert_eq!(
            Span(Duration::from_millis(90_250)).to_string().parse::<Span>().map(|s| s.0.as_millis()),
            Ok(90_250)
        );
    }

    #[test]
    fn json_reads_what_the_command_line_reads() -> Result<(), serde_json::Error> {
        assert_eq!(serde_json::from_str::<Size>("512")?, serde_json::from_str::<Size>("\"512MiB\"")?);
        assert_eq!(serde_json::to_string(&Size(512 << 20))?, "\"512MiB\"");
        Ok(())
    }
}
