//! What is different in a container with a user namespace, where the host's root is nobody.

use nix::errno::Errno;
use nix::unistd::{Uid, fchown};
use quilt_record::Error;
use quilt_record::confine::Confine;
use quilt_record::idmap::IdMap;

use crate::enter::Stdio;

/// Makes the streams, which are pipes and sockets of ours, the command's: `/dev/stdout` is opened anew by whoever names it,
/// and that asks for the owner.
pub(crate) fn give(ids: IdMap, user: u32, stdio: &Stdio) -> Result<(), Errno> {
    let owner = Uid::from_raw(ids.uid(user).unwrap_or(ids.uid));
    [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten().try_for_each(|fd| fchown(fd, Some(owner), None))
}

/// Refuses a user whom the container has no id for.
pub(crate) fn check(ids: Option<IdMap>, confine: &Confine) -> Result<(), Error> {
    let Some(ids) = ids else { return Ok(()) };
    let named = |e: Error| Error { step: "read the user".to_owned(), ..e };
    ids.has(confine.uid, confine.gid, &confine.groups).map_err(named)
}
