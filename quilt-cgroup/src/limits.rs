//! What was asked for, in the kernel's files.

use std::fs;
use std::path::Path;

use quilt_record::error::{Code, Error, Step as _};
use quilt_record::units::{Limit, Size};

use crate::numbers::Numbers;
use crate::want::Want;
use crate::weight;

/// Processes and threads of a container that nobody said anything about.
const PIDS: Limit<u64> = Limit::Of(2048);

/// The kernel's default period of a CPU quota, in microseconds (`cpu.max`, `cpu.cfs_period_us`); always used.
const PERIOD_US: f64 = 100_000.0;

/// A file of the container's cgroup, and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) file: &'static str,
    pub(crate) text: String,
    /// The same for another scheduler of disks: a kernel may have either or both, and only a disk knows whose it is.
    pub(crate) also: Option<(&'static str, String)>,
}

impl Want {
    /// The controllers, by v2's names, that what was asked for cannot do without.
    pub(crate) fn required(&self) -> Vec<&'static str> {
        let memory = self.memory.is_some() || self.memory_high.is_some() || self.memory_soft.is_some();
        let cpu = self.cpu.is_some() || self.cpu_weight.is_some() || self.cpu_shares.is_some() || self.cpus.is_some();
        let asked = [
            ("memory", memory || self.swap.is_some()),
            ("cpu", cpu),
            ("pids", self.pids.unwrap_or(PIDS) != Limit::Max),
            ("io", self.io_weight.is_some() || !self.io_max.is_empty()),
            ("cpuset", self.cpuset.is_some() || self.cpuset_mems.is_some()),
        ];
        asked.into_iter().filter(|(_, is)| *is).map(|(controller, _)| controller).collect()
    }

    /// The limits that belong to the controller, by v2's name, on a hierarchy of that version. `parent` is the cgroup
    /// above the container's.
    pub(crate) fn settings(&self, controller: &str, version: u8, parent: &Path) -> Result<Vec<Setting>, Error> {
        let mut settings = Settings(Vec::new());
        match controller {
            "memory" => self.memory_settings(version, &mut settings)?,
            "cpu" => self.cpu_settings(version, &mut settings),
            "pids" => {
                let limit = self.pids.unwrap_or(PIDS);
                settings.put("pids.max", limit.value().map_or("max".to_owned(), |n| n.to_string()));
            }
            "io" => self.io_settings(version, &mut settings)?,
            "cpuset" => {
                self.cpuset.iter().try_for_each(|cpus| settings.list("cpuset.cpus", cpus, version, parent))?;
                self.cpuset_mems.iter().try_for_each(|mems| settings.list("cpuset.mems", mems, version, parent))?;
            }
            _ => {}
        }
        Ok(settings.0)
    }

    fn memory_settings(&self, version: u8, settings: &mut Settings) -> Result<(), Error> {
        let bytes = |limit: Option<Size>, none: &str| limit.map_or(none.to_owned(), |size| size.0.to_string());
        if version == 2 {
            let max = |limit: Limit<Size>| bytes(limit.value(), "max");
            settings.put_if("memory.max", self.memory.map(max));
            settings.put_if("memory.high", self.memory_high.map(max));
            settings.put_if("memory.low", self.memory_soft.map(|size| size.0.to_string()));
            settings.put_if("memory.swap.max", self.swap.map(max));
            return Ok(());
        }
        if self.memory_high.is_some() {
            let message = "the memory controller has memory.high on cgroup v2 only, and this host has it on v1";
            return Err(Error::new(Code::Unsupported, "limit memory-high", message));
        }
        settings.put_if("memory.limit_in_bytes", self.memory.map(|limit| bytes(limit.value(), "-1")));
        let soft = self.memory_soft.map(|size| bytes(Some(size).filter(|size| size.0 > 0), "-1"));
        settings.put_if("memory.soft_limit_in_bytes", soft);
        match (self.swap, self.memory.and_then(Limit::value)) {
            (None, _) => {}
            (Some(Limit::Max), _) => settings.put("memory.memsw.limit_in_bytes", "-1".to_owned()),
            // v1 limits both together.
            (Some(Limit::Of(swap)), Some(memory)) => {
                settings.put("memory.memsw.limit_in_bytes", memory.0.saturating_add(swap.0).to_string());
            }
            (Some(_), None) => {
                let message = "cgroup v1 limits swap together with memory: give --memory too";
                return Err(Error::new(Code::Invalid, "read --swap", message));
            }
        }
        Ok(())
    }

    fn cpu_settings(&self, version: u8, settings: &mut Settings) {
        let weight = self.cpu_weight.or(self.cpu.map(weight::of_percent));
        let quota = |cpus: f64| (cpus * PERIOD_US).round() as u64;
        if version == 2 {
            let weight = weight.or(self.cpu_shares.map(weight::of_shares));
            settings.put_if("cpu.weight", weight.map(|weight| weight.to_string()));
            let max = |cpus: Limit<f64>| cpus.value().map_or("max".to_owned(), |cpus| quota(cpus).to_string());
            settings.put_if("cpu.max", self.cpus.map(|cpus| format!("{} {PERIOD_US}", max(cpus))));
        } else {
            let shares = self.cpu_shares.or(weight.map(weight::to_shares));
            settings.put_if("cpu.shares", shares.map(|shares| shares.to_string()));
            let max = |cpus: Limit<f64>| cpus.value().map_or("-1".to_owned(), |cpus| quota(cpus).to_string());
            settings.put_if("cpu.cfs_quota_us", self.cpus.map(max));
        }
    }

    fn io_settings(&self, version: u8, settings: &mut Settings) -> Result<(), Error> {
        if let Some(io) = self.io_weight {
            let bfq = weight::to_bfq(io).to_string();
            if version == 2 {
                let also = Some(("io.bfq.weight", bfq));
                settings.0.push(Setting { file: "io.weight", text: io.to_string(), also });
            } else {
                settings.put("blkio.bfq.weight", bfq);
            }
        }
        for io in &self.io_max {
            io.files(version)?.into_iter().for_each(|(file, text)| settings.put(file, text));
        }
        Ok(())
    }
}

struct Settings(Vec<Setting>);

impl Settings {
    fn put(&mut self, file: &'static str, text: String) {
        self.0.push(Setting { file, text, also: None });
    }

    fn put_if(&mut self, file: &'static str, text: Option<String>) {
        text.into_iter().for_each(|text| self.put(file, text));
    }

    /// A list of CPUs or nodes. What the parent does not have is refused: v2 takes it in silence, and gives others.
    fn list(&mut self, file: &'static str, list: &Numbers, version: u8, parent: &Path) -> Result<(), Error> {
        // `all` is written out: v2 takes an empty list for that, but not from a cgroup that has processes and had a list.
        let text = given(&if version == 1 { file.to_owned() } else { format!("{file}.effective") }, &parent.join("x"))?;
        let has: Numbers = text.parse().map_err(|e: String| Error::new(Code::Io, "find the CPUs", e))?;
        if let Some(missing) = list.missing_in(&has) {
            let flag = if file == "cpuset.cpus" { "cpuset" } else { "cpuset-mems" };
            let message = format!("{missing} is not there: the parent cgroup has {has}");
            return Err(Error::new(Code::Invalid, format!("read --{flag}"), message));
        }
        let text = if *list == Numbers::All { has.to_string() } else { list.to_string() };
        self.put(file, text);
        Ok(())
    }
}

/// What a cgroup gets of its parent in a file of cpuset's: what the nearest one above has that is there, else what the
/// machine has. (A kernel that knows no NUMA has node 0.)
pub(crate) fn given(file: &str, cgroup: &Path) -> Result<String, Error> {
    let set = |text: &String| !text.trim().is_empty();
    let above = cgroup.ancestors().skip(1).find_map(|at| fs::read_to_string(at.join(file)).ok().filter(set));
    if let Some(text) = above {
        return Ok(text.trim().to_owned());
    }
    let what = if file.starts_with("cpuset.cpus") { "cpu" } else { "node" };
    let path = format!("/sys/devices/system/{what}/online");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && what == "node" => Ok("0".to_owned()),
        Err(e) => Err(e).step(|| format!("read {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 4] = ["memory", "cpu", "pids", "io"];

    fn text(want: &Want, version: u8) -> Result<Vec<String>, Error> {
        let settings = ALL.iter().map(|c| want.settings(c, version, Path::new("/")));
        let settings = settings.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(settings.iter().map(|s| format!("{}={}", s.file, s.text)).collect())
    }

    #[test]
    fn every_limit_has_its_files() -> Result<(), Error> {
        let mut want = Want {
            memory: Some(Limit::Of(Size(512 << 20))),
            memory_soft: Some(Size(64 << 20)),
            swap: Some(Limit::Of(Size(0))),
            cpu: Some(50.0),
            cpus: Some(Limit::Of(1.5)),
            pids: Some(Limit::Of(64)),
            io_weight: Some(1000),
            ..Want::default()
        };
        assert_eq!(
            text(&want, 1)?,
            [
                "memory.limit_in_bytes=536870912",
                "memory.soft_limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=536870912",
                "cpu.shares=5120",
                "cpu.cfs_quota_us=150000",
                "pids.max=64",
                "blkio.bfq.weight=181",
            ]
        );
        want.memory_high = Some(Limit::Of(Size(256 << 20)));
        assert_eq!(
            text(&want, 2)?,
            [
                "memory.max=536870912",
                "memory.high=268435456",
                "memory.low=67108864",
                "memory.swap.max=0",
                "cpu.weight=500",
                "cpu.max=150000 100000",
                "pids.max=64",
                "io.weight=1000",
            ]
        );
        assert_eq!(text(&want, 1).err().map(|e| e.code), Some(Code::Unsupported));
        assert_eq!(text(&Want::default(), 2)?, ["pids.max=2048"]);
        Ok(())
    }

    #[test]
    fn limits_are_lifted_by_each_versions_word() -> Result<(), Error> {
        let want = Want {
            memory: Some(Limit::Max),
            memory_soft: Some(Size(0)),
            swap: Some(Limit::Max),
            cpu_shares: Some(2048),
            cpus: Some(Limit::Max),
            pids: Some(Limit::Max),
            ..Want::default()
        };
        assert_eq!(
            text(&want, 1)?,
            [
                "memory.limit_in_bytes=-1",
                "memory.soft_limit_in_bytes=-1",
                "memory.memsw.limit_in_bytes=-1",
                "cpu.shares=2048",
                "cpu.cfs_quota_us=-1",
                "pids.max=max",
            ]
        );
        assert_eq!(
            text(&want, 2)?,
            [
                "memory.max=max",
                "memory.low=0",
                "memory.swap.max=max",
                "cpu.weight=174",
                "cpu.max=max 100000",
                "pids.max=max",
            ]
        );
        assert_eq!(want.required(), ["memory", "cpu"]);
        Ok(())
    }
}
