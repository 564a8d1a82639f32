//! Process 1 of a container. Started by quilt-spawn; of no use by itself.

use std::process::ExitCode;

use quilt_spawn::init::{Settings, run};

/// The program.
pub fn main() -> ExitCode {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    match Settings::parse(words) {
        Some(settings) => ExitCode::from(run(&settings)),
        None => {
            eprintln!("quilt-init: it is started by quilt-spawn, as process 1 of a container");
            ExitCode::from(2)
        }
    }
}
