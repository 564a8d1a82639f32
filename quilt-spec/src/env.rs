//! Environment variables as they are asked for: `NAME=value`, or `NAME` for the caller's own; one by one or from a file.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use quilt_record::{Code, Error, Step};

/// The longest file that is read, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What `--env-file` holds, in docker's format: `NAME=value` with everything behind the `=` as it stands (quotes, spaces
/// and `#` too), `NAME` for the caller's value, `#` at the start of a line for a comment.
pub fn read_file(path: &Path) -> Result<Vec<String>, Error> {
    let step = || format!("read the environment file {}", path.display());
    let mut text = String::new();
    let file = File::open(path).step(step)?;
    let read = file.take(FILE_MAX + 1).read_to_string(&mut text).step(step)?;
    if read as u64 > FILE_MAX {
        return Err(Error::new(Code::Invalid, step(), "it is larger than 1 MiB"));
    }
    parse_file(&text).map_err(|why| Error::new(Code::Invalid, step(), why))
}

fn parse_file(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line.trim_start()));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| match check_name(line) {
            Ok(()) => Ok(line.to_owned()),
            Err(why) => Err(format!("line {n}: {why}")),
        })
        .collect()
}

/// Refuses an entry without a name, or with one that is none.
pub fn check_name(entry: &str) -> Result<(), String> {
    let name = entry.split_once('=').map_or(entry, |(name, _)| name);
    if name.is_empty() {
        return Err(format!("`{entry}` names no variable: write NAME=value, or NAME"));
    }
    if name.contains(|c: char| c.is_whitespace() || c == '\0') {
        return Err(format!("`{name}` is no name of a variable"));
    }
    Ok(())
}

/// The environment that is meant: a bare `NAME` takes the value that `caller` has for it, and is dropped if there is
/// none; of several entries for a name the last counts.
pub fn resolve(entries: Vec<String>, caller: impl Fn(&str) -> Option<OsString>) -> Result<Vec<String>, String> {
    let mut resolved: Vec<String> = Vec::with_capacity(entries.len());
    for entry in entries {
        check_name(&entry)?;
        let (name, entry) = match entry.split_once('=') {
            Some((name, _)) => (name.to_owned(), Some(entry)),
            None => {
                let value = caller(&entry).map(OsString::into_string).transpose();
                let value = value.map_err(|_| format!("the caller's value of {entry} is not UTF-8"))?;
                (entry.clone(), value.map(|value| format!("{entry}={value}")))
            }
        };
        if entry.as_ref().is_some_and(|entry| entry.contains('\0')) {
            return Err(format!("the value of {name} has a NUL in it"));
        }
        let Some(entry) = entry else { continue };
        resolved.retain(|old| old.split_once('=').is_none_or(|(other, _)| other != name));
        resolved.push(entry);
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_dockers() {
        let text =
            "\u{feff}# comment\n\nA=1\r\n  B= two words # no comment \nC=\"quoted\"\nHOME\n  # more\nD=\nE=a=b\n";
        let parsed = parse_file(text);
        assert_eq!(
            parsed,
            Ok(["A=1", "B= two words # no comment ", "C=\"quoted\"", "HOME", "D=", "E=a=b"].map(String::from).to_vec())
        );
        assert_eq!(parse_file("A=1\n=x"), Err("line 2: `=x` names no variable: write NAME=value, or NAME".to_owned()));
        assert_eq!(parse_file("A B=1"), Err("line 1: `A B` is no name of a variable".to_owned()));
    }

    #[test]
    fn the_last_of_a_name_counts_and_a_bare_name_is_the_callers() {
        let caller = |name: &str| (name == "HOME").then(|| OsString::from("/root"));
        let entries = ["A=1", "HOME", "B=2", "NONE", "A=3", "AA=4"].map(String::from).to_vec();
        let expected = ["HOME=/root", "B=2", "A=3", "AA=4"].map(String::from).to_vec();
        assert_eq!(resolve(entries, caller), Ok(expected));
        assert!(resolve(vec!["=1".to_owned()], caller).is_err());
        assert!(resolve(vec![String::new()], caller).is_err());
    }
}
