//! Filters are held against the profiles that they are compiled from, asked in the plainest way that there is.

mod docker;
mod open;
mod random;
mod tables;

use crate::arch::X32_BIT;
use crate::profile::{Action, Decision, Op, Profile, Test};
use crate::{Arch, bpf, compile, interpret};

fn holds(test: &Test, args: &[u64; 6]) -> bool {
    let arg = args[usize::from(test.arg)] & test.mask;
    match test.op {
        Op::Eq => arg == test.value,
        Op::Ne => arg != test.value,
        Op::Lt => arg < test.value,
        Op::Le => arg <= test.value,
        Op::Gt => arg > test.value,
        Op::Ge => arg >= test.value,
    }
}

fn of(decision: &Decision, args: &[u64; 6]) -> Action {
    let rule = decision.rules.iter().find(|rule| rule.tests.iter().all(|test| holds(test, args)));
    rule.map_or(decision.otherwise, |rule| rule.action)
}

/// What a profile says of a call.
fn naive(profile: &Profile, audit: u32, number: u32, args: &[u64; 6]) -> Action {
    let x32 = audit == Arch::X32.audit() && number & X32_BIT != 0 || number > X32_BIT && audit == Arch::X86_64.audit();
    let mine = |arch: Arch| arch.audit() == audit && (arch == Arch::X32) == x32;
    let Some(table) = profile.tables.iter().find(|table| mine(table.arch)) else { return profile.foreign };
    match table.calls.get(&number) {
        Some(decision) => of(decision, args),
        None if table.calls.keys().any(|known| *known > number) => table.others,
        None => table.newer,
    }
}

/// What the kernel looks at before it takes a filter (`bpf_check_classic`, `seccomp_check_filter`).
fn check(program: &[bpf::Insn]) {
    assert!(!program.is_empty() && program.len() <= bpf::MAX, "{} instructions", program.len());
    for (at, insn) in program.iter().enumerate() {
        let reaches = |skip: u32| assert!(at + 1 + (skip as usize) < program.len(), "{at}: {insn:?} jumps out");
        match insn.code {
            bpf::LOAD => assert!(insn.k < 64 && insn.k % 4 == 0, "{at}: {insn:?} loads from elsewhere"),
            bpf::JUMP => reaches(insn.k),
            bpf::EQUAL | bpf::GREATER | bpf::AT_LEAST => {
                [insn.yes, insn.no].into_iter().for_each(|n| reaches(n.into()))
            }
            bpf::AND | bpf::RETURN => {}
            other => panic!("{at}: {other:#x}"),
        }
    }
    assert_eq!(program.last().map(|insn| insn.code), Some(bpf::RETURN));
}

/// Every number that any table has, its neighbours, and those at the ends.
fn numbers() -> Vec<u32> {
    let known = Arch::ALL.into_iter().flat_map(|arch| arch.calls().map(|(_, number)| number));
    let mut all: Vec<u32> = known.collect();
    all.extend((0..600).flat_map(|n| [n, n | X32_BIT, n | 1 << 31, n | 3 << 30]));
    all.extend(all.clone().into_iter().flat_map(|n| [n.wrapping_sub(1), n.wrapping_add(1)]));
    all.extend([X32_BIT - 1, u32::MAX, u32::MAX - 1]);
    all.sort_unstable();
    all.dedup();
    all
}

/// Arguments at which the conditions of a profile change their mind, in each place of six.
fn arguments(profile: &Profile) -> Vec<[u64; 6]> {
    let tables = profile.tables.iter().flat_map(|table| table.calls.values());
    let tests = tables.flat_map(|decision| decision.rules.iter().flat_map(|rule| &rule.tests));
    let mut values: Vec<u64> = tests.flat_map(|test| [test.value, test.mask, test.value & test.mask]).collect();
    values.sort_unstable();
    values.dedup();
    let near = |n: u64| [n, n.wrapping_add(1), n.wrapping_sub(1), n ^ 1 << 32, n | 0xdead << 32, n << 32, n >> 32, !n];
    let mut values: Vec<u64> = values.into_iter().flat_map(near).chain([0, u64::MAX, 1 << 31]).collect();
    values.sort_unstable();
    values.dedup();
    let spread = |n: usize| std::array::from_fn(|i| values[(n + i * 7) % values.len()]);
    (0..values.len()).flat_map(|n| [[values[n]; 6], spread(n)]).collect()
}

const AUDITS: [u32; 6] = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0, 0xffff_ffff];

/// Compiles a profile and holds the filter against it; the filter, and the longest ways through it: where the number
/// decides, and where arguments do.
fn agree(profile: &Profile) -> (Vec<bpf::Insn>, (usize, usize)) {
    let program = compile::compile(profile);
    check(&program);
    let arguments = arguments(profile);
    let mut longest = (0, 0);
    for audit in AUDITS {
        for number in numbers() {
            // Where arguments are not looked at, a few do.
            let decisions = profile.tables.iter().filter(|table| table.arch.audit() == audit);
            let plain =
                decisions.filter_map(|table| table.calls.get(&number)).all(|decision| decision.rules.is_empty());
            let some = if plain { &arguments[..2] } else { &arguments[..] };
            for args in some {
                let (action, steps) = interpret::run(&program, audit, number, args).expect("it ends");
                let want = naive(profile, audit, number, args);
                assert_eq!(action, want, "{audit:#x} {number} {args:x?}");
                let longest = if plain { &mut longest.0 } else { &mut longest.1 };
                *longest = steps.max(*longest);
            }
        }
    }
    (program, longest)
}
