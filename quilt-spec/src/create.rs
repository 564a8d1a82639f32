//! A create within one process: the stages in their order, without the pipeline.

use std::process::Stdio;
use std::time::Duration;

use quilt_record::claim::Work;
use quilt_record::error::{classify, complain};
use quilt_record::stage::{perform, undo_command};
use quilt_record::{Container, Error, Instance, Record, Step};

/// Makes the container of `record` and returns its record when it is ready; if anything fails, undoes everything.
///
/// The tools' directory must be that of the calling program, or be named by `QUILT_BIN`: the container's init comes from
/// there, and so does `quilt-rm`, which undoes. The process must have one thread (the stages fork), and be root.
///
/// ```no_run
/// use quilt_record::Instance;
/// use quilt_record::units::Size;
/// use quilt_spec::{ContainerBuilder, create};
///
/// let wanted = ContainerBuilder::new("./image.tar.gz").name("agent-worker").memory(Size(512 << 20)).build()?;
/// let record = create(&Instance::prepare(None)?, wanted)?;
/// println!("{record}");
/// # Ok::<(), quilt_record::Error>(())
/// ```
pub fn create(instance: &Instance, mut record: Record) -> Result<Record, Error> {
    let made = stages(instance, &mut record);
    // Probe has a section with a `have` after a failure only if it was told to keep the container.
    let kept = made.is_err() && matches!(record.have::<serde::de::IgnoredAny>("probe"), Ok(Some(_)));
    if made.is_err() && !kept {
        undo(instance, &record);
    } else {
        settle(instance, &record)?;
    }
    made.map(|()| record).map_err(|e| classify(&e))
}

fn stages(instance: &Instance, record: &mut Record) -> anyhow::Result<()> {
    perform(&quilt_unpack::STAGE, instance, record)?;
    perform(&quilt_netns::STAGE, instance, record)?;
    perform(&quilt_cgroup::STAGE, instance, record)?;
    perform(&quilt_spawn::STAGE, instance, record)?;
    perform(&quilt_probe::STAGE, instance, record)
}

fn settle(instance: &Instance, record: &Record) -> Result<(), Error> {
    let container = Container::open(instance, &record.id()?)?;
    container.lock(Duration::from_secs(10))?;
    container.set_work(record.claim()?, Work::Settled)
}

/// As the stages of a pipeline do: `quilt-rm` looks at what the claim is marked with, and touches nothing else.
fn undo(instance: &Instance, record: &Record) {
    let (Ok(id), Ok(claim)) = (record.id(), record.claim()) else { return };
    let mut command = undo_command(instance.root(), claim);
    command.arg("--").arg(id.as_str());
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    // What went wrong there it has said itself.
    if let Err(error) = status.step(|| "run quilt-rm to undo") {
        complain("quilt-spec", &error);
    }
}
