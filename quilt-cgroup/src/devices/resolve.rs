//! `--device`: from words to the devices of this host.

use std::fs;
use std::path::{Component, Path, PathBuf};

use quilt_record::error::{Code, Error, Step as _};
use quilt_record::have::Device;

use super::{Access, EVERYBODYS};

/// Devices of one container, at most: each is a rule that the kernel goes through at every open.
const MOST: usize = 256;

/// How deep a directory of devices may be.
const DEPTH: u32 = 4;

/// What of /dev is the container's own, or is made of other things than devices.
const OWN: [&str; 8] = ["fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"];

/// The names of everybody's devices, whose numbers are in [`EVERYBODYS`].
const COMMON: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// `SRC[:DST][:rwm]`.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    source: &'a Path,
    inside: &'a Path,
    access: Access,
}

impl Asked<'_> {
    fn parse(text: &str) -> Result<Asked<'_>, Error> {
        let refuse = |why: &str| {
            let message = format!("`{text}` {why}: write SRC[:DST][:rwm], as /dev/fuse or /dev/sda:/dev/xvda:r");
            Err(Error::new(Code::Invalid, "read --device", message))
        };
        let parts: Vec<&str> = text.split(':').collect();
        let (source, inside, access) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, inside] if inside.starts_with('/') => (source, inside, "rwm"),
            [source, access] => (source, source, access),
            [source, inside, access] => (source, inside, access),
            _ => return refuse("has too many parts"),
        };
        let Some(access) = Access::parse(access) else { return refuse("has rights that are not some of r, w, m") };
        if !source.starts_with('/') {
            return refuse("names no absolute path");
        }
        let inside = Path::new(inside);
        let below = inside.strip_prefix("/dev").ok().filter(|below| below.iter().next().is_some());
        let Some(below) = below else { return refuse("would be outside of /dev inside") };
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || text.chars().any(char::is_control) {
            return refuse("is no plain path");
        }
        if below.iter().next().is_some_and(|first| OWN.iter().any(|own| first == *own)) {
            return refuse("would be in the place of what every container has of its own");
        }
        Ok(Asked { source: Path::new(source), inside, access })
    }
}

/// Refuses what can be no device, before anything is touched.
pub(crate) fn check(asked: &[String]) -> Result<(), Error> {
    asked.iter().try_for_each(|text| Asked::parse(text).map(drop))
}

/// Looks at the devices, once.
pub(crate) fn resolve(asked: &[String]) -> Result<Vec<Device>, Error> {
    let mut devices: Vec<Device> = Vec::new();
    for text in asked {
        let asked = Asked::parse(text)?;
        let step = || format!("look at the device {}", asked.source.display());
        let bad = |message: String| Error::new(Code::Invalid, step(), message);
        let real = asked.source.canonicalize().step(step)?;
        let mut found = Vec::new();
        find(&real, asked.inside, asked.access, DEPTH, &mut found).step(step)?;
        if found.is_empty() {
            let what = if real.is_dir() { "there is no device in it" } else { "it is no device" };
            return Err(bad(what.to_owned()));
        }
        for device in found {
            match is_common(&device) {
                Some(true) => continue,
                Some(false) => return Err(bad(format!("{} inside is everybody's", device.path))),
                None => {}
            }
            if devices.iter().any(|other| other.path == device.path) {
                return Err(bad(format!("{} inside is asked for twice", device.path)));
            }
            devices.push(device);
        }
    }
    if devices.len() > MOST {
        let message = format!("{} devices, and a container may have {MOST}", devices.len());
        return Err(Error::new(Code::Invalid, "read --device", message));
    }
    Ok(devices)
}

/// Whether it has the place of one of everybody's devices, and if so whether it is that one.
fn is_common(device: &Device) -> Option<bool> {
    let name = device.path.strip_prefix("/dev/")?;
    let at = COMMON.iter().position(|common| *common == name)?;
    let rule = EVERYBODYS.get(at)?;
    Some((device.kind, device.major, Some(device.minor)) == (rule.kind, rule.major, rule.minor))
}

/// The device, or all those in the directory and the directories in it, but no symlinks.
fn find(path: &Path, inside: &Path, access: Access, depth: u32, found: &mut Vec<Device>) -> std::io::Result<()> {
    // Not opened: that alone starts some devices.
    let about = fs::symlink_metadata(path)?;
    if about.is_dir() && depth > 0 {
        let mut names = fs::read_dir(path)?.map(|entry| entry.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>()?;
        names.sort();
        for name in names.iter().filter(|name| OWN.iter().all(|own| *name != own)) {
            let below: PathBuf = inside.join(name);
            match find(&path.join(name), &below, access, depth - 1, found) {
                // Devices come and go.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        return Ok(());
    }
    if let Some(text) = inside.to_str() {
        found.extend(Device::of(&about, text.to_owned(), access.to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_source_place_and_rights() -> Result<(), Error> {
        let all = Access::ALL;
        for (text, source, inside, access) in [
            ("/dev/kvm", "/dev/kvm", "/dev/kvm", all),
            ("/dev/kvm:r", "/dev/kvm", "/dev/kvm", Access(2)),
            ("/dev/sda:/dev/xvda", "/dev/sda", "/dev/xvda", all),
            ("/x/sda:/dev/a/b:wr", "/x/sda", "/dev/a/b", Access::USE),
        ] {
            let asked = Asked { source: source.as_ref(), inside: inside.as_ref(), access };
            assert_eq!(Asked::parse(text)?, asked);
        }
        for bad in [
            "",
            "kvm",
            "/dev",
            "/dev/",
            "/dev/a:",
            "/dev/a:x",
            "/dev/a:rr",
            "/dev/a:/etc/b",
            "/dev/a:/dev/../etc/b",
            "/x/a",
            "/dev/a:/dev/pts/0",
            "/dev/a:/dev/shm",
            "/dev/a:/dev/fd",
            "/dev/a:/dev/b:r:w",
            "/dev/a:/dev/b:",
            "/dev/a\n",
            "/dev/a:/devil",
        ] {
            assert_eq!(Asked::parse(bad).err().map(|e| e.code), Some(Code::Invalid), "{bad:?}");
        }
        Ok(())
    }

    #[test]
    fn everybodys_need_no_asking() -> Result<(), Error> {
        let asked = |text: &str| resolve(&[text.to_owned()]);
        assert_eq!(asked("/dev/null")?, []);
        assert_eq!(asked("/dev/zero:/dev/null").err().map(|e| e.code), Some(Code::Invalid));
        let zero = asked("/dev/zero:/dev/a/b:r")?;
        let words = zero.iter().map(Device::to_string).collect::<Vec<_>>().join("\n");
        assert!(words.starts_with("/dev/a/b c 1:5 r "), "{words}");
        assert_eq!(asked("/proc/self/stat:/dev/x").err().map(|e| e.code), Some(Code::Invalid));
        assert_eq!(asked("/dev/not-there").err().map(|e| e.code), Some(Code::NotFound));
        Ok(())
    }
}
