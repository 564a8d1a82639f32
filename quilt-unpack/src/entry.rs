//! What an archive says is to be made, from a header and its extensions, checked: the last place that sees raw names
//! and numbers.

use quilt_record::error::{Code, Error};

use crate::archive::invalid;
use crate::header::{Block, Kind};
use crate::pax::{self, Records};

/// One thing to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is; none of the kinds that only describe others.
    pub kind: Kind,
    /// Where: components between single slashes, no leading one; empty is the root itself.
    pub path: Vec<u8>,
    /// A symlink's target as it stands; a hard link's, cleaned as `path` is.
    pub link: Vec<u8>,
    /// The permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of data that follow; 0 for all but files.
    pub size: u64,
    /// Seconds since 1970 and nanoseconds of the last change.
    pub mtime: (i64, u32),
    /// A device's numbers.
    pub device: (u64, u64),
    /// Extended attributes: name and value.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    /// A header under what is said of the entry before it: PAX over GNU over the header itself, local over global.
    pub fn new(
        block: Block,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        global: &Records,
        local: &Records,
    ) -> Result<Entry, Error> {
        // An empty value takes back what was said before (POSIX.1-2017, pax Extended Header).
        let find = |key: &str| local.get(key).or_else(|| global.get(key)).filter(|value| !value.is_empty());
        let id = |key: &str, value: i64| -> Result<u32, Error> {
            let value = match find(key) {
                Some(text) => pax::decimal(text).and_then(|n| i64::try_from(n).ok()),
                None => Some(value),
            };
            // 2^32-1 means "leave it" to chown(2).
            let id = value.and_then(|n| u32::try_from(n).ok()).filter(|n| *n != u32::MAX);
            id.ok_or_else(|| invalid(format!("a {key} that is not a number below 4294967295")))
        };
        if local.keys().chain(global.keys()).any(|key| key.starts_with("GNU.sparse.")) {
            let why = "a sparse file (GNU --sparse) is not supported";
            return Err(Error::new(Code::Unsupported, "", why));
        }
        let name = find("path").cloned().or(long_name).unwrap_or(block.name);
        let path = clean(&name).map_err(invalid)?;
        let named = |message: &str| invalid(format!("{}: {message}", name.escape_ascii()));
        let mut link = find("linkpath").cloned().or(long_link).unwrap_or(block.link);
        if block.kind == Kind::HardLink {
            link = clean(&link).map_err(|e| named(&format!("a hard link to {}", e)))?;
        }
        if link.contains(&0) {
            return Err(named("a link to a name with a NUL in it"));
        }
        let mut kind = block.kind;
        let size = match find("size") {
            Some(text) => pax::decimal(text).and_then(|n| i64::try_from(n).ok()).ok_or_else(|| named("a bad size"))?,
            None if kind == Kind::File => block.size,
            // What stands in the header of anything else is a hint at most (POSIX.1-2017, ustar).
            None => 0,
        };
        let size = u64::try_from(size).map_err(|_| named("a negative size"))?;
        // Before POSIX, a directory was a file with a slash after its name. Its whole name: a header alone may end in one.
        if kind == Kind::File && name.ends_with(b"/") {
            kind = Kind::Dir;
        }
        if size > 0 && kind != Kind::File {
            return Err(named("has data and is no file"));
        }
        let mtime = match find("mtime") {
            Some(text) => pax::time(text).ok_or_else(|| named("an mtime that is no time"))?,
            None => (block.mtime, 0),
        };
        let device = match (u64::try_from(block.major), u64::try_from(block.minor)) {
            // dev_t has 12 bits for the major and 20 for the minor number (linux/kdev_t.h).
            (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => (major, minor),
            _ => return Err(named("device numbers out of range")),
        };
        if kind == Kind::Char && device == (0, 0) {
            return Err(named("a character device 0:0, which overlayfs takes for a removed file"));
        }
        let mut xattrs = Vec::new();
        for (key, value) in global.iter().filter(|(key, _)| !local.contains_key(*key)).chain(local) {
            let Some(xattr) = pax::xattr_name(key) else { continue };
            if xattr.is_empty() || xattr.contains('\0') {
                return Err(named("an extended attribute with a bad name"));
            }
            if xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.") {
                return Err(named(&format!("the extended attribute {xattr}, which would direct overlayfs")));
            }
            xattrs.push((xattr, value.clone()));
        }
        let (uid, gid) = (id("uid", block.uid)?, id("gid", block.gid)?);
        Ok(Entry { kind, path, link, mode: block.mode, uid, gid, size, mtime, device, xattrs })
    }
}

/// A path inside the image: no leading slash, no empty component and no `.`; `..` is refused.
fn clean(name: &[u8]) -> Result<Vec<u8>, String> {
    let shown = || name.escape_ascii().to_string();
    if name.is_empty() {
        return Err("an empty name".to_owned());
    }
    if name.contains(&0) {
        return Err(format!("{}: a NUL in the name", shown()));
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(format!("{}: `..` in the name", shown())),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn paths() {
        let c = |name: &str| clean(name.as_bytes()).ok().map(|p| String::from_utf8_lossy(&p).into_owned());
        for (name, path) in [
            ("etc/passwd", "etc/passwd"),
            ("./etc//passwd/", "etc/passwd"),
            ("/etc", "etc"),
            (".", ""),
            ("./", ""),
            ("/", ""),
            ("-rf", "-rf"),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(c(name).as_deref(), Some(path), "{name}");
        }
        for bad in ["", "..", "../x", "/../x", "a/../../x", "a/..", "a\0b"] {
            assert_eq!(c(bad), None, "{bad:?}");
        }
    }
}
