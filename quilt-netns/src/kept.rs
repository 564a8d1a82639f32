//! Settings of an instance: a symlink in its state directory, whose target is the text. The first use makes it, whole or
//! not at all; whoever asks for something else later is refused.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::str::FromStr;

use quilt_record::{Code, Error, Instance, Step};

/// The setting `name`: what was kept, which must be what is `asked`; else that, or the default. Keeps it if `keep` is set.
pub(crate) fn setting<T>(instance: &Instance, name: &str, asked: Option<T>, keep: bool) -> Result<T, Error>
where
    T: FromStr<Err = String> + Display + Default + PartialEq + Copy,
{
    let path = instance.state().join(name);
    let step = || format!("read {}", path.display());
    let kept = || match fs::read_link(&path) {
        Ok(text) => text.to_string_lossy().parse().map(Some).map_err(|e| Error::new(Code::Invalid, step(), e)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::os(step(), e)),
    };
    let mut found: Option<T> = kept()?;
    if found.is_none() && keep {
        match symlink(asked.unwrap_or_default().to_string(), &path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::os(format!("keep the {name} in {}", path.display()), e));
            }
            // Whoever was first chose.
            _ => found = kept()?,
        }
    }
    let value = found.or(asked).unwrap_or_default();
    match asked {
        Some(asked) if asked != value => Err(Error::new(
            Code::Invalid,
            format!("read --{name}"),
            format!("this instance's {name} is {value} already, and cannot become {asked}"),
        )),
        _ => Ok(value),
    }
}

/// Forgets a setting.
pub(crate) fn forget(instance: &Instance, name: &str) -> Result<(), Error> {
    match fs::remove_file(instance.state().join(name)) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).step(|| format!("forget the {name}")),
        _ => Ok(()),
    }
}
