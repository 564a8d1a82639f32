//! The record from Rust: what the command line says, with types.

use std::path::PathBuf;
use std::time::Duration;

use quilt_record::units::{Limit, Size, Timeout};
use quilt_record::{Code, Error, Record};

use crate::spec::{Refusal, Spec};

/// Builds the record of a container.
///
/// ```
/// use std::time::Duration;
/// use quilt_record::units::Size;
/// use quilt_spec::ContainerBuilder;
///
/// let record = ContainerBuilder::new("./image.tar.gz")
///     .name("agent-worker")
///     .memory(Size(512 << 20))
///     .cpu(50.0)
///     .timeout(Duration::from_secs(10))
///     .health_check("echo ready")
///     .build()?;
/// assert_eq!(record.id()?.as_str(), "agent-worker");
/// # Ok::<(), quilt_record::Error>(())
/// ```
///
/// What has no method of its own is a field of [`ContainerBuilder::spec`]: it holds the types of the stages, as they
/// stand in the record.
#[derive(Clone, Debug, Default)]
pub struct ContainerBuilder {
    /// All that can be asked.
    pub spec: Spec,
    name: Option<String>,
}

impl ContainerBuilder {
    /// A container from this image: a tar file, plain or compressed with gzip or zstd, or a directory.
    pub fn new(image: impl Into<PathBuf>) -> ContainerBuilder {
        let mut builder = ContainerBuilder::default();
        builder.spec.unpack.image = Some(image.into());
        builder
    }

    /// Its name; without one it gets a new one.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A label.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.push((name.into(), value.into()));
        self
    }

    /// The most memory that it may use.
    pub fn memory(mut self, limit: Size) -> Self {
        self.spec.cgroup.memory = Some(Limit::Of(limit));
        self
    }

    /// Its share of the processors when they are contended, in percent: 100 is an ordinary one.
    pub fn cpu(mut self, percent: f64) -> Self {
        self.spec.cgroup.cpu = Some(percent);
        self
    }

    /// The most processors that it may use at a time.
    pub fn cpus(mut self, processors: f64) -> Self {
        self.spec.cgroup.cpus = Some(Limit::Of(processors));
        self
    }

    /// The most processes and threads that it may have.
    pub fn pids(mut self, limit: u64) -> Self {
        self.spec.cgroup.pids = Some(Limit::Of(limit));
        self
    }

    /// An environment variable of all its commands.
    pub fn env(mut self, name: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.spec.spawn.env.push(format!("{}={}", name.as_ref(), value.as_ref()));
        self
    }

    /// The command that its init runs; without one the container waits for execs, until it is stopped.
    pub fn command(mut self, argv: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.spec.spawn.command = argv.into_iter().map(Into::into).collect();
        self
    }

    /// What must succeed inside before it counts as ready: shell text, or a JSON array of words.
    pub fn health_check(mut self, check: impl Into<String>) -> Self {
        self.spec.probe.health_check = Some(check.into());
        self
    }

    /// How long it may take to become ready.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.spec.probe.timeout = Some(Timeout(limit));
        self
    }

    /// The record. Fails with `invalid` for a name, an image or an environment that cannot be.
    pub fn build(mut self) -> Result<Record, Error> {
        let invalid = |why| Error::new(Code::Invalid, "build the record", why);
        if let Some(name) = &self.name {
            self.spec.name = Some(name.parse().map_err(invalid)?);
        }
        self.spec.record(None, None).map_err(|refusal| match refusal {
            Refusal::Usage(why) => invalid(why),
            Refusal::Failure(error) => error,
        })
    }
}
