//! A container's directory in one hierarchy, and the files in it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use quilt_record::error::{Error, Step as _};
use quilt_record::have::Cgroup;

use super::parse;

/// One directory.
pub(super) struct Dir<'a> {
    pub(super) version: u8,
    pub(super) path: &'a Path,
}

impl Dir<'_> {
    /// The container's directory in the v1 hierarchy with that controller.
    pub(super) fn v1<'a>(cgroup: &'a Cgroup, controller: &str) -> Option<Dir<'a>> {
        let found = cgroup.hierarchies.iter().find(|h| h.version == 1 && h.has(controller))?;
        Some(Dir { version: 1, path: &found.path })
    }

    /// The container's directory in the v2 tree.
    pub(super) fn v2(cgroup: &Cgroup) -> Option<Dir<'_>> {
        cgroup.hierarchies.iter().find(|h| h.version == 2).map(|h| Dir { version: 2, path: &h.path })
    }

    /// The text of a file; `None` if this kernel does not have it (or has turned it off), or the directory is gone.
    pub(super) fn read(&self, file: &str) -> Result<Option<String>, Error> {
        read(&self.path.join(file))
    }

    /// What `parse` makes of a file's text.
    pub(super) fn map<T>(&self, file: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Error> {
        Ok(self.read(file)?.and_then(|text| parse(&text)))
    }

    /// A file of one number.
    pub(super) fn number(&self, file: &str) -> Result<Option<u64>, Error> {
        self.map(file, parse::number)
    }

    /// The sum of a counter over the directory and all below it; `None` if nobody has it.
    pub(super) fn sum(&self, file: &str, key: &str) -> Result<Option<u64>, Error> {
        let (mut sum, mut left) = (None, vec![self.path.to_owned()]);
        while let Some(dir) = left.pop() {
            let counter = read(&dir.join(file))?.and_then(|text| parse::keyed(&text, key));
            sum = counter.map_or(sum, |counter| Some(sum.unwrap_or(0) + counter));
            left.extend(below(&dir).step(|| format!("list the cgroup {}", dir.display()))?);
        }
        Ok(sum)
    }
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if is_absent(&e) => Ok(None),
        Err(e) => Err(e).step(|| format!("read {}", path.display())),
    }
}

/// The directories in this one.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if is_absent(&e) => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.file_type()?.is_dir(), entry.path()))) {
            Ok((is_dir, path)) => found.extend(is_dir.then_some(path)),
            Err(e) if is_absent(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Not there, gone since it was opened, or turned off (`cgroup.pressure`, `psi=0`).
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP))
}
