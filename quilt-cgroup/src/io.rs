//! Limits of what is read from and written to a disk.

use std::fmt;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::str::FromStr;

use nix::sys::stat::{major, minor};
use quilt_record::error::{Code, Error, Step as _};
use quilt_record::units::{Limit, Size};
use serde::{Deserialize, Serialize};

/// A disk's limits per second: bytes and operations, reading and writing. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IoMax {
    /// `/dev/vda`, or `254:0`.
    pub disk: String,
    /// Bytes read and written, operations read and written: in the order of [`KEYS`].
    limits: [Option<Limit<u64>>; 4],
}

/// The keys of v2's `io.max`, and the file that v1 has for each.
const KEYS: [(&str, &str); 4] = [
    ("rbps", "blkio.throttle.read_bps_device"),
    ("wbps", "blkio.throttle.write_bps_device"),
    ("riops", "blkio.throttle.read_iops_device"),
    ("wiops", "blkio.throttle.write_iops_device"),
];

impl FromStr for IoMax {
    type Err = String;

    fn from_str(text: &str) -> Result<IoMax, String> {
        let bad = |why: &str| format!("`{text}` {why}: write DISK,KEY=N as in /dev/vda,rbps=10M,wiops=100");
        let mut parts = text.split(',');
        let disk = parts.next().unwrap_or_default().to_owned();
        if device(&disk).is_none() && !disk.starts_with('/') || disk.chars().any(char::is_control) {
            return Err(bad("names no disk"));
        }
        let mut io = IoMax { disk, limits: [None; 4] };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| bad("has a part without a ="))?;
            let at = KEYS.iter().position(|(known, _)| *known == key);
            let at = at.ok_or_else(|| bad("has a key that is not rbps, wbps, riops or wiops"))?;
            io.limits[at] = Some(match value {
                "max" => Limit::Max,
                // As in the kernel's own file, a bare number is bytes.
                value => match value.parse::<u64>() {
                    Ok(number) => Limit::Of(number),
                    Err(_) if at < 2 => {
                        Limit::Of(value.parse::<Size>().map_err(|_| bad("has a bad number of bytes"))?.0)
                    }
                    Err(_) => return Err(bad("has a bad number")),
                },
            });
        }
        if io.limits.iter().flatten().any(|limit| *limit == Limit::Of(0)) {
            return Err(bad("has a limit of 0, with which nothing would ever end"));
        }
        if io.limits == [None; 4] { Err(bad("has no limit")) } else { Ok(io) }
    }
}

impl TryFrom<String> for IoMax {
    type Error = String;

    fn try_from(text: String) -> Result<IoMax, String> {
        text.parse()
    }
}

impl From<IoMax> for String {
    fn from(io: IoMax) -> String {
        io.to_string()
    }
}

impl fmt::Display for IoMax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.disk)?;
        self.set().try_for_each(|(key, _, limit)| match limit {
            Limit::Max => write!(f, ",{key}=max"),
            Limit::Of(number) => write!(f, ",{key}={number}"),
        })
    }
}

impl IoMax {
    /// Whether no limit is left of it.
    pub(crate) fn is_lifted(&self) -> bool {
        self.set().all(|(_, _, limit)| limit == Limit::Max)
    }

    fn set(&self) -> impl Iterator<Item = (&'static str, &'static str, Limit<u64>)> {
        KEYS.iter().zip(self.limits).filter_map(|((key, file), limit)| Some((*key, *file, limit?)))
    }

    /// Takes over what the other says.
    pub(crate) fn update(&mut self, other: &IoMax) {
        for (old, new) in self.limits.iter_mut().zip(other.limits) {
            *old = new.or(*old);
        }
    }

    /// The kernel's files and what is to be written to them, on a hierarchy of that version. Looks the disk up.
    pub(crate) fn files(&self, version: u8) -> Result<Vec<(&'static str, String)>, Error> {
        let (major, minor) = match self.number() {
            Ok(number) => number,
            // A disk that was unplugged has no limit.
            Err(e) if e.code == Code::NotFound && self.is_lifted() => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        if version == 1 {
            let text = |limit: Limit<u64>| format!("{major}:{minor} {}", limit.value().unwrap_or(0));
            return Ok(self.set().map(|(_, file, limit)| (file, text(limit))).collect());
        }
        let mut line = format!("{major}:{minor}");
        for (key, _, limit) in self.set() {
            match limit {
                Limit::Max => line += &format!(" {key}=max"),
                Limit::Of(number) => line += &format!(" {key}={number}"),
            }
        }
        Ok(vec![("io.max", line)])
    }

    fn number(&self) -> Result<(u64, u64), Error> {
        if let Some(number) = device(&self.disk) {
            return Ok(number);
        }
        let step = || format!("look at the disk {}", self.disk);
        let found = fs::metadata(&self.disk).step(step)?;
        if !found.file_type().is_block_device() {
            return Err(Error::new(Code::Invalid, step(), "it is no block device"));
        }
        Ok((major(found.rdev()), minor(found.rdev())))
    }
}

/// `254:0`.
fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse::<u32>().ok()?.into(), minor.parse::<u32>().ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_get_what_they_take() -> Result<(), Box<dyn std::error::Error>> {
        let io: IoMax = "254:16,rbps=10M,wiops=100,wbps=max".parse()?;
        assert_eq!(io.to_string(), "254:16,rbps=10485760,wbps=max,wiops=100");
        assert_eq!(io.to_string().parse::<IoMax>(), Ok(io.clone()));
        assert_eq!(io.files(2)?, [("io.max", "254:16 rbps=10485760 wbps=max wiops=100".to_owned())]);
        assert_eq!(
            io.files(1)?,
            [
                ("blkio.throttle.read_bps_device", "254:16 10485760".to_owned()),
                ("blkio.throttle.write_bps_device", "254:16 0".to_owned()),
                ("blkio.throttle.write_iops_device", "254:16 100".to_owned()),
            ]
        );
        assert_eq!("/dev/null,rbps=1".parse::<IoMax>()?.files(2).err().map(|e| e.code), Some(Code::Invalid));
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "vda,rbps=1",
            "/dev/vda",
            "/dev/vda,rbps",
            "/dev/vda,bps=1",
            "/dev/vda,riops=1M",
            "8:0,rbps=0",
            "8:x,rbps=1",
        ] {
            assert!(bad.parse::<IoMax>().is_err(), "{bad}");
        }
    }
}
