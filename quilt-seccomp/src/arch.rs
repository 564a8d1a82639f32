//! The ABIs that a process can enter the kernel by, and the numbers that each has for the system calls.

/// One ABI: what a number means depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// The numbers of x86_64 with bit 30 set, pointers of 32 bits.
    X32,
    /// 32-bit x86: `int 0x80` and the vDSO's entry, from 64-bit code too.
    I386,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

/// The names and numbers of all.
const CALLS: &str = include_str!("calls.txt");

/// What sets x32 off from x86_64 (`__X32_SYSCALL_BIT`): the kernel says `AUDIT_ARCH_X86_64` for both.
pub const X32_BIT: u32 = 1 << 30;

impl Arch {
    /// All, in the order of the columns of `calls.txt`.
    pub const ALL: [Arch; 5] = [Arch::X86_64, Arch::X32, Arch::I386, Arch::Aarch64, Arch::Arm];

    /// By the compiler's name of a 64-bit target (`target_arch`), which is the name of the enum too.
    pub fn of_target(name: &str) -> Option<Arch> {
        match name {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Aarch64),
            _ => None,
        }
    }

    /// Other ABIs that a kernel of this one may serve.
    pub fn others(self) -> &'static [Arch] {
        match self {
            Arch::X86_64 => &[Arch::X32, Arch::I386],
            Arch::Aarch64 => &[Arch::Arm],
            Arch::X32 | Arch::I386 | Arch::Arm => &[],
        }
    }

    /// What `seccomp_data.arch` is (linux/audit.h).
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 | Arch::X32 => 0xc000_003e,
            Arch::I386 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }

    /// The numbers that are this ABI's, known or not: the first and the last.
    pub const fn span(self) -> (u32, u32) {
        match self {
            Arch::X86_64 => (0, X32_BIT - 1),
            Arch::X32 => (X32_BIT, u32::MAX),
            Arch::I386 | Arch::Aarch64 | Arch::Arm => (0, u32::MAX),
        }
    }

    /// The system calls: names and numbers.
    pub fn calls(self) -> impl Iterator<Item = (&'static str, u32)> {
        let lines = CALLS.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(move |line| {
            let (name, numbers) = line.split_once(' ')?;
            let number = if numbers.contains(' ') { numbers.split(' ').nth(self as usize)? } else { numbers };
            Some((name, self.span().0 | number.parse::<u32>().ok()?))
        })
    }
}
