use std::collections::BTreeMap;

use super::agree;
use crate::Arch;
use crate::profile::{Action, Decision, Op, Profile, Rule, Table, Test};

/// xorshift64*: the same profiles at every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 32) % n
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Values that halves are confused by.
    fn value(&mut self) -> u64 {
        let any = self.next();
        let low = 0xffff_ffff;
        self.one(&[
            0,
            1,
            2,
            low,
            low - 1,
            1 << 32,
            1 << 31,
            u64::MAX,
            u64::MAX - 1,
            3 << 32,
            5 << 32 | 5,
            any,
            any & low,
        ])
    }

    fn test(&mut self) -> Test {
        let op = self.one(&[Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge]);
        let any = self.value();
        let mask = self.one(&[u64::MAX, u64::MAX, 0xffff_ffff, 0xffff_ffff << 32, 0, 0x7e02_0000, 0xff << 28, any]);
        Test { arg: self.below(6) as u8, mask, op, value: self.value() }
    }

    fn action(&mut self) -> Action {
        self.one(&[Action::ALLOW, Action::EPERM, Action::ENOSYS, Action::KILL_PROCESS, Action::LOG, Action::errno(97)])
    }

    fn decision(&mut self, rules: u64) -> Decision {
        let rules = (0..self.below(rules + 1)).map(|_| {
            let tests = (0..self.below(4)).map(|_| self.test()).collect();
            Rule { tests, action: self.action() }
        });
        Decision { rules: rules.collect(), otherwise: self.action() }
    }

    fn profile(&mut self) -> Profile {
        let native = self.one(&[Arch::X86_64, Arch::Aarch64]);
        let others: Vec<Arch> = native.others().iter().copied().filter(|_| self.below(2) == 0).collect();
        let few: Vec<Decision> = (0..1 + self.below(6)).map(|_| self.decision(4)).collect();
        let density = 1 + self.below(4);
        let table = |arch: Arch| {
            let mut calls = BTreeMap::new();
            for (_, number) in arch.calls() {
                if self.below(4) < density {
                    let plain = Decision::always(self.action());
                    calls.insert(
                        number,
                        if self.below(8) == 0 { few[self.below(few.len() as u64) as usize].clone() } else { plain },
                    );
                }
            }
            Table { arch, calls, others: self.action(), newer: self.action() }
        };
        let tables = [native].into_iter().chain(others).map(table).collect();
        Profile { tables, foreign: self.one(&[Action::ENOSYS, Action::KILL_PROCESS]) }
    }
}

#[test]
fn filters_say_what_random_profiles_say() {
    let mut random = Random(0x5eed);
    let mut stepping_stones = 0;
    for _ in 0..60 {
        let (program, _) = agree(&random.profile());
        stepping_stones += program.iter().filter(|insn| insn.code == crate::bpf::JUMP).count();
    }
    // They are long enough for what is hard.
    assert!(stepping_stones > 100, "{stepping_stones}");
}

#[test]
fn conditions_hold_in_both_halves() {
    let mut random = Random(0xa2b);
    for _ in 0..400 {
        let calls = [(0, random.decision(6)), (7, random.decision(3))].into_iter().collect();
        let table = Table { arch: Arch::X86_64, calls, others: Action::EPERM, newer: Action::ENOSYS };
        let profile = Profile { tables: vec![table], foreign: Action::KILL_PROCESS };
        let program = crate::compile::compile(&profile);
        super::check(&program);
        let arguments = super::arguments(&profile);
        for _ in 0..400 {
            let args: [u64; 6] = std::array::from_fn(|_| {
                let far = random.next();
                let near = random.one(&arguments)[random.below(6) as usize];
                random.one(&[near, near, near, far])
            });
            for number in [0, 7] {
                let said = crate::interpret::run(&program, 0xc000_003e, number, &args).map(|(action, _)| action);
                assert_eq!(said, Some(super::naive(&profile, 0xc000_003e, number, &args)), "{profile:?} {args:x?}");
            }
        }
    }
}
