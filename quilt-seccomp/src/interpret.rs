//! What a filter says of a call, without the kernel.

use super::bpf;
use super::profile::Action;

/// The verdict on a call: by which ABI (`AUDIT_ARCH_*`), of which number, with which arguments. None if the filter is not
/// one that the kernel would take, or has instructions that Quilt does not make.
pub fn verdict(filter: &[u8], arch: u32, number: u32, args: &[u64; 6]) -> Option<Action> {
    trace(filter, arch, number, args).map(|(action, _)| action)
}

/// The same, with the count of instructions that it took.
pub fn trace(filter: &[u8], arch: u32, number: u32, args: &[u64; 6]) -> Option<(Action, usize)> {
    let program = bpf::decode(filter)?;
    run(&program, arch, number, args)
}

/// The same, of a filter that is decoded.
pub(crate) fn run(program: &[bpf::Insn], arch: u32, number: u32, args: &[u64; 6]) -> Option<(Action, usize)> {
    let word = |offset: u32| match offset {
        bpf::NUMBER => Some(number),
        bpf::ARCH => Some(arch),
        _ if !offset.is_multiple_of(4) => None,
        _ => {
            let arg = args.get(offset.checked_sub(16)? as usize / 8)?;
            Some(if offset.is_multiple_of(8) { *arg as u32 } else { (*arg >> 32) as u32 })
        }
    };
    let (mut at, mut held) = (0, 0);
    // Every instruction goes forwards: there are no more steps than instructions.
    for step in 1..=program.len() {
        let insn = program.get(at)?;
        at += 1;
        let skip = |yes: bool| usize::from(if yes { insn.yes } else { insn.no });
        match insn.code {
            bpf::LOAD => held = word(insn.k)?,
            bpf::AND => held &= insn.k,
            bpf::JUMP => at += insn.k as usize,
            bpf::EQUAL => at += skip(held == insn.k),
            bpf::GREATER => at += skip(held > insn.k),
            bpf::AT_LEAST => at += skip(held >= insn.k),
            bpf::RETURN => return Some((Action(insn.k), step)),
            _ => return None,
        }
    }
    None
}
