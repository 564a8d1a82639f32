//! The program that decides on v2 (`BPF_PROG_TYPE_CGROUP_DEVICE`), written by hand: for each rule up to nine instructions,
//! tried in their order. What no rule allows is refused.
//!
//! The kernel runs it at every open and mknod of a device by a process in the cgroup, with a `struct bpf_cgroup_dev_ctx`
//! behind r1: the access in the upper and the kind in the lower half of the first word, then the major and the minor
//! number. 1 in r0 allows, 0 refuses.

use super::Rule;

const R0: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const REST: u8 = 6;

/// Opcodes (linux/bpf_common.h, linux/bpf.h), of 64 bits where there is a choice.
mod op {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const MOVE: u8 = 0xbf;
    pub(super) const SET: u8 = 0xb7;
    pub(super) const AND: u8 = 0x57;
    pub(super) const SHIFT_RIGHT: u8 = 0x77;
    pub(super) const JUMP_UNLESS: u8 = 0x55;
    pub(super) const EXIT: u8 = 0x95;
}

/// One `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    op: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn raw(self) -> u64 {
        let [low, high] = self.offset.to_ne_bytes();
        let [a, b, c, d] = self.value.to_ne_bytes();
        // Two registers share a byte; which of them has the lower half is a matter of the machine.
        let registers =
            if cfg!(target_endian = "little") { self.from << 4 | self.to } else { self.to << 4 | self.from };
        u64::from_ne_bytes([self.op, registers, low, high, a, b, c, d])
    }
}

fn instruction(op: u8, to: u8, value: u32) -> Instruction {
    Instruction { op, to, from: 0, offset: 0, value: value as i32 }
}

fn load(to: u8, offset: i16) -> Instruction {
    Instruction { op: op::LOAD_WORD, to, from: CONTEXT, offset, value: 0 }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction { op: op::MOVE, to, from, offset: 0, value: 0 }
}

fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        load(ACCESS, 0),
        copy(KIND, ACCESS),
        instruction(op::AND, KIND, 0xffff),
        instruction(op::SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules {
        // BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR.
        let kind = if rule.kind == 'b' { 1 } else { 2 };
        let mut tests = vec![instruction(op::JUMP_UNLESS, KIND, kind), instruction(op::JUMP_UNLESS, MAJOR, rule.major)];
        tests.extend(rule.minor.map(|minor| instruction(op::JUMP_UNLESS, MINOR, minor)));
        let more = !rule.access.0 & super::Access::ALL.0;
        if more != 0 {
            // What is asked beyond the rule must be nothing.
            tests.extend([
                copy(REST, ACCESS),
                instruction(op::AND, REST, more.into()),
                instruction(op::JUMP_UNLESS, REST, 0),
            ]);
        }
        let end = tests.len() + 2;
        for (at, test) in tests.iter_mut().enumerate().filter(|(_, test)| test.op == op::JUMP_UNLESS) {
            test.offset = (end - at - 1) as i16;
        }
        program.extend(tests);
        program.extend([instruction(op::SET, R0, 1), instruction(op::EXIT, 0, 0)]);
    }
    program.extend([instruction(op::SET, R0, 0), instruction(op::EXIT, 0, 0)]);
    program
}

/// The least program that there is, which allows everything: whether a kernel takes such programs at all.
pub(super) fn least() -> Vec<u64> {
    [instruction(op::SET, R0, 1), instruction(op::EXIT, 0, 0)].map(Instruction::raw).into()
}

/// The program, as the kernel takes it.
pub(super) fn compile(rules: &[Rule]) -> Vec<u64> {
    program(rules).into_iter().map(Instruction::raw).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Access, EVERYBODYS};
    use super::*;

    /// What the kernel would make of it; `None` where its verifier would refuse.
    fn run(program: &[Instruction], access: u32, kind: u32, major: u32, minor: u32) -> Option<u64> {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [None; 11];
        let mut at = 0;
        loop {
            let Instruction { op, to, from, offset, value } = *program.get(at)?;
            let (to, from) = (usize::from(to), usize::from(from));
            at += 1;
            match op {
                op::LOAD_WORD if from == 1 => registers[to] = context.get(offset as usize / 4).copied().map(u64::from),
                op::MOVE => registers[to] = Some(registers[from]?),
                op::SET => registers[to] = Some(value as u64),
                op::AND => registers[to] = Some(registers[to]? & value as u64),
                op::SHIFT_RIGHT => registers[to] = Some(registers[to]? >> value),
                op::JUMP_UNLESS if registers[to]? != value as u64 => at += usize::try_from(offset).ok()?,
                op::JUMP_UNLESS => {}
                op::EXIT => return registers[0],
                _ => return None,
            }
        }
    }

    const CHAR: u32 = 2;
    const BLOCK: u32 = 1;
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    #[test]
    fn what_no_rule_allows_is_refused() {
        let disk = Rule { kind: 'b', major: 8, minor: Some(1 << 19), access: Access(2) };
        let rules: Vec<Rule> = EVERYBODYS.into_iter().chain([disk]).collect();
        let program = program(&rules);
        for (access, kind, major, minor, expected) in [
            (READ, CHAR, 1, 3, 1),
            (READ | WRITE, CHAR, 1, 3, 1),
            (MKNOD, CHAR, 1, 3, 1),
            (READ, BLOCK, 1, 3, 0),
            (READ, CHAR, 1, 1, 0),
            (READ | WRITE, CHAR, 136, 12345, 1),
            (MKNOD, CHAR, 136, 0, 0),
            (READ, CHAR, 137, 0, 0),
            (READ, CHAR, 5, 2, 1),
            (READ, CHAR, 5, 1, 0),
            (READ, BLOCK, 8, 1 << 19, 1),
            (READ, BLOCK, 8, 0, 0),
            (WRITE, BLOCK, 8, 1 << 19, 0),
            (READ | WRITE, BLOCK, 8, 1 << 19, 0),
            (MKNOD, BLOCK, 8, 1 << 19, 0),
            (READ, CHAR, 8, 1 << 19, 0),
        ] {
            let got = run(&program, access, kind, major, minor);
            assert_eq!(got, Some(expected), "{access} {kind} {major}:{minor}");
        }
        assert_eq!(run(&super::program(&[]), READ, CHAR, 1, 3), Some(0));
    }

    #[test]
    fn instructions_are_packed_as_the_kernel_has_them() {
        if cfg!(target_endian = "little") {
            // ldxw r4, [r1+4]; if r3 != 2 goto +3
            assert_eq!(load(MAJOR, 4).raw(), 0x0000_0000_0004_1461);
            let jump = Instruction { offset: 3, ..instruction(op::JUMP_UNLESS, KIND, 2) };
            assert_eq!(jump.raw(), 0x0000_0002_0003_0355);
        }
    }
}
