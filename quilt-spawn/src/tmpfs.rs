//! `--tmpfs`: a file system in memory.

use std::fmt;
use std::path::PathBuf;

use nix::mount::MsFlags;
use quilt_record::units::Size;

use crate::extra;

/// One, as it is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where: an absolute path inside.
    pub target: PathBuf,
    /// The flags (mount(2)).
    pub flags: MsFlags,
    /// The options of the file system (tmpfs(5)).
    pub data: String,
}

/// The flags that can be set and cleared: the option that sets it, the one that clears it, whether it is set from the
/// beginning. `nodev` is not among them: the devices are in /dev.
const FLAGS: [(&str, &str, MsFlags); 3] =
    [("ro", "rw", MsFlags::MS_RDONLY), ("nosuid", "suid", MsFlags::MS_NOSUID), ("noexec", "exec", MsFlags::MS_NOEXEC)];

const KNOWN: &str = "write size=64M, nr_inodes=1000, mode=755, uid=0, gid=0, ro or rw, exec or noexec, suid or nosuid";

impl Tmpfs {
    /// Reads `DIR`, or `DIR:OPTION,OPTION…`; of two that contradict each other, the last counts, as in mount(8).
    pub fn parse(text: &str) -> Result<Tmpfs, String> {
        let (dir, options) = text.split_once(':').unwrap_or((text, ""));
        let target = extra::target(dir)?;
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mut data: Vec<(&str, String)> = vec![("mode", "1777".to_owned())];
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let bad = || format!("`{}` is not an option: {KNOWN}", option.escape_debug());
            if let Some((name, value)) = option.split_once('=') {
                let value = setting(name, value).ok_or_else(bad)?;
                data.retain(|(other, _)| *other != name);
                data.push((name, value));
            } else if let Some((set, _, flag)) = FLAGS.iter().find(|(set, clear, _)| [*set, *clear].contains(&option)) {
                flags.set(*flag, *set == option);
            } else if option != "nodev" {
                return Err(bad());
            }
        }
        let data: Vec<String> = data.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Ok(Tmpfs { target, flags, data: data.join(",") })
    }
}

/// A setting as the kernel takes it; `None` for what is none.
fn setting(name: &str, value: &str) -> Option<String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match name {
        "size" => match value.strip_suffix('%') {
            Some(percent) => (1..=100).contains(&percent.parse::<u8>().ok()?).then(|| value.to_owned()),
            // As in mount(8); elsewhere a bare number is MiB, which whoever copies an option does not mean.
            None if digits(value) => at_least_a_page(value.parse().ok()?),
            None => at_least_a_page(value.parse::<Size>().ok()?.0),
        },
        // None is without a limit.
        "nr_inodes" => {
            value.parse::<u64>().ok().filter(|count| *count > 0 && digits(value)).map(|count| count.to_string())
        }
        "mode" => (value.len() <= 5 && value.bytes().all(|b| matches!(b, b'0'..=b'7')))
            .then(|| u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777))?
            .map(|mode| format!("{mode:o}")),
        "uid" | "gid" => {
            value.parse::<u32>().ok().filter(|id| *id != u32::MAX && digits(value)).map(|id| id.to_string())
        }
        _ => None,
    }
}

/// Less is rounded up, and nothing is without a limit.
fn at_least_a_page(bytes: u64) -> Option<String> {
    (4096..=i64::MAX as u64).contains(&bytes).then(|| bytes.to_string())
}

impl fmt::Display for Tmpfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (MsFlags::MS_RDONLY, "ro"),
            (MsFlags::MS_NOSUID, "nosuid"),
            (MsFlags::MS_NODEV, "nodev"),
            (MsFlags::MS_NOEXEC, "noexec"),
        ];
        let set = names.iter().filter(|(flag, _)| self.flags.contains(*flag)).map(|(_, name)| *name);
        let options = set.chain([self.data.as_str()]).collect::<Vec<_>>().join(",");
        write!(f, "mount tmpfs on {} ({options})", self.target.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_mounts() {
        let line = |text: &str| Tmpfs::parse(text).map(|tmpfs| tmpfs.to_string());
        let of = |options: &str| Ok(format!("mount tmpfs on /t ({options})"));
        assert_eq!(line("/t"), of("nosuid,nodev,noexec,mode=1777"));
        assert_eq!(line("/t:"), of("nosuid,nodev,noexec,mode=1777"));
        assert_eq!(line("/t:rw,noexec,nosuid,nodev,size=65536k"), of("nosuid,nodev,noexec,mode=1777,size=67108864"));
        assert_eq!(line("/t:size=4096,mode=0755,exec,suid"), of("nodev,size=4096,mode=755"));
        assert_eq!(
            line("/t:ro,size=10%,uid=1,gid=2,nr_inodes=5"),
            of("ro,nosuid,nodev,noexec,mode=1777,size=10%,uid=1,gid=2,nr_inodes=5")
        );
        assert_eq!(line("/t:mode=700,exec,noexec,mode=1700,ro,rw"), of("nosuid,nodev,noexec,mode=1700"));
    }

    #[test]
    fn nonsense_is_refused() {
        let bad = [
            "dev",
            "size",
            "size=",
            "size=0",
            "size=4095",
            "size=-1",
            "size=101%",
            "size=0%",
            "size=1,5",
            "size=10x",
            "size=99999999999999999999",
            "mode=8",
            "mode=",
            "mode=10000",
            "mode=+7",
            "uid=-1",
            "uid=4294967295",
            "uid=+1",
            "gid=root",
            "nr_inodes=0",
            "nr_inodes=1k",
            "huge=always",
            "mpol=bind:0",
            "remount",
            "bind",
            "x=y",
            " ro",
        ];
        for option in bad {
            assert!(Tmpfs::parse(&format!("/t:{option}")).is_err(), "{option}");
        }
    }
}
