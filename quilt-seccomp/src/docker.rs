//! Profiles in docker's JSON format, which is podman's too, and nearly the OCI runtime's.
//!
//! Read as docker, runc and libseccomp together do:
//! - A rule applies to a container by its `includes` and `excludes`: capabilities, the machine's architecture, its kernel.
//! - Names that no table has are skipped: they may be of another architecture, or newer.
//! - A rule with the default's action says nothing. Else a name's first rule without `args` decides alone; if there is none,
//!   the first in the file whose `args` all hold. If two `args` of a rule look at the same argument, any of that rule's holds
//!   is enough: that is what runc makes of it.
//! - Where the default refuses, calls newer than the newest that the profile names are not there (ENOSYS).
//!
//! Otherwise than there, `socket` and a few others are compared as the kernel looks at them: with all 64 bits, a family
//! that is "greater than AF_VSOCK" could be AF_ALG in its lower half, which is all that counts.
//!
//! And the 32-bit ABIs are closed, and not deadly, unless both the profile and the container open them (a
//! profile that names no architecture leaves it to the container), and a field that nobody knows is an error: a rule with a
//! misspelt `args` would open more than its author thinks.

mod format;

use std::collections::BTreeMap;

use super::bpf;
use super::builtin::Options;
use super::compile::compile;
use super::profile::{Action, Decision, Op, Profile, Rule, Table, Test};
use super::{Arch, NATIVE};
use format::{Arg, File, Filter, Syscall};

/// The longest profile, in bytes.
pub const MAX: usize = 1 << 20;

/// The most conditions on one call.
const TESTS_MAX: usize = 256;

/// The largest errno that a filter can return (`MAX_ERRNO`).
const ERRNO_MAX: u16 = 4095;

/// Arguments that profiles look at and of which 64-bit kernels use the lower half.
const INTS: [(&str, &[u8]); 8] = [
    ("clone", &[0]),
    ("fcntl", &[0, 1]),
    ("ioctl", &[0, 1]),
    ("personality", &[0]),
    ("prctl", &[0]),
    ("setns", &[0, 1]),
    ("socket", &[0, 1, 2]),
    ("socketpair", &[0, 1, 2]),
];

/// `errnoRet` if a profile does not say: EPERM.
const ERRNO_DEFAULT: u16 = 1;

/// What rules are chosen by.
pub(crate) struct Host<'a> {
    pub(crate) native: Arch,
    /// Major and minor.
    pub(crate) kernel: (u32, u32),
    pub(crate) options: &'a Options,
}

/// The filter that a profile in docker's format describes, for a container with these options on this machine. An error is
/// one line.
pub fn from_docker(text: &str, options: &Options) -> Result<Vec<u8>, String> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Of a kernel that does not say its version, nothing is assumed.
    let kernel = version(&release).unwrap_or((0, 0));
    let program = compile(&profile(text, &Host { native: NATIVE, kernel, options })?);
    match program.len() {
        n if n > bpf::MAX => Err(format!("the filter would have {n} instructions, more than {}", bpf::MAX)),
        _ => Ok(bpf::encode(&program)),
    }
}

pub(crate) fn profile(text: &str, host: &Host<'_>) -> Result<Profile, String> {
    if text.len() > MAX {
        return Err(format!("a seccomp profile has at most {MAX} bytes, this one {}", text.len()));
    }
    let file: File = serde_json::from_str(text).map_err(|e| format!("not a seccomp profile: {e}"))?;
    check_flags(&file)?;
    check_errno(&file.default_errno, file.default_errno_ret)?;
    let default = action(&file.default_action, file.default_errno_ret)?;
    let mut names: BTreeMap<&str, Vec<Rule>> = BTreeMap::new();
    for call in file.syscalls.iter().flatten() {
        let rules = rules(call)?;
        // All of it is read, whether it applies or not: an error is one on every machine.
        let names_of = call_names(call)?;
        if applies(call, host)? {
            let telling = rules.iter().filter(|rule| rule.action != default);
            for name in names_of {
                add(name, names.entry(name).or_default(), telling.clone())?;
            }
        }
    }
    let decisions: BTreeMap<&str, Decision> =
        names.into_iter().map(|(name, rules)| (name, decision(rules, default))).collect();
    let newer = match default {
        Action::ALLOW | Action::LOG => default,
        _ if file.default_action == "SCMP_ACT_TRACE" => default,
        _ => Action::ENOSYS,
    };
    let table = |arch: Arch| {
        let decision = |name| Some(narrow(arch, name, decisions.get(name)?));
        let calls = arch.calls().filter_map(|(name, number)| Some((number, decision(name)?))).collect();
        Table { arch, calls, others: default, newer }
    };
    let arches = arches(&file, host)?;
    Ok(Profile { tables: arches.into_iter().map(table).collect(), foreign: Action::ENOSYS })
}

fn check_flags(file: &File) -> Result<(), String> {
    if file.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
        return Err("listenerPath: nobody listens to a filter of Quilt's".to_owned());
    }
    for flag in file.flags.iter().flatten() {
        // The first means nothing to a process of one thread, the second is always set.
        if !matches!(flag.as_str(), "SECCOMP_FILTER_FLAG_TSYNC" | "SECCOMP_FILTER_FLAG_SPEC_ALLOW") {
            return Err(format!("flags: `{}` is not one that Quilt sets", flag.escape_default()));
        }
    }
    Ok(())
}

/// podman's files have the name of an errno beside its number, which is the one that counts.
fn check_errno(name: &Option<String>, number: Option<u16>) -> Result<(), String> {
    match (name, number) {
        (Some(name), None) => Err(format!("errno: write the number of `{}`, as errnoRet", name.escape_default())),
        _ => Ok(()),
    }
}

/// The ABIs that are open.
fn arches(file: &File, host: &Host<'_>) -> Result<Vec<Arch>, String> {
    let named: Option<Vec<&String>> = match (&file.architectures, &file.arch_map) {
        (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
            return Err("architectures and archMap: write one of them".to_owned());
        }
        (Some(list), _) if !list.is_empty() => Some(list.iter().collect()),
        (_, Some(map)) if !map.is_empty() => {
            let mine = map.iter().find(|entry| arch(&entry.architecture) == Some(host.native));
            Some(mine.and_then(|entry| entry.sub_architectures.as_ref()).into_iter().flatten().collect())
        }
        _ => None,
    };
    let wanted = |other: &Arch| match &named {
        Some(names) => names.iter().any(|name| arch(name) == Some(*other)),
        None => true,
    };
    let others = host.native.others().iter().filter(|other| host.options.abi32 && wanted(other));
    Ok([host.native].into_iter().chain(others.copied()).collect())
}

fn arch(name: &str) -> Option<Arch> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X32" => Some(Arch::X32),
        "SCMP_ARCH_X86" => Some(Arch::I386),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        "SCMP_ARCH_ARM" => Some(Arch::Arm),
        _ => None,
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, String> {
    let errno = errno.unwrap_or(ERRNO_DEFAULT);
    match name {
        "SCMP_ACT_ALLOW" => Ok(Action::ALLOW),
        "SCMP_ACT_LOG" => Ok(Action::LOG),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(Action::KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(Action::KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(Action::TRAP),
        "SCMP_ACT_TRACE" => Ok(Action::trace(errno)),
        "SCMP_ACT_ERRNO" if errno > ERRNO_MAX => Err(format!("errnoRet: {errno} is not an errno, 0 to {ERRNO_MAX}")),
        "SCMP_ACT_ERRNO" => Ok(Action::errno(errno)),
        "SCMP_ACT_NOTIFY" => Err("SCMP_ACT_NOTIFY: nobody listens to a filter of Quilt's".to_owned()),
        _ => Err(format!("`{}` is not an action of seccomp profiles", name.escape_default())),
    }
}

fn call_names(call: &Syscall) -> Result<Vec<&str>, String> {
    match (&call.name, &call.names) {
        (Some(name), Some(names)) if !name.is_empty() && !names.is_empty() => {
            Err(format!("`{}`: write name or names, not both", name.escape_default()))
        }
        (_, Some(names)) if !names.is_empty() => Ok(names.iter().map(String::as_str).collect()),
        (Some(name), _) if !name.is_empty() => Ok(vec![name]),
        _ => Err("a rule in syscalls has neither name nor names".to_owned()),
    }
}

/// The rules that one of the file's is.
fn rules(call: &Syscall) -> Result<Vec<Rule>, String> {
    check_errno(&call.errno, call.errno_ret)?;
    let action = action(&call.action, call.errno_ret)?;
    let mut seen = 0u8;
    let mut alternatives = false;
    let mut tests = Vec::new();
    for arg in call.args.iter().flatten() {
        if arg.index > 5 {
            return Err(format!("args: index {} is not one of the six arguments, 0 to 5", arg.index));
        }
        alternatives |= seen & 1 << arg.index != 0;
        seen |= 1 << arg.index;
        tests.push(test(arg)?);
    }
    match alternatives {
        true => Ok(tests.into_iter().map(|test| Rule { tests: vec![test], action }).collect()),
        false => Ok(vec![Rule { tests, action }]),
    }
}

fn test(arg: &Arg) -> Result<Test, String> {
    let (op, mask, value) = match arg.op.as_str() {
        "SCMP_CMP_EQ" => (Op::Eq, u64::MAX, arg.value),
        "SCMP_CMP_NE" => (Op::Ne, u64::MAX, arg.value),
        "SCMP_CMP_LT" => (Op::Lt, u64::MAX, arg.value),
        "SCMP_CMP_LE" => (Op::Le, u64::MAX, arg.value),
        "SCMP_CMP_GT" => (Op::Gt, u64::MAX, arg.value),
        "SCMP_CMP_GE" => (Op::Ge, u64::MAX, arg.value),
        "SCMP_CMP_MASKED_EQ" => (Op::Eq, arg.value, arg.value_two.unwrap_or(0)),
        op => return Err(format!("args: `{}` is not an op of seccomp profiles", op.escape_default())),
    };
    Ok(Test { arg: arg.index, mask, op, value })
}

/// Whether a rule is meant for such a container on such a machine.
fn applies(call: &Syscall, host: &Host<'_>) -> Result<bool, String> {
    let native = match host.native {
        Arch::Aarch64 => "arm64",
        _ => "amd64",
    };
    let has = |name: &String| capability(name).is_some_and(|n| host.options.capabilities & 1 << n != 0);
    let kernel = |filter: &Filter| match &filter.min_kernel {
        None => Ok(None),
        Some(text) => match version(text) {
            Some(least) => Ok(Some(host.kernel >= least)),
            None => Err(format!("minKernel: `{}` is not a version, as 4.8 is", text.escape_default())),
        },
    };
    let none = Filter::default();
    let (includes, excludes) = (call.includes.as_ref().unwrap_or(&none), call.excludes.as_ref().unwrap_or(&none));
    let listed = |filter: &Filter| filter.arches.iter().flatten().any(|arch| arch == native);
    let excluded = listed(excludes) || excludes.caps.iter().flatten().any(has) || kernel(excludes)?.unwrap_or(false);
    let included = (includes.arches.as_ref().is_none_or(Vec::is_empty) || listed(includes))
        && includes.caps.iter().flatten().all(has)
        && kernel(includes)?.unwrap_or(true);
    Ok(included && !excluded)
}

/// `4.8`, and what may follow it.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().splitn(3, '.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    let digits = minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(minor.len());
    Some((major.parse().ok()?, minor.get(..digits)?.parse().ok()?))
}

/// A capability's number. One that nobody knows, nobody has.
fn capability(name: &str) -> Option<u32> {
    const NAMES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
        NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE \
        SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL \
        SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";
    let name = name.strip_prefix("CAP_")?;
    NAMES.split_ascii_whitespace().position(|known| known == name).map(|n| n as u32)
}

/// A decision as an ABI needs it: of arguments that the kernel takes for an `int`, the upper half must not count.
fn narrow(arch: Arch, name: &str, decision: &Decision) -> Decision {
    let mut decision = decision.clone();
    let all = matches!(arch, Arch::X32 | Arch::I386 | Arch::Arm);
    let ints = INTS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, args)| args);
    for test in decision.rules.iter_mut().flat_map(|rule| &mut rule.tests) {
        if all || ints.contains(&test.arg) {
            test.mask &= u64::from(u32::MAX);
            test.value &= u64::from(u32::MAX);
        }
    }
    decision
}

/// More rules for a name, with a limit to what they make together.
fn add<'a>(name: &str, known: &mut Vec<Rule>, more: impl Iterator<Item = &'a Rule>) -> Result<(), String> {
    for rule in more {
        if !known.contains(rule) {
            known.push(rule.clone());
        }
        if known.iter().map(|rule| rule.tests.len().max(1)).sum::<usize>() > TESTS_MAX {
            return Err(format!("`{}` has more than {TESTS_MAX} args", name.escape_default()));
        }
    }
    Ok(())
}

fn decision(rules: Vec<Rule>, default: Action) -> Decision {
    match rules.iter().find(|rule| rule.tests.is_empty()) {
        Some(rule) => Decision::always(rule.action),
        None => Decision { rules, otherwise: default },
    }
}
