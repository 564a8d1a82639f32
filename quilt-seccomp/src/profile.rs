//! What a filter is to decide, before it is one: for each ABI and number a [`Decision`].

use std::collections::BTreeMap;

use super::arch::Arch;

/// What becomes of a call: the value that a filter returns (seccomp(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(pub u32);

impl Action {
    /// It is made.
    pub const ALLOW: Action = Action(0x7fff_0000);
    /// It is made, and logged.
    pub const LOG: Action = Action(0x7ffc_0000);
    /// The thread dies.
    pub const KILL_THREAD: Action = Action(0);
    /// The process dies, as by SIGSYS.
    pub const KILL_PROCESS: Action = Action(0x8000_0000);
    /// SIGSYS.
    pub const TRAP: Action = Action(0x0003_0000);
    /// It is refused: EPERM.
    pub const EPERM: Action = Action::errno(1);
    /// It is not there: ENOSYS. Who meets that tries an older way.
    pub const ENOSYS: Action = Action::errno(38);

    /// It fails; the kernel takes numbers up to 4095.
    pub const fn errno(errno: u16) -> Action {
        Action(0x0005_0000 | errno as u32)
    }

    /// A tracer decides, told this number; ENOSYS without one.
    pub const fn trace(data: u16) -> Action {
        Action(0x7ff0_0000 | data as u32)
    }
}

/// How an argument is compared, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// A condition: `(argument & mask) op value`, in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Test {
    /// Which argument, 0 to 5.
    pub arg: u8,
    /// The bits of it that count.
    pub mask: u64,
    /// How they are compared.
    pub op: Op,
    /// With what.
    pub value: u64,
}

impl Test {
    /// For what the kernel takes for an `int`: it does not look at the upper half, where anything may be.
    pub const fn low(arg: u8, op: Op, value: u32) -> Test {
        Test { arg, mask: 0xffff_ffff, op, value: value as u64 }
    }
}

/// An action on conditions, all of which must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// The conditions; none for always.
    pub tests: Vec<Test>,
    /// What then.
    pub action: Action,
}

/// What becomes of one call: the first rule that holds decides.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// In the order that they are tried in.
    pub rules: Vec<Rule>,
    /// If none holds.
    pub otherwise: Action,
}

impl Decision {
    /// The same whatever the arguments are.
    pub const fn always(action: Action) -> Decision {
        Decision { rules: Vec::new(), otherwise: action }
    }
}

/// What becomes of the calls of one ABI.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which.
    pub arch: Arch,
    /// By number.
    pub calls: BTreeMap<u32, Decision>,
    /// Numbers below the greatest in `calls` that are not in it.
    pub others: Action,
    /// Numbers above it.
    pub newer: Action,
}

/// What becomes of all calls.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The ABIs that are open, the machine's own first.
    pub tables: Vec<Table>,
    /// Calls by any other.
    pub foreign: Action,
}
