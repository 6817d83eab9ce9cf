//! The way from a parsed kernel to a program: registers by scope, variables by space, labels by index.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Flow, Instruction, Opcode, Param, Program, Special};
use crate::exec::{self, Class, Exec, Reg, Row};
use crate::ptx::{Function, Item, Module, Operand, Space, Type, Variable};

/// Addresses of what a module declares outside of its kernels.
#[derive(Clone, Default)]
pub(crate) struct Symbols {
    /// Global variables, where the device has put them.
    pub(crate) globals: HashMap<String, u64>,
    /// Constant variables, as offsets into `bank`.
    pub(crate) constants: HashMap<String, u64>,
    pub(crate) bank: Arc<[u8]>,
    pub(crate) source: Arc<[Box<str>]>,
}

/// Program of a kernel of `module`, or what is not understood in it.
pub(crate) fn build(
    module: &Module,
    kernel: &Function,
    symbols: &Symbols,
) -> Result<Program, String> {
    let mut builder = Builder::new();
    for (name, address) in &symbols.globals {
        builder.define(name, Space::Global, *address);
    }
    for (name, offset) in &symbols.constants {
        builder.define(name, Space::Const, *offset);
    }
    // Variables of the module are placed first in every kernel; what has an open length shares the end.
    for variable in &module.variables {
        if variable.space == Space::Shared && variable.bytes > 0 {
            builder.place_shared(variable);
        }
    }
    let params = builder.place_params(&kernel.params)?;
    for item in &kernel.body {
        if let Item::Variable(variable) = item {
            match variable.space {
                Space::Shared => builder.place_shared(variable),
                Space::Local => builder.place_local(variable),
                Space::Generic | Space::Global | Space::Const | Space::Param => {
                    return Err(format!(
                        "line {}: variable {}",
                        variable.line, variable.name
                    ));
                }
            }
        }
    }
    builder.shared_bytes = builder.shared_bytes.next_multiple_of(16);
    for variable in &module.variables {
        if variable.space == Space::Shared && variable.bytes == 0 {
            let end = builder.shared_bytes as u64;
            builder.define(&variable.name, Space::Shared, end);
        }
    }
    for item in &kernel.body {
        builder.item(item)?;
    }
    builder.resolve()?;
    let mut params = params;
    builder.find_pointers(&mut params);
    Ok(Program {
        name: kernel.name.clone(),
        param_bytes: params.last().map_or(0, |last| last.offset + last.bytes),
        params,
        code: builder.code,
        n_rows: builder.n_rows,
        n_predicates: builder.n_predicates,
        constants: builder.constants.into(),
        specials: builder.specials,
        shared_bytes: builder.shared_bytes,
        local_bytes: builder.local_bytes.next_multiple_of(16),
        max_threads: kernel.max_threads.unwrap_or(1024).min(1024),
        constant_bank: symbols.bank.clone(),
        source: symbols.source.clone(),
    })
}

/// State of building one program.
pub(crate) struct Builder {
    scopes: Vec<HashMap<String, Reg>>,
    symbols: HashMap<String, (Space, u64)>,
    n_rows: usize,
    n_predicates: usize,
    constants: Vec<Row>,
    constant_of: HashMap<(bool, u64), Reg>,
    specials: Vec<(Reg, Special)>,
    shared_bytes: usize,
    local_bytes: usize,
    code: Vec<Instruction>,
    labels: HashMap<String, u32>,
    tables: HashMap<String, Vec<String>>,
    /// Branches whose target is not known yet.
    branches: Vec<(usize, String)>,
    loads: Vec<(Reg, usize)>,
    pointers: Vec<Reg>,
}

impl Builder {
    fn new() -> Self {
        Self {
            scopes: vec![HashMap::new()],
            symbols: HashMap::new(),
            n_rows: 0,
            // The first two predicates are false and true.
            n_predicates: 2,
            constants: Vec::new(),
            constant_of: HashMap::new(),
            specials: Vec::new(),
            shared_bytes: 0,
            local_bytes: 0,
            code: Vec::new(),
            labels: HashMap::new(),
            tables: HashMap::new(),
            branches: Vec::new(),
            loads: Vec::new(),
            pointers: Vec::new(),
        }
    }

    fn define(&mut self, name: &str, space: Space, value: u64) {
        self.symbols.insert(name.to_owned(), (space, value));
    }

    fn place_shared(&mut self, variable: &Variable) {
        let at = self.shared_bytes.next_multiple_of(variable.align);
        self.define(&variable.name, Space::Shared, at as u64);
        self.shared_bytes = at + variable.bytes;
    }

    fn place_local(&mut self, variable: &Variable) {
        let at = self.local_bytes.next_multiple_of(variable.align);
        self.define(&variable.name, Space::Local, at as u64);
        self.local_bytes = at + variable.bytes;
    }

    fn place_params(&mut self, params: &[Variable]) -> Result<Vec<Param>, String> {
        let mut out: Vec<Param> = Vec::new();
        for variable in params {
            let end = out.last().map_or(0, |last| last.offset + last.bytes);
            let offset = end.next_multiple_of(variable.align);
            if offset + variable.bytes > MAX_PARAM_BYTES {
                return Err(format!("line {}: too many parameters", variable.line));
            }
            self.define(&variable.name, Space::Param, offset as u64);
            out.push(Param {
                offset,
                bytes: variable.bytes,
                is_pointer: false,
            });
        }
        Ok(out)
    }

    fn item(&mut self, item: &Item) -> Result<(), String> {
        match item {
            Item::Open => self.scopes.push(HashMap::new()),
            Item::Close => {
                self.scopes.pop();
            }
            Item::Registers(ty, names) => {
                for (name, count) in names {
                    match count {
                        None => {
                            self.declare(name.clone(), *ty);
                        }
                        Some(count) => {
                            for index in 0..*count {
                                self.declare(format!("{name}{index}"), *ty);
                            }
                        }
                    }
                }
            }
            Item::Variable(_) => {}
            Item::Label(name) => {
                let at = self.code.len() as u32;
                if self.labels.insert(name.clone(), at).is_some() {
                    return Err(format!("label {name} is there twice"));
                }
            }
            Item::Targets(name, targets) => {
                self.tables.insert(name.clone(), targets.clone());
            }
            Item::Statement(statement) => {
                let mut opcode = Opcode::parse(&statement.opcode);
                let instruction = exec::decode(self, &mut opcode, statement)
                    .and_then(|instruction| {
                        opcode.finish()?;
                        Ok(instruction)
                    })
                    .map_err(|what| {
                        format!("line {}: `{}`: {what}", statement.line, statement.opcode)
                    })?;
                let guard = match &statement.guard {
                    None => None,
                    Some(guard) => Some((self.predicate_named(&guard.predicate)?, guard.negated)),
                };
                self.code.push(Instruction {
                    guard,
                    line: statement.line,
                    ..instruction
                });
            }
        }
        Ok(())
    }

    fn declare(&mut self, name: String, ty: Type) -> Reg {
        let reg = self.fresh(class_of(ty));
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, reg);
        }
        reg
    }

    fn fresh(&mut self, class: Class) -> Reg {
        let counter = match class {
            Class::Predicate => &mut self.n_predicates,
            Class::Narrow | Class::Wide => &mut self.n_rows,
        };
        let reg = Reg::new(class, *counter);
        *counter += if class == Class::Wide { 2 } else { 1 };
        reg
    }

    /// Targets of branches, now that all labels are known.
    fn resolve(&mut self) -> Result<(), String> {
        let at_label = |labels: &HashMap<String, u32>, name: &String| {
            labels
                .get(name)
                .copied()
                .ok_or_else(|| format!("no label {name}"))
        };
        for (at, name) in &self.branches {
            self.code[*at].flow = match self.tables.get(name) {
                Some(table) => Flow::Table(
                    table
                        .iter()
                        .map(|target| at_label(&self.labels, target))
                        .collect::<Result<_, _>>()?,
                ),
                None => Flow::Branch(at_label(&self.labels, name)?),
            };
        }
        // A kernel whose last statement is a label or a call of a trap ends there.
        let end = exec::exit();
        self.code.push(end);
        Ok(())
    }

    /// Marks the parameters that are loaded into a register which an instruction takes for an address.
    fn find_pointers(&self, params: &mut [Param]) {
        for reg in &self.pointers {
            for param in params.iter_mut() {
                param.is_pointer |= self.loads.contains(&(*reg, param.offset)) && param.bytes == 8;
            }
        }
    }

    /// A parameter at `offset` that is loaded into `reg`.
    pub(crate) fn note_load(&mut self, reg: Reg, offset: usize) {
        self.loads.push((reg, offset));
    }

    /// A register that is taken for an address in global memory.
    pub(crate) fn note_pointer(&mut self, reg: Reg) {
        self.pointers.push(reg);
    }

    // What decoders ask for.

    pub(crate) fn branch_to(&mut self, name: &str) {
        self.branches.push((self.code.len(), name.to_owned()));
    }

    fn lookup(&self, name: &str) -> Option<Reg> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.get(name).copied())
    }

    pub(crate) fn predicate_named(&self, name: &str) -> Result<Reg, String> {
        match self.lookup(name) {
            Some(reg) if reg.class() == Class::Predicate => Ok(reg),
            Some(_) => Err(format!("{name} is no predicate")),
            None => Err(format!("no register {name}")),
        }
    }

    /// A constant in a register of its own.
    pub(crate) fn constant(&mut self, is_wide: bool, value: u64) -> Reg {
        let value = if is_wide { value } else { value & 0xffff_ffff };
        if let Some(reg) = self.constant_of.get(&(is_wide, value)) {
            return *reg;
        }
        let at = self.constants.len();
        let (low, high) = (value as u32, (value >> 32) as u32);
        let reg = if is_wide {
            // A 64-bit register holds its lanes one after the other.
            let halves: [u32; 32] = std::array::from_fn(|k| if k % 2 == 0 { low } else { high });
            self.constants.extend([Row(halves), Row(halves)]);
            Reg::constant(Class::Wide, at)
        } else {
            self.constants.push(Row([low; 32]));
            Reg::constant(Class::Narrow, at)
        };
        self.constant_of.insert((is_wide, value), reg);
        reg
    }

    /// Register of an operand that is read as `ty`.
    pub(crate) fn source(&mut self, operand: &Operand, ty: Type) -> Result<Reg, String> {
        let class = class_of(ty);
        match operand {
            Operand::Number(value) if class == Class::Predicate => {
                Ok(Reg::new(Class::Predicate, usize::from(*value != 0)))
            }
            Operand::Number(value) => Ok(self.constant(class == Class::Wide, *value)),
            Operand::Name(name) => {
                let reg = self.value_named(name, class)?;
                if reg.class() == class {
                    Ok(reg)
                } else {
                    Err(format!("{name} is not of the width of {ty:?}"))
                }
            }
            Operand::Not(_)
            | Operand::Vector(_)
            | Operand::Address(..)
            | Operand::Pair(..)
            | Operand::List(_) => Err(format!("operand {operand:?} where a value is expected")),
        }
    }

    fn value_named(&mut self, name: &str, class: Class) -> Result<Reg, String> {
        if let Some(reg) = self.lookup(name) {
            return Ok(reg);
        }
        if let Some(special) = Special::parse(name) {
            let reg = self.fresh(class);
            self.specials.push((reg, special));
            // Seen in the whole kernel, whatever scope it was first read in.
            self.scopes[0].insert(name.to_owned(), reg);
            return Ok(reg);
        }
        if name == "WARP_SZ" {
            return Ok(self.constant(class == Class::Wide, 32));
        }
        match self.symbols.get(name) {
            Some((_, value)) => {
                let value = *value;
                Ok(self.constant(class == Class::Wide, value))
            }
            None => Err(format!("no register or variable {name}")),
        }
    }

    /// Register of an operand that is written as `ty`; `_` is written and never read.
    pub(crate) fn dest(&mut self, operand: &Operand, ty: Type) -> Result<Reg, String> {
        match operand {
            Operand::Name(name) if name == "_" => Ok(self.fresh(class_of(ty))),
            Operand::Name(name) => match self.lookup(name) {
                Some(reg) if reg.class() == class_of(ty) => Ok(reg),
                Some(_) => Err(format!("{name} is not of the width of {ty:?}")),
                None => Err(format!("no register {name}")),
            },
            Operand::Number(_)
            | Operand::Not(_)
            | Operand::Vector(_)
            | Operand::Address(..)
            | Operand::Pair(..)
            | Operand::List(_) => Err(format!("operand {operand:?} where a result is expected")),
        }
    }

    /// Registers of `operands`: the first is written, the others are read, each as its type.
    pub(crate) fn registers(
        &mut self,
        operands: &[Operand],
        types: &[Type],
    ) -> Result<[Reg; 4], String> {
        if operands.len() != types.len() {
            return Err(format!(
                "{} operands, {} known",
                operands.len(),
                types.len()
            ));
        }
        let mut out = [Reg::default(); 4];
        for (at, (operand, ty)) in operands.iter().zip(types).enumerate() {
            out[at] = if at == 0 {
                self.dest(operand, *ty)?
            } else {
                self.source(operand, *ty)?
            };
        }
        Ok(out)
    }

    /// Register and offset of an address.
    pub(crate) fn address(&mut self, operand: &Operand) -> Result<(Reg, i64), String> {
        let Operand::Address(base, offset) = operand else {
            return Err(format!("operand {operand:?} where an address is expected"));
        };
        let reg = match &**base {
            Operand::Number(value) => self.constant(true, *value),
            Operand::Name(name) => self.value_named(name, Class::Wide)?,
            other => return Err(format!("address of {other:?}")),
        };
        Ok((reg, *offset))
    }

    /// Address of a variable in its state space.
    pub(crate) fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).map(|(_, address)| *address)
    }

    /// Registers of a vector operand, or the one of an operand that is none.
    pub(crate) fn vector(
        &mut self,
        operand: &Operand,
        ty: Type,
        is_dest: bool,
    ) -> Result<Box<[Reg]>, String> {
        parts_of(operand)
            .iter()
            .map(|part| {
                if is_dest {
                    self.dest(part, ty)
                } else {
                    self.source(part, ty)
                }
            })
            .collect()
    }

    /// Registers that are loaded or stored, which may be wider than the type in memory.
    pub(crate) fn in_memory(
        &mut self,
        operand: &Operand,
        ty: Type,
        is_dest: bool,
    ) -> Result<Box<[Reg]>, String> {
        parts_of(operand)
            .iter()
            .map(|part| {
                let is_wide = matches!(part, Operand::Name(name)
                    if self.lookup(name).is_some_and(|reg| reg.class() == Class::Wide));
                let ty = if is_wide { Type::B64 } else { ty };
                if is_dest {
                    self.dest(part, ty)
                } else {
                    self.source(part, ty)
                }
            })
            .collect()
    }
}

fn parts_of(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        one => std::slice::from_ref(one),
    }
}

impl Instruction {
    /// An instruction of registers alone.
    pub(crate) fn of(exec: Exec, o: [Reg; 4]) -> Self {
        Self {
            exec,
            flow: Flow::Next,
            guard: None,
            o,
            list: Box::default(),
            offset: 0,
            control: 0,
            line: 0,
        }
    }
}

fn class_of(ty: Type) -> Class {
    if ty == Type::Pred {
        Class::Predicate
    } else if ty.is_wide() {
        Class::Wide
    } else {
        Class::Narrow
    }
}

/// What CUDA 12.0 allows.
const MAX_PARAM_BYTES: usize = 4096;
