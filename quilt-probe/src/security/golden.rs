//! The list: what is mounted, masked, read-only and a device in a container that asks for nothing.

use std::collections::BTreeMap;

use quilt_record::have::Device;

use super::facts::Mount;

/// What a container asked for beside the list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Own {
    /// Whether its root is to be read-only.
    pub(crate) read_only: bool,
    /// Its volumes and file systems in memory.
    pub(crate) mounts: Vec<Extra>,
    /// Its directories in the hierarchies of cgroups: device and inode numbers.
    pub(crate) cgroups: Vec<(u64, u64)>,
    /// Its devices of the host.
    pub(crate) devices: Vec<Device>,
}

impl Own {
    /// What was asked for that a path is in: a volume brings what is mounted below it, and the nearest counts.
    fn nearest(&self, path: &str) -> Option<&Extra> {
        self.mounts.iter().filter(|own| own.holds(path)).max_by_key(|own| own.target.len())
    }
}

/// Something that was to be mounted beside what every container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Where.
    pub(crate) target: String,
    /// The type of the file system, where that is not the source's.
    pub(crate) fstype: Option<&'static str>,
    /// The options that it must have at least, with all that is mounted below it.
    pub(crate) options: Vec<&'static str>,
}

impl Extra {
    /// What `--volume SRC:DST[:ro]` asks.
    pub(crate) fn volume(text: &str) -> Option<Extra> {
        let mut words = text.split(':').skip(1);
        let target = words.next()?.to_owned();
        let read_only = words.next().filter(|option| *option == "ro").map(|_| "ro");
        Some(Extra { target, fstype: None, options: ["nosuid", "nodev"].into_iter().chain(read_only).collect() })
    }

    /// What `--tmpfs DIR[:OPTION,…]` asks.
    pub(crate) fn tmpfs(text: &str) -> Extra {
        let (target, asked) = text.split_once(':').unwrap_or((text, ""));
        // Of two that contradict each other, the last counts.
        let last = |set: &str, clear: &str| asked.split(',').rfind(|option| *option == set || *option == clear);
        let set = |set: &'static str, clear: &str, usual: bool| {
            last(set, clear).map_or(usual, |option| option == set).then_some(set)
        };
        let options = [Some("nodev"), set("nosuid", "suid", true), set("noexec", "exec", true), set("ro", "rw", false)];
        let options = options.into_iter().flatten().collect();
        Extra { target: target.to_owned(), fstype: Some("tmpfs"), options }
    }

    /// Whether a path is it or below it.
    fn holds(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.target.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
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
const MASKED: [&str; 16] = [
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
        match own.nearest(target) {
            Some(asked) if !known => {
                let missing = asked.options.iter().filter(|option| !mount.options.iter().any(|is| is == *option));
                wrong.extend(missing.map(|option| format!("{target} is not mounted {option}")));
            }
            None if !known && !is_hidden(mount) => {
                wrong.push(format!("{} is mounted on {target}, which nobody asked for", mount.fstype));
            }
            _ => {}
        }
        // A null device takes what is written, and keeps nothing.
        let null = mount.fstype == "tmpfs" && mount.root == "/null";
        if covers && !null && !mount.options.iter().any(|is| is == "ro") {
            wrong.push(format!("{target} can be written"));
        }
    }
    for asked in &own.mounts {
        match (seen.iter().rev().find(|mount| mount.target == asked.target), asked.fstype) {
            (None, _) => wrong.push(format!("nothing is mounted on {}", asked.target)),
            (Some(mount), Some(fstype)) if mount.fstype != fstype => {
                wrong.push(format!("what is mounted on {} is {} and must be {fstype}", asked.target, mount.fstype));
            }
            _ => {}
        }
    }
    wrong
}

/// What is wrong with the cgroups that are shown: device and inode numbers by mount point. A volume shows those of its
/// source, whosever they are.
pub(crate) fn cgroups(seen: &BTreeMap<String, Result<(u64, u64), String>>, own: &Own) -> Vec<String> {
    let of_volume = |path: &str| own.nearest(path).is_some_and(|asked| asked.fstype.is_none());
    let seen = seen.iter().filter(|(target, _)| !of_volume(target));
    seen.filter_map(|(target, numbers)| match numbers {
        Ok(numbers) if own.cgroups.contains(numbers) => None,
        Ok(_) => Some(format!("what is mounted on {target} is not the container's own cgroup")),
        Err(why) => Some(format!("cannot look from inside at what is mounted on {target}: {why}")),
    })
    .collect()
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
        let data = Extra { target: "/data".to_owned(), fstype: None, options: Vec::new() };
        let own = Own { read_only: true, mounts: vec![data], ..Own::default() };
        let wrong = [
            "/ is not mounted nodev",
            "/ is not mounted ro",
            "nothing is mounted on /dev/shm",
            "/proc/sys can be written",
            "ext4 is mounted on /mnt, which nobody asked for",
            "nothing is mounted on /data",
        ];
        assert_eq!(mounts(&bad, &own), wrong);
    }

    #[test]
    fn what_was_asked_for_has_the_options_that_it_was_asked_with() {
        let extra = |target: &str, fstype, options: &[&'static str]| Extra {
            target: target.to_owned(),
            fstype,
            options: options.to_vec(),
        };
        assert_eq!(Extra::volume("/a:/b"), Some(extra("/b", None, &["nosuid", "nodev"])));
        assert_eq!(Extra::volume("/a:/b:ro"), Some(extra("/b", None, &["nosuid", "nodev", "ro"])));
        assert_eq!(Extra::volume("/a"), None);
        assert_eq!(Extra::tmpfs("/t"), extra("/t", Some("tmpfs"), &["nodev", "nosuid", "noexec"]));
        let options = extra("/t", Some("tmpfs"), &["nodev", "nosuid", "ro"]);
        assert_eq!(Extra::tmpfs("/t:mode=755,noexec,exec,suid,nosuid,ro"), options);
        let own = Own {
            mounts: ["/a:/b:ro", "/a:/c"].into_iter().filter_map(Extra::volume).chain([Extra::tmpfs("/b/t")]).collect(),
            ..Own::default()
        };
        let all = ["rw", "ro", "nosuid", "nodev", "noexec"];
        let with = |extra: &[Mount]| [good(), extra.to_vec()].concat();
        let as_asked =
            with(&[mount("/b", "ext4", &all), mount("/b/t", "tmpfs", &all[2..]), mount("/c", "ext4", &all[2..4])]);
        assert_eq!(mounts(&as_asked, &own), [""; 0]);
        let others = with(&[
            mount("/b", "ext4", &["ro", "nosuid"]),
            mount("/b/sub", "ext4", &["rw", "nosuid", "nodev"]),
            mount("/b/t", "ext4", &["rw", "nosuid", "nodev"]),
            mount("/cc", "ext4", &all),
        ]);
        let wrong = [
            "/b is not mounted nodev",
            "/b/sub is not mounted ro",
            "/b/t is not mounted noexec",
            "ext4 is mounted on /cc, which nobody asked for",
            "nothing is mounted on /c",
            "what is mounted on /b/t is ext4 and must be tmpfs",
        ];
        assert_eq!(mounts(&others, &own), wrong);
    }

    #[test]
    fn cgroups_of_others() {
        let seen = [
            ("/host/sys/fs/cgroup", Ok((30, 1))),
            ("/host/sys/gone", Err("Permission denied".to_owned())),
            ("/sys/fs/cgroup/cpu", Err("Permission denied".to_owned())),
            ("/sys/fs/cgroup/memory", Ok((30, 5))),
            ("/sys/fs/cgroup/pids", Ok((31, 1))),
            ("/t/cgroup", Ok((31, 1))),
        ];
        let seen = seen.map(|(target, numbers)| (target.to_owned(), numbers)).into();
        let mounts = Extra::volume("/sys:/host/sys:ro").into_iter().chain([Extra::tmpfs("/t")]).collect();
        let own = Own { cgroups: vec![(30, 5), (31, 6)], mounts, ..Own::default() };
        let wrong = [
            "cannot look from inside at what is mounted on /sys/fs/cgroup/cpu: Permission denied",
            "what is mounted on /sys/fs/cgroup/pids is not the container's own cgroup",
            "what is mounted on /t/cgroup is not the container's own cgroup",
        ];
        assert_eq!(cgroups(&seen, &own), wrong);
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
