//! The attacks, by their numbers in the list of threats, and the tests that make them.
//!
//! Each is made twice where there is a defence that can be taken out (`harness/teeth.rs`): on the tools as they are released,
//! where it comes to nothing, and on a test build without that defence, where it succeeds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::{bin, teeth};

/// What the variable is called that takes defences out; put together, as this file is no tool either.
fn switch() -> String {
    ["QUILT", "WITHOUT"].join("_")
}

fn files_with(dir: &Path, text: &str) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // One file under all their names is read once.
    files.retain(|path| path.is_file());
    files.sort_by_key(|path| path.metadata().unwrap().ino());
    files.dedup_by_key(|path| path.metadata().unwrap().ino());
    let has = |path: &Path| fs::read(path).unwrap().windows(text.len()).any(|window| window == text.as_bytes());
    files.iter().filter(|path| has(path)).map(|path| path.display().to_string()).collect()
}

/// Fails if a tool that is released knows the variable that takes defences out.
#[test]
fn no_released_tool_can_be_told_to_leave_out_a_defence() {
    assert_eq!(files_with(&bin(), &switch()), [""; 0]);
    assert!(!files_with(&teeth::bin(), &switch()).is_empty(), "it is not found where it is");
}
