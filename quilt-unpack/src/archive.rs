//! A tar archive as entries: headers with what PAX and GNU extensions say over them, and their data.

use quilt_record::error::{Code, Error};

use crate::header::{self, BLOCK, Bad, Block, Kind};
use crate::pax::{self, Records};
use crate::source::Bytes;

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

/// An archive being read.
pub struct Archive<B> {
    bytes: B,
    /// Where in the stream.
    offset: u64,
    /// Data of the current entry not yet read, and the padding after it.
    data: u64,
    padding: u64,
    global: Records,
}

/// What a file that is no image is told.
pub const NOT_AN_IMAGE: &str = "not a tar archive (plain, gzip or zstd) and not a directory";

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::Invalid, "", message)
}

impl<B: Bytes> Archive<B> {
    /// Starts at the first header.
    pub fn new(bytes: B) -> Archive<B> {
        Archive { bytes, offset: 0, data: 0, padding: 0, global: Records::new() }
    }

    /// The stream, behind what has been read.
    pub fn into_inner(self) -> B {
        self.bytes
    }

    /// The next entry, over what is left of the current one's data; `None` at the archive's end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut local = Records::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let start = self.offset;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            let at = |message: String| invalid(format!("byte {start}: {message}"));
            match block.kind {
                Kind::Pax => {
                    let data = self.extension(&block, start)?;
                    pax::parse(&data, &mut local).map_err(at)?;
                }
                Kind::PaxGlobal => {
                    let data = self.extension(&block, start)?;
                    pax::parse(&data, &mut self.global).map_err(at)?;
                    let held: usize = self.global.iter().map(|(k, v)| k.len() + v.len()).sum();
                    if held > pax::MAX {
                        return Err(at(format!("global PAX headers of more than {} bytes", pax::MAX)));
                    }
                    // They would name every entry alike.
                    if let Some(key) = ["path", "linkpath", "size"].into_iter().find(|k| self.global.contains_key(*k)) {
                        return Err(at(format!("a global PAX header with `{key}`")));
                    }
                }
                Kind::LongName => long_name = Some(until_nul(self.extension(&block, start)?)),
                Kind::LongLink => long_link = Some(until_nul(self.extension(&block, start)?)),
                Kind::Label => self.data_follows(block.size).map_err(at)?,
                _ => {
                    let entry = entry(block, long_name, long_link, &self.global, &local).map_err(|e| match e.code {
                        Code::Invalid => at(e.message),
                        _ => e,
                    })?;
                    self.data_follows(entry.size as i64).map_err(at)?;
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The next piece of the current entry's data; empty at its end.
    pub fn data(&mut self) -> Result<&[u8], Error> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let piece = self.bytes.fill()?;
        if piece.is_empty() {
            return Err(cut_short());
        }
        let length = self.data.min(piece.len() as u64) as usize;
        Ok(&piece[..length])
    }

    /// Passes over the first bytes of what [`Archive::data`] returned.
    pub fn consume(&mut self, amount: usize) {
        self.bytes.consume(amount);
        self.offset += amount as u64;
        self.data -= (amount as u64).min(self.data);
    }

    fn data_follows(&mut self, size: i64) -> Result<(), String> {
        self.data = u64::try_from(size).map_err(|_| "a negative size")?;
        self.padding = self.data.next_multiple_of(BLOCK as u64) - self.data;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        self.data = self.data.saturating_add(std::mem::take(&mut self.padding));
        loop {
            let length = self.data()?.len();
            if length == 0 {
                return Ok(());
            }
            self.consume(length);
        }
    }

    /// The next header; `None` at the end mark, which is a block of zeros.
    fn header(&mut self) -> Result<Option<Block>, Error> {
        let first = self.offset == 0;
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let piece = self.bytes.fill()?;
            if piece.is_empty() {
                return Err(if first { invalid(NOT_AN_IMAGE) } else { cut_short() });
            }
            let length = piece.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&piece[..length]);
            self.bytes.consume(length);
            filled += length;
        }
        let start = self.offset;
        self.offset += BLOCK as u64;
        header::parse(&block).map_err(|bad| match bad {
            Bad::Checksum if first => invalid(NOT_AN_IMAGE),
            Bad::Checksum => invalid(format!("byte {start}: damaged archive: a header with a wrong checksum")),
            Bad::Field(text) => invalid(format!("byte {start}: {text}")),
            Bad::Kind(text) => Error::new(Code::Unsupported, "", format!("byte {start}: {text} is not supported")),
        })
    }

    /// The data of a header that describes others.
    fn extension(&mut self, block: &Block, start: u64) -> Result<Vec<u8>, Error> {
        let at = |message: String| invalid(format!("byte {start}: {message}"));
        if block.size > pax::MAX as i64 {
            return Err(at(format!("an extended header of {} bytes; at most {} are read", block.size, pax::MAX)));
        }
        self.data_follows(block.size).map_err(at)?;
        let mut data = Vec::new();
        loop {
            let piece = self.data()?;
            let length = piece.len();
            if length == 0 {
                return Ok(data);
            }
            data.extend_from_slice(piece);
            self.consume(length);
        }
    }
}

fn cut_short() -> Error {
    invalid("the archive is cut short: its end mark is missing")
}

fn until_nul(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

/// A header under what is said of the entry before it: PAX over GNU over the header itself, local over global.
fn entry(
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

/// Appends a header and its padded data to an archive: for tests.
#[cfg(test)]
pub(crate) fn add(to: &mut Vec<u8>, kind: u8, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_ustar();
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_uid(uid.as_raw().into());
    header.set_gid(gid.as_raw().into());
    header.set_mtime(1);
    header.set_entry_type(tar::EntryType::new(kind));
    // Links carry their target in place of data.
    let data = if matches!(kind, b'1' | b'2') {
        header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
        &[]
    } else {
        data
    };
    header.set_size(data.len() as u64);
    header.set_cksum();
    to.extend_from_slice(header.as_bytes());
    to.extend_from_slice(data);
    to.resize(to.len().next_multiple_of(BLOCK), 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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

    /// A PAX record of less than 100 bytes.
    fn record(text: &str) -> Vec<u8> {
        let length = text.len() + if text.len() < 7 { 3 } else { 4 };
        format!("{length} {text}\n").into_bytes()
    }

    fn read(bytes: &[u8]) -> Result<Vec<(String, u64, String)>, Error> {
        let mut archive = Archive::new(bytes);
        let mut seen = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            seen.push((text(&entry.path), entry.size, text(&entry.link)));
        }
        Ok(seen)
    }

    fn one(path: &str, size: u64, link: &str) -> Result<Vec<(String, u64, String)>, Error> {
        Ok(vec![(path.to_owned(), size, link.to_owned())])
    }

    #[test]
    fn extensions_go_over_the_header() {
        let mut tar = Vec::new();
        add(&mut tar, b'L', "././@LongLink", b"gnu\0");
        add(&mut tar, b'x', "pax", &[record("path=pax"), record("size=3")].concat());
        add(&mut tar, b'0', "short", b"abc");
        tar.resize(tar.len() + 1024, 0);
        assert_eq!(read(&tar), one("pax", 3, ""));

        let mut tar = Vec::new();
        add(&mut tar, b'x', "pax", &record("path=pax"));
        add(&mut tar, b'x', "pax", &record("path="));
        add(&mut tar, b'K', "././@LongLink", b"to");
        add(&mut tar, b'2', "short", b"");
        tar.resize(tar.len() + 512, 0);
        assert_eq!(read(&tar), one("short", 0, "to"));

        // The header's own part of a long name may end in a slash, which says nothing.
        let (mut tar, long) = (Vec::new(), "d/".repeat(60) + "f");
        add(&mut tar, b'L', "././@LongLink", long.as_bytes());
        add(&mut tar, b'0', &long[..100], b"abc");
        tar.resize(tar.len() + 512, 0);
        assert_eq!(read(&tar), one(&long, 3, ""));
    }

    #[test]
    fn what_is_cut_or_no_archive_says_so() {
        let mut tar = Vec::new();
        add(&mut tar, b'0', "file", &[b'x'; 700]);
        let whole = tar.len();
        tar.resize(whole + 1024, 0);
        assert_eq!(read(&tar), one("file", 700, ""));
        for length in [513, 1000, 1200, whole, whole + 511] {
            let error = read(&tar[..length]).err().map(|e| e.message).unwrap_or_default();
            assert!(error.contains("cut short"), "{length}: {error}");
        }
        for bytes in [&b""[..], b"hello", &[b'x'; 5000]] {
            assert_eq!(read(bytes).err().map(|e| e.message).as_deref(), Some(NOT_AN_IMAGE));
        }
        tar[whole] = 1;
        assert!(read(&tar).err().is_some_and(|e| e.message.contains("wrong checksum")));
    }

    #[test]
    fn what_would_harm_is_refused() {
        let refused = |kind: u8, text: &str, name: &str| {
            let mut tar = Vec::new();
            match text.strip_prefix("global ") {
                Some(text) => add(&mut tar, b'g', "pax", &record(text)),
                None if text.is_empty() => {}
                None => add(&mut tar, b'x', "pax", &record(text)),
            }
            add(&mut tar, kind, name, b"");
            tar.resize(tar.len() + 1024, 0);
            read(&tar).err().map_or_else(|| "accepted".to_owned(), |e| e.message)
        };
        for (kind, pax, name, says) in [
            (b'0', "", "../x", "`..`"),
            (b'1', "linkpath=../x", "x", "`..`"),
            (b'0', "path=a/../b", "x", "`..`"),
            (b'0', "path=x\0", "x", "NUL"),
            (b'2', "linkpath=x\0", "x", "NUL"),
            (b'0', "global path=x", "x", "global"),
            (b'0', "SCHILY.xattr.trusted.overlay.opaque=y", "x", "overlayfs"),
            (b'0', "global SCHILY.xattr.user.overlay.a=y", "x", "overlayfs"),
            (b'0', "uid=4294967295", "x", "uid"),
            (b'0', "size=-1", "x", "size"),
            (b'0', "mtime=soon", "x", "mtime"),
            (b'5', "size=3", "x", "no file"),
            (b'3', "", "x", "0:0"),
            (b'0', "GNU.sparse.major=1", "x", "sparse"),
            (b'S', "", "x", "sparse"),
        ] {
            let message = refused(kind, pax, name);
            assert!(message.contains(says), "{says}: {message}");
        }
    }
}
