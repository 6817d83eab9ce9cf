//! PTX as text: tokens, statements and declarations, each with its line. Nothing here knows what an instruction means.

mod parse;
mod token;
mod types;

pub(crate) use parse::parse;
pub(crate) use types::Type;

/// Text of a module, in parts.
#[derive(Debug)]
pub(crate) struct Module {
    /// ISA version, 80 for 8.0.
    pub(crate) version: u32,
    /// Compute capability that the module was compiled for, 80 for 8.0.
    pub(crate) target: u32,
    /// Variables outside of functions.
    pub(crate) variables: Vec<Variable>,
    pub(crate) kernels: Vec<Function>,
    /// Functions that kernels call.
    pub(crate) functions: Vec<Function>,
}

/// Body of a kernel or of a function, with its parameters.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) results: Vec<Variable>,
    pub(crate) params: Vec<Variable>,
    /// Most threads in a block, from `.maxntid` or `.reqntid`.
    pub(crate) max_threads: Option<u32>,
    pub(crate) body: Vec<Item>,
}

/// State space of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Const,
    Param,
}

/// A variable in a state space other than registers.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) ty: Type,
    pub(crate) align: usize,
    /// Bytes of the whole variable; 0 for an array of open length.
    pub(crate) bytes: usize,
    /// Initial values, one an element; empty for zeros.
    pub(crate) init: Vec<u64>,
    pub(crate) is_extern: bool,
    pub(crate) line: u32,
}

/// One thing in a body.
#[derive(Debug)]
pub(crate) enum Item {
    Open,
    Close,
    /// Registers of one type; names with a count stand for `name0` to `name(count-1)`.
    Registers(Type, Vec<(String, Option<u32>)>),
    Variable(Variable),
    Label(String),
    /// Targets of `brx.idx`, under their label.
    Targets(String, Vec<String>),
    Statement(Statement),
}

/// One instruction as it is written.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) line: u32,
    pub(crate) guard: Option<Guard>,
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
}

/// Predicate that an instruction is executed under.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) predicate: String,
    pub(crate) negated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Name(String),
    /// Bits of an integer or of a float.
    Number(u64),
    Not(String),
    Vector(Vec<Operand>),
    Address(Box<Operand>, i64),
    /// `d|p`, a result and a predicate.
    Pair(Box<Operand>, Box<Operand>),
    /// Parameters of a call, in parentheses.
    List(Vec<Operand>),
}
