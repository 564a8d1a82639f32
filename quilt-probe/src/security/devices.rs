//! Which devices a container may use, by the policy that is in force on its cgroup: looked at from outside.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::AsFd;

use quilt_record::have::{Cgroup, Device};
use quilt_record::{Error, Step, sys};

use crate::report::Evidence;

/// What everybody may do with devices: kind, numbers (`*` for every one), what of `r`, `w`, `m`.
const EVERYBODYS: [&str; 8] =
    ["c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rw", "c 136:* rw"];

/// How the note begins that there is no policy, for none could be had on this host (quilt-cgroup's `policy.rs`).
const NO_POLICY: &str = "no device policy";

/// How the note begins that some of everybody's devices are not allowed by the cgroup above (the same file).
const LESS: &str = "without some of everybody's devices";

/// One line of v1's `devices.list` (device-cgroup.rst): `c 1:3 rwm`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `c 1:3`.
    which: String,
    /// Some of `rwm`.
    access: String,
}

impl Rule {
    fn read(line: &str) -> Option<Rule> {
        let (which, access) = line.trim().rsplit_once(' ')?;
        Some(Rule { which: which.to_owned(), access: access.to_owned() })
    }

    /// What of it is beyond `others`.
    fn beyond(&self, others: &[Rule]) -> Option<Rule> {
        let same = |other: &&Rule| other.which == self.which;
        let allowed = |letter: char| others.iter().filter(same).any(|other| other.access.contains(letter));
        let access: String = self.access.chars().filter(|letter| !allowed(*letter)).collect();
        (!access.is_empty()).then(|| Rule { which: self.which.clone(), access })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.which, self.access)
    }
}

/// What is wrong with the policy of a container that is not privileged.
pub(crate) fn policy(cgroup: &Cgroup, evidence: &mut Evidence) -> Result<Vec<String>, Error> {
    if let Some(note) = cgroup.notes.iter().find(|note| note.starts_with(NO_POLICY)) {
        evidence.note("device_policy", note);
        return Ok(Vec::new());
    }
    let v1 = cgroup.hierarchies.iter().find(|hierarchy| hierarchy.version == 1 && hierarchy.has("devices"));
    if let Some(hierarchy) = v1 {
        let path = hierarchy.path.join("devices.list");
        let list = fs::read_to_string(&path).step(|| format!("read {}", path.display()))?;
        evidence.note("device_policy", "v1");
        return Ok(wrong(&list, &cgroup.devices, is_whole(&cgroup.notes)));
    }
    let Some(tree) = cgroup.hierarchies.iter().find(|hierarchy| hierarchy.version == 2) else {
        return Ok(vec!["the container is in no cgroup that could keep it from devices".to_owned()]);
    };
    let step = || format!("look at the device policy of {}", tree.path.display());
    let count = File::open(&tree.path).and_then(|dir| sys::bpf_count_device_programs(dir.as_fd())).step(step)?;
    evidence.note("device_policy", format!("v2, {count} programs"));
    Ok(if count == 0 {
        vec!["no program on its cgroup keeps the container from devices".to_owned()]
    } else {
        Vec::new()
    })
}

/// Whether everybody's devices are there: a cgroup above may allow less, and then the record says so.
fn is_whole(notes: &[String]) -> bool {
    !notes.iter().any(|note| note.starts_with(LESS))
}

/// What is wrong with a list. `whole`: what is asked must be there, too.
fn wrong(list: &str, given: &[Device], whole: bool) -> Vec<String> {
    let given = given.iter().map(|device| Rule {
        which: format!("{} {}:{}", device.kind, device.major, device.minor),
        // The container's init makes the node.
        access: format!("{}m", device.access.replace('m', "")),
    });
    let must: Vec<Rule> = EVERYBODYS.into_iter().filter_map(Rule::read).chain(given).collect();
    let is: Vec<Rule> = list.lines().filter_map(Rule::read).collect();
    if let Some(any) = is.iter().find(|rule| rule.which.starts_with('a')) {
        return vec![format!("nothing keeps the container from devices (`{any}`)")];
    }
    let more = is.iter().filter_map(|rule| rule.beyond(&must));
    let less = must.iter().filter(|_| whole).filter_map(|rule| rule.beyond(&is));
    let more = more.map(|rule| format!("the device policy allows `{rule}`, which nobody asked for"));
    more.chain(less.map(|rule| format!("the device policy does not allow `{rule}`"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_note_on_devices_makes_the_list_shorter() {
        let note = |text: &str| [text.to_owned()];
        assert!(is_whole(&[]) && is_whole(&note("--cpus has no effect here")));
        assert!(!is_whole(&note(
            "without some of everybody's devices, as the cgroup above does not allow them: c 1:7 rwm"
        )));
    }

    #[test]
    fn a_list_that_allows_more_or_less() {
        let good = EVERYBODYS.join("\n");
        assert_eq!(wrong(&good, &[], true), [""; 0]);
        let device: Option<Device> = "/dev/net/tun c 10:200 rw 0666 0:0".parse().ok();
        let device = device.as_slice();
        assert_eq!(wrong(&good, device, true), ["the device policy does not allow `c 10:200 rwm`"]);
        assert_eq!(wrong(&good, device, false), [""; 0]);
        assert_eq!(wrong(&format!("{good}\nc 10:200 mr\nc 10:200 w\n"), device, true), [""; 0]);
        let any = wrong("a *:* rwm\n", &[], false);
        assert_eq!(any, ["nothing keeps the container from devices (`a *:* rwm`)"]);
        let more = wrong(&good.replace("5:2 rw", "5:2 rwm"), &[], true);
        assert_eq!(more, ["the device policy allows `c 5:2 m`, which nobody asked for"]);
    }
}
