//! All of Quilt's programs in one file, which is what they are called: installed as one file under all their names
//! (hard links), as busybox is. Each stays a program of its own, with a `main.rs` of its own that can be built alone.
//!
//! A create starts eight processes; of one file, the pages that all of them need (libc, the argument parser, JSON) are in
//! the processor's caches when the next one starts. And there is one program to link.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Takes the programs' sources in, and makes the table of their names.
macro_rules! programs {
    ($($module:ident $name:literal $path:literal)*) => {
        $(#[path = $path] mod $module;)*

        /// Every program: its name, and its `main`.
        const PROGRAMS: &[(&str, fn() -> ExitCode)] = &[$(($name, $module::main)),*];
    };
}

programs! {
    cgroup "quilt-cgroup" "../../quilt-cgroup/src/main.rs"
    exec "quilt-exec" "../../quilt-exec/src/main.rs"
    gc "quilt-gc" "../../quilt-ops/src/bin/quilt-gc.rs"
    help "quilt-help" "../../quilt-ops/src/bin/quilt-help.rs"
    init "quilt-init" "../../quilt-spawn/src/bin/quilt-init.rs"
    inspect "quilt-inspect" "../../quilt-ops/src/bin/quilt-inspect.rs"
    kill "quilt-kill" "../../quilt-ops/src/bin/quilt-kill.rs"
    logs "quilt-logs" "../../quilt-ops/src/bin/quilt-logs.rs"
    ls "quilt-ls" "../../quilt-ops/src/bin/quilt-ls.rs"
    netns "quilt-netns" "../../quilt-netns/src/main.rs"
    pause "quilt-pause" "../../quilt-ops/src/bin/quilt-pause.rs"
    probe "quilt-probe" "../../quilt-probe/src/main.rs"
    repair "quilt-repair" "../../quilt-ops/src/bin/quilt-repair.rs"
    rm "quilt-rm" "../../quilt-ops/src/bin/quilt-rm.rs"
    run "quilt-run" "../../quilt-exec/src/bin/quilt-run.rs"
    spawn "quilt-spawn" "../../quilt-spawn/src/main.rs"
    spec "quilt-spec" "../../quilt-spec/src/main.rs"
    stats "quilt-stats" "../../quilt-ops/src/bin/quilt-stats.rs"
    stop "quilt-stop" "../../quilt-ops/src/bin/quilt-stop.rs"
    top "quilt-top" "../../quilt-ops/src/bin/quilt-top.rs"
    unpack "quilt-unpack" "../../quilt-unpack/src/main.rs"
    unpause "quilt-unpause" "../../quilt-ops/src/bin/quilt-unpause.rs"
    update "quilt-update" "../../quilt-ops/src/bin/quilt-update.rs"
    version "quilt-version" "../../quilt-ops/src/bin/quilt-version.rs"
    wait "quilt-wait" "../../quilt-ops/src/bin/quilt-wait.rs"
}

/// musl's own allocator maps and unmaps single pages all the time, which costs more than all that the tools do with them.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    match PROGRAMS.iter().find(|(program, _)| OsStr::new(program) == name) {
        Some((_, main)) => main(),
        None if name == env!("CARGO_PKG_NAME") => list(),
        None => {
            // Nobody to tell, if standard error is closed.
            let _ = writeln!(std::io::stderr(), "quilt-multicall: called by a name that is none of its programs'");
            ExitCode::from(2)
        }
    }
}

/// Called by its own name: prints the programs', one a line, for scripts/build and for who installs it.
fn list() -> ExitCode {
    let names: String = PROGRAMS.iter().map(|(name, _)| format!("{name}\n")).collect();
    match std::io::stdout().write_all(names.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
