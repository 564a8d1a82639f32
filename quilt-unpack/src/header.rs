//! The 512-byte header block of a tar archive: checksum, numbers, names (tar(5), POSIX.1-2017 pax).

use tar::Header;

/// The size of a block, of which archives are made.
pub const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an entry that came before.
    HardLink,
    /// A symlink.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A fifo.
    Fifo,
    /// PAX records for the next entry.
    Pax,
    /// PAX records for all further entries.
    PaxGlobal,
    /// The name of the next entry (GNU).
    LongName,
    /// The link target of the next entry (GNU).
    LongLink,
    /// The archive's label: nothing to make.
    Label,
}

/// One header, its numbers read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What it is.
    pub kind: Kind,
    /// The name as it stands, prefix included.
    pub name: Vec<u8>,
    /// The link target as it stands.
    pub link: Vec<u8>,
    /// The permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The length of what follows, in bytes.
    pub size: i64,
    /// The time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// Device numbers.
    pub major: i64,
    /// Device numbers.
    pub minor: i64,
}

/// Why a block is no header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The sum of its bytes is not what it says.
    Checksum,
    /// What it says is wrong.
    Field(String),
    /// A kind of entry that is not handled.
    Kind(String),
}

/// Reads a header block; `None` if it is all zeros, the end of an archive.
pub fn parse(bytes: &[u8; BLOCK]) -> Result<Option<Block>, Bad> {
    if bytes.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    let header = Header::from_byte_slice(bytes);
    let old = header.as_old();
    check_sum(bytes, &old.cksum)?;
    let mut name = text(&old.name).to_vec();
    let (mut major, mut minor) = (0, 0);
    // GNU's own magic has times where POSIX has the prefix.
    if let Some(ustar) = header.as_ustar() {
        let prefix = text(&ustar.prefix);
        if !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
    }
    let kind = kind(old.linkflag[0])?;
    if matches!(kind, Kind::Char | Kind::Block) {
        let (high, low) = match (header.as_ustar(), header.as_gnu()) {
            (Some(u), _) => (&u.dev_major, &u.dev_minor),
            (None, Some(g)) => (&g.dev_major, &g.dev_minor),
            (None, None) => return Err(Bad::Field("a device without numbers".to_owned())),
        };
        (major, minor) = (number(high, "major")?, number(low, "minor")?);
    }
    Ok(Some(Block {
        kind,
        name,
        link: text(&old.linkname).to_vec(),
        mode: (number(&old.mode, "mode")? & 0o7777) as u32,
        uid: number(&old.uid, "uid")?,
        gid: number(&old.gid, "gid")?,
        size: number(&old.size, "size")?,
        mtime: number(&old.mtime, "mtime")?,
        major,
        minor,
    }))
}

fn kind(flag: u8) -> Result<Kind, Bad> {
    Ok(match flag {
        b'0' | 0 | b'7' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        b'x' | b'X' => Kind::Pax,
        b'g' => Kind::PaxGlobal,
        b'L' => Kind::LongName,
        b'K' => Kind::LongLink,
        b'V' => Kind::Label,
        b'S' => return Err(Bad::Kind("a sparse file (GNU --sparse)".to_owned())),
        other => return Err(Bad::Kind(format!("an entry of type `{}`", other.escape_ascii()))),
    })
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// The sum of all bytes with the sum's own field as spaces; historically of signed bytes too.
fn check_sum(bytes: &[u8; BLOCK], field: &[u8; 8]) -> Result<(), Bad> {
    const AT: std::ops::Range<usize> = 148..156;
    let said = number(field, "checksum").map_err(|_| Bad::Checksum)?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (i, byte) in bytes.iter().enumerate() {
        let byte = if AT.contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    if said == unsigned || said == signed { Ok(()) } else { Err(Bad::Checksum) }
}

/// A number: octal digits between spaces and NULs, or, with the top bit set, big-endian two's complement (base-256).
/// A blank field is 0.
pub fn number(field: &[u8], what: &str) -> Result<i64, Bad> {
    let bad = || Bad::Field(format!("a {what} that is no number"));
    match field.first() {
        Some(first @ (0x80 | 0xff)) => {
            let negative = *first == 0xff;
            let (high, low) = field.split_at(field.len().saturating_sub(8));
            let low = i64::from_be_bytes(low.try_into().map_err(|_| bad())?);
            // An 8-byte field keeps its marker in the value's own top byte.
            if high.is_empty() {
                return Ok(if negative { low } else { low & i64::MAX });
            }
            let fill = if negative { 0xff } else { 0 };
            let fits = high[1..].iter().all(|b| *b == fill) && (low < 0) == negative;
            if fits { Ok(low) } else { Err(Bad::Field(format!("a {what} beyond 64 bits"))) }
        }
        Some(first) if first & 0x80 != 0 => Err(Bad::Field(format!("a {what} beyond 64 bits"))),
        _ => {
            let digits = text(field).trim_ascii();
            if digits.is_empty() {
                return Ok(0);
            }
            if !digits.iter().all(|b| (b'0'..=b'7').contains(b)) {
                return Err(bad());
            }
            std::str::from_utf8(digits).ok().and_then(|d| i64::from_str_radix(d, 8).ok()).ok_or_else(bad)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let n = |field: &[u8]| number(field, "size").ok();
        assert_eq!(n(b"0000644\0"), Some(0o644));
        assert_eq!(n(b" 644 \0xx"), Some(0o644));
        assert_eq!(n(b"77777777777\0"), Some(0o77777777777));
        assert_eq!(n(b"777777777777"), Some(0o777777777777));
        assert_eq!(n(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(n(b"        "), Some(0));
        assert_eq!(n(b"00009\0\0\0"), None);
        assert_eq!(n(b"-1\0\0\0\0\0\0"), None);
        assert_eq!(n(b"0x10\0\0\0\0"), None);
        assert_eq!(n(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(n(&[0xff; 8]), Some(-1));
        assert_eq!(n(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Some(2 << 32));
        assert_eq!(n(&[0xff; 12]), Some(-1));
        assert_eq!(n(&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(n(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(n(&[0xc0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn headers() {
        let mut header = Header::new_ustar();
        header.set_path("usr/bin/true").unwrap();
        header.set_mode(0o104755);
        header.set_uid(7);
        header.set_size(9);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let mut bytes = *header.as_bytes();
        let block = parse(&bytes).unwrap().unwrap();
        assert_eq!((block.kind, block.name.as_slice(), block.mode), (Kind::File, &b"usr/bin/true"[..], 0o4755));
        assert_eq!((block.uid, block.gid, block.size, block.mtime), (7, 0, 9, 0));
        bytes[0] ^= 1;
        assert_eq!(parse(&bytes), Err(Bad::Checksum));
        assert_eq!(parse(&[0; BLOCK]), Ok(None));
        assert_eq!(parse(&[b'a'; BLOCK]), Err(Bad::Checksum));
    }

    #[test]
    fn unhandled_kinds_are_named() {
        for (flag, says) in [(b'S', "sparse"), (b'M', "`M`"), (b'\n', "`\\n`")] {
            let mut header = Header::new_gnu();
            header.set_entry_type(tar::EntryType::new(flag));
            header.set_size(0);
            header.set_cksum();
            match parse(header.as_bytes()) {
                Err(Bad::Kind(text)) => assert!(text.contains(says), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
