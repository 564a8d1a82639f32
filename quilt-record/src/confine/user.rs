//! Who `--user` means, by the container's own `/etc/passwd` and `/etc/group`, which are not trusted: regular files inside
//! the root or nothing, of bounded size, parsed here and never by NSS.

use std::fs::File;
use std::io::Read;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use serde::{Deserialize, Serialize};

use crate::defence::out;
use crate::error::{Code, Error, Step};

/// The largest `/etc/passwd` or `/etc/group` that is read, in bytes.
pub const FILE_MAX: u64 = 4 << 20;

/// The most fields of a line (passwd(5) has seven), so that one of nothing but colons costs no memory.
const FIELDS: usize = 8;

/// The most supplementary groups (NGROUPS_MAX).
const GROUPS_MAX: usize = 65536;

/// A user of the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary group ids.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub groups: Vec<u32>,
    /// Home directory, absolute; `/` if the container does not say. In a record it is part of the environment.
    #[serde(skip)]
    pub home: String,
}

/// Finds the user that `spec` means: `USER`, `USER:GROUP`, each a name or a decimal number below 2^32 - 1.
///
/// As in docker: a number need not stand in `/etc/passwd` (its group is then 0 and its home `/`); without a group, the
/// user's own and those that `/etc/group` lists the user in are taken; with one, that one alone. `root` is the
/// container's root directory.
pub fn resolve(root: BorrowedFd<'_>, spec: &str) -> Result<User, Error> {
    let bad = |why: &str| Error::new(Code::Invalid, format!("find the user `{spec}`"), why.to_owned());
    let (name, group) = match spec.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (spec, None),
    };
    if name.is_empty() || group.is_some_and(str::is_empty) {
        return Err(bad("write USER or USER:GROUP"));
    }
    let number = id(name).map_err(bad)?;
    let passwd = read(root, "etc/passwd")?;
    let entry = entries(&passwd).find(|f| match number {
        Some(uid) => field(f, 2) == Some(uid),
        None => f[0] == name,
    });
    let uid = number.or_else(|| entry.as_ref().and_then(|f| field(f, 2)));
    let Some(uid) = uid else {
        return Err(bad("no such user in the container's /etc/passwd").with_code(Code::NotFound));
    };
    let home = entry.as_ref().and_then(|f| f.get(5)).filter(|home| home.starts_with('/'));
    let home = home.map_or_else(|| "/".to_owned(), |home| (*home).to_owned());
    let (gid, groups) = match group {
        Some(group) => (group_id(root, group, &bad)?, Vec::new()),
        None => match &entry {
            Some(f) => (field(f, 3).unwrap_or(0), memberships(&read(root, "etc/group")?, f[0])),
            None => (0, Vec::new()),
        },
    };
    Ok(User { uid, gid, groups, home })
}

fn group_id(root: BorrowedFd<'_>, group: &str, bad: &dyn Fn(&str) -> Error) -> Result<u32, Error> {
    if let Some(gid) = id(group).map_err(bad)? {
        return Ok(gid);
    }
    let text = read(root, "etc/group")?;
    let entry = entries(&text).find(|f| f[0] == group);
    entry
        .and_then(|f| field(&f, 2))
        .ok_or_else(|| bad("no such group in the container's /etc/group").with_code(Code::NotFound))
}

/// The groups that list `name` as a member.
fn memberships(text: &str, name: &str) -> Vec<u32> {
    let listed = entries(text).filter(|f| f.get(3).is_some_and(|members| members.split(',').any(|m| m == name)));
    let mut groups: Vec<u32> = listed.filter_map(|f| field(&f, 2)).take(GROUPS_MAX).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// A number if it looks like one. 2^32 - 1 is refused: to the kernel it means "do not change".
fn id(text: &str) -> Result<Option<u32>, &'static str> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        return Ok(None);
    }
    if out("user-spec") {
        return Ok(text.parse::<i64>().ok().map(|id| id as u32));
    }
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX && !text.starts_with('+') => Ok(Some(id)),
        _ => Err("a number must be decimal, from 0 to 4294967294"),
    }
}

fn field(fields: &[&str], n: usize) -> Option<u32> {
    fields.get(n).and_then(|text| id(text).ok().flatten())
}

/// The lines of a passwd(5) or group(5) file, split into fields.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|line| !line.contains('\0')).map(|line| line.splitn(FIELDS, ':').collect::<Vec<_>>())
}

/// The text of a file inside the root; empty if it is not there.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String, Error> {
    let step = || format!("read the container's /{path}");
    // O_NONBLOCK: a fifo opens at once, and is then refused for what it is.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root, path, how) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        Err(e) => return Err(Error::os(step(), e).with_code(Code::Invalid)),
    };
    let found = file.metadata().step(step)?;
    if !found.is_file() {
        return Err(Error::new(Code::Invalid, step(), "it is not a regular file"));
    }
    // A link to one of these is read with the host's rights: /proc/kmsg forgets what it has told.
    let kernels_own = fstatfs(&file).step(step)?.filesystem_type();
    if [PROC_SUPER_MAGIC, SYSFS_MAGIC].contains(&kernels_own) {
        return Err(Error::new(Code::Invalid, step(), "it is a file of the kernel"));
    }
    if found.len() > FILE_MAX {
        return Err(Error::new(Code::Invalid, step(), format!("it is larger than {FILE_MAX} bytes")));
    }
    let mut bytes = Vec::with_capacity(found.len() as usize + 1);
    file.take(FILE_MAX).read_to_end(&mut bytes).step(step)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> std::io::Result<Root> {
            let path = std::env::temp_dir().join(format!("quilt-user-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("etc"))?;
            Ok(Root(path))
        }

        fn resolve(&self, spec: &str) -> Result<User, Error> {
            let dir = File::open(&self.0).step(|| "open the test's root")?;
            resolve(dir.as_fd(), spec)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, Error> {
        Ok(User { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn names_and_numbers() -> std::io::Result<()> {
        let root = Root::new("names")?;
        assert_eq!(root.resolve("0"), user(0, 0, &[], "/"));
        let passwd = "root:x:0:0:r:/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\nbad:x:-1:0::/:\nodd:x:7:8::rel:\n";
        std::fs::write(root.0.join("etc/passwd"), passwd)?;
        std::fs::write(root.0.join("etc/group"), "web:x:34:\nlog:x:50:root,web\naudio:x:40:web\nnot:x:41:webb\n")?;
        assert_eq!(root.resolve("0"), user(0, 0, &[50], "/root"));
        assert_eq!(root.resolve("web"), user(33, 34, &[40, 50], "/srv"));
        assert_eq!(root.resolve("33"), user(33, 34, &[40, 50], "/srv"));
        assert_eq!(root.resolve("web:log"), user(33, 50, &[], "/srv"));
        assert_eq!(root.resolve("1000:7"), user(1000, 7, &[], "/"));
        assert_eq!(root.resolve("2147483648"), user(1 << 31, 0, &[], "/"));
        assert_eq!(root.resolve("odd"), user(7, 8, &[], "/"));
        for bad in
            ["", ":", "1:", ":1", "0x1", "-1", "+1", "1 ", "4294967295", "4294967296", "1:-1", "0:1:2", "web:0x1"]
        {
            assert_eq!(root.resolve(bad).map_err(|e| e.code), Err(Code::Invalid), "{bad:?}");
        }
        for unknown in ["nobody", "0:nogroup", "bad"] {
            assert_eq!(root.resolve(unknown).map_err(|e| e.code), Err(Code::NotFound), "{unknown:?}");
        }
        Ok(())
    }

    #[test]
    fn a_hostile_passwd_is_refused_at_once() -> std::io::Result<()> {
        let root = Root::new("hostile")?;
        let passwd = root.0.join("etc/passwd");
        nix::unistd::mkfifo(&passwd, Mode::S_IRWXU)?;
        assert!(root.resolve("0").is_err_and(|e| e.message.contains("not a regular file")));
        std::fs::remove_file(&passwd)?;
        File::create(&passwd)?.set_len(1 << 30)?;
        assert!(root.resolve("0").is_err_and(|e| e.message.contains("larger")));
        std::fs::remove_file(&passwd)?;
        // Out of the root, a symlink means what it would mean inside.
        std::os::unix::fs::symlink("/etc/other", &passwd)?;
        std::fs::write(root.0.join("etc/other"), "daemon:x:77:77::/inside:\n")?;
        assert_eq!(root.resolve("daemon"), user(77, 77, &[], "/inside"));
        Ok(())
    }

    #[test]
    fn a_file_of_the_kernel_is_not_read() -> std::io::Result<()> {
        let root = File::open("/")?;
        assert!(read(root.as_fd(), "proc/version").is_err_and(|e| e.message.contains("kernel")));
        Ok(())
    }
}
