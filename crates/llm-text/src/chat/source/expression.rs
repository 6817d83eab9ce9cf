//! Expressions by the precedence of `jinja2`. Each is written so that it can stand anywhere.

use super::super::python;
use super::token::Token;
use super::{Fault, Writer, broken, literal};

impl Writer {
    pub(super) fn expression(&mut self) -> Result<String, Fault> {
        self.deeper(Self::choice)
    }

    /// One expression, or several with commas between them.
    pub(super) fn tuple(&mut self, with_choice: bool, ends: &[&str]) -> Result<String, Fault> {
        self.tuple_of(with_choice, ends, false)
    }

    fn tuple_of(
        &mut self,
        with_choice: bool,
        ends: &[&str],
        may_be_empty: bool,
    ) -> Result<String, Fault> {
        let mut items = Vec::new();
        let mut is_tuple = may_be_empty && self.is_op(")");
        while !self.ends_tuple(ends) {
            items.push(match with_choice {
                true => self.expression()?,
                false => self.deeper(Self::or)?,
            });
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, items.len()) {
            (false, 1) => Ok(items.remove(0)),
            (false, _) => self.unexpected("an expression"),
            (true, _) => Ok(format!("py_tuple({})", items.join(", "))),
        }
    }

    fn ends_tuple(&self, ends: &[&str]) -> bool {
        matches!(self.token(), Token::BlockEnd | Token::PrintEnd)
            || self.is_op(")")
            || ends.iter().any(|end| self.is_name(end))
    }

    fn choice(&mut self) -> Result<String, Fault> {
        let n_unknown = self.unknown.len();
        let mut then = self.or()?;
        let mut n = 0;
        while self.skip_name("if") {
            longer(&mut n)?;
            let condition = self.or()?;
            let otherwise = match self.skip_name("else") {
                true => format!(" else {}", self.deeper(Self::choice)?),
                false => String::new(),
            };
            // `jinja2` forgives what it does not know in a branch that may not be reached.
            self.unknown.truncate(n_unknown);
            then = format!("({then} if {condition}{otherwise})");
        }
        Ok(then)
    }

    fn or(&mut self) -> Result<String, Fault> {
        self.joined("or", Self::and)
    }

    fn and(&mut self) -> Result<String, Fault> {
        self.joined("and", Self::not)
    }

    fn joined(
        &mut self,
        word: &str,
        operand: impl Fn(&mut Self) -> Result<String, Fault>,
    ) -> Result<String, Fault> {
        let mut operands = vec![operand(self)?];
        while self.skip_name(word) {
            operands.push(operand(self)?);
        }
        match operands.len() {
            1 => Ok(operands.remove(0)),
            _more => Ok(format!("({})", operands.join(&format!(" {word} ")))),
        }
    }

    fn not(&mut self) -> Result<String, Fault> {
        if self.skip_name("not") {
            return Ok(format!("(not {})", self.deeper(Self::not)?));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<String, Fault> {
        let mut operands = vec![self.sum()?];
        while let Some(op) = self.compare_operator() {
            operands.push(literal::quoted(op));
            operands.push(self.sum()?);
        }
        match operands.len() {
            1 => Ok(operands.remove(0)),
            _more => Ok(format!("py_compare({})", operands.join(", "))),
        }
    }

    fn compare_operator(&mut self) -> Option<&'static str> {
        let op = match self.token() {
            Token::Operator(op @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => op,
            Token::Name(name) if name == "in" => "in",
            Token::Name(name) if name == "not" => match self.look_ahead() {
                Token::Name(next) if next == "in" => {
                    self.next();
                    "not in"
                }
                _other => return None,
            },
            _other => return None,
        };
        self.next();
        Some(op)
    }

    fn sum(&mut self) -> Result<String, Fault> {
        self.binary(&["+", "-"], Self::concat)
    }

    fn concat(&mut self) -> Result<String, Fault> {
        let mut items = vec![self.product()?];
        while self.skip_op("~") {
            items.push(self.product()?);
        }
        match items.len() {
            1 => Ok(items.remove(0)),
            _more => Ok(format!("py_concat({})", items.join(", "))),
        }
    }

    fn product(&mut self) -> Result<String, Fault> {
        self.binary(&["*", "/", "//", "%"], Self::power)
    }

    fn power(&mut self) -> Result<String, Fault> {
        self.binary(&["**"], |writer| writer.unary(true))
    }

    /// Operands with operators of one rank between them, which are applied from the left.
    fn binary(
        &mut self,
        operators: &[&str],
        operand: impl Fn(&mut Self) -> Result<String, Fault>,
    ) -> Result<String, Fault> {
        let mut operands = vec![operand(self)?];
        while let Some(op) = operators.iter().find(|op| self.is_op(op)) {
            self.next();
            operands.push(literal::quoted(op));
            operands.push(operand(self)?);
        }
        match operands.len() {
            1 => Ok(operands.remove(0)),
            _more => Ok(format!("py_op({})", operands.join(", "))),
        }
    }

    fn unary(&mut self, with_filter: bool) -> Result<String, Fault> {
        let inner = if self.skip_op("-") {
            let inner = self.deeper(|writer| writer.unary(false))?;
            self.postfix(format!("py_negative({inner})"))?
        } else if self.skip_op("+") {
            let inner = self.deeper(|writer| writer.unary(false))?;
            self.postfix(format!("py_positive({inner})"))?
        } else {
            self.primary()?
        };
        match with_filter {
            true => self.filters_and_tests(inner),
            false => Ok(inner),
        }
    }

    /// A name or a literal with what follows it.
    fn primary(&mut self) -> Result<String, Fault> {
        let inner = match self.next() {
            Token::Name(name) => match name.as_str() {
                "true" | "True" => "true".to_owned(),
                "false" | "False" => "false".to_owned(),
                "none" | "None" => "none".to_owned(),
                _other if self.is_op("(") => self.call_of(&name)?,
                _other => name,
            },
            Token::Str(mut text) => {
                while let Token::Str(more) = self.token() {
                    text.push_str(more);
                    self.next();
                }
                literal::quoted(&text)
            }
            Token::Int(i) => i.to_string(),
            Token::Float(f) if f.is_finite() => format!("{f:?}"),
            Token::Float(_) => "\"inf\"|float".to_owned(),
            Token::Operator("(") => {
                let inner = self.deeper(|writer| writer.tuple_of(true, &[], true))?;
                self.expect_op(")")?;
                format!("({inner})")
            }
            Token::Operator("[") => {
                let mut items = Vec::new();
                while !self.is_op("]") {
                    items.push(self.expression()?);
                    if !self.skip_op(",") {
                        break;
                    }
                }
                self.expect_op("]")?;
                format!("py_list({})", items.join(", "))
            }
            Token::Operator("{") => {
                let mut parts = Vec::new();
                while !self.is_op("}") {
                    parts.push(self.expression()?);
                    self.expect_op(":")?;
                    parts.push(self.expression()?);
                    if !self.skip_op(",") {
                        break;
                    }
                }
                self.expect_op("}")?;
                format!("py_dict({})", parts.join(", "))
            }
            other => return broken(format!("unexpected {}", other.describe())),
        };
        self.postfix(inner)
    }

    /// A call of a name, which the engine may know as a macro or a loop.
    fn call_of(&mut self, name: &str) -> Result<String, Fault> {
        let arguments = self.arguments()?;
        if name == "loop" {
            return Ok(format!("loop(py_iter({}))", arguments.join(", ")));
        }
        let Some(open) = self.macros.get(name) else {
            return Ok(format!("{name}({})", arguments.join(", ")));
        };
        let mut kept = Vec::new();
        let (mut more, mut more_named) = (Vec::new(), Vec::new());
        let mut n_positional = 0;
        for argument in arguments {
            if argument.starts_with('*') {
                return broken(format!("{name} is called with a list of arguments"));
            }
            match named(&argument) {
                None if n_positional < open.parameters.len() || !open.varargs => {
                    n_positional += 1;
                    kept.push(argument);
                }
                None => more.push(argument),
                Some((name, value)) if open.kwargs && !open.parameters.contains(&name) => {
                    more_named.push(format!("{}, {value}", literal::quoted(&name)));
                }
                Some(_) => kept.push(argument),
            }
        }
        if !more.is_empty() {
            kept.push(format!("varargs = py_tuple({})", more.join(", ")));
        }
        if !more_named.is_empty() {
            kept.push(format!("kwargs = py_dict({})", more_named.join(", ")));
        }
        Ok(format!("{name}({})", kept.join(", ")))
    }

    fn postfix(&mut self, inner: String) -> Result<String, Fault> {
        let mut inner = inner;
        let mut n = 0;
        loop {
            longer(&mut n)?;
            if self.skip_op(".") {
                match self.next() {
                    Token::Name(name) if self.is_op("(") => {
                        let mut arguments = vec![literal::quoted(&name)];
                        arguments.extend(self.arguments()?);
                        inner += &format!("|py_call_method({})", arguments.join(", "));
                    }
                    Token::Name(name) => {
                        inner += &format!("|py_attribute({})", literal::quoted(&name));
                    }
                    Token::Int(idx) => inner += &format!("|py_item({idx})"),
                    _other => return broken("expected a name or a number after the dot"),
                }
            } else if self.is_op("[") {
                inner += &self.subscript()?;
            } else if self.is_op("(") {
                inner += &format!("|py_call({})", self.arguments()?.join(", "));
            } else {
                return Ok(inner);
            }
        }
    }

    fn subscript(&mut self) -> Result<String, Fault> {
        self.expect_op("[")?;
        let mut parts = Vec::new();
        while !self.is_op("]") {
            let is_bound = |writer: &Self| !writer.is_op(":") && !writer.is_op("]");
            parts.push(match is_bound(self) {
                true => Some(self.expression()?),
                false => None,
            });
            if self.is_op(",") && parts.len() == 1 {
                let mut items = vec![parts.remove(0).unwrap_or_default()];
                while self.skip_op(",") {
                    items.push(self.expression()?);
                }
                self.expect_op("]")?;
                return Ok(format!("|py_item(py_tuple({}))", items.join(", ")));
            }
            if !self.is_op(":") {
                break;
            }
            self.next();
            if self.is_op("]") {
                parts.push(None);
            }
        }
        self.expect_op("]")?;
        match parts.len() {
            0 => broken("an index is missing"),
            1 => Ok(format!("|py_item({})", parts.remove(0).unwrap_or_default())),
            2 | 3 => {
                let bounds = parts
                    .into_iter()
                    .map(|part| part.unwrap_or("none".to_owned()));
                let bounds: Vec<String> = bounds.collect();
                Ok(format!("|py_slice({})", bounds.join(", ")))
            }
            _more => broken("a slice has too many parts"),
        }
    }

    pub(super) fn arguments(&mut self) -> Result<Vec<String>, Fault> {
        self.expect_op("(")?;
        let mut arguments: Vec<String> = Vec::new();
        while !self.is_op(")") {
            let is_named = matches!(self.token(), Token::Name(_))
                && matches!(self.look_ahead(), Token::Operator("="));
            if self.skip_op("*") {
                arguments.push(format!("*py_iter({})", self.expression()?));
            } else if self.is_op("**") {
                return broken("arguments from a dictionary (`**`) are not supported");
            } else if is_named {
                let name = self.expect_name()?;
                self.next();
                arguments.push(format!("{name} = {}", self.expression()?));
            } else if arguments.iter().all(|argument| named(argument).is_none()) {
                arguments.push(self.expression()?);
            } else {
                return broken("a positional argument follows a named one");
            }
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op(")")?;
        Ok(arguments)
    }

    fn filters_and_tests(&mut self, inner: String) -> Result<String, Fault> {
        let mut inner = inner;
        let mut n = 0;
        loop {
            longer(&mut n)?;
            if self.is_op("|") {
                inner = format!("{inner}|{}", self.filters(false)?);
            } else if self.is_name("is") {
                inner = self.test(&inner)?;
            } else if self.is_op("(") {
                inner += &format!("|py_call({})", self.arguments()?.join(", "));
            } else {
                return Ok(inner);
            }
        }
    }

    fn test(&mut self, inner: &str) -> Result<String, Fault> {
        let line = self.line();
        self.next();
        let is_negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let is_known = python::CHECKS.iter().any(|(known, _)| *known == name);
        self.check_known(&name, "test", is_known, line);
        let arguments = match self.token() {
            Token::Operator("(") => self.arguments()?,
            Token::Name(word) if ["else", "or", "and"].contains(&word.as_str()) => Vec::new(),
            Token::Name(word) if word == "is" => {
                return broken("you cannot chain multiple tests with is");
            }
            Token::Name(_)
            | Token::Str(_)
            | Token::Int(_)
            | Token::Float(_)
            | Token::Operator("[" | "{") => vec![self.deeper(Self::primary)?],
            _other => Vec::new(),
        };
        let mut all = vec![literal::quoted(&name), inner.to_owned()];
        all.extend(arguments);
        let test = format!("py_test({})", all.join(", "));
        Ok(match is_negated {
            true => format!("(not {test})"),
            false => test,
        })
    }
}

/// The name and the value of an argument that was written with its name.
fn named(argument: &str) -> Option<(String, String)> {
    let (name, value) = argument.split_once(" = ")?;
    let is_name = name.chars().all(|c| c == '_' || c.is_alphanumeric());
    is_name.then(|| (name.to_owned(), value.to_owned()))
}

/// Counts what follows one another and is yet a level deeper each.
pub(super) fn longer(n: &mut u32) -> Result<(), Fault> {
    *n += 1;
    match *n > MAX_CHAIN {
        true => broken("an expression is too long"),
        false => Ok(()),
    }
}

const MAX_CHAIN: u32 = 200;
