//! The parser of modules, declarations and statements.

mod operand;

use super::token::{Token, tokens};
use super::{Function, Guard, Item, Module, Space, Statement, Type, Variable};

/// Parts of a module, or what is not understood in it and at which line.
pub(crate) fn parse(source: &str) -> Result<Module, String> {
    let tokens = tokens(source);
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
    };
    let mut module = Module {
        version: 0,
        target: 0,
        variables: Vec::new(),
        kernels: Vec::new(),
        functions: Vec::new(),
    };
    while parser.at < tokens.len() {
        parser.top(&mut module)?;
    }
    if module.version == 0 || module.target == 0 {
        return Err("no .version or no .target".into());
    }
    Ok(module)
}

struct Parser<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
}

impl<'a> Parser<'a> {
    fn top(&mut self, module: &mut Module) -> Result<(), String> {
        match self.peek() {
            ".version" => module.version = self.version()?,
            ".target" => {
                self.next();
                let word = self.next();
                let digits: String = word.chars().filter(char::is_ascii_digit).collect();
                module.target = digits
                    .parse()
                    .map_err(|_| self.wrong(&format!("target {word}")))?;
                self.skip_line();
            }
            ".address_size" | ".file" | ".loc" => self.skip_line(),
            ".pragma" => self.skip_past(";"),
            ".section" => self.skip_past("}"),
            _ => self.declaration(module)?,
        }
        Ok(())
    }

    fn version(&mut self) -> Result<u32, String> {
        self.next();
        let word = self.next();
        word.split_once('.')
            .and_then(|(major, minor)| {
                Some(major.parse::<u32>().ok()? * 10 + minor.parse::<u32>().ok()?)
            })
            .ok_or_else(|| self.wrong(&format!("version {word}")))
    }

    fn declaration(&mut self, module: &mut Module) -> Result<(), String> {
        let mut is_extern = false;
        loop {
            match self.peek() {
                ".visible" | ".weak" | ".common" => {}
                ".extern" => is_extern = true,
                ".entry" => {
                    self.next();
                    let kernel = self.function(Vec::new())?;
                    module.kernels.extend(kernel);
                    return Ok(());
                }
                ".func" => {
                    self.next();
                    let results = if self.peek() == "(" {
                        self.params()?
                    } else {
                        Vec::new()
                    };
                    let function = self.function(results)?;
                    module.functions.extend(function);
                    return Ok(());
                }
                ".global" | ".const" | ".shared" => {
                    let mut variable = self.variable()?;
                    variable.is_extern = is_extern;
                    module.variables.push(variable);
                    return self.expect(";");
                }
                other => return Err(self.wrong(other)),
            }
            self.next();
        }
    }

    /// A kernel or function from its name on; nothing for one that is only declared.
    fn function(&mut self, results: Vec<Variable>) -> Result<Option<Function>, String> {
        let name = self.next().to_owned();
        let params = if self.peek() == "(" {
            self.params()?
        } else {
            Vec::new()
        };
        let mut max_threads = None;
        loop {
            match self.next() {
                "{" => break,
                ";" => return Ok(None),
                ".maxntid" | ".reqntid" => {
                    let mut threads = self.count()?;
                    while self.peek() == "," {
                        self.next();
                        threads *= self.count()?;
                    }
                    max_threads = Some(threads);
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" => {
                    self.count()?;
                }
                ".noreturn" => {}
                other => return Err(self.wrong(other)),
            }
        }
        Ok(Some(Function {
            name,
            results,
            params,
            max_threads,
            body: self.body()?,
        }))
    }

    fn params(&mut self) -> Result<Vec<Variable>, String> {
        self.expect("(")?;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                ")" => {
                    self.next();
                    return Ok(out);
                }
                "," => {
                    self.next();
                }
                ".param" => out.push(self.variable()?),
                other => return Err(self.wrong(other)),
            }
        }
    }

    /// A variable from its state space on, up to what follows it.
    fn variable(&mut self) -> Result<Variable, String> {
        let line = self.line();
        let space = match self.next() {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            ".param" => Space::Param,
            other => return Err(self.wrong(other)),
        };
        let (mut align, mut ty) = (0, None);
        let mut n = 1;
        loop {
            match self.peek() {
                ".align" => {
                    self.next();
                    align = align.max(self.count()? as usize);
                }
                // What a pointer parameter points to says nothing of the parameter.
                ".ptr" => {
                    self.next();
                    while matches!(
                        self.peek(),
                        ".global" | ".shared" | ".const" | ".local" | ".align"
                    ) {
                        if self.next() == ".align" {
                            self.count()?;
                        }
                    }
                }
                ".v2" => {
                    n = 2;
                    self.next();
                }
                ".v4" => {
                    n = 4;
                    self.next();
                }
                word if word.starts_with('.') => {
                    ty = Some(Type::parse(&word[1..]).ok_or_else(|| self.wrong(word))?);
                    self.next();
                }
                _ => break,
            }
        }
        let ty = ty.ok_or_else(|| self.wrong("a variable without a type"))?;
        let name = self.next().to_owned();
        while self.peek() == "[" {
            self.next();
            n *= if self.peek() == "]" {
                0
            } else {
                self.count()? as usize
            };
            self.expect("]")?;
        }
        let mut init = Vec::new();
        if self.peek() == "=" {
            self.next();
            self.values(&mut init)?;
        }
        Ok(Variable {
            name,
            space,
            ty,
            align: align.max(ty.bytes()),
            bytes: n * ty.bytes(),
            init,
            is_extern: false,
            line,
        })
    }

    fn values(&mut self, out: &mut Vec<u64>) -> Result<(), String> {
        if self.peek() != "{" {
            out.push(self.number()?);
            return Ok(());
        }
        self.next();
        loop {
            match self.peek() {
                "}" => {
                    self.next();
                    return Ok(());
                }
                "," => {
                    self.next();
                }
                _ => self.values(out)?,
            }
        }
    }

    fn body(&mut self) -> Result<Vec<Item>, String> {
        let mut out = Vec::new();
        let mut depth = 0;
        loop {
            if self.at >= self.tokens.len() {
                return Err("a body that does not end".into());
            }
            match self.peek() {
                "{" => {
                    self.next();
                    depth += 1;
                    out.push(Item::Open);
                }
                "}" => {
                    self.next();
                    if depth == 0 {
                        return Ok(out);
                    }
                    depth -= 1;
                    out.push(Item::Close);
                }
                ";" => {
                    self.next();
                }
                ".reg" => out.push(self.registers()?),
                ".local" | ".shared" | ".const" | ".param" | ".global" => {
                    out.push(Item::Variable(self.variable()?));
                    self.expect(";")?;
                }
                ".loc" => self.skip_line(),
                ".pragma" => self.skip_past(";"),
                _ if self
                    .tokens
                    .get(self.at + 1)
                    .is_some_and(|next| next.text == ":") =>
                {
                    out.push(self.label()?);
                }
                _ => out.push(Item::Statement(self.statement()?)),
            }
        }
    }

    fn label(&mut self) -> Result<Item, String> {
        let name = self.next().to_owned();
        self.next();
        if self.peek() != ".branchtargets" {
            return Ok(Item::Label(name));
        }
        self.next();
        let mut targets = Vec::new();
        loop {
            match self.next() {
                ";" => return Ok(Item::Targets(name, targets)),
                "," => {}
                "" => return Err(self.wrong("a list of targets that does not end")),
                target => targets.push(target.to_owned()),
            }
        }
    }

    fn registers(&mut self) -> Result<Item, String> {
        self.next();
        let word = self.next();
        let ty = word
            .strip_prefix('.')
            .and_then(Type::parse)
            .ok_or_else(|| self.wrong(word))?;
        let mut names = Vec::new();
        loop {
            let name = self.next().to_owned();
            let count = if self.peek() == "<" {
                self.next();
                let count = self.count()?;
                self.expect(">")?;
                Some(count)
            } else {
                None
            };
            names.push((name, count));
            match self.next() {
                "," => {}
                ";" => return Ok(Item::Registers(ty, names)),
                other => return Err(self.wrong(other)),
            }
        }
    }

    fn statement(&mut self) -> Result<Statement, String> {
        let line = self.line();
        let mut guard = None;
        if self.peek() == "@" {
            self.next();
            let negated = self.peek() == "!";
            if negated {
                self.next();
            }
            guard = Some(Guard {
                predicate: self.next().to_owned(),
                negated,
            });
        }
        let opcode = self.next().to_owned();
        let mut operands = Vec::new();
        loop {
            match self.peek() {
                ";" => {
                    self.next();
                    break;
                }
                "," => {
                    self.next();
                }
                "" => return Err(self.wrong("a statement that does not end")),
                _ => operands.push(self.operand()?),
            }
        }
        Ok(Statement {
            line,
            guard,
            opcode,
            operands,
        })
    }

    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| token.text)
    }

    fn next(&mut self) -> &'a str {
        let text = self.peek();
        self.at += 1;
        text
    }

    fn line(&self) -> u32 {
        self.tokens
            .get(self.at.min(self.tokens.len().saturating_sub(1)))
            .map_or(0, |token| token.line)
    }

    fn expect(&mut self, sign: &str) -> Result<(), String> {
        match self.next() {
            found if found == sign => Ok(()),
            found => Err(self.wrong(&format!("`{found}` where `{sign}` is expected"))),
        }
    }

    fn skip_line(&mut self) {
        let line = self.line();
        while self
            .tokens
            .get(self.at)
            .is_some_and(|token| token.line == line)
        {
            self.at += 1;
        }
    }

    fn skip_past(&mut self, sign: &str) {
        while self.at < self.tokens.len() && self.next() != sign {}
    }

    /// A message about the token just read.
    fn wrong(&self, what: &str) -> String {
        let token = self.tokens.get(self.at.saturating_sub(1));
        format!(
            "line {}: {what}: not understood",
            token.map_or(0, |token| token.line)
        )
    }
}
