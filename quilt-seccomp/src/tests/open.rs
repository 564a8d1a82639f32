use super::agree;
use crate::builtin::{Options, profile, relevant};
use crate::profile::Action;
use crate::{Arch, DEFAULT, DEFAULT_ABI32, NATIVE, bpf, builtin, interpret};

const DEFAULTS: u64 = 0x8004_05fb;

fn options(capabilities: u64, abi32: bool) -> Options {
    Options { capabilities, abi32 }
}

#[test]
fn filters_say_what_the_profile_says() {
    for native in [Arch::X86_64, Arch::Aarch64] {
        for abi32 in [false, true] {
            for capabilities in [DEFAULTS, 0, u64::MAX] {
                agree(&profile(native, &options(capabilities, abi32)));
            }
        }
    }
    for bit in 0..41 {
        agree(&profile(NATIVE, &options(DEFAULTS ^ 1 << bit, false)));
    }
}

#[test]
fn filters_are_short_and_so_are_the_ways_through_them() {
    // Instructions; the most of them that are passed where the number decides, and where arguments do.
    for (native, abi32, size, ways) in [
        (Arch::X86_64, false, 95, (12, 18)),
        (Arch::X86_64, true, 314, (14, 22)),
        (Arch::Aarch64, false, 101, (12, 19)),
        (Arch::Aarch64, true, 244, (14, 21)),
    ] {
        let (program, longest) = agree(&profile(native, &options(DEFAULTS, abi32)));
        assert_eq!((program.len(), longest), (size, ways), "{native:?} {abi32}");
    }
}

#[test]
fn what_is_built_in_is_what_would_be_compiled() {
    for (constant, abi32) in [(DEFAULT, false), (DEFAULT_ABI32, true)] {
        let made = bpf::encode(&crate::compile::compile(&profile(NATIVE, &options(DEFAULTS, abi32))));
        assert_eq!(constant, made);
        assert_eq!(*builtin(&options(DEFAULTS, abi32)), *constant);
        // Capabilities that open nothing.
        assert_eq!(builtin(&options(DEFAULTS & !relevant() | 1 << 18, abi32)), std::borrow::Cow::Borrowed(constant));
    }
    assert_ne!(*builtin(&options(0, false)), *DEFAULT);
}

/// What becomes of a call by name under the profile for those capabilities.
fn verdict(options: &Options, arch: Arch, name: &str, args: &[u64]) -> Action {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let (_, number) = arch.calls().find(|(known, _)| *known == name).expect(name);
    let native = if matches!(arch, Arch::Aarch64 | Arch::Arm) { Arch::Aarch64 } else { Arch::X86_64 };
    let filter = bpf::encode(&crate::compile::compile(&profile(native, options)));
    interpret::verdict(&filter, arch.audit(), number, &all).expect("a verdict")
}

#[test]
fn what_is_closed_is_closed_on_every_abi() {
    let all = options(DEFAULTS, true);
    let closed = "io_uring_setup io_uring_enter io_uring_register bpf userfaultfd keyctl add_key request_key mount umount2 \
        pivot_root open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr setns perf_event_open kcmp pidfd_getfd \
        open_by_handle_at quotactl quotactl_fd reboot kexec_load swapon swapoff init_module finit_module delete_module \
        settimeofday clock_settime acct syslog vhangup sethostname setdomainname mbind set_mempolicy move_pages \
        migrate_pages fanotify_init lookup_dcookie process_madvise lsm_set_self_attr";
    for arch in Arch::ALL {
        for name in closed.split_ascii_whitespace() {
            if arch.calls().any(|(known, _)| known == name) {
                assert_eq!(verdict(&all, arch, name, &[]), Action::EPERM, "{arch:?} {name}");
            }
        }
        for name in ["clone3", "listns", "open_tree_attr", "file_getattr", "file_setattr"] {
            assert_eq!(verdict(&all, arch, name, &[]), Action::ENOSYS, "{arch:?} {name}");
        }
        for name in
            ["read", "execve", "ptrace", "seccomp", "landlock_restrict_self", "mseal", "futex_wait", "statmount"]
        {
            assert_eq!(verdict(&all, arch, name, &[]), Action::ALLOW, "{arch:?} {name}");
        }
    }
}

#[test]
fn other_abis_are_not_there_unless_asked_for() {
    let ask = |arch, abi32| verdict(&options(DEFAULTS, abi32), arch, "getpid", &[]);
    for (arch, otherwise) in [
        (Arch::X86_64, Action::ALLOW),
        (Arch::X32, Action::ENOSYS),
        (Arch::I386, Action::ENOSYS),
        (Arch::Aarch64, Action::ALLOW),
        (Arch::Arm, Action::ENOSYS),
    ] {
        assert_eq!((ask(arch, false), ask(arch, true)), (otherwise, Action::ALLOW), "{arch:?}");
    }
    // Numbers of x32 without its bit, which old kernels took for x32's; and no number at all.
    for number in [472, 512, 547, 1023, 0x3fff_ffff, 0x4000_0000, 0x8000_0000, u32::MAX] {
        assert_eq!(interpret::verdict(DEFAULT, NATIVE.audit(), number, &[0; 6]), Some(Action::ENOSYS), "{number}");
    }
    let segments = |abi32| verdict(&options(DEFAULTS, abi32), Arch::X86_64, "modify_ldt", &[]);
    assert_eq!((segments(false), segments(true)), (Action::EPERM, Action::ALLOW));
}

#[test]
fn arguments_decide() {
    let high = 0xdead_beef_0000_0000;
    let unsupported = Action::errno(97);
    for arch in Arch::ALL {
        let ask = |name, args: &[u64]| verdict(&options(DEFAULTS, true), arch, name, args);
        for is in [0, high] {
            // Namespaces: each alone, and with what fork and pthread_create ask for.
            for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
                assert_eq!(ask("clone", &[is | flag]), Action::EPERM);
                assert_eq!(ask("clone", &[is | flag | 0x11]), Action::EPERM);
                assert_eq!(ask("unshare", &[is | flag]), Action::EPERM);
            }
            assert_eq!(ask("clone", &[is | 0x3d_0f00]), Action::ALLOW);
            assert_eq!(ask("clone", &[is | 0x120_0011]), Action::ALLOW);
            // Of an int, the kernel looks at the lower half alone.
            for family in [1, 2, 10, 16] {
                assert_eq!(ask("socket", &[is | family, 3, 0]), Action::ALLOW);
            }
            for family in [0, 3, 15, 17, 21, 29, 30, 31, 38, 40, 41, 43, 44, 45, 0xffff_ffff] {
                assert_eq!(ask("socket", &[is | family, 3, 0]), unsupported);
                assert_eq!(ask("socketpair", &[is | family, 3, 0]), unsupported);
            }
            assert_eq!(ask("socket", &[is | 16, 3, is | 9]), Action::errno(22));
            for command in [0x5412, 0x541c] {
                assert_eq!(ask("ioctl", &[0, is | command]), Action::EPERM);
            }
            assert_eq!(ask("ioctl", &[0x5412, is | 0x5401]), Action::ALLOW);
            for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
                assert_eq!(ask("personality", &[is | persona]), Action::ALLOW);
            }
            for persona in [1, 9, 0x4_0000, 0x40_0000, 0x7fff_ffff] {
                assert_eq!(ask("personality", &[is | persona]), Action::EPERM);
            }
        }
        assert_eq!(ask("unshare", &[0x600]), Action::ALLOW);
        // CLONE_NEWTIME, and flags of kernels to come.
        for flag in [0x80, 0x10_0000, 1 << 37, 1 << 63] {
            assert_eq!(ask("unshare", &[flag]), Action::EPERM);
        }
    }
}

#[test]
fn capabilities_open() {
    for (bit, names) in [
        (2, "open_by_handle_at"),
        (16, "init_module finit_module delete_module"),
        (17, "iopl ioperm"),
        (19, "kcmp pidfd_getfd process_madvise"),
        (20, "acct"),
        (21, "mount umount2 pivot_root setns clone3 bpf perf_event_open syslog fsopen listns quotactl sethostname"),
        (22, "reboot"),
        (23, "mbind set_mempolicy get_mempolicy set_mempolicy_home_node"),
        (25, "settimeofday clock_settime"),
        (26, "vhangup"),
        (34, "syslog"),
        (38, "perf_event_open"),
        (39, "bpf"),
    ] {
        for name in names.split_ascii_whitespace() {
            let refused = verdict(&options(DEFAULTS, false), Arch::X86_64, name, &[]);
            assert!([Action::EPERM, Action::ENOSYS].contains(&refused), "{name}");
            assert_eq!(verdict(&options(1 << bit, false), Arch::X86_64, name, &[]), Action::ALLOW, "{name}");
        }
    }
    let ask = |capabilities, name, args: &[u64]| verdict(&options(capabilities, false), Arch::X86_64, name, args);
    assert_eq!(ask(1 << 21, "clone", &[0x1000_0000]), Action::ALLOW);
    assert_eq!(ask(1 << 21, "unshare", &[0x80]), Action::ALLOW);
    assert_eq!((ask(DEFAULTS, "chroot", &[]), ask(0, "chroot", &[])), (Action::ALLOW, Action::EPERM));
    // AF_PACKET by NET_RAW, AF_CAN by NET_ADMIN, AF_ALG and AF_VSOCK by nothing.
    let family = |bit: u32, family| ask(1 << bit, "socket", &[family, 3, 9]) == Action::ALLOW;
    assert!(family(13, 17) && family(12, 17) && !family(13, 29) && family(12, 29));
    assert!((0..64).all(|bit| !family(bit, 38) && !family(bit, 40)));
    assert!(family(29, 16) && family(30, 16) && !family(21, 16));
    for never in ["io_uring_setup", "userfaultfd", "keyctl", "add_key", "kexec_load", "swapon", "move_pages"] {
        assert_eq!(ask(u64::MAX, never, &[]), Action::EPERM, "{never}");
    }
    assert_eq!(ask(u64::MAX, "ioctl", &[0, 0x5412]), Action::EPERM);
}
