//! Other limits for a container that is there.

use quilt_cgroup::Want;
use quilt_record::claim::Work;
use quilt_record::{Code, Container, Error, Id, Instance};

use crate::remove::LOCK_LIMIT;

/// Puts the limits in force at once if the container runs, and in its record for every start after.
pub fn update(instance: &Instance, id: &Id, changes: &Want) -> anyhow::Result<()> {
    let container = Container::open(instance, id)?;
    container.lock(LOCK_LIMIT)?;
    match container.holder()?.work {
        Work::Settled => Ok(quilt_cgroup::update(instance, &container, changes)?),
        Work::Removing => Err(Error::new(Code::Busy, "", format!("the container {id} is being removed")).into()),
        Work::Creating(_) | Work::Starting(_) => {
            Err(Error::new(Code::Busy, "", format!("the container {id} is not finished (quilt ls)")).into())
        }
    }
}
