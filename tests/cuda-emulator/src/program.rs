//! A kernel made ready to run: instructions decoded once, registers numbered, variables placed.

mod build;
mod opcode;

use std::sync::Arc;

pub(crate) use build::{Builder, Symbols, build};
pub(crate) use opcode::Opcode;

use crate::exec::{Exec, Reg, Row};

/// A kernel as the interpreter runs it.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) params: Vec<Param>,
    /// Bytes of all parameters, with what aligns them.
    pub(crate) param_bytes: usize,
    pub(crate) code: Vec<Instruction>,
    pub(crate) n_rows: usize,
    pub(crate) n_predicates: usize,
    pub(crate) constants: Arc<[Row]>,
    pub(crate) specials: Vec<(Reg, Special)>,
    /// Bytes of shared memory before the dynamic part.
    pub(crate) shared_bytes: usize,
    /// Bytes of local memory of a thread.
    pub(crate) local_bytes: usize,
    pub(crate) max_threads: u32,
    /// Whether it loads through the cache that does not see the kernel's own stores.
    pub(crate) has_read_only_loads: bool,
    /// Bytes of the module's constant variables.
    pub(crate) constant_bank: Arc<[u8]>,
    /// Lines of the module's text, for messages.
    pub(crate) source: Arc<[Box<str>]>,
}

impl Program {
    /// Text of the instruction at `pc`, with its line.
    pub(crate) fn describe(&self, pc: u32) -> String {
        let line = self.code.get(pc as usize).map_or(0, |ins| ins.line);
        let text = self
            .source
            .get((line as usize).saturating_sub(1))
            .map_or("", |text| text.trim());
        format!("PTX line {line} `{text}`")
    }
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Param {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    /// Whether the kernel takes it for an address in global memory.
    pub(crate) is_pointer: bool,
}

/// One decoded instruction.
pub(crate) struct Instruction {
    pub(crate) exec: Exec,
    pub(crate) flow: Flow,
    /// Predicate to execute under, and whether it is negated.
    pub(crate) guard: Option<(Reg, bool)>,
    /// Result first, then operands.
    pub(crate) o: [Reg; 4],
    /// Registers of vector operands, in the order that they are written in.
    pub(crate) list: Box<[Reg]>,
    /// Added to an address.
    pub(crate) offset: i64,
    /// A number that the kind of instruction gives a meaning.
    pub(crate) control: u32,
    pub(crate) line: u32,
}

/// Where a warp goes after an instruction, and whom it waits for before.
#[derive(Clone, Debug)]
pub(crate) enum Flow {
    Next,
    Branch(u32),
    /// One of these, by the index in the first operand.
    Table(Box<[u32]>),
    Exit,
    /// All lanes that the member mask names come together first.
    Warp(Reg),
    /// A barrier of the block: its number and how many threads it is for, if not all.
    Barrier {
        id: Reg,
        n_threads: Option<Reg>,
        waits: bool,
        vote: Option<Vote>,
    },
}

/// What a barrier computes over the predicates of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vote {
    Count,
    All,
    Any,
}

/// A register that has a value from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    /// Mask of the lanes that compare so with the own.
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
    Multiprocessor,
    Multiprocessors,
    DynamicShared,
    TotalShared,
    /// A clock that counts nothing: kernels that wait by it would not be the same twice.
    Clock,
}

impl Special {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let axis = || match name.as_bytes().last() {
            Some(b'x') => Some(0),
            Some(b'y') => Some(1),
            Some(b'z') => Some(2),
            Some(_) | None => None,
        };
        match name {
            "%laneid" => return Some(Self::Lane),
            "%warpid" => return Some(Self::Warp),
            "%nwarpid" => return Some(Self::Warps),
            "%lanemask_eq" => return Some(Self::MaskEq),
            "%lanemask_lt" => return Some(Self::MaskLt),
            "%lanemask_le" => return Some(Self::MaskLe),
            "%lanemask_gt" => return Some(Self::MaskGt),
            "%lanemask_ge" => return Some(Self::MaskGe),
            "%smid" => return Some(Self::Multiprocessor),
            "%nsmid" => return Some(Self::Multiprocessors),
            "%dynamic_smem_size" => return Some(Self::DynamicShared),
            "%total_smem_size" => return Some(Self::TotalShared),
            "%clock" | "%clock64" | "%globaltimer" => return Some(Self::Clock),
            _ => {}
        }
        match name.rsplit_once('.')?.0 {
            "%tid" => axis().map(Self::Thread),
            "%ntid" => axis().map(Self::Threads),
            "%ctaid" => axis().map(Self::Block),
            "%nctaid" => axis().map(Self::Blocks),
            _ => None,
        }
    }
}
