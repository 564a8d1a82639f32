//! What the plan of a container with a user namespace says differently.

use std::borrow::Cow;

use quilt_record::have::Device;
use quilt_record::idmap::IdMap;

use crate::extra::Extra;
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
}
