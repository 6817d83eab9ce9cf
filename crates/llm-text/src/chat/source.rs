//! A template's source as the engine is to read it.
//!
//! The engine answers some of a template's questions otherwise than `jinja2`: what white space a tag takes, what a string's
//! escapes mean, what an operator does to strings, whether a dictionary's `items` is its method or its key. Those parts of
//! the source are rewritten to calls of [`super::python`]; what is left to the engine is control flow, scopes and macros.

use std::collections::HashMap;

use super::python;

mod expression;
mod lexer;
mod literal;
mod token;

use lexer::tokens;
pub(super) use literal::is_space;
use token::Token;

/// Error in a source, and its line.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: Option<u32>,
    pub(super) problem: String,
}

impl Fault {
    /// The fault with its line, unless that is known already.
    fn on_line(self, line: u32) -> Fault {
        Fault {
            line: self.line.or(Some(line)),
            ..self
        }
    }
}

fn broken<T>(problem: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        line: None,
        problem: problem.into(),
    })
}

/// Rewrites a template. Each tag stays on its line, so that the engine's errors name it.
pub(super) fn rewritten(source: &str) -> Result<String, Fault> {
    let tokens = tokens(source)?;
    let mut writer = Writer {
        macros: open_macros(&tokens),
        tokens,
        at: 0,
        depth: 0,
        out: String::with_capacity(source.len() * 2),
        out_line: 1,
        open: Vec::new(),
        unknown: Vec::new(),
    };
    let result = writer.template();
    let line = writer.line();
    result.map_err(|fault| fault.on_line(line))?;
    match writer.unknown.pop() {
        Some((problem, line)) => broken(problem).map_err(|fault: Fault| fault.on_line(line)),
        None => Ok(writer.out),
    }
}

struct Writer {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: u32,
    out: String,
    out_line: u32,
    /// The tags that are open, each with whether it is an `if`: what a template does not know is an error there only
    /// where it is reached.
    open: Vec<bool>,
    unknown: Vec<(String, u32)>,
    macros: HashMap<String, OpenMacro>,
}

/// A macro that takes more arguments than it names, which the engine's macros cannot.
struct OpenMacro {
    parameters: Vec<String>,
    varargs: bool,
    kwargs: bool,
}

/// The macros whose bodies speak of `varargs` or `kwargs`.
fn open_macros(tokens: &[(Token, u32)]) -> HashMap<String, OpenMacro> {
    let is_name = |at: usize, name: &str| matches!(&tokens[at].0, Token::Name(n) if n == name);
    let mut macros = HashMap::new();
    for at in 2..tokens.len() {
        let is_macro = is_name(at - 1, "macro") && tokens[at - 2].0 == Token::BlockBegin;
        let (true, Token::Name(name)) = (is_macro, &tokens[at].0) else {
            continue;
        };
        let body = (at..tokens.len()).take_while(|&at| !is_name(at, "endmacro"));
        let (mut varargs, mut kwargs) = (false, false);
        for at in body {
            varargs |= is_name(at, "varargs");
            kwargs |= is_name(at, "kwargs");
        }
        let (mut parameters, mut depth) = (Vec::new(), 0);
        for at in at + 1..tokens.len() {
            match &tokens[at].0 {
                Token::Operator("(" | "[" | "{") => depth += 1,
                Token::Operator(")" | "]" | "}") => depth -= 1,
                Token::Name(name)
                    if depth == 1 && matches!(&tokens[at - 1].0, Token::Operator("(" | ",")) =>
                {
                    parameters.push(name.clone());
                }
                _other => {}
            }
            if depth == 0 {
                break;
            }
        }
        if varargs || kwargs {
            let open = OpenMacro {
                parameters,
                varargs,
                kwargs,
            };
            macros.insert(name.clone(), open);
        }
    }
    macros
}

impl Writer {
    fn token(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn look_ahead(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].1
    }

    fn next(&mut self) -> Token {
        let token = self.token().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.token(), Token::Operator(found) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(found) if found == name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let is_there = self.is_op(op);
        if is_there {
            self.next();
        }
        is_there
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is_there = self.is_name(name);
        if is_there {
            self.next();
        }
        is_there
    }

    fn expect(&mut self, token: &Token) -> Result<(), Fault> {
        if self.token() != token {
            return self.unexpected(&token.describe());
        }
        self.next();
        Ok(())
    }

    fn expect_op(&mut self, op: &'static str) -> Result<(), Fault> {
        self.expect(&Token::Operator(op))
    }

    fn expect_name(&mut self) -> Result<String, Fault> {
        match self.token() {
            Token::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _other => self.unexpected("a name"),
        }
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Fault> {
        let found = self.token().describe();
        broken(format!("expected {expected}, found {found}"))
    }

    fn deeper<T>(&mut self, write: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        if self.depth >= MAX_DEPTH {
            return broken("the template is nested too deeply");
        }
        self.depth += 1;
        let result = write(self);
        self.depth -= 1;
        result
    }

    fn template(&mut self) -> Result<(), Fault> {
        loop {
            let line = self.line();
            match self.next() {
                Token::Data(text) => self.tag("{{", line, &literal::quoted(&text), "}}"),
                Token::PrintBegin => {
                    let value = self.tuple(true, &[])?;
                    self.expect(&Token::PrintEnd)?;
                    self.tag("{{", line, &value, "}}");
                }
                Token::BlockBegin => {
                    self.statement(line)?;
                    self.expect(&Token::BlockEnd)?;
                }
                Token::End => return Ok(()),
                other => return broken(format!("unexpected {}", other.describe())),
            }
        }
    }

    /// Writes a tag on its line.
    fn tag(&mut self, begin: &str, line: u32, content: &str, end: &str) {
        self.out.push_str(begin);
        while self.out_line < line {
            self.out.push('\n');
            self.out_line += 1;
        }
        self.out.push_str(&format!(" {content} {end}"));
    }

    fn statement(&mut self, line: u32) -> Result<(), Fault> {
        let name = self.expect_name()?;
        let mut content = name.clone();
        match name.as_str() {
            "if" => {
                self.open.push(true);
                content = format!("if {}", self.tuple(false, &[])?);
            }
            "elif" => content = format!("elif {}", self.tuple(false, &[])?),
            "else" | "break" | "continue" => {}
            "endif" | "endfor" | "endset" | "endwith" | "endmacro" | "endcall" | "endfilter" => {
                self.open.pop();
            }
            "endblock" => {
                self.open.pop();
                if matches!(self.token(), Token::Name(_)) {
                    self.next();
                }
            }
            "for" => content = self.for_statement()?,
            "set" => return self.set_statement(line),
            "with" => {
                let (mut targets, mut values) = (Vec::new(), Vec::new());
                while !matches!(self.token(), Token::BlockEnd | Token::Operator(":")) {
                    if !targets.is_empty() {
                        self.expect_op(",")?;
                    }
                    targets.push(self.target()?);
                    self.expect_op("=")?;
                    values.push(self.expression()?);
                }
                self.open.push(false);
                // None of the values sees the others' variables.
                content = match (targets.as_slice(), values.as_slice()) {
                    ([], _) => "with".to_owned(),
                    ([target], [value]) => format!("with {target} = {value}"),
                    _ => format!("with ({}) = [{}]", targets.join(", "), values.join(", ")),
                };
            }
            "macro" => {
                let name = self.expect_name()?;
                let mut parameters = self.signature()?;
                if let Some(open) = self.macros.get(&name) {
                    let more = [("varargs", open.varargs, "py_tuple()")];
                    let more_named = [("kwargs", open.kwargs, "py_dict()")];
                    for (name, is_taken, default) in more.into_iter().chain(more_named) {
                        if is_taken {
                            parameters.push(format!("{name} = {default}"));
                        }
                    }
                }
                self.open.push(false);
                content = format!("macro {name}({})", parameters.join(", "));
            }
            "call" => {
                let parameters = match self.is_op("(") {
                    true => self.signature()?,
                    false => Vec::new(),
                };
                let call = self.expression()?;
                self.open.push(false);
                content = format!("call({}) {call}", parameters.join(", "));
            }
            "filter" => {
                let filters = self.filters(true)?;
                self.open.push(false);
                content = format!("filter {filters}");
            }
            "block" => {
                content = format!("block {}", self.expect_name()?);
                self.skip_name("scoped");
                self.open.push(false);
            }
            // What the model is trained on is marked so; it is a scope of its own.
            "generation" => {
                self.open.push(false);
                content = "with".to_owned();
            }
            "endgeneration" => {
                self.open.pop();
                content = "endwith".to_owned();
            }
            "print" => {
                let value = self.tuple(true, &[])?;
                self.tag("{{", line, &value, "}}");
                return Ok(());
            }
            "include" | "import" | "from" | "extends" => {
                return broken(format!("{name} has no other templates to take"));
            }
            "autoescape" => return broken("the tag autoescape is not supported"),
            _other => return broken(format!("unknown tag {name}")),
        }
        self.skip_op(":");
        self.tag("{%", line, &content, "%}");
        Ok(())
    }

    fn for_statement(&mut self) -> Result<String, Fault> {
        let target = self.targets(&["in"])?;
        if !self.skip_name("in") {
            return self.unexpected("in");
        }
        let iterable = self.tuple(false, &["recursive"])?;
        self.open.push(false);
        let mut content = format!("for {target} in py_iter({iterable})");
        if self.skip_name("if") {
            content += &format!(" if {}", self.expression()?);
        }
        if self.skip_name("recursive") {
            content += " recursive";
        }
        Ok(content)
    }

    fn set_statement(&mut self, line: u32) -> Result<(), Fault> {
        if let (Token::Name(_), Token::Operator(".")) = (self.token(), self.look_ahead()) {
            let name = self.expect_name()?;
            self.next();
            let attribute = literal::quoted(&self.expect_name()?);
            self.expect_op("=")?;
            let value = self.tuple(true, &[])?;
            let call = format!("py_set_attribute({name}, {attribute}, {value})");
            self.tag("{{", line, &call, "}}");
            return Ok(());
        }
        let target = self.targets(&[])?;
        let mut content = format!("set {target}");
        if self.skip_op("=") {
            let value = self.tuple(true, &[])?;
            content += &match target.starts_with('(') {
                true => format!(" = py_iter({value})"),
                false => format!(" = {value}"),
            };
        } else {
            if self.is_op("|") {
                content += &format!(" | {}", self.filters(false)?);
            }
            self.open.push(false);
        }
        self.tag("{%", line, &content, "%}");
        Ok(())
    }

    /// The parameters of a macro with their defaults.
    fn signature(&mut self) -> Result<Vec<String>, Fault> {
        self.expect_op("(")?;
        let mut parameters = Vec::new();
        while !self.is_op(")") {
            let mut parameter = self.expect_name()?;
            if self.skip_op("=") {
                parameter += &format!(" = {}", self.expression()?);
            }
            parameters.push(parameter);
            if !self.skip_op(",") {
                break;
            }
        }
        self.expect_op(")")?;
        Ok(parameters)
    }

    /// One or more names to assign to.
    fn targets(&mut self, ends: &[&str]) -> Result<String, Fault> {
        let mut targets = vec![self.target()?];
        let mut is_tuple = false;
        while self.skip_op(",") {
            is_tuple = true;
            let is_over = self.is_op("=")
                || self.is_op(")")
                || matches!(self.token(), Token::BlockEnd)
                || ends.iter().any(|end| self.is_name(end));
            if is_over {
                break;
            }
            targets.push(self.target()?);
        }
        match (is_tuple, targets.len()) {
            (false, _) => Ok(targets.remove(0)),
            (true, 1) => Ok(format!("({},)", targets[0])),
            (true, _) => Ok(format!("({})", targets.join(", "))),
        }
    }

    fn target(&mut self) -> Result<String, Fault> {
        if self.skip_op("(") {
            let inner = self.deeper(|writer| writer.targets(&[]))?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        let name = self.expect_name()?;
        let constants = ["true", "false", "none", "True", "False", "None"];
        match constants.contains(&name.as_str()) {
            true => broken(format!("can't assign to {name}")),
            false => Ok(name),
        }
    }

    /// Filters and what they are called with, one after the other.
    fn filters(&mut self, has_begun: bool) -> Result<String, Fault> {
        let mut result = String::new();
        let mut has_begun = has_begun;
        let mut n = 0;
        while has_begun || self.skip_op("|") {
            has_begun = false;
            expression::longer(&mut n)?;
            let line = self.line();
            let name = self.dotted_name()?;
            let is_known = python::FILTERS.iter().any(|(known, _)| *known == name);
            self.check_known(&name, "filter", is_known, line);
            if !result.is_empty() {
                result.push('|');
            }
            result += &name.replace('.', "_");
            if self.is_op("(") {
                result += &format!("({})", self.arguments()?.join(", "));
            }
        }
        Ok(result)
    }

    fn dotted_name(&mut self) -> Result<String, Fault> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.expect_name()?);
        }
        Ok(name)
    }

    fn check_known(&mut self, name: &str, what: &str, is_known: bool, line: u32) {
        if !is_known && !self.open.last().is_some_and(|is_if| *is_if) {
            self.unknown.push((format!("no {what} named {name}"), line));
        }
    }
}

/// Brackets and operators within one another. The engine has a bound of its own that is not far above.
const MAX_DEPTH: u32 = 60;
