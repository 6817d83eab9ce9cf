//! Calls of functions: the body is built anew where it is called. PTX of CUDA C++ without function pointers needs no more.

use super::{Builder, Opcode};
use crate::exec::RETURN;
use crate::ptx::{Guard, Operand, Space, Statement, Variable};

impl Builder<'_> {
    /// `call (results), function, (arguments);`, each a variable in the space of parameters.
    pub(super) fn call(&mut self, statement: &Statement) -> Result<(), String> {
        let names = |operand: &Operand| -> Result<Vec<String>, String> {
            let parts = match operand {
                Operand::List(parts) => &parts[..],
                one => std::slice::from_ref(one),
            };
            parts
                .iter()
                .map(|part| match part {
                    Operand::Name(name) => Ok(name.clone()),
                    other => Err(format!("{other:?} in a call")),
                })
                .collect()
        };
        let (results, function, arguments) = match &statement.operands[..] {
            [Operand::Name(function)] => (Vec::new(), function, Vec::new()),
            [Operand::Name(function), arguments] => (Vec::new(), function, names(arguments)?),
            [results, Operand::Name(function)] => (names(results)?, function, Vec::new()),
            [results, Operand::Name(function), arguments] => {
                (names(results)?, function, names(arguments)?)
            }
            _ => return Err("an unknown form of a call".into()),
        };
        let functions = self.functions;
        let callee = functions
            .iter()
            .find(|callee| callee.name == *function)
            .ok_or_else(|| format!("no function {function}"))?;
        let depth = self.scopes.iter().filter(|scope| scope.is_function).count();
        if depth == DEEPEST {
            return Err("calls go too deep".into());
        }
        self.open(true);
        if let Some(guard) = &statement.guard {
            self.skip(statement, guard)?;
        }
        let saved = self.symbols.clone();
        self.bind(&callee.results, &results)?;
        self.bind(&callee.params, &arguments)?;
        for item in &callee.body {
            self.item(item)?;
        }
        self.symbols = saved;
        self.label(RETURN.to_owned())?;
        self.scopes.pop();
        Ok(())
    }

    /// A branch past the body, for a call that is guarded.
    fn skip(&mut self, statement: &Statement, guard: &Guard) -> Result<(), String> {
        let branch = Statement {
            line: statement.line,
            guard: Some(Guard {
                predicate: guard.predicate.clone(),
                negated: !guard.negated,
            }),
            opcode: "bra".into(),
            operands: vec![Operand::Name(RETURN.to_owned())],
        };
        self.statement(Opcode::parse("bra"), &branch)
    }

    /// Lets the names of a function's parameters stand for the caller's variables.
    fn bind(&mut self, params: &[Variable], variables: &[String]) -> Result<(), String> {
        if params.len() != variables.len() {
            return Err(format!(
                "{} parameters, {} in the call",
                params.len(),
                variables.len()
            ));
        }
        for (param, variable) in params.iter().zip(variables) {
            match self.symbol(variable) {
                Some((Space::Local, at)) => self.define(&param.name, Space::Local, at),
                _ => return Err(format!("no parameter {variable}")),
            }
        }
        Ok(())
    }
}

/// Calls in calls.
const DEEPEST: usize = 8;
