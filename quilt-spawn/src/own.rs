//! Quilt's own state, by whatever path it shows: whoever can write there can do all that Quilt can, and whoever can read
//! there knows what the other containers do.
//!
//! A path is not enough to tell, as a directory may be mounted in many places, nor is the number of its inode, as what is
//! mounted may be a directory in it. So both are told by where they are in their file system.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat, readlink};
use nix::sys::stat::Mode;

use quilt_record::error::Step as _;
use quilt_record::{Code, Error, Instance, mountinfo, sys};

use crate::inside::path_of;

/// The state, where it is now.
pub struct Own {
    /// The mount table.
    table: Vec<u8>,
    /// The paths, without links, and the places.
    all: Vec<(PathBuf, Place)>,
}

/// A directory or file of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The file system: `8:1`.
    device: String,
    /// From its root.
    path: PathBuf,
}

impl Own {
    /// This instance's, and the machine's own.
    pub fn find(instance: &Instance) -> Result<Own, Error> {
        let mut own = Own { table: mountinfo::read("self")?, all: Vec::new() };
        for path in [instance.state(), instance.run(), Path::new("/var/lib/quilt"), Path::new("/run/quilt")] {
            if let Ok(dir) = openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
                let located = own.locate(dir.as_fd())?;
                own.all.push(located);
            }
        }
        Ok(own)
    }

    /// Where the descriptor's path leads to, and its place.
    fn locate(&mut self, of: BorrowedFd<'_>) -> Result<(PathBuf, Place), Error> {
        if let Some(located) = self.look_up(of)? {
            return Ok(located);
        }
        // What opens a path may mount what it leads to (autofs(5)), and then the table is from before.
        self.table = mountinfo::read("self")?;
        let why = "it is in another mount namespace, or somebody moves it about";
        self.look_up(of)?.ok_or_else(|| Error::new(Code::Invalid, "find where it is", why))
    }

    /// The same, by the table that there is.
    fn look_up(&self, of: BorrowedFd<'_>) -> Result<Option<(PathBuf, Place)>, Error> {
        let real = PathBuf::from(readlink(&path_of(of)).step(|| "find where it is")?);
        let id = sys::mount_id(of).step(|| "find the mount that it is on")?;
        let mount = mountinfo::mounts(&self.table).find(|mount| mount.id == id);
        let below = mount.and_then(|mount| Some((real.strip_prefix(&mount.point).ok()?, mount)));
        let place =
            below.map(|(below, mount)| Place { device: mount.device.as_ref().into(), path: mount.root.join(below) });
        Ok(place.map(|place| (real, place)))
    }

    /// What of the state would be seen in the directory or file, with all that is mounted below it, in words.
    pub fn shown_by(&mut self, source: BorrowedFd<'_>) -> Result<Option<String>, Error> {
        let (real, place) = self.locate(source)?;
        let relation = |what: &str, shown: &Place| {
            let meets = |(path, own): &(PathBuf, Place)| {
                let how = meet(shown, own)?;
                Some(format!("{what} {how} Quilt's own state, {}", path.display()))
            };
            self.all.iter().find_map(meets)
        };
        // What is mounted in the state is on other file systems.
        let own = |path: &Path| self.all.iter().find(|(own, _)| path.starts_with(own));
        if let Some((own, _)) = own(&real) {
            return Ok(Some(format!("it belongs to Quilt's own state, {}", own.display())));
        }
        let below =
            mountinfo::mounts(&self.table).filter(|mount| mount.point.starts_with(&real) && *mount.point != *real);
        let mut mounted = below.map(|mount| {
            let place = Place { device: mount.device.into(), path: mount.root.into() };
            relation(&format!("{}, which is mounted below it,", mount.point.display()), &place)
        });
        Ok(relation("it", &place).or_else(|| mounted.find_map(|said| said)))
    }

    /// What of the state is in the directory itself, as paths below it: what overlayfs shows of a layer, which is nothing
    /// that is mounted there. `None` if all of it is the state's.
    pub fn within(&mut self, dir: BorrowedFd<'_>) -> Result<Option<Vec<PathBuf>>, Error> {
        let (real, place) = self.locate(dir)?;
        let mut all = Vec::new();
        for (path, own) in &self.all {
            if real.starts_with(path) || meet(&place, own) == Some("belongs to") {
                return Ok(None);
            }
            // Also where it is mounted: what it is mounted on may hold what there was before.
            let same = own.device == place.device;
            all.extend(path.strip_prefix(&real).ok().map(Path::to_owned));
            all.extend(own.path.strip_prefix(&place.path).ok().filter(|_| same).map(Path::to_owned));
        }
        all.sort();
        all.dedup_by(|next, kept| next.starts_with(kept));
        Ok(Some(all))
    }
}

/// How the one is to the other, if they have anything to do with each other.
fn meet(shown: &Place, own: &Place) -> Option<&'static str> {
    if shown.device != own.device {
        None
    } else if shown.path.starts_with(&own.path) {
        Some("belongs to")
    } else {
        own.path.starts_with(&shown.path).then_some("contains")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_was_mounted_after_the_table_was_read_is_found() -> Result<(), Error> {
        let step = || "open /proc";
        let (proc, dir) = (File::open("/proc").step(step)?, File::open("/proc/sys").step(step)?);
        let mut own = Own { table: Vec::new(), all: Vec::new() };
        assert_eq!(own.look_up(proc.as_fd())?, None);
        own.all = vec![own.locate(proc.as_fd())?];
        own.table.clear();
        let said = "it belongs to Quilt's own state, /proc";
        assert_eq!(own.shown_by(dir.as_fd())?.as_deref(), Some(said));
        own.table.clear();
        assert_eq!(own.within(dir.as_fd())?, None);
        Ok(())
    }

    #[test]
    fn places_meet_by_file_system_and_path() {
        let place = |device: &str, path: &str| Place { device: device.to_owned(), path: path.into() };
        let own = place("8:1", "/var/lib/quilt");
        for (device, path, how) in [
            ("8:1", "/", Some("contains")),
            ("8:1", "/var/lib", Some("contains")),
            ("8:1", "/var/lib/quilt", Some("belongs to")),
            ("8:1", "/var/lib/quilt/containers/x", Some("belongs to")),
            ("8:1", "/var/lib/quilted", None),
            ("8:1", "/srv", None),
            ("8:2", "/var/lib/quilt", None),
        ] {
            assert_eq!(meet(&place(device, path), &own), how, "{device} {path}");
        }
    }
}
