//! What decoders ask of a program that is being built: registers, constants, addresses and labels.

use super::{Branch, Builder, class_of};
use crate::exec::{Class, Reg, Row};
use crate::program::{Instruction, Special};
use crate::ptx::{Operand, Space, Type};

impl Builder<'_> {
    pub(crate) fn branch_to(&mut self, name: &str) {
        self.branches.push(Branch {
            at: self.code.len(),
            scopes: self.scopes.iter().map(|scope| scope.id).collect(),
            name: name.to_owned(),
        });
    }

    fn lookup(&self, name: &str) -> Option<Reg> {
        self.scopes
            .iter()
            .rev()
            .find_map(|scope| scope.registers.get(name).copied())
    }

    /// A predicate that the text has no name for.
    pub(crate) fn fresh_predicate(&mut self) -> Reg {
        self.fresh(Class::Predicate)
    }

    /// Puts an instruction before the one that is being decoded.
    pub(crate) fn push(&mut self, instruction: Instruction, line: u32) {
        self.code.push(Instruction {
            line,
            ..instruction
        });
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
            self.scopes[0].registers.insert(name.to_owned(), reg);
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

    /// State space of a variable, and its address there.
    pub(crate) fn symbol(&self, name: &str) -> Option<(Space, u64)> {
        self.symbols.get(name).copied()
    }

    /// Whether the statement is part of a function that is called.
    pub(crate) fn is_in_function(&self) -> bool {
        self.scopes.iter().any(|scope| scope.is_function)
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
                let ty = self.at_least(part, ty);
                if is_dest {
                    self.dest(part, ty)
                } else {
                    self.source(part, ty)
                }
            })
            .collect()
    }

    /// `ty`, or a type of 64 bits where the operand is a register of so many: some instructions take wider ones.
    pub(crate) fn at_least(&self, operand: &Operand, ty: Type) -> Type {
        let is_wide = matches!(operand, Operand::Name(name)
            if self.lookup(name).is_some_and(|reg| reg.class() == Class::Wide));
        if is_wide { Type::B64 } else { ty }
    }
}

fn parts_of(operand: &Operand) -> &[Operand] {
    match operand {
        Operand::Vector(parts) => parts,
        one => std::slice::from_ref(one),
    }
}
