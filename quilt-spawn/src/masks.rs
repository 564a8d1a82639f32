//! What of the kernel's own file systems a container does not see, and what it cannot write.

use std::path::PathBuf;

use quilt_record::defence::out;

/// Hidden: below /proc and /sys, what tells about the host (its serial numbers, in dmi) or about other containers, or
/// reaches into firmware. A file is covered by the container's null device, a directory by an empty one.
pub const MASKED: [&str; 16] = [
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
    "/sys/devices/virtual/dmi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Cannot be written: what sets the kernel as a whole.
pub const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What of the two lists this kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Files to mask.
    pub files: Vec<PathBuf>,
    /// Directories to mask.
    pub dirs: Vec<PathBuf>,
    /// Paths to make read-only.
    pub read_only: Vec<PathBuf>,
}

impl Present {
    /// Looks: what is not below a pid in /proc is the same in every mount of it, and so is /sys.
    pub fn look() -> Present {
        let mut present = Present::default();
        let throttles = thermal_throttles();
        for path in MASKED.iter().map(PathBuf::from).chain(throttles).filter(|_| !out("masks")) {
            match path.symlink_metadata() {
                Ok(found) if found.is_dir() => present.dirs.push(path),
                Ok(_) => present.files.push(path),
                Err(_) => {}
            }
        }
        present.read_only = READONLY.iter().map(PathBuf::from).filter(|path| path.symlink_metadata().is_ok()).collect();
        if out("read-only-paths") {
            present.read_only.clear();
        }
        present
    }
}

/// The thermal counters of every CPU (a side channel between containers), where the first one has them.
fn thermal_throttles() -> Vec<PathBuf> {
    let of = |cpu: usize| PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"));
    (0..).map(of).take_while(|path| path.exists()).collect()
}
