//! A warp: 32 lanes in lock step. Lanes that went different ways run in turn, those at the lowest instruction first, until
//! they meet again.

use super::Block;
use crate::exec::{Copies, LANES, Reg, Registers, Row};
use crate::fault::{Fault, Kind};
use crate::program::{Flow, Instruction, Special, Vote};

/// Why a warp stopped running.
pub(super) enum Pause {
    /// Others may run for a while.
    Turn,
    Barrier(Arrival),
    Done,
}

/// A warp at a barrier of its block.
pub(super) struct Arrival {
    pub(super) id: u32,
    pub(super) n_threads: Option<u32>,
    pub(super) waits: bool,
    /// Lanes whose predicate is true, where the barrier takes one.
    pub(super) truths: u32,
    pub(super) lanes: u32,
    pub(super) pc: u32,
}

/// Lanes at one instruction.
#[derive(Clone, Copy, Debug)]
struct Group {
    pc: u32,
    mask: u32,
    waits: Waits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    No,
    /// For other lanes of the warp.
    Lanes,
    /// For all lanes that live, to go to a barrier of the block together.
    Block,
}

pub(crate) struct Warp {
    pub(crate) registers: Registers,
    /// Index of the warp in its block.
    pub(crate) index: usize,
    /// Instruction that is being executed.
    pub(crate) running: u32,
    pub(crate) copies: Copies,
    pub(crate) n_instructions: u64,
    pub(crate) n_lane_instructions: u64,
    groups: Vec<Group>,
    /// What to do when the barrier that the warp waits at is complete: result, vote, mask.
    vote: Option<(Reg, Vote, u32)>,
}

impl Warp {
    pub(super) fn new(block: &Block<'_>, index: usize, rows: Vec<Row>) -> Self {
        let program = block.launch.program;
        let n_threads = block.launch.n_threads();
        let mut registers = Registers::new(
            rows,
            program.n_rows,
            program.n_predicates,
            program.constants.clone(),
        );
        // Predicates 0 and 1 are false and true.
        registers.set_predicate(
            Reg::new(crate::exec::Class::Predicate, 1),
            u32::MAX,
            u32::MAX,
        );
        for (reg, special) in &program.specials {
            let values = std::array::from_fn(|lane| value_of(*special, block, index, lane));
            registers.set_cut(*reg, u32::MAX, &values);
        }
        let n_lanes = (n_threads - index * 32).min(LANES);
        Self {
            registers,
            index,
            running: 0,
            copies: Copies::default(),
            n_instructions: 0,
            n_lane_instructions: 0,
            groups: vec![Group {
                pc: 0,
                mask: u32::MAX >> (LANES - n_lanes),
                waits: Waits::No,
            }],
            vote: None,
        }
    }

    pub(super) fn into_rows(self) -> Vec<Row> {
        self.registers.into_rows()
    }

    pub(super) fn pc(&self) -> u32 {
        self.groups.first().map_or(0, |group| group.pc)
    }

    /// Lanes that have not ended.
    fn alive(&self) -> u32 {
        self.groups.iter().fold(0, |mask, group| mask | group.mask)
    }

    /// Runs until the warp ends, comes to a barrier of the block, or has had its turn.
    pub(super) fn run(&mut self, block: &mut Block<'_>) -> Result<Pause, (Fault, u32)> {
        let mut left = TURN;
        loop {
            self.merge();
            let Some(at) = self.next_group() else {
                return self.stand(block);
            };
            let pause = self
                .run_group(at, block, &mut left)
                .map_err(|fault| (fault, self.running))?;
            if let Some(pause) = pause {
                return Ok(pause);
            }
            if left == 0 {
                if self.n_instructions > MOST_INSTRUCTIONS {
                    let fault = Fault::new(Kind::Failed, "does not come to an end");
                    return Err((fault, self.running));
                }
                return Ok(Pause::Turn);
            }
        }
    }

    /// Joins groups that stand at the same instruction; who waited there looks again whether all have come.
    fn merge(&mut self) {
        if self.groups.len() < 2 {
            return;
        }
        self.groups.sort_by_key(|group| group.pc);
        self.groups.dedup_by(|next, group| {
            let same = next.pc == group.pc;
            if same {
                group.mask |= next.mask;
                group.waits = Waits::No;
            }
            same
        });
    }

    fn next_group(&self) -> Option<usize> {
        self.groups
            .iter()
            .position(|group| group.waits == Waits::No)
    }

    /// No group can run: all have ended, or wait.
    fn stand(&mut self, block: &Block<'_>) -> Result<Pause, (Fault, u32)> {
        let [group] = self.groups[..] else {
            let Some(first) = self.groups.first() else {
                return Ok(Pause::Done);
            };
            let others: Vec<String> = self.groups[1..]
                .iter()
                .map(|group| {
                    let line = block.launch.program.describe(group.pc);
                    format!("lanes {:08x} stand at {line}", group.mask)
                })
                .collect();
            let text = format!(
                "lanes {:08x} wait for lanes that do not come: {}",
                first.mask,
                others.join(", ")
            );
            return Err((Fault::new(Kind::Barrier, text), first.pc));
        };
        let text = format!("lanes {:08x} wait for lanes that do not come", group.mask);
        Err((Fault::new(Kind::Barrier, text), group.pc))
    }

    /// Runs one group until it meets another, splits, waits or ends.
    fn run_group(
        &mut self,
        at: usize,
        block: &mut Block<'_>,
        left: &mut u32,
    ) -> Result<Option<Pause>, Fault> {
        let program = block.launch.program;
        let Group {
            mut pc, mut mask, ..
        } = self.groups[at];
        // Where others stand: there the group stops, to go on with them.
        let meet = self
            .groups
            .iter()
            .filter(|group| group.pc > pc)
            .map(|group| group.pc)
            .min()
            .unwrap_or(u32::MAX);
        loop {
            let i = &program.code[pc as usize];
            self.running = pc;
            self.n_instructions += 1;
            self.n_lane_instructions += u64::from(mask.count_ones());
            *left -= 1;
            let chosen = match i.guard {
                None => mask,
                Some((reg, negated)) => {
                    let bits = self.registers.predicate(reg);
                    (if negated { !bits } else { bits }) & mask
                }
            };
            match &i.flow {
                Flow::Next => {
                    if chosen != 0 {
                        (i.exec)(self, block, i, chosen)?;
                    }
                    pc += 1;
                }
                Flow::Branch(target) => {
                    if chosen == mask {
                        pc = *target;
                    } else if chosen == 0 {
                        pc += 1;
                    } else {
                        self.split(at, &[(*target, chosen), (pc + 1, mask & !chosen)]);
                        return Ok(None);
                    }
                    // Backwards, another group may stand anywhere between.
                    if *target <= self.running && self.groups.len() > 1 {
                        break;
                    }
                }
                Flow::Table(targets) => {
                    let index = *self.registers.narrow(i.o[1]);
                    let mut parts = vec![(pc + 1, mask & !chosen)];
                    for lane in (0..LANES).filter(|lane| chosen >> lane & 1 == 1) {
                        let target = targets.get(index[lane] as usize).ok_or_else(|| {
                            Fault::at_lane(Kind::Failed, lane, "an index past the table of targets")
                        })?;
                        parts.push((*target, 1 << lane));
                    }
                    self.split(at, &parts);
                    return Ok(None);
                }
                Flow::Exit => {
                    self.end(chosen, block);
                    mask &= !chosen;
                    self.groups[at].mask = mask;
                    // Who waits for lanes that have ended now looks again.
                    for group in &mut self.groups {
                        group.waits = Waits::No;
                    }
                    if mask == 0 {
                        self.groups.remove(at);
                        return Ok(self.groups.is_empty().then_some(Pause::Done));
                    }
                    pc += 1;
                }
                Flow::Warp(_) | Flow::Barrier { .. } if chosen != mask => {
                    if chosen != 0 {
                        self.split(at, &[(pc, chosen), (pc + 1, mask & !chosen)]);
                        return Ok(None);
                    }
                    pc += 1;
                }
                Flow::Warp(members) => {
                    if !self.all_here(i, *members, mask)? {
                        self.groups[at] = Group {
                            pc,
                            mask,
                            waits: Waits::Lanes,
                        };
                        return Ok(None);
                    }
                    (i.exec)(self, block, i, mask)?;
                    pc += 1;
                }
                Flow::Barrier { .. } => {
                    if self.alive() != mask {
                        self.groups[at] = Group {
                            pc,
                            mask,
                            waits: Waits::Block,
                        };
                        return Ok(None);
                    }
                    self.groups[at] = Group {
                        pc: pc + 1,
                        mask,
                        waits: Waits::No,
                    };
                    return self
                        .arrive(i, mask)
                        .map(|arrival| Some(Pause::Barrier(arrival)));
                }
            }
            if pc >= meet || *left == 0 {
                break;
            }
        }
        self.groups[at] = Group {
            pc,
            mask,
            waits: Waits::No,
        };
        Ok(None)
    }

    fn split(&mut self, at: usize, parts: &[(u32, u32)]) {
        self.groups.remove(at);
        self.groups.extend(
            parts
                .iter()
                .filter(|(_, mask)| *mask != 0)
                .map(|(pc, mask)| Group {
                    pc: *pc,
                    mask: *mask,
                    waits: Waits::No,
                }),
        );
    }

    /// Whether all lanes that the member mask names, and that live, are in `mask`.
    fn all_here(&self, i: &Instruction, members: Reg, mask: u32) -> Result<bool, Fault> {
        let named = self.registers.narrow(members);
        let first = mask.trailing_zeros() as usize;
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
            if named[lane] >> lane & 1 == 0 {
                return Err(Fault::at_lane(
                    Kind::Barrier,
                    lane,
                    format!("is not in its own member mask {:08x}", named[lane]),
                ));
            }
            // Groups with masks of their own may come together at one instruction; each is whole by itself then.
            if named[lane] != named[first] && i.control & MASKS_MAY_DIFFER == 0 {
                return Err(Fault::at_lane(
                    Kind::Barrier,
                    lane,
                    format!("member masks {:08x} and {:08x}", named[lane], named[first]),
                ));
            }
        }
        Ok(named[first] & self.alive() & !mask == 0)
    }

    fn arrive(&mut self, i: &Instruction, mask: u32) -> Result<Arrival, Fault> {
        let Flow::Barrier {
            id,
            n_threads,
            waits,
            vote,
        } = &i.flow
        else {
            return Err(Fault::new(Kind::Failed, "no barrier"));
        };
        let lane = mask.trailing_zeros() as usize;
        let mut truths = 0;
        if let Some(vote) = vote {
            let bits = self.registers.predicate(i.o[1]);
            truths = (if i.control & 1 == 1 { !bits } else { bits }) & mask;
            self.vote = Some((i.o[0], *vote, mask));
        }
        Ok(Arrival {
            id: self.registers.narrow(*id)[lane],
            n_threads: n_threads.map(|reg| self.registers.narrow(reg)[lane]),
            waits: *waits,
            truths,
            lanes: mask.count_ones(),
            pc: self.running,
        })
    }

    /// Goes on past a barrier, with the result of its vote.
    pub(super) fn pass_barrier(&mut self, result: impl Fn(Vote) -> u32) {
        if let Some((reg, vote, mask)) = self.vote.take() {
            self.registers
                .set_cut(reg, mask, &[u64::from(result(vote)); LANES]);
        }
    }

    /// Ends lanes: what they still copy arrives.
    fn end(&mut self, mask: u32, block: &mut Block<'_>) {
        self.copies
            .finish(mask, self.index, self.running, &mut block.shared);
    }
}

fn value_of(special: Special, block: &Block<'_>, warp: usize, lane: usize) -> u64 {
    let thread = (warp * 32 + lane) as u32;
    let [nx, ny, _] = block.launch.threads;
    let bit = 1u32 << lane;
    u64::from(match special {
        Special::Thread(0) => thread % nx,
        Special::Thread(1) => thread / nx % ny,
        Special::Thread(_) => thread / nx / ny,
        Special::Threads(axis) => block.launch.threads[axis],
        Special::Block(axis) => block.index[axis],
        Special::Blocks(axis) => block.launch.grid[axis],
        Special::Lane => lane as u32,
        Special::Warp => warp as u32,
        Special::Warps => block.launch.n_threads().div_ceil(32) as u32,
        Special::MaskEq => bit,
        Special::MaskLt => bit - 1,
        Special::MaskLe => bit | (bit - 1),
        Special::MaskGt => !(bit | (bit - 1)),
        Special::MaskGe => !(bit - 1),
        Special::Multiprocessor | Special::Clock => 0,
        Special::Multiprocessors => crate::settings::MULTIPROCESSORS,
        Special::DynamicShared => block.launch.dynamic_shared as u32,
        Special::TotalShared => block.shared.len() as u32,
    })
}

/// Instructions of a warp before another has its turn.
const TURN: u32 = 4096;
/// Instructions of a warp that no kernel of ours comes near to.
const MOST_INSTRUCTIONS: u64 = 1 << 28;
/// Set in the control of an instruction whose lanes may name different members.
pub(crate) const MASKS_MAY_DIFFER: u32 = 1 << 31;
