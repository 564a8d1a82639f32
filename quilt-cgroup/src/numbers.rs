//! Lists of CPUs or of NUMA nodes, as the kernel writes them: `0-3,7` (cpuset(7), "List format").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Numbers of CPUs or nodes, or all that the parent has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Numbers {
    /// Those of the parent.
    All,
    /// These: ranges, first and last, as they were written.
    Of(Vec<(u32, u32)>),
}

/// More than any machine has.
const MOST: u32 = 1 << 16;

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        if text == "all" {
            return Ok(Numbers::All);
        }
        let bad = || format!("`{text}` is no list of numbers: write 0-3,7 or all");
        let number = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u32>().ok().filter(|n| plain && *n < MOST).ok_or_else(bad)
        };
        let range = |part: &str| -> Result<(u32, u32), String> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first <= last { Ok((first, last)) } else { Err(bad()) }
        };
        text.trim_end().split(',').map(range).collect::<Result<_, _>>().map(Numbers::Of)
    }
}

impl TryFrom<String> for Numbers {
    type Error = String;

    fn try_from(text: String) -> Result<Numbers, String> {
        text.parse()
    }
}

impl From<Numbers> for String {
    fn from(numbers: Numbers) -> String {
        numbers.to_string()
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Numbers::Of(ranges) = self else { return f.write_str("all") };
        for (at, (first, last)) in ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

impl Numbers {
    /// The first number that is not among the others.
    pub(crate) fn missing_in(&self, others: &Numbers) -> Option<u32> {
        let (Numbers::Of(mine), Numbers::Of(others)) = (self, others) else { return None };
        let has = |n: u32| others.iter().any(|(first, last)| (*first..=*last).contains(&n));
        mine.iter().flat_map(|(first, last)| *first..=*last).find(|n| !has(*n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for text in ["0", "0-3,7", "5,1-2", "all"] {
            assert_eq!(text.parse::<Numbers>().map(|n| n.to_string()).as_deref(), Ok(text));
        }
        for bad in ["", ",", "3-1", "a", "1-", "-1", "+1", "0,,1", "99999", "All"] {
            assert!(bad.parse::<Numbers>().is_err(), "{bad:?}");
        }
        let missing = |mine: &str, others: &str| {
            let parse = |text: &str| text.parse::<Numbers>().unwrap_or(Numbers::All);
            parse(mine).missing_in(&parse(others))
        };
        assert_eq!(missing("0-1,3", "0-3"), None);
        assert_eq!(missing("0-1,3", "0-2"), Some(3));
        assert_eq!(missing("all", "0"), None);
    }
}
