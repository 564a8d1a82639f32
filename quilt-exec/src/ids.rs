//! What is different in a container with a user namespace, where the host's root is nobody.

use std::io;

use nix::errno::Errno;
use nix::unistd::{Uid, fchown};
use quilt_record::confine::Confine;
use quilt_record::idmap::IdMap;
use quilt_record::{Code, Error, sys};

use crate::enter::Stdio;

/// Makes the streams, which are pipes and sockets of ours, the command's: `/dev/stdout` is opened anew by whoever names it,
/// and that asks for the owner.
pub(crate) fn give(ids: IdMap, user: u32, stdio: &Stdio) -> Result<(), Errno> {
    let owner = Uid::from_raw(ids.uid(user).unwrap_or(ids.uid));
    [&stdio.stdin, &stdio.stdout, &stdio.stderr].into_iter().flatten().try_for_each(|fd| fchown(fd, Some(owner), None))
}

/// In the user namespace: its root, instead of a user that it has no number for. What is made from here on (a terminal,
/// say) can be given away. Confinement comes later, and takes what this process can do.
pub(crate) fn become_root() -> io::Result<()> {
    sys::set_user(0, 0, &[])?;
    // Which the change of ids undid.
    sys::set_dumpable(false)
}

/// Refuses a user whom the container has no id for.
pub(crate) fn check(ids: Option<IdMap>, confine: &Confine) -> Result<(), Error> {
    let Some(ids) = ids else { return Ok(()) };
    let all = [confine.uid, confine.gid].into_iter().chain(confine.groups.iter().copied());
    match all.max().filter(|id| *id >= ids.size) {
        Some(id) => {
            let why = format!("the id {id} is not among the container's {} ids (--userns)", ids.size);
            Err(Error::new(Code::Invalid, "read the user", why))
        }
        None => Ok(()),
    }
}
