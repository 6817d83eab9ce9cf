//! Operands and numbers.

use super::Parser;
use crate::ptx::Operand;

impl Parser<'_> {
    pub(super) fn operand(&mut self) -> Result<Operand, String> {
        let one = match self.peek() {
            "{" => Operand::Vector(self.between("{", "}")?),
            "(" => Operand::List(self.between("(", ")")?),
            "[" => self.address()?,
            "!" => {
                self.next();
                Operand::Not(self.next().to_owned())
            }
            word if word == "-" || word.starts_with(|c: char| c.is_ascii_digit()) => {
                Operand::Number(self.number()?)
            }
            _ => Operand::Name(self.next().to_owned()),
        };
        if self.peek() != "|" {
            return Ok(one);
        }
        self.next();
        Ok(Operand::Pair(Box::new(one), Box::new(self.operand()?)))
    }

    fn between(&mut self, open: &str, close: &str) -> Result<Vec<Operand>, String> {
        self.expect(open)?;
        let mut out = Vec::new();
        loop {
            match self.peek() {
                "," => {
                    self.next();
                }
                word if word == close => {
                    self.next();
                    return Ok(out);
                }
                "" => return Err(self.wrong("operands that do not end")),
                _ => out.push(self.operand()?),
            }
        }
    }

    fn address(&mut self) -> Result<Operand, String> {
        self.expect("[")?;
        let base = self.operand()?;
        let mut offset = 0i64;
        while self.peek() != "]" {
            match self.next() {
                "+" => offset = offset.wrapping_add(self.number()? as i64),
                "-" => offset = offset.wrapping_sub(self.number()? as i64),
                other => return Err(self.wrong(other)),
            }
        }
        self.next();
        Ok(Operand::Address(Box::new(base), offset))
    }

    /// Bits of a number, in the widest form: integers as 64 bits, `0f` as the 32 of a float.
    pub(super) fn number(&mut self) -> Result<u64, String> {
        let negative = self.peek() == "-";
        if negative {
            self.next();
        }
        let word = self.next();
        let bare = word.trim_end_matches('U');
        let value = match word.get(..2) {
            Some("0f" | "0F") if word.len() == 10 => u64::from_str_radix(&word[2..], 16),
            Some("0d" | "0D") => u64::from_str_radix(&word[2..], 16),
            Some("0x" | "0X") => u64::from_str_radix(&bare[2..], 16),
            _ => bare.parse(),
        }
        .map_err(|_| self.wrong(word))?;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }

    pub(super) fn count(&mut self) -> Result<u32, String> {
        let number = self.number()?;
        u32::try_from(number).map_err(|_| self.wrong(&number.to_string()))
    }
}
