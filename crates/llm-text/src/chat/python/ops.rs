//! Operators as Python defines them.

use minijinja::Error;

use super::Cx;
use super::broken;
use super::value::{ITEM_BYTES, Str, Value};
use super::write::escape;

/// The operators of arithmetic.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

impl Binary {
    pub(super) fn of(sign: &str) -> Option<Binary> {
        Some(match sign {
            "+" => Binary::Add,
            "-" => Binary::Sub,
            "*" => Binary::Mul,
            "/" => Binary::Div,
            "//" => Binary::FloorDiv,
            "%" => Binary::Mod,
            "**" => Binary::Pow,
            _other => return None,
        })
    }
}

impl Cx {
    pub(super) fn binary(&self, op: Binary, a: &Value, b: &Value) -> Result<Value, Error> {
        a.defined()?;
        match (op, a, b) {
            (Binary::Mod, Value::Str(format), _) => return super::percent::format(self, format, b),
            (_, _, Value::Undefined) => return b.defined().map(|()| Value::None),
            (Binary::Add, Value::Str(a), Value::Str(b)) => return self.join_two(a, b),
            (Binary::Add, Value::List(a), Value::List(b)) => {
                self.meter
                    .has_room((a.items.len() + b.items.len()) * ITEM_BYTES)?;
                return self.list([&*a.items, &*b.items].concat());
            }
            (Binary::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.meter
                    .has_room((a.items.len() + b.items.len()) * ITEM_BYTES)?;
                return self.tuple([&*a.items, &*b.items].concat());
            }
            (Binary::Mul, sequence, n) | (Binary::Mul, n, sequence)
                if n.as_int().is_some()
                    && matches!(sequence, Value::Str(_) | Value::List(_) | Value::Tuple(_)) =>
            {
                return self.repeated(sequence, n.int()?);
            }
            (_, _, _) => {}
        }
        match (a.as_int(), b.as_int()) {
            (Some(x), Some(y)) => integers(op, x, y),
            (_, _) => match (a.as_float(), b.as_float()) {
                (Some(x), Some(y)) => floats(op, x, y).map(Value::Float),
                (_, _) => unsupported(op, a, b),
            },
        }
    }

    fn join_two(&self, a: &Str, b: &Str) -> Result<Value, Error> {
        let safe = a.is_markup() || b.is_markup();
        let mut out = self.buffer();
        for part in [a, b] {
            let part = Value::Str(part.clone());
            let part = if safe { escape(self, &part)? } else { part };
            self.write_str(&part, &mut out)?;
        }
        self.finish(out, safe)
    }

    fn repeated(&self, sequence: &Value, n: i128) -> Result<Value, Error> {
        let n = usize::try_from(n.max(0)).unwrap_or(usize::MAX);
        match sequence {
            Value::Str(s) => {
                let mut out = self.buffer();
                out.repeat(s, n)?;
                self.finish(out, s.is_markup())
            }
            Value::List(s) | Value::Tuple(s) => {
                let len = s.items.len().saturating_mul(n);
                self.meter.has_room(len.saturating_mul(ITEM_BYTES))?;
                let items = s.items.iter().cycle().take(len).cloned().collect();
                match sequence {
                    Value::List(_) => self.list(items),
                    _tuple => self.tuple(items),
                }
            }
            other => broken(format!("can't multiply {}", other.type_name())),
        }
    }

    pub(super) fn negative(&self, value: &Value) -> Result<Value, Error> {
        value.defined()?;
        match (value.as_int().and_then(i128::checked_neg), value) {
            (Some(i), _) => Ok(Value::Int(i)),
            (None, Value::Float(f)) => Ok(Value::Float(-f)),
            (None, _) => broken(format!(
                "bad operand type for unary -: '{}'",
                value.type_name()
            )),
        }
    }

    pub(super) fn positive(&self, value: &Value) -> Result<Value, Error> {
        value.defined()?;
        match (value.as_int(), value) {
            (Some(i), _) => Ok(Value::Int(i)),
            (None, Value::Float(f)) => Ok(Value::Float(*f)),
            (None, _) => broken(format!(
                "bad operand type for unary +: '{}'",
                value.type_name()
            )),
        }
    }
}

fn unsupported(op: Binary, a: &Value, b: &Value) -> Result<Value, Error> {
    let sign = match op {
        Binary::Add => "+",
        Binary::Sub => "-",
        Binary::Mul => "*",
        Binary::Div => "/",
        Binary::FloorDiv => "//",
        Binary::Mod => "%",
        Binary::Pow => "** or pow()",
    };
    let (a, b) = (a.type_name(), b.type_name());
    broken(format!(
        "unsupported operand type(s) for {sign}: '{a}' and '{b}'"
    ))
}

fn integers(op: Binary, x: i128, y: i128) -> Result<Value, Error> {
    let is_division = matches!(op, Binary::Div | Binary::FloorDiv | Binary::Mod);
    if is_division && y == 0 {
        return broken("division by zero");
    }
    let result = match op {
        Binary::Add => x.checked_add(y),
        Binary::Sub => x.checked_sub(y),
        Binary::Mul => x.checked_mul(y),
        Binary::FloorDiv => x.checked_div(y).map(|quotient| {
            let is_exact = quotient.checked_mul(y) == Some(x);
            quotient - i128::from(!is_exact && (x < 0) != (y < 0))
        }),
        Binary::Mod => x
            .checked_rem(y)
            .map(|rest| match rest != 0 && (rest < 0) != (y < 0) {
                true => rest + y,
                false => rest,
            }),
        Binary::Div => return Ok(Value::Float(x as f64 / y as f64)),
        Binary::Pow => {
            if y < 0 {
                return floats(op, x as f64, y as f64).map(Value::Float);
            }
            match x {
                0 | 1 => Some(if y == 0 { 1 } else { x }),
                -1 => Some(if y % 2 == 0 { 1 } else { -1 }),
                _other => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
            }
        }
    };
    match result {
        Some(i) => Ok(Value::Int(i)),
        None => broken("a number is too large"),
    }
}

fn floats(op: Binary, x: f64, y: f64) -> Result<f64, Error> {
    let is_division = matches!(op, Binary::Div | Binary::FloorDiv | Binary::Mod);
    if is_division && y == 0.0 {
        return broken("float division by zero");
    }
    Ok(match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::FloorDiv => floor_division(x, y).0,
        Binary::Mod => floor_division(x, y).1,
        Binary::Pow => {
            if x == 0.0 && y < 0.0 {
                return broken("0.0 cannot be raised to a negative power");
            }
            if x < 0.0 && x.is_finite() && y.is_finite() && y.fract() != 0.0 {
                return broken("a negative number to a fraction is a complex number");
            }
            let result = x.powf(y);
            if result.is_infinite() && x.is_finite() && y.is_finite() {
                return broken("a number is too large");
            }
            result
        }
    })
}

/// The quotient and the rest, which has the divisor's sign.
fn floor_division(x: f64, y: f64) -> (f64, f64) {
    let mut rest = x % y;
    let mut quotient = (x - rest) / y;
    if rest == 0.0 {
        rest = 0f64.copysign(y);
    } else if (y < 0.0) != (rest < 0.0) {
        rest += y;
        quotient -= 1.0;
    }
    if quotient == 0.0 {
        return (0f64.copysign(x / y), rest);
    }
    let floor = quotient.floor();
    let is_below = quotient - floor > 0.5;
    (if is_below { floor + 1.0 } else { floor }, rest)
}
