use super::agree;
use crate::builtin::Options;
use crate::docker::{Host, profile};
use crate::profile::{Action, Profile};
use crate::{Arch, NATIVE, from_docker, interpret};

const DEFAULTS: u64 = 0x8004_05fb;
const SYS_ADMIN: u64 = 1 << 21;

fn read(text: &str, capabilities: u64, abi32: bool) -> Result<Profile, String> {
    let options = Options { capabilities, abi32 };
    profile(text, &Host { native: Arch::X86_64, kernel: (6, 1), options: &options })
}

/// In the manner of docker's default profile.
const LIKE_DOCKERS: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "EPERM",
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
    ],
    "syscalls": [
        {"names": ["read", "write", "exit_group", "futex_waitv", "from_the_future"], "action": "SCMP_ACT_ALLOW",
         "args": null, "comment": "", "includes": {}, "excludes": {}},
        {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
        {"names": ["fsopen"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
        {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_EQ"}]},
        {"names": ["modify_ldt"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32", "x86"]}},
        {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm", "arm64"]}},
        {"names": ["mount", "clone"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]},
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"name": "clone3", "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}}
    ]
}"#;

fn ask(profile: &Profile, arch: Arch, name: &str, args: &[u64]) -> Action {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let (_, number) = arch.calls().find(|(known, _)| *known == name).expect(name);
    super::naive(profile, arch.audit(), number, &all)
}

#[test]
fn rules_apply_by_capability_architecture_and_kernel() -> Result<(), String> {
    let plain = read(LIKE_DOCKERS, DEFAULTS, false)?;
    let admin = read(LIKE_DOCKERS, DEFAULTS | SYS_ADMIN, false)?;
    for profile in [&plain, &admin] {
        agree(profile);
    }
    let of = |name: &str, args: &[u64]| [&plain, &admin].map(|profile| ask(profile, Arch::X86_64, name, args));
    assert_eq!(of("read", &[]), [Action::ALLOW; 2]);
    assert_eq!(of("ptrace", &[]), [Action::ALLOW; 2]);
    assert_eq!(of("fsopen", &[]), [Action::EPERM; 2]);
    assert_eq!(of("modify_ldt", &[]), [Action::ALLOW; 2]);
    assert_eq!(of("socket", &[40]), [Action::EPERM; 2]);
    assert_eq!(of("socket", &[1]), [Action::ALLOW; 2]);
    assert_eq!(of("personality", &[u32::MAX.into()]), [Action::ALLOW; 2]);
    assert_eq!(of("personality", &[u64::MAX]), [Action::ALLOW; 2]);
    assert_eq!(of("socket", &[1 << 32 | 40]), [Action::EPERM; 2]);
    let every = read(LIKE_DOCKERS, DEFAULTS, true)?;
    assert_eq!(ask(&every, Arch::X32, "clone", &[1 << 32 | 0x11]), Action::ALLOW);
    assert_eq!(of("mount", &[]), [Action::EPERM, Action::ALLOW]);
    assert_eq!(of("clone", &[0x1000_0011]), [Action::EPERM, Action::ALLOW]);
    assert_eq!(of("clone", &[0x11]), [Action::ALLOW; 2]);
    // With CAP_SYS_ADMIN the newest that the profile names is futex_waitv (449).
    assert_eq!(of("clone3", &[]), [Action::ENOSYS, Action::EPERM]);
    assert_eq!(of("futex_waitv", &[]), [Action::ALLOW; 2]);
    assert_eq!(of("cachestat", &[]), [Action::ENOSYS; 2]);
    assert_eq!(of("keyctl", &[]), [Action::EPERM; 2]);
    Ok(())
}

#[test]
fn other_abis_need_both_to_open_them() -> Result<(), String> {
    let open = |text: &str, abi32| {
        let profile = read(text, DEFAULTS, abi32)?;
        agree(&profile);
        Ok::<_, String>(profile.tables.iter().map(|table| table.arch).collect::<Vec<_>>())
    };
    let all = vec![Arch::X86_64, Arch::X32, Arch::I386];
    assert_eq!(open(LIKE_DOCKERS, false)?, [Arch::X86_64]);
    assert_eq!(open(LIKE_DOCKERS, true)?, all);
    let with = |more: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW"{more}}}"#);
    assert_eq!(open(&with(""), true)?, all);
    assert_eq!(open(&with(r#", "archMap": null, "architectures": []"#), true)?, all);
    assert_eq!(
        open(&with(r#", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]"#), true)?,
        [Arch::X86_64, Arch::I386]
    );
    assert_eq!(open(&with(r#", "architectures": ["SCMP_ARCH_S390X"]"#), true)?, [Arch::X86_64]);
    assert_eq!(open(&with(r#", "archMap": [{"architecture": "SCMP_ARCH_AARCH64"}]"#), true)?, [Arch::X86_64]);
    // Even where everything is open.
    let filter = from_docker(&with(""), &Options { capabilities: 0, abi32: false })?;
    let said = |audit, number| interpret::verdict(&filter, audit, number, &[0; 6]);
    assert_eq!(said(NATIVE.audit(), 9999), Some(Action::ALLOW));
    assert_eq!(said(0x4000_0003, 20), Some(Action::ENOSYS));
    if NATIVE == Arch::X86_64 {
        assert_eq!(said(NATIVE.audit(), 0x4000_0000 | 39), Some(Action::ENOSYS));
    }
    Ok(())
}

fn one(rules: &str) -> Result<Profile, String> {
    read(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#), DEFAULTS, false)
}

#[test]
fn rules_of_one_name_are_alternatives() -> Result<(), String> {
    let rule =
        |action: &str, args: &str| format!(r#"{{"name": "ioctl", "action": "SCMP_ACT_{action}", "args": [{args}]}}"#);
    let arg =
        |index: u8, op: &str, value: u64| format!(r#"{{"index": {index}, "op": "SCMP_CMP_{op}", "value": {value}}}"#);
    let of = |rules: &[String], args: [u64; 3]| {
        let profile = one(&rules.join(","))?;
        agree(&profile);
        Ok::<_, String>(ask(&profile, Arch::X86_64, "ioctl", &args))
    };
    // An ioctl's second argument is an int to the kernel, its third is not.
    let low = [rule("ALLOW", &arg(1, "GT", 40))];
    assert_eq!(of(&low, [0, 1 << 32 | 38, 0])?, Action::EPERM);
    assert_eq!(of(&[rule("ALLOW", &arg(2, "GT", 40))], [0, 0, 1 << 32 | 38])?, Action::ALLOW);
    let both = rule("ALLOW", &[arg(0, "EQ", 1), arg(2, "GE", 1 << 32)].join(","));
    assert_eq!(of(std::slice::from_ref(&both), [1, 0, 1 << 32])?, Action::ALLOW);
    assert_eq!(of(std::slice::from_ref(&both), [1, 0, u32::MAX.into()])?, Action::EPERM);
    assert_eq!(of(std::slice::from_ref(&both), [2, 0, 1 << 32])?, Action::EPERM);
    let either = [both.clone(), rule("ALLOW", &arg(2, "LT", 5))];
    assert_eq!(of(&either, [2, 0, 4])?, Action::ALLOW);
    // One argument twice in one rule: either is enough.
    let twice = [rule("ALLOW", &[arg(0, "EQ", 1), arg(0, "EQ", 2)].join(","))];
    assert_eq!(of(&twice, [2, 0, 0])?, Action::ALLOW);
    assert_eq!(of(&twice, [3, 0, 0])?, Action::EPERM);
    // The first in the file; but one without args before all others, unless it says what the default says.
    let order = [rule("LOG", &arg(0, "GT", 1)), rule("ALLOW", &arg(0, "GT", 0))];
    assert_eq!(of(&order, [2, 0, 0])?, Action::LOG);
    assert_eq!(of(&order, [1, 0, 0])?, Action::ALLOW);
    let always = [rule("LOG", &arg(0, "GT", 1)), rule("KILL_PROCESS", ""), rule("ALLOW", "")];
    assert_eq!(of(&always, [2, 0, 0])?, Action::KILL_PROCESS);
    let nothing = [rule("ERRNO", ""), rule("ALLOW", &arg(0, "LE", 1))];
    assert_eq!(of(&nothing, [1, 0, 0])?, Action::ALLOW);
    Ok(())
}

#[test]
fn actions_and_ops_are_all_there() -> Result<(), String> {
    for (name, action) in [
        ("ALLOW", Action::ALLOW),
        ("LOG", Action::LOG),
        ("KILL", Action::KILL_THREAD),
        ("KILL_THREAD", Action::KILL_THREAD),
        ("KILL_PROCESS", Action::KILL_PROCESS),
        ("TRAP", Action::TRAP),
        ("TRACE", Action::trace(1)),
    ] {
        let profile = one(&format!(r#"{{"name": "read", "action": "SCMP_ACT_{name}"}}"#))?;
        assert_eq!(ask(&profile, Arch::X86_64, "read", &[]), action);
        agree(&profile);
        let default = read(&format!(r#"{{"defaultAction": "SCMP_ACT_{name}"}}"#), DEFAULTS, false)?;
        assert_eq!(
            super::naive(&default, 0xc000_003e, 0, &[0; 6]),
            match action {
                Action::ALLOW | Action::LOG => action,
                _ if name == "TRACE" => action,
                _ => Action::ENOSYS,
            }
        );
    }
    for (op, holds) in [
        ("EQ", [false, true, false]),
        ("NE", [true, false, true]),
        ("LT", [true, false, false]),
        ("LE", [true, true, false]),
        ("GT", [false, false, true]),
        ("GE", [false, true, true]),
    ] {
        let arg = format!(r#"{{"index": 5, "op": "SCMP_CMP_{op}", "value": {}}}"#, 7u64 << 32);
        let profile = one(&format!(r#"{{"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#))?;
        agree(&profile);
        for (value, holds) in [6 << 32 | 9, 7 << 32, 8 << 32].into_iter().zip(holds) {
            let said = ask(&profile, Arch::X86_64, "read", &[0, 0, 0, 0, 0, value]);
            assert_eq!(said == Action::ALLOW, holds, "{op} {value:#x}");
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#);
    let arg = |arg: &str| rule(&format!(r#"{{"name": "read", "action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#));
    let many: Vec<String> = (0..300).map(|n| format!(r#"{{"index":0,"op":"SCMP_CMP_EQ","value":{n}}}"#)).collect();
    assert!(from_docker(&arg(&many[..256].join(",")), &Options::default()).is_ok());
    for (text, error) in [
        (String::new(), "not a seccomp profile: EOF while parsing a value at line 1 column 0"),
        ("{".to_owned(), "not a seccomp profile: EOF while parsing an object at line 1 column 1"),
        ("\0\n[".to_owned(), "not a seccomp profile: expected value at line 1 column 1"),
        ("{}".to_owned(), "not a seccomp profile: missing field `defaultAction` at line 1 column 2"),
        (
            "[]".to_owned(),
            "not a seccomp profile: invalid length 0, expected struct File with 9 elements at line 1 column 2",
        ),
        (r#"{"defaultAction":"ALLOW"}"#.to_owned(), "`ALLOW` is not an action of seccomp profiles"),
        (r#"{"defaultAction":"a\nb"}"#.to_owned(), "`a\\nb` is not an action of seccomp profiles"),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#.to_owned(),
            "errnoRet: 4096 is not an errno, 0 to 4095",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"ENOSYS"}"#.to_owned(),
            "errno: write the number of `ENOSYS`, as errnoRet",
        ),
        (
            rule(r#"{"name":"read","action":"SCMP_ACT_ERRNO","errno":"EPERM"}"#),
            "errno: write the number of `EPERM`, as errnoRet",
        ),
        (
            rule(r#"{"name":"read","action":"SCMP_ACT_NOTIFY"}"#),
            "SCMP_ACT_NOTIFY: nobody listens to a filter of Quilt's",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#.to_owned(),
            "listenerPath: nobody listens to a filter of Quilt's",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}"#.to_owned(),
            "flags: `SECCOMP_FILTER_FLAG_LOG` is not one that Quilt sets",
        ),
        (rule(r#"{"action":"SCMP_ACT_ALLOW"}"#), "a rule in syscalls has neither name nor names"),
        (
            rule(r#"{"name":"read","names":["write"],"action":"SCMP_ACT_ALLOW"}"#),
            "`read`: write name or names, not both",
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"x"}]}"#
                .to_owned(),
            "architectures and archMap: write one of them",
        ),
        (
            rule(r#"{"name":"read","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}"#),
            "minKernel: `new` is not a version, as 4.8 is",
        ),
        (arg(r#"{"index":6,"op":"SCMP_CMP_EQ","value":1}"#), "args: index 6 is not one of the six arguments, 0 to 5"),
        (arg(r#"{"index":0,"op":"SCMP_CMP_IN","value":1}"#), "args: `SCMP_CMP_IN` is not an op of seccomp profiles"),
        (arg(&many.join(",")), "`read` has more than 256 args"),
    ] {
        assert_eq!(read(&text, DEFAULTS, false).err().as_deref(), Some(error), "{text}");
    }
    for (text, part) in [
        (rule(r#"{"name":"read","action":"SCMP_ACT_ALLOW","arg":[]}"#), "unknown field `arg`"),
        (arg(r#"{"index":0,"op":"SCMP_CMP_EQ","value":-1}"#), "invalid value: integer `-1`"),
        (arg(r#"{"index":0,"op":"SCMP_CMP_EQ","value":18446744073709551616}"#), "invalid type: floating point"),
        (format!("{{{}", " ".repeat(1 << 20)), "a seccomp profile has at most 1048576 bytes, this one 1048577"),
        (format!("{}1", "[".repeat(100_000)), "not a seccomp profile"),
    ] {
        let error = read(&text, DEFAULTS, false).err().unwrap_or_default();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_filter_that_is_too_long_is_refused() {
    let rules: Vec<String> = crate::calls(NATIVE)
        .map(|(name, number)| {
            let args: Vec<String> = (0..24u32)
                .map(|n| format!(r#"{{"index":{},"op":"SCMP_CMP_GT","value":{}}}"#, n % 6, number + n * 7919))
                .collect();
            format!(r#"{{"name":"{name}","action":"SCMP_ACT_ALLOW","args":[{}]}}"#, args.join(","))
        })
        .collect();
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(","));
    let error = from_docker(&text, &Options::default()).err().unwrap_or_default();
    assert!(error.starts_with("the filter would have ") && error.ends_with(", more than 4096"), "{error}");
}
