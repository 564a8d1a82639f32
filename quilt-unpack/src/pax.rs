//! PAX extended headers (POSIX.1-2017, pax): records `LENGTH KEY=VALUE\n`, whose length is what counts, for a value may
//! hold line feeds, NULs and equals signs.

use std::collections::BTreeMap;

/// The most that one extended header, or all global ones, may hold, in bytes.
pub const MAX: usize = 1 << 20;

/// The prefix of the keys of extended attributes.
pub const XATTR: &str = "SCHILY.xattr.";

/// Extended headers in force: key to value, the last one of a key.
pub type Records = BTreeMap<String, Vec<u8>>;

/// Reads the records of one extended header over those that are there.
pub fn parse(mut data: &[u8], records: &mut Records) -> Result<(), String> {
    while !data.is_empty() {
        let space = data.iter().take(8).position(|b| *b == b' ').ok_or("a PAX record without a length")?;
        let length = decimal(&data[..space]).ok_or("a PAX record whose length is no number")?;
        let length = usize::try_from(length).map_err(|_| "a PAX record that is too long")?;
        let record = data.get(space + 1..length).ok_or("a PAX record longer than its header")?;
        let [record @ .., b'\n'] = record else {
            return Err("a PAX record that does not end in a line feed".to_owned());
        };
        let equals = record.iter().position(|b| *b == b'=').ok_or("a PAX record without `=`")?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| "a PAX record whose key is not UTF-8")?;
        if key.is_empty() {
            return Err("a PAX record without a key".to_owned());
        }
        records.insert(key.to_owned(), record[equals + 1..].to_vec());
        data = &data[length..];
    }
    Ok(())
}

/// Digits, nothing else.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time, `[-]SECONDS[.FRACTION]`, as whole seconds rounded down and nanoseconds from there.
pub fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    let digit = |i: usize| fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
    let nanos = (0..9).fold(0, |n, i| n * 10 + digit(i));
    if !negative {
        return Some((seconds, nanos));
    }
    let beyond = fraction.iter().skip(9).any(|b| *b != b'0');
    match (nanos, beyond) {
        (0, false) => Some((-seconds, 0)),
        (n, false) => Some((-seconds - 1, 1_000_000_000 - n)),
        (n, true) => Some((-seconds - 1, 999_999_999 - n)),
    }
}

/// The name of an extended attribute in a key: GNU tar writes `%` and `=` as `%25` and `%3D`.
pub fn xattr_name(key: &str) -> Option<String> {
    key.strip_prefix(XATTR).map(|name| name.replace("%3D", "=").replace("%25", "%"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn records(data: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut records = Records::new();
        parse(data, &mut records).map(|()| records.into_iter().collect())
    }

    #[test]
    fn a_value_may_hold_anything() {
        // The first record's length covers a line that looks like a record of its own.
        assert_eq!(
            records(b"34 SCHILY.xattr.user.x=a\n9 size=1\n9 path=x\n9 path=y\n"),
            Ok(vec![("SCHILY.xattr.user.x".to_owned(), b"a\n9 size=1".to_vec()), ("path".to_owned(), b"y".to_vec())])
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"path=x\n"[..],
            b"9 path=x",
            b"99 path=x\n",
            b"8 path=x\n",
            b"0 path=x\n",
            b"2 \n",
            b"4 =\n",
            b"7 path\n",
            b"-9 path=x\n",
            b"99999999999999999999 path=x\n",
        ] {
            assert!(records(bad).is_err(), "{:?} was accepted", bad.escape_ascii().to_string());
        }
        assert_eq!(records(b""), Ok(vec![]));
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"1747699200.1234567899"), Some((1_747_699_200, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"0"), Some((0, 0)));
        for bad in [&b""[..], b".", b"x", b"1.x", b"--1", b"1e9", b"99999999999999999999"] {
            assert_eq!(time(bad), None);
        }
    }

    #[test]
    fn escaped_names() {
        assert_eq!(xattr_name("SCHILY.xattr.user.a%3Db%25"), Some("user.a=b%".to_owned()));
        assert_eq!(xattr_name("path"), None);
    }
}
