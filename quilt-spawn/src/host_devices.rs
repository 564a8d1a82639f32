//! The host's devices, for `--privileged`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use quilt_record::have::Device;

use crate::plan::{DEVICES, SYMLINKS};

/// Whether it is in /dev for every container, or is a place for another file system.
fn is_everybodys(path: &Path) -> bool {
    let made = DEVICES.iter().map(|(name, ..)| *name).chain(SYMLINKS.iter().map(|(name, _)| *name));
    made.chain(["pts", "shm", "mqueue", "console"]).any(|name| path == Path::new("/dev").join(name))
}

/// All devices that the host has in /dev, by their paths, without those that every container has, and without what is on
/// another file system there.
pub fn all() -> Vec<Device> {
    let mut devices = Vec::new();
    look(Path::new("/dev"), &mut devices);
    devices.sort_by(|a, b| a.path.cmp(&b.path));
    devices
}

fn look(dir: &Path, devices: &mut Vec<Device>) {
    // What goes away meanwhile is not there.
    let (Ok(own), Ok(entries)) = (dir.symlink_metadata(), fs::read_dir(dir)) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let (Ok(found), false) = (entry.metadata(), is_everybodys(&path)) else { continue };
        if found.is_dir() && found.dev() == own.dev() {
            look(&path, devices);
        } else if let Some(name) = path.to_str() {
            devices.extend(Device::of(&found, name.to_owned(), "rwm".to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_devices_without_everybodys() {
        let devices = all();
        for own in ["null", "tty", "pts/0", "console"] {
            assert!(!devices.iter().any(|device| device.path == format!("/dev/{own}")), "{own}");
        }
    }
}
