use std::collections::{BTreeMap, BTreeSet};

use crate::Arch;
use crate::arch::X32_BIT;
use crate::builtin::{Options, profile};

#[test]
fn each_name_and_number_stands_once() {
    for (arch, count) in Arch::ALL.into_iter().zip([385, 374, 461, 327, 430]) {
        let names: BTreeSet<&str> = arch.calls().map(|(name, _)| name).collect();
        let numbers: BTreeSet<u32> = arch.calls().map(|(_, number)| number).collect();
        assert_eq!((arch.calls().count(), names.len(), numbers.len()), (count, count, count), "{arch:?}");
        let (first, last) = arch.span();
        assert!(numbers.iter().all(|number| (first..=last).contains(number)), "{arch:?}");
    }
}

#[test]
fn numbers_are_the_kernels() {
    let numbers = |name: &str| {
        Arch::ALL.map(|arch| arch.calls().find(|(known, _)| *known == name).map(|(_, number)| number & !X32_BIT))
    };
    // At the beginning, where the ABIs differ, and in what was added last.
    assert_eq!(numbers("read"), [Some(0), Some(0), Some(3), Some(63), Some(3)]);
    assert_eq!(numbers("ioctl"), [Some(16), Some(514), Some(54), Some(29), Some(54)]);
    assert_eq!(numbers("socketcall"), [None, None, Some(102), None, None]);
    assert_eq!(numbers("mmap2"), [None, None, Some(192), None, Some(192)]);
    assert_eq!(numbers("pwritev2"), [Some(328), Some(547), Some(379), Some(287), Some(393)]);
    assert_eq!(numbers("uprobe"), [Some(336), Some(336), None, None, None]);
    assert_eq!(numbers("set_tls"), [None, None, None, None, Some(0xf0005)]);
    for (name, number) in [
        ("io_uring_setup", 425),
        ("clone3", 435),
        ("cachestat", 451),
        ("fchmodat2", 452),
        ("map_shadow_stack", 453),
        ("futex_wake", 454),
        ("statmount", 457),
        ("mseal", 462),
        ("setxattrat", 463),
        ("open_tree_attr", 467),
        ("file_getattr", 468),
        ("listns", 470),
        ("rseq_slice_yield", 471),
    ] {
        assert_eq!(numbers(name), [Some(number); 5], "{name}");
    }
}

#[test]
fn the_numbers_of_this_machine_are_the_c_librarys() {
    // asm/unistd.h of a libc that is a few years old; where there is none, there is nothing to hold against.
    let Ok(text) = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") else { return };
    let known: BTreeMap<&str, u32> = Arch::X86_64.calls().collect();
    let defined = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    let defined: BTreeMap<&str, u32> = defined.filter_map(|(name, n)| Some((name, n.trim().parse().ok()?))).collect();
    assert!(defined.len() > 300);
    for (name, number) in defined {
        assert!(number > 471 || known.get(name) == Some(&number), "{name} {number}");
    }
}

#[test]
fn no_name_of_the_profile_is_misspelt() {
    let known: BTreeSet<&str> = Arch::ALL.into_iter().flat_map(|arch| arch.calls().map(|(name, _)| name)).collect();
    let everything = Options { capabilities: u64::MAX, abi32: true };
    for name in crate::builtin::names(&everything).chain(crate::builtin::names(&Options::default())) {
        assert!(known.contains(name), "{name}");
    }
    // And the profile is of all that is known.
    for table in profile(Arch::X86_64, &everything).tables {
        assert_eq!(table.calls.len(), table.arch.calls().count());
    }
}
