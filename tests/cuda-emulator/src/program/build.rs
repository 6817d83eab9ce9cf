//! The way from a parsed kernel to a program: registers by scope, variables by space, labels by index.

mod call;
mod operands;

use std::collections::HashMap;
use std::sync::Arc;

use super::{Flow, Instruction, Opcode, Param, Program, Special};
use crate::exec::{self, Class, Exec, Reg, Row};
use crate::ptx::{Function, Item, Module, Space, Statement, Type, Variable};

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
    let mut builder = Builder::new(&module.functions);
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
    for function in module.functions.iter().chain([kernel]) {
        builder.place_variables(function)?;
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
        has_read_only_loads: builder.has_read_only_loads,
        constant_bank: symbols.bank.clone(),
        source: symbols.source.clone(),
    })
}

/// Registers that are declared in a pair of braces.
#[derive(Default)]
struct Scope {
    /// Number of the scope, which labels in it go by.
    id: usize,
    registers: HashMap<String, Reg>,
    /// Whether it is the body of a function that is called.
    is_function: bool,
}

/// A label's name, in its scope.
type Label = (usize, String);

/// A branch whose target is not known yet.
struct Branch {
    /// Index of the instruction.
    at: usize,
    /// Scopes that the branch stands in, the innermost last.
    scopes: Vec<usize>,
    name: String,
}

/// State of building one program.
pub(crate) struct Builder<'a> {
    scopes: Vec<Scope>,
    n_scopes: usize,
    functions: &'a [Function],
    symbols: HashMap<String, (Space, u64)>,
    n_rows: usize,
    n_predicates: usize,
    constants: Vec<Row>,
    constant_of: HashMap<(bool, u64), Reg>,
    specials: Vec<(Reg, Special)>,
    shared_bytes: usize,
    local_bytes: usize,
    code: Vec<Instruction>,
    labels: HashMap<Label, u32>,
    /// Labels of tables, with those that they list.
    tables: HashMap<Label, Vec<String>>,
    branches: Vec<Branch>,
    loads: Vec<(Reg, usize)>,
    pub(crate) has_read_only_loads: bool,
    pointers: Vec<Reg>,
}

impl<'a> Builder<'a> {
    fn new(functions: &'a [Function]) -> Self {
        Self {
            scopes: vec![Scope::default()],
            n_scopes: 1,
            functions,
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
            has_read_only_loads: false,
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

    /// Places the variables that a body declares.
    fn place_variables(&mut self, function: &Function) -> Result<(), String> {
        for item in &function.body {
            let Item::Variable(variable) = item else {
                continue;
            };
            match variable.space {
                Space::Shared => self.place_shared(variable),
                Space::Local => self.place_local(variable),
                Space::Param => {}
                Space::Generic | Space::Global | Space::Const => {
                    return Err(format!(
                        "line {}: variable {}",
                        variable.line, variable.name
                    ));
                }
            }
        }
        Ok(())
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
            Item::Open => self.open(false),
            Item::Close => {
                self.scopes.pop();
            }
            Item::Registers(ty, names) => {
                for (name, count) in names {
                    match count {
                        None => self.declare(name.clone(), *ty),
                        Some(count) => {
                            for index in 0..*count {
                                self.declare(format!("{name}{index}"), *ty);
                            }
                        }
                    }
                }
            }
            // Parameters of calls have their place in the thread's own memory; other variables were placed before.
            Item::Variable(variable) => {
                if variable.space == Space::Param {
                    self.place_local(variable);
                }
            }
            Item::Label(name) => self.label(name.clone())?,
            Item::Targets(name, targets) => {
                let label = (self.scope_id(), name.clone());
                self.tables.insert(label, targets.clone());
            }
            Item::Statement(statement) => {
                let opcode = Opcode::parse(&statement.opcode);
                let done = if opcode.name == "call" {
                    self.call(statement)
                } else {
                    self.statement(opcode, statement)
                };
                done.map_err(|what| {
                    format!("line {}: `{}`: {what}", statement.line, statement.opcode)
                })?;
            }
        }
        Ok(())
    }

    fn statement(&mut self, mut opcode: Opcode<'_>, statement: &Statement) -> Result<(), String> {
        let instruction = exec::decode(self, &mut opcode, statement)?;
        opcode.finish()?;
        let guard = match &statement.guard {
            None => None,
            Some(guard) => Some((self.predicate_named(&guard.predicate)?, guard.negated)),
        };
        self.code.push(Instruction {
            guard,
            line: statement.line,
            ..instruction
        });
        Ok(())
    }

    fn open(&mut self, is_function: bool) {
        self.scopes.push(Scope {
            id: self.n_scopes,
            is_function,
            ..Scope::default()
        });
        self.n_scopes += 1;
    }

    fn scope_id(&self) -> usize {
        self.scopes.last().map_or(0, |scope| scope.id)
    }

    fn label(&mut self, name: String) -> Result<(), String> {
        let at = self.code.len() as u32;
        let label = (self.scope_id(), name);
        match self.labels.insert(label.clone(), at) {
            Some(_) => Err(format!("label {} is there twice", label.1)),
            None => Ok(()),
        }
    }

    fn declare(&mut self, name: String, ty: Type) {
        let reg = self.fresh(class_of(ty));
        if let Some(scope) = self.scopes.last_mut() {
            scope.registers.insert(name, reg);
        }
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
        let find = |scopes: &[usize], name: &String| {
            scopes
                .iter()
                .rev()
                .find_map(|scope| self.labels.get(&(*scope, name.clone())).copied())
                .ok_or_else(|| format!("no label {name}"))
        };
        for branch in &self.branches {
            let table = branch
                .scopes
                .iter()
                .rev()
                .find_map(|scope| self.tables.get(&(*scope, branch.name.clone())));
            self.code[branch.at].flow = match table {
                Some(table) => Flow::Table(
                    table
                        .iter()
                        .map(|target| find(&branch.scopes, target))
                        .collect::<Result<_, _>>()?,
                ),
                None => Flow::Branch(find(&branch.scopes, &branch.name)?),
            };
        }
        // A kernel whose last statement is a label ends there.
        self.code.push(exec::exit());
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
