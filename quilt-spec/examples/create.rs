//! Makes a container from Rust, without a shell and without a pipeline, and prints its record:
//!
//!     QUILT_BIN=$(scripts/build) cargo run --release -p quilt-spec --example create -- ./image.tar.gz agent-worker
//!
//! Commands then run in it by `quilt exec agent-worker …`, and `quilt rm -f agent-worker` removes it.

use std::process::ExitCode;
use std::time::Duration;

use quilt_record::units::Size;
use quilt_record::{Error, Instance, Record, error};
use quilt_spec::{ContainerBuilder, create};

fn worker(image: &str, name: &str) -> Result<Record, Error> {
    let wanted = ContainerBuilder::new(image)
        .name(name)
        .label("made-by", "example")
        .memory(Size(512 << 20))
        .cpu(50.0)
        .env("AGENT_ID", name)
        .health_check("echo ready")
        .timeout(Duration::from_secs(10))
        .build()?;
    create(&Instance::prepare(None)?, wanted)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [image, name] = words.as_slice() else {
        eprintln!("usage: create IMAGE NAME");
        return ExitCode::from(2);
    };
    error::report(
        "create",
        worker(image, name).map_err(Into::into).map(|record| {
            println!("{record}");
            ExitCode::SUCCESS
        }),
    )
}
