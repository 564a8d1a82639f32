//! What was asked of confinement becomes rules, and where it takes one, a filter of the container's own.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use quilt_record::confine::{CapSet, Rlimit, Rules, Seccomp, rlimit, starting};
use quilt_record::{Code, Error, Step, sys};
use quilt_seccomp::Options;

use crate::want::{Switch, Want};

/// The rules of a container, the filter that goes with them, and what could not be kept of them here, in words.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The rules.
    pub rules: Rules,
    /// The filter; `None` if there is to be none.
    pub filter: Option<Cow<'static, [u8]>>,
    /// What is not as asked, and no failure.
    pub notes: Vec<String>,
}

/// What there is to say of a container that has no filter of its own, and yet one.
pub(crate) const INHERITED: &str =
    "it has no seccomp filter of its own, but keeps the one that Quilt itself runs under here";

/// The most that is read of a profile, in bytes; docker's has 15,000.
pub const PROFILE_MAX: u64 = 1 << 20;

/// Reads a profile, as compact JSON.
pub fn read_profile(path: &Path) -> Result<String, Error> {
    let step = || format!("read the seccomp profile {}", path.display());
    let mut text = String::new();
    let file = File::open(path).step(step)?;
    let read = file.take(PROFILE_MAX + 1).read_to_string(&mut text).step(step)?;
    if read as u64 > PROFILE_MAX {
        return Err(Error::new(Code::Invalid, step(), "it is larger than 1 MiB"));
    }
    let profile: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text)
        .map_err(|e| Error::new(Code::Invalid, step(), format!("it is no JSON object: {e}")))?;
    serde_json::to_string(&profile).map_err(|e| Error::new(Code::Invalid, step(), e.to_string()))
}

/// Refuses what cannot be meant, before anything is touched.
pub fn check(want: &Want) -> Result<(), Error> {
    capability_names("cap-add", &want.cap_add)?;
    capability_names("cap-drop", &want.cap_drop)?;
    for text in &want.ulimit {
        Rlimit::parse(text).map_err(|why| invalid("ulimit", why))?;
    }
    match want.seccomp.as_deref() {
        None | Some("off") => Ok(()),
        Some(profile) if profile.starts_with('{') => {
            let capabilities = capabilities(want, CapSet::ALL, &mut Vec::new())?;
            let options = Options { capabilities: capabilities.0, abi32: want.abi32 };
            let filter = quilt_seccomp::from_docker(profile, &options).map_err(|why| invalid("seccomp", why))?;
            starts(want, &Rules { capabilities, no_new_privs: no_new_privs(want), ..Rules::default() }, &filter)
        }
        Some(_) => {
            Err(invalid("seccomp", "in a record it is `off` or the profile itself, as text (--seccomp FILE reads one)"))
        }
    }
}

/// Refuses a profile by which the container could not start, or be joined: init has it from its first moment on, and under
/// some rules so has what joins.
fn starts(want: &Want, rules: &Rules, filter: &[u8]) -> Result<(), Error> {
    let mut calls = starting::INIT.to_vec();
    if !want.command.is_empty() || !rules.no_new_privs {
        calls.extend(starting::CONFINE);
    }
    if rules.filter_comes_early() {
        calls.extend(starting::FORK);
        calls.extend(starting::SESSION);
    }
    if !want.command.is_empty() {
        calls.extend(starting::FORK);
        calls.extend(starting::COMMAND);
    }
    let refused: Vec<&str> = starting::refused(filter, &calls).into_iter().map(|(name, _)| name).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => {
            let what = if want.command.is_empty() { "a container" } else { "a command in a container of its own" };
            Err(invalid(
                "seccomp",
                format!("the profile refuses {}, which it takes to start {what}", refused.join(", ")),
            ))
        }
    }
}

fn no_new_privs(want: &Want) -> bool {
    want.no_new_privs.map_or(!want.privileged, |switch| switch == Switch::On)
}

pub(crate) fn invalid(flag: &str, why: impl Into<String>) -> Error {
    Error::new(Code::Invalid, format!("read --{flag}"), why)
}

fn capability_names(flag: &str, names: &[String]) -> Result<CapSet, Error> {
    names.iter().try_fold(CapSet(0), |set, name| match name.parse::<CapSet>() {
        Ok(one) => Ok(set.with(one)),
        Err(why) => Err(invalid(flag, why)),
    })
}

/// What this process is held to itself, which whatever it starts is held to as well.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its capabilities.
    pub capabilities: CapSet,
    /// Whether no exec grants anything.
    pub no_new_privs: bool,
    /// Whether it is under a filter of system calls.
    pub filtered: bool,
}

impl Caller {
    /// Held to nothing.
    pub const FREE: Caller = Caller { capabilities: CapSet::ALL, no_new_privs: false, filtered: false };

    /// This process, as far as it matters to what is asked.
    pub fn of(want: &Want) -> Result<Caller, Error> {
        let capabilities = CapSet(sys::permitted_capabilities().step(|| "look at the own capabilities")?);
        let no_new_privs = !wants_no_new_privs(want) && sys::no_new_privs();
        Ok(Caller { capabilities, no_new_privs, filtered: wants_no_filter(want) && sys::is_filtered() })
    }
}

fn wants_no_new_privs(want: &Want) -> bool {
    want.no_new_privs.map_or(!want.privileged, |switch| switch == Switch::On)
}

fn wants_no_filter(want: &Want) -> bool {
    want.seccomp.as_deref().map_or(want.privileged, |profile| profile == "off")
}

/// Checks what was asked, and makes the rules of it.
pub fn confinement(want: &Want, caller: Caller) -> Result<Confinement, Error> {
    let own = caller.capabilities;
    let mut notes = Vec::new();
    let capabilities = capabilities(want, own, &mut notes)?;
    let options = Options { capabilities: capabilities.0, abi32: want.abi32 };
    let (seccomp, filter) = match want.seccomp.as_deref() {
        _ if wants_no_filter(want) => (if caller.filtered { Seccomp::Inherited } else { Seccomp::Off }, None),
        None => match quilt_seccomp::builtin(&options) {
            built_in @ Cow::Borrowed(_) if !want.abi32 => (Seccomp::Default, Some(built_in)),
            other => (Seccomp::File, Some(other)),
        },
        Some(profile) => {
            let filter = quilt_seccomp::from_docker(profile, &options);
            let filter = filter.map_err(|why| invalid("seccomp", why))?;
            (Seccomp::File, Some(Cow::Owned(filter)))
        }
    };
    match seccomp {
        Seccomp::Off => notes.push("it may make every system call (seccomp is off)".to_owned()),
        Seccomp::Inherited => notes.push(INHERITED.to_owned()),
        Seccomp::Default | Seccomp::File => {}
    }
    let no_new_privs = wants_no_new_privs(want) || caller.no_new_privs;
    if caller.no_new_privs && want.no_new_privs.is_some() {
        let why = "Quilt itself runs with no_new_privs here, which whatever it starts keeps";
        return Err(Error::new(Code::Unsupported, "read --no-new-privs", why));
    }
    if caller.no_new_privs {
        notes.push("no exec grants anything (no_new_privs), as Quilt itself runs so here".to_owned());
    }
    let rules = Rules { capabilities, no_new_privs, seccomp, rlimits: rlimits(want, own)? };
    Ok(Confinement { rules, filter, notes })
}

fn capabilities(want: &Want, own: CapSet, notes: &mut Vec<String>) -> Result<CapSet, Error> {
    let added = capability_names("cap-add", &want.cap_add)?;
    let dropped = capability_names("cap-drop", &want.cap_drop)?;
    // As in docker: what is dropped by name is so even from ALL, what is added by name stays when ALL are dropped.
    let base = if want.privileged || added == CapSet::ALL { CapSet::ALL } else { CapSet::DEFAULT };
    let asked = if dropped == CapSet::ALL { added } else { base.with(added).without(dropped) };
    let missing = asked.without(own);
    let named = if added == CapSet::ALL { CapSet(0) } else { added };
    if named.without(own) != CapSet(0) {
        let names = named.without(own).names().collect::<Vec<_>>().join(", ");
        let why = format!("Quilt runs without {names} here, and cannot give what it has not");
        return Err(Error::new(Code::Denied, "read --cap-add", why));
    }
    // Those that this kernel does not know are nobody's.
    let missing = if missing == CapSet(0) { missing } else { CapSet(missing.0 & known()?.0) };
    if missing != CapSet(0) {
        let names = missing.names().collect::<Vec<_>>().join(", ");
        notes.push(format!("it is without {names}, which Quilt has not here"));
    }
    Ok(CapSet(asked.0 & own.0))
}

/// The capabilities of this kernel.
fn known() -> Result<CapSet, Error> {
    const LAST: &str = "/proc/sys/kernel/cap_last_cap";
    let text = std::fs::read_to_string(LAST).step(|| format!("read {LAST}"))?;
    let last = text.trim().parse::<u32>().unwrap_or(40).min(62);
    Ok(CapSet((1 << (last + 1)) - 1))
}

/// The caller's limits, so that a command has them whoever runs it, with those that were asked for, and no core dumps.
fn rlimits(want: &Want, own: CapSet) -> Result<Vec<Rlimit>, Error> {
    let current = rlimit::current().step(|| "look at the resource limits")?;
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let mut limits = current.clone();
    let none = Rlimit { name: "core".to_owned(), soft: Some(0), hard: Some(0) };
    let asked = want.ulimit.iter().map(|text| Rlimit::parse(text));
    for limit in std::iter::once(Ok(none)).chain(asked) {
        let refuse = |code, why| Error::new(code, "read --ulimit", why);
        let limit = limit.map_err(|why| refuse(Code::Invalid, why))?;
        let most = current.iter().find(|own| own.name == limit.name).map_or(u64::MAX, |own| number(own.hard));
        if number(limit.hard) > most && !own.has(SYS_RESOURCE) {
            let why =
                format!("{}: {most} is Quilt's own hard limit, and without CAP_SYS_RESOURCE it stays so", limit.name);
            return Err(refuse(Code::Denied, why));
        }
        limits.retain(|old| old.name != limit.name);
        limits.push(limit);
    }
    Ok(limits)
}

/// By its number in linux/capability.h.
const SYS_RESOURCE: CapSet = CapSet(1 << 24);

#[cfg(test)]
mod tests {
    use super::*;

    fn with(add: &[&str], drop: &[&str]) -> Want {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        Want { cap_add: words(add), cap_drop: words(drop), ..Want::default() }
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_in_docker() -> Result<(), Error> {
        let of = |add: &[&str], drop: &[&str]| capabilities(&with(add, drop), CapSet::ALL, &mut Vec::new());
        let (chown, raw) = (CapSet(1), CapSet(1 << 13));
        assert_eq!(of(&[], &[])?, CapSet::DEFAULT);
        assert_eq!(of(&["NET_RAW"], &["CHOWN"])?, CapSet::DEFAULT.with(raw).without(chown));
        assert_eq!(of(&["cap_chown"], &["ALL"])?, chown);
        assert_eq!(of(&["ALL"], &["chown"])?, CapSet::ALL.without(chown));
        assert_eq!(of(&[], &["all"])?, CapSet(0));
        assert!(of(&["RAW"], &[]).is_err());
        Ok(())
    }

    #[test]
    fn what_holds_for_the_caller_holds_for_the_container() -> Result<(), Error> {
        let held = Caller { no_new_privs: true, filtered: true, ..Caller::FREE };
        let off = Some("off".to_owned());
        // Whether it has no_new_privs is looked at only where that is to be off.
        let filtered = Caller { no_new_privs: false, ..held };
        let unfiltered = confinement(&Want { seccomp: off.clone(), ..Want::default() }, filtered)?;
        assert_eq!((unfiltered.rules.seccomp, unfiltered.notes), (Seccomp::Inherited, vec![INHERITED.to_owned()]));
        let free = confinement(&Want { seccomp: off, ..Want::default() }, Caller::FREE)?;
        assert_eq!((free.rules.seccomp, free.notes.len()), (Seccomp::Off, 1));
        let asked = confinement(&Want { no_new_privs: Some(Switch::Off), ..Want::default() }, held);
        assert_eq!(asked.err().map(|e| e.code), Some(Code::Unsupported));
        let privileged = confinement(&Want { privileged: true, ..Want::default() }, held)?;
        assert_eq!((privileged.rules.no_new_privs, privileged.notes.len()), (true, 2));
        Ok(())
    }

    #[test]
    fn a_profile_must_let_in_what_joins_under_it() {
        let refusing = |name: &str| {
            let rule = format!(r#"{{"names": ["{name}"], "action": "SCMP_ACT_ERRNO"}}"#);
            Some(format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#))
        };
        for name in ["setsid", "clone3"] {
            let why = format!("the profile refuses {name}, which it takes to start a container");
            let says = |want: Want| check(&Want { seccomp: refusing(name), ..want }).err().map(|e| e.message);
            assert_eq!(says(Want::default()), None);
            assert_eq!(says(with(&["SYS_PTRACE"], &[])), Some(why.clone()));
            assert_eq!(says(Want { no_new_privs: Some(Switch::Off), ..Want::default() }), Some(why));
        }
    }

    #[test]
    fn nobody_gives_what_he_has_not() -> Result<(), Error> {
        let own = CapSet::ALL.without(SYS_RESOURCE);
        let refused = capabilities(&with(&["SYS_RESOURCE"], &[]), own, &mut Vec::new());
        assert_eq!(refused.err().map(|e| e.code), Some(Code::Denied));
        let mut notes = Vec::new();
        assert_eq!(capabilities(&with(&["ALL"], &[]), own, &mut notes)?, own);
        assert_eq!(notes, ["it is without CAP_SYS_RESOURCE, which Quilt has not here"]);
        let want = Want { ulimit: vec!["nproc=max:max".to_owned(), "core=1".to_owned()], ..Want::default() };
        let limits = rlimits(&want, CapSet::ALL)?;
        assert!(!limits.iter().any(|limit| limit.name == "core" && limit.hard != Some(1)));
        Ok(())
    }
}
