//! From a [`Profile`] to a filter.
//!
//! The numbers of an ABI fall into ranges that share a decision; the filter finds the one by halving, so that about as many
//! numbers are on either side. For a decision by number alone the kernel finds out when the filter is installed: it runs it
//! for every number then, and never again for those that are always allowed (`seccomp_cache_prepare`, 5.11). That run is a
//! good part of what installing costs, so ways are short on average, not at worst.
//!
//! The hard thing is that conditional jumps reach 255 instructions, and only forwards. So the program is laid out from its
//! end: what is jumped to is placed already, and one that is out of reach gets a stepping stone right behind the jump.

use std::collections::HashMap;

use super::bpf::{self, Insn};
use super::profile::{Action, Decision, Op, Profile, Table, Test};

/// A piece of the program; which others it leads to, by their places in [`Graph::nodes`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Return(u32),
    Load(u32, usize),
    And(u32, usize),
    If { code: u16, k: u32, yes: usize, no: usize },
}

/// What is known to be in the accumulator: the word at an offset, of which these bits.
type Held = Option<(u32, u32)>;

#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    places: HashMap<Node, usize>,
}

/// The filter's instructions. The kernel takes at most [`bpf::MAX`].
pub fn compile(profile: &Profile) -> Vec<Insn> {
    let mut graph = Graph::default();
    let foreign = graph.ret(profile.foreign);
    let mut audits: Vec<u32> = Vec::new();
    for table in &profile.tables {
        if !audits.contains(&table.arch.audit()) {
            audits.push(table.arch.audit());
        }
    }
    let mut start = foreign;
    for audit in audits.into_iter().rev() {
        let ranges = ranges(profile, audit);
        let tree = graph.search(&ranges);
        let tree = graph.add(Node::Load(bpf::NUMBER, tree));
        start = graph.branch(bpf::EQUAL, audit, tree, start);
    }
    let start = graph.add(Node::Load(bpf::ARCH, start));
    graph.lay_out(start)
}

/// The decisions for the numbers of what the kernel calls one architecture: each from a number to the next one's.
fn ranges(profile: &Profile, audit: u32) -> Vec<(u32, Decision)> {
    let mut ranges: Vec<(u32, Decision)> = Vec::new();
    let mut push = |from: u32, decision: Decision| match ranges.last_mut() {
        Some((_, last)) if *last == decision => {}
        // The next number decides otherwise: nothing was in between.
        Some((start, last)) if *start == from => *last = decision,
        _ => ranges.push((from, decision)),
    };
    let mut next = 0;
    let mut tables: Vec<&Table> = profile.tables.iter().filter(|table| table.arch.audit() == audit).collect();
    tables.sort_by_key(|table| table.arch.span().0);
    for table in tables {
        let (first, last) = table.arch.span();
        if next < first {
            push(next, Decision::always(profile.foreign));
        }
        next = first;
        for (number, decision) in &table.calls {
            if *number > next {
                push(next, Decision::always(table.others));
            }
            push(*number, decision.clone());
            next = number + 1;
        }
        push(next, Decision::always(table.newer));
        next = last.saturating_add(1);
    }
    if next < u32::MAX {
        push(next, Decision::always(profile.foreign));
    }
    ranges
}

/// Where to halve: about as many numbers on either side, as the kernel tries them all.
fn middle(ranges: &[(u32, Decision)]) -> usize {
    // What lies beyond all known numbers is as wide as it likes.
    let width = |pair: &[(u32, Decision)]| match pair[1].0 - pair[0].0 {
        n if n > 512 => 1,
        n => n,
    };
    let ends = ranges.windows(2).map(width).chain([1]).scan(0, |sum, width| {
        *sum += width;
        Some(*sum)
    });
    let ends: Vec<u32> = ends.collect();
    let all = ends.last().copied().unwrap_or(0);
    (1..ranges.len()).min_by_key(|at| (2 * ends[at - 1]).abs_diff(all)).unwrap_or(0)
}

impl Graph {
    fn add(&mut self, node: Node) -> usize {
        *self.places.entry(node).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn ret(&mut self, action: Action) -> usize {
        self.add(Node::Return(action.0))
    }

    fn branch(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        if yes == no { yes } else { self.add(Node::If { code, k, yes, no }) }
    }

    /// The accumulator holds the number.
    fn search(&mut self, ranges: &[(u32, Decision)]) -> usize {
        match ranges {
            [] => self.ret(Action::ENOSYS),
            [(_, decision)] => self.decide(decision, 0, 0, None, &mut HashMap::new()),
            // One number among others.
            [(_, around), (number, decision), (after, same)] if around == same && number + 1 == *after => {
                let yes = self.decide(decision, 0, 0, None, &mut HashMap::new());
                let no = self.decide(around, 0, 0, None, &mut HashMap::new());
                self.branch(bpf::EQUAL, *number, yes, no)
            }
            _ => {
                let (left, right) = ranges.split_at(middle(ranges));
                let from = right.first().map_or(0, |(from, _)| *from);
                let (yes, no) = (self.search(right), self.search(left));
                self.branch(bpf::AT_LEAST, from, yes, no)
            }
        }
    }

    /// Rules from `rule` on, of that one the conditions from `test` on.
    fn decide(
        &mut self,
        decision: &Decision,
        rule: usize,
        test: usize,
        held: Held,
        known: &mut HashMap<(usize, usize, Held), usize>,
    ) -> usize {
        let Some(this) = decision.rules.get(rule) else { return self.ret(decision.otherwise) };
        let Some(condition) = this.tests.get(test) else { return self.ret(this.action) };
        if let Some(place) = known.get(&(rule, test, held)) {
            return *place;
        }
        let mut then = |graph: &mut Graph, holds: bool, held: Held| match holds {
            true => graph.decide(decision, rule, test + 1, held, known),
            false => graph.decide(decision, rule + 1, 0, held, known),
        };
        let place = self.compare(condition, held, &mut then);
        known.insert((rule, test, held), place);
        place
    }

    /// A condition, upper half first; `then` makes what comes after it.
    fn compare(&mut self, test: &Test, held: Held, then: &mut dyn FnMut(&mut Graph, bool, Held) -> usize) -> usize {
        let (code, holds) = match test.op {
            Op::Eq => (bpf::EQUAL, true),
            Op::Ne => (bpf::EQUAL, false),
            Op::Gt => (bpf::GREATER, true),
            Op::Le => (bpf::GREATER, false),
            Op::Ge => (bpf::AT_LEAST, true),
            Op::Lt => (bpf::AT_LEAST, false),
        };
        let low = bpf::argument(test.arg);
        let high = low + 4;
        let half = |n: u64| ((n >> 32) as u32, n as u32);
        let ((mask_high, mask_low), (value_high, value_low)) = (half(test.mask), half(test.value));
        if mask_high == 0 && value_high != 0 {
            // Nothing is equal to it, or as great.
            return then(self, !holds, held);
        }
        // Before the lower half: what the accumulator holds after the upper one, if that was looked at.
        let between = if mask_high == 0 { held } else { Some((high, mask_high)) };
        let lower = match mask_low {
            // Nothing of it counts: it is 0.
            0 => then(self, holds == (value_low == 0 && code != bpf::GREATER), between),
            _ => {
                let after = Some((low, mask_low));
                let (yes, no) = (then(self, holds, after), then(self, !holds, after));
                let compare = self.branch(code, value_low, yes, no);
                self.fetch(low, mask_low, between, compare)
            }
        };
        if mask_high == 0 {
            return lower;
        }
        let no = then(self, !holds, between);
        let differs = match code {
            bpf::EQUAL => no,
            _ => {
                let yes = then(self, holds, between);
                self.branch(bpf::GREATER, value_high, yes, no)
            }
        };
        let compare = self.branch(bpf::EQUAL, value_high, lower, differs);
        self.fetch(high, mask_high, held, compare)
    }

    /// Has those bits of that word in the accumulator for what comes next.
    fn fetch(&mut self, offset: u32, mask: u32, held: Held, next: usize) -> usize {
        if held == Some((offset, mask)) || matches!(self.nodes[next], Node::Return(_)) {
            return next;
        }
        let masked = if mask == u32::MAX { next } else { self.add(Node::And(mask, next)) };
        if held == Some((offset, u32::MAX)) { masked } else { self.add(Node::Load(offset, masked)) }
    }

    fn lay_out(&self, start: usize) -> Vec<Insn> {
        let mut layout = Layout { nodes: &self.nodes, reversed: Vec::new(), placed: HashMap::new() };
        layout.place(start);
        layout.reversed.reverse();
        layout.reversed
    }
}

struct Layout<'a> {
    nodes: &'a [Node],
    /// The program, the last instruction first.
    reversed: Vec<Insn>,
    /// Where in it a node can be jumped to.
    placed: HashMap<usize, usize>,
}

/// How far a conditional jump may go before a stepping stone is put in; two of them may come in between.
const REACH: usize = 250;

impl Layout<'_> {
    fn place(&mut self, node: usize) {
        if self.placed.contains_key(&node) {
            return;
        }
        let insn = match self.nodes[node] {
            Node::Return(k) => Insn { code: bpf::RETURN, yes: 0, no: 0, k },
            Node::Load(k, next) | Node::And(k, next) => {
                self.place(next);
                if self.distance(next) > 0 {
                    self.stepping_stone(next);
                }
                let code = if matches!(self.nodes[node], Node::Load(..)) { bpf::LOAD } else { bpf::AND };
                Insn { code, yes: 0, no: 0, k }
            }
            Node::If { code, k, yes, no } => {
                self.place(yes);
                self.place(no);
                for target in [yes, no] {
                    if self.distance(target) > REACH {
                        self.stepping_stone(target);
                    }
                }
                Insn { code, yes: self.distance(yes) as u8, no: self.distance(no) as u8, k }
            }
        };
        self.placed.insert(node, self.reversed.len());
        self.reversed.push(insn);
    }

    /// The instructions between the next one to be placed and a node.
    fn distance(&self, node: usize) -> usize {
        self.placed.get(&node).map_or(usize::MAX, |place| self.reversed.len() - 1 - place)
    }

    /// A way to the node from right here: an end is repeated, anything else jumped to.
    fn stepping_stone(&mut self, node: usize) {
        let insn = match self.nodes[node] {
            Node::Return(k) => Insn { code: bpf::RETURN, yes: 0, no: 0, k },
            _ => Insn { code: bpf::JUMP, yes: 0, no: 0, k: self.distance(node) as u32 },
        };
        self.placed.insert(node, self.reversed.len());
        self.reversed.push(insn);
    }
}
