//! The mount table of a process (proc_pid_mountinfo(5)), read where it lies: nothing is copied but names with escapes.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Step};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// The file system: `8:1`.
    pub device: Cow<'a, str>,
    /// The directory of the file system that is its root.
    pub root: Cow<'a, Path>,
    /// Where it is mounted, as the reader of the table sees it.
    pub point: Cow<'a, Path>,
    /// The options of the mount, comma-separated.
    pub options: Cow<'a, str>,
    /// The type of the file system.
    pub fstype: Cow<'a, str>,
    /// The options of the file system, comma-separated.
    pub super_options: Cow<'a, str>,
}

/// Reads the table of a process: its number, or `self`. Its names need not be UTF-8.
pub fn read(who: impl Display) -> Result<Vec<u8>, Error> {
    let path = format!("/proc/{who}/mountinfo");
    fs::read(&path).step(|| format!("read {path}"))
}

/// The mounts of a table, in its order: a mount stands behind what it is mounted on. Lines that are none are left out.
pub fn mounts(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(Mount::parse)
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Mount<'a>> {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let text = |text: &'a [u8]| String::from_utf8_lossy(text);
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent) = (number(fields.next()?)?, number(fields.next()?)?);
        let (device, root, point) = (text(fields.next()?), plain(fields.next()?)?, plain(fields.next()?)?);
        let options = text(fields.next()?);
        // Optional fields, up to a dash.
        fields.find(|field| *field == b"-")?;
        let fstype = text(fields.next()?);
        let super_options = text(fields.nth(1)?);
        Some(Mount { id, parent, device, root, point, options, fstype, super_options })
    }

    /// Whether it has the option, or its file system.
    pub fn has(&self, option: &str) -> bool {
        [&self.options, &self.super_options].iter().any(|options| options.split(',').any(|is| is == option))
    }
}

/// Spaces, tabs, line feeds and backslashes are written as three octal digits.
fn plain(text: &[u8]) -> Option<Cow<'_, Path>> {
    if !text.contains(&b'\\') {
        return Some(Cow::Borrowed(Path::new(OsStr::from_bytes(text))));
    }
    let mut parts = text.split(|byte| *byte == b'\\');
    let mut plain = parts.next()?.to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(3)?;
        plain.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        plain.extend(rest);
    }
    Some(Cow::Owned(PathBuf::from(OsString::from_vec(plain))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount<'a>(point: &'a str, root: &'a str, options: &'a str, fstype: &'a str, of_super: &'a str) -> Mount<'a> {
        let path = |text: &'a str| Cow::Borrowed(Path::new(text));
        Mount {
            id: 36,
            parent: 35,
            device: "98:0".into(),
            root: path(root),
            point: path(point),
            options: options.into(),
            fstype: fstype.into(),
            super_options: of_super.into(),
        }
    }

    #[test]
    fn lines_with_all_that_may_be_in_them() {
        let table = b"36 35 98:0 /a\\040b /mnt\\0402\\134\\012x rw,noatime - ext3 /dev/root rw,errors=continue\n\
                      36 35 0:26 / /proc rw shared:1 master:2 - proc proc rw\n\
                      nonsense\n\
                      36 35 0:5 / /\xff ro - overlay none rw,lowerdir=/\xfe\n";
        let seen: Vec<Mount<'_>> = mounts(table).collect();
        let odd = Path::new(OsStr::from_bytes(b"/\xff"));
        let expected = [
            mount("/mnt 2\\\nx", "/a b", "rw,noatime", "ext3", "rw,errors=continue"),
            Mount { device: "0:26".into(), ..mount("/proc", "/", "rw", "proc", "rw") },
            Mount {
                device: "0:5".into(),
                point: odd.into(),
                ..mount("", "/", "ro", "overlay", "rw,lowerdir=/\u{fffd}")
            },
        ];
        assert_eq!(seen, expected);
        assert!(seen[0].has("noatime") && seen[0].has("errors=continue") && !seen[0].has("atime"));
        assert!(matches!(seen[1].point, Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_no_line() {
        let bad =
            ["", "36 35 98:0 /", "x 35 98:0 / / rw - a b rw", "36 35 98:0 / / rw shared:1", "36 35 0:1 / / rw - a"];
        let escapes = ["36 35 98:0 / /a\\04 rw - a b rw", "36 35 98:0 / /a\\999 rw - a b rw"];
        for line in bad.into_iter().chain(escapes) {
            assert_eq!(mounts(line.as_bytes()).count(), 0, "{line}");
        }
    }
}
