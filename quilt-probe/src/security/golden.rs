//! The list: what is mounted, masked, read-only and a device in a container that asks for nothing.

use std::collections::BTreeMap;

use quilt_record::have::Device;

use super::facts::Mount;

/// What a container asked for beside the list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// Whether its root is to be read-only.
    pub(crate) read_only: bool,
    /// Where it has volumes and file systems of its own.
    pub(crate) mounts: Vec<String>,
    /// Its devices of the host.
    pub(crate) devices: Vec<Device>,
}

/// What must be mounted: where, the type, and the options that it must have at least.
const MOUNTED: [(&str, &str, &[&str]); 7] = [
    ("/", "overlay", &["nodev"]),
    ("/proc", "proc", &["nosuid", "nodev", "noexec"]),
    ("/sys", "sysfs", &["ro", "nosuid", "nodev", "noexec"]),
    ("/dev", "tmpfs", &["nosuid"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec"]),
    ("/dev/shm", "tmpfs", &["nosuid", "nodev", "noexec"]),
    ("/dev/mqueue", "mqueue", &["nosuid", "nodev", "noexec"]),
];

/// Masked, with what is the matter with each: nothing of it may be read.
const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Files that set the kernel as a whole: none may be opened for writing.
pub(crate) const READ_ONLY: [&str; 10] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/proc/bus/pci/devices",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/power/state",
];

/// Below these everything that is mounted covers something: it must be read-only.
const COVERED: [&str; 2] = ["/proc/", "/sys/"];

/// Everybody's devices.
const DEVICES: [(&str, &str); 6] = [
    ("/dev/full", "c 1:7"),
    ("/dev/null", "c 1:3"),
    ("/dev/random", "c 1:8"),
    ("/dev/tty", "c 5:0"),
    ("/dev/urandom", "c 1:9"),
    ("/dev/zero", "c 1:5"),
];

/// The paths of which nothing may be read.
pub(crate) fn masked() -> Vec<&'static str> {
    let counters = "/sys/devices/system/cpu/cpu0/thermal_throttle";
    MASKED.into_iter().chain([counters]).collect()
}

/// What is wrong with the mounts.
pub(crate) fn mounts(seen: &[Mount], own: &Own) -> Vec<String> {
    let mut wrong = Vec::new();
    for (target, fstype, options) in MOUNTED {
        // The last is on top.
        let Some(mount) = seen.iter().rev().find(|mount| mount.target == target) else {
            wrong.push(format!("nothing is mounted on {target}"));
            continue;
        };
        if mount.fstype != fstype {
            wrong.push(format!("what is mounted on {target} is {} and must be {fstype}", mount.fstype));
        }
        let read_only = (target == "/" && own.read_only).then_some(&"ro");
        for option in options.iter().chain(read_only).filter(|option| !mount.options.iter().any(|is| is == *option)) {
            wrong.push(format!("{target} is not mounted {option}"));
        }
    }
    for mount in seen {
        let target = mount.target.as_str();
        let covers = COVERED.iter().any(|top| target.starts_with(top));
        let known = covers || MOUNTED.iter().any(|(known, ..)| *known == target);
        // A volume brings what is mounted below it.
        let asked = own
            .mounts
            .iter()
            .any(|own| target == own || target.starts_with(&format!("{}/", own.trim_end_matches('/'))));
        if !known && !asked && !is_hidden(mount) {
            wrong.push(format!("{} is mounted on {target}, which nobody asked for", mount.fstype));
        }
        // A null device takes what is written, and keeps nothing.
        let null = mount.fstype == "tmpfs" && mount.root == "/null";
        if covers && !null && !mount.options.iter().any(|is| is == "ro") {
            wrong.push(format!("{target} can be written"));
        }
    }
    wrong
}

/// An empty read-only file system, which hides Quilt's own state in a container whose image is the host's tree.
fn is_hidden(mount: &Mount) -> bool {
    mount.fstype == "tmpfs"
        && mount.options.iter().any(|is| is == "nr_inodes=2")
        && mount.options.iter().any(|is| is == "ro")
}

/// What is wrong with the devices.
pub(crate) fn devices(seen: &BTreeMap<String, String>, own: &Own) -> Vec<String> {
    let mut must: BTreeMap<String, String> =
        DEVICES.iter().map(|(path, numbers)| ((*path).to_owned(), (*numbers).to_owned())).collect();
    must.extend(own.devices.iter().map(|d| (d.path.clone(), format!("{} {}:{}", d.kind, d.major, d.minor))));
    let missing = must.iter().filter(|(path, numbers)| seen.get(*path) != Some(numbers));
    let missing = missing.map(|(path, numbers)| format!("{path} is not the device {numbers}"));
    let more = seen.iter().filter(|(path, _)| !must.contains_key(*path));
    missing.chain(more.map(|(path, numbers)| format!("{path} is a device ({numbers}) that nobody asked for"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(target: &str, fstype: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Mount { target: target.to_owned(), root: "/".to_owned(), fstype: fstype.to_owned(), options }
    }

    fn good() -> Vec<Mount> {
        MOUNTED.map(|(target, fstype, options)| mount(target, fstype, options)).to_vec()
    }

    #[test]
    fn mounts_that_are_missing_weaker_or_more() {
        assert_eq!(mounts(&good(), &Own::default()), [""; 0]);
        let mut bad = good();
        bad.remove(5);
        bad[0].options.clear();
        bad.push(mount("/proc/sys", "proc", &["rw"]));
        bad.push(mount("/mnt", "ext4", &["rw"]));
        bad.push(mount("/data/x", "ext4", &["rw"]));
        let own = Own { read_only: true, mounts: vec!["/data".to_owned()], ..Own::default() };
        let wrong = [
            "/ is not mounted nodev",
            "/ is not mounted ro",
            "nothing is mounted on /dev/shm",
            "/proc/sys can be written",
            "ext4 is mounted on /mnt, which nobody asked for",
        ];
        assert_eq!(mounts(&bad, &own), wrong);
    }

    #[test]
    fn devices_that_are_missing_or_more() {
        let mut seen: BTreeMap<String, String> =
            DEVICES.iter().map(|(path, numbers)| ((*path).to_owned(), (*numbers).to_owned())).collect();
        assert_eq!(devices(&seen, &Own::default()), [""; 0]);
        seen.insert("/dev/null".to_owned(), "c 1:5".to_owned());
        seen.insert("/dev/sda".to_owned(), "b 8:0".to_owned());
        let wrong = ["/dev/null is not the device c 1:3", "/dev/sda is a device (b 8:0) that nobody asked for"];
        assert_eq!(devices(&seen, &Own::default()), wrong);
    }
}
