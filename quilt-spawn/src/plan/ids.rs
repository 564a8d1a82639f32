//! What the plan of a container with a user namespace says differently.

use std::borrow::Cow;

use quilt_record::Error;
use quilt_record::have::Device;
use quilt_record::idmap::IdMap;

use super::Input;
use crate::extra::Extra;
use crate::rules::invalid;
use crate::tmpfs::Tmpfs;

/// Options of a file system of the kernel, whose `uid=` and `gid=` are the container's, as the host must say them. One that
/// the container has not is the -1 that the kernel refuses.
pub(super) fn options(ids: Option<IdMap>, data: Cow<'static, str>) -> Cow<'static, str> {
    let Some(ids) = ids.filter(|_| ["uid=", "gid="].iter().any(|name| data.contains(name))) else { return data };
    let mapped = |option: &str| {
        let (name, id) = option.split_once('=').filter(|(name, _)| matches!(*name, "uid" | "gid"))?;
        let id = id.parse().ok().and_then(|id| if name == "uid" { ids.uid(id) } else { ids.gid(id) });
        Some(format!("{name}={}", id.unwrap_or(u32::MAX)))
    };
    let all = data.split(',').map(|option| mapped(option).unwrap_or_else(|| option.to_owned()));
    all.collect::<Vec<_>>().join(",").into()
}

/// Refuses what was asked for an id that the container has not, which the kernel does without saying which.
pub fn check(input: &Input) -> Result<(), Error> {
    let Some(ids) = input.ids else { return Ok(()) };
    let tmpfs =
        input.extras.iter().filter_map(|extra| if let Extra::Tmpfs(tmpfs) = extra { Some(tmpfs) } else { None });
    for (tmpfs, option) in tmpfs.flat_map(|tmpfs| tmpfs.data.split(',').map(move |option| (tmpfs, option))) {
        let Some(("uid" | "gid", id)) = option.split_once('=') else { continue };
        if id.parse().ok().is_none_or(|id: u32| id >= ids.size) {
            let (at, last) = (tmpfs.target.display(), ids.size - 1);
            let why = format!("{option} for {at}: the container has the ids 0 to {last} (--userns says which)");
            return Err(invalid("tmpfs", why));
        }
    }
    Ok(())
}

/// The same for a mount that was asked for.
pub(super) fn extra(ids: Option<IdMap>, extra: Extra) -> Extra {
    match extra {
        Extra::Tmpfs(tmpfs) => Extra::Tmpfs(Tmpfs { data: options(ids, tmpfs.data.into()).into_owned(), ..tmpfs }),
        volume => volume,
    }
}

/// A device belongs inside to those whose numbers its owners have on the host; to root, where the container has none such.
pub(super) fn device(ids: Option<IdMap>, device: &Device) -> Device {
    let Some(ids) = ids else { return device.clone() };
    let (uid, gid) = (ids.uid(device.uid).unwrap_or(ids.uid), ids.gid(device.gid).unwrap_or(ids.gid));
    Device { uid, gid, ..device.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_said_in_the_hosts_ids() {
        let ids = Some(IdMap { uid: 100_000, gid: 200_000, size: 10 });
        assert_eq!(options(ids, "newinstance,mode=0620,gid=5".into()), "newinstance,mode=0620,gid=200005");
        assert_eq!(options(ids, "size=4k,uid=9".into()), "size=4k,uid=100009");
        assert_eq!(options(ids, "size=4k".into()), "size=4k");
        assert_eq!(options(ids, "uid=10".into()), "uid=4294967295");
        assert_eq!(options(None, "gid=5".into()), "gid=5");
    }

    #[test]
    fn an_id_that_it_has_not_is_refused() {
        let input = |options: &str, ids| {
            let tmpfs = Tmpfs::parse(&format!("/x:{options}")).unwrap_or_else(|why| panic!("{why}"));
            Input { ids, extras: vec![Extra::Tmpfs(tmpfs)], ..Input::default() }
        };
        let ids = Some(IdMap { uid: 100_000, gid: 200_000, size: 10 });
        let said = |options: &str, ids| check(&input(options, ids)).map_err(|e| e.to_string());
        assert_eq!(said("uid=9,gid=9,size=4096", ids), Ok(()));
        assert_eq!(said("uid=70000", None), Ok(()));
        let why = "read --tmpfs: gid=10 for /x: the container has the ids 0 to 9 (--userns says which)";
        assert_eq!(said("mode=700,gid=10", ids), Err(why.to_owned()));
    }
}
