//! Classic BPF as seccomp(2) takes it: `struct sock_filter`s (linux/filter.h) that look at a `struct seccomp_data`.

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip if so.
    pub yes: u8,
    /// And if not.
    pub no: u8,
    /// Its constant.
    pub k: u32,
}

/// Load the 32-bit word at offset `k` into the accumulator.
pub const LOAD: u16 = 0x20;
/// Accumulator &= `k`.
pub const AND: u16 = 0x54;
/// Skip `k` instructions.
pub const JUMP: u16 = 0x05;
/// Whether the accumulator is `k`.
pub const EQUAL: u16 = 0x15;
/// Whether the accumulator is greater than `k`, unsigned.
pub const GREATER: u16 = 0x25;
/// Whether the accumulator is `k` or more, unsigned.
pub const AT_LEAST: u16 = 0x35;
/// The end: `k` is the action.
pub const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
pub const NUMBER: u32 = 0;
/// The ABI (`AUDIT_ARCH_*`).
pub const ARCH: u32 = 4;

/// The offset of the lower half of an argument; the upper one is 4 further, as Quilt's targets are little-endian.
pub const fn argument(arg: u8) -> u32 {
    16 + 8 * arg as u32
}

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const MAX: usize = 4096;

/// The bytes of a filter.
pub fn encode(program: &[Insn]) -> Vec<u8> {
    let bytes = |insn: &Insn| {
        let ([a, b], [c, d, e, f]) = (insn.code.to_le_bytes(), insn.k.to_le_bytes());
        [a, b, insn.yes, insn.no, c, d, e, f]
    };
    program.iter().flat_map(bytes).collect()
}

/// The instructions of a filter; none if it is not made of whole ones.
pub fn decode(filter: &[u8]) -> Option<Vec<Insn>> {
    let (insns, rest) = filter.as_chunks::<8>();
    let insn = |&[a, b, yes, no, c, d, e, f]: &[u8; 8]| Insn {
        code: u16::from_le_bytes([a, b]),
        yes,
        no,
        k: u32::from_le_bytes([c, d, e, f]),
    };
    rest.is_empty().then(|| insns.iter().map(insn).collect())
}
