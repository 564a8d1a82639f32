//! A tar archive, read once from front to end: headers, what PAX and GNU extensions say of the next one, data.

use quilt_record::error::{Code, Error};

use crate::entry::Entry;
use crate::header::{self, BLOCK, Bad, Block, Kind};
use crate::pax::{self, Records};
use crate::source::Bytes;

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

pub(crate) fn invalid(message: impl Into<String>) -> Error {
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
                    let entry =
                        Entry::new(block, long_name, long_link, &self.global, &local).map_err(|e| match e.code {
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
