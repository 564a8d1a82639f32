//! Compiles the filters that are built in, for the target, with the very code that compiles others later.

use std::{env, fs, path::Path};

#[allow(dead_code, missing_docs)]
#[path = "src/arch.rs"]
mod arch;
#[allow(dead_code, missing_docs)]
#[path = "src/bpf.rs"]
mod bpf;
#[allow(dead_code, missing_docs)]
#[path = "src/builtin.rs"]
mod builtin;
#[path = "src/compile.rs"]
mod compile;
#[allow(dead_code, missing_docs)]
#[path = "src/profile.rs"]
mod profile;

fn main() -> Result<(), String> {
    let variable = |name| env::var(name).map_err(|e| format!("{name}: {e}"));
    let target = variable("CARGO_CFG_TARGET_ARCH")?;
    let native = arch::Arch::of_target(&target).ok_or(format!("no table of the system calls of {target}"))?;
    let out = variable("OUT_DIR")?;
    for (name, abi32) in [("default.bpf", false), ("default-abi32.bpf", true)] {
        let options = builtin::Options { abi32, ..Default::default() };
        let filter = bpf::encode(&compile::compile(&builtin::profile(native, &options)));
        fs::write(Path::new(&out).join(name), filter).map_err(|e| format!("{name}: {e}"))?;
    }
    println!("cargo::rerun-if-changed=src");
    Ok(())
}
