//! Standard output, with a reader that may go away; and tables on it.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use quilt_record::units::Span;
use quilt_record::{Error, Step};

/// Writes to standard output. False if nobody reads any more, which is no error: `quilt logs web | head`.
pub fn put(bytes: &[u8]) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(e).step(|| "write to standard output"),
    }
}

/// One JSON value on a line of its own.
pub fn put_json(value: &impl serde::Serialize) -> anyhow::Result<bool> {
    Ok(put((serde_json::to_string(value)? + "\n").as_bytes())?)
}

/// Text that a terminal may be shown: what it would interpret rather than show (control characters, changes of direction,
/// …) stands as an escape, as in Rust, and a backslash is doubled.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// A table: rows of equally many cells, the first the headings, every column as wide as its widest cell. All of it is
/// [`plain`].
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| plain(cell))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A cell; `-` where there is nothing to say.
pub fn cell(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Bytes for a person: `512B`, `1.5MiB`.
pub fn bytes(count: u64) -> String {
    let (mut value, mut units) = (count as f64, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].iter());
    let mut unit = "B";
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1024.0, next);
    }
    let text = format!("{value:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

/// A duration for a person: `0.25s`, `2m5s`.
pub fn duration(us: u64) -> String {
    match us / 1_000_000 {
        0..60 => format!("{:.2}s", us as f64 / 1e6),
        seconds => Span(Duration::from_secs(seconds)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_for_a_terminal_to_interpret() {
        assert_eq!(plain("it's \"ü\" a\\b"), "it's \"ü\" a\\\\b");
        let hostile = "\x1b[2J\r\n\t\x7f\u{9b}31m\u{202e}\u{0}";
        let shown = plain(hostile);
        assert!(shown.chars().all(|c| c.is_ascii_graphic()), "{shown}");
        assert_eq!(shown, "\\u{1b}[2J\\r\\n\\t\\u{7f}\\u{9b}31m\\u{202e}\\0");
    }

    #[test]
    fn for_a_person() {
        let sizes = [0, 1023, 1024, 1536 << 10, 33_554_432, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0B", "1023B", "1KiB", "1.5MiB", "32MiB", "16EiB"]);
        assert_eq!([0, 254_000, 125_000_000].map(duration), ["0.00s", "0.25s", "2m5s"]);
        assert_eq!([cell(Some("")), cell(Some("a")), cell(None::<u64>)], ["-", "a", "-"]);
    }
}
