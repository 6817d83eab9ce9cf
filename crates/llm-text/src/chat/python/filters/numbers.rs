//! Filters of numbers.

use minijinja::Error;

use super::super::arguments::{Args, is_true};
use super::super::float;
use super::super::value::Value;
use super::super::{Cx, broken};
use super::given;

pub(super) fn abs(args: Args) -> Result<Value, Error> {
    let [value] = args.unnamed("abs", 1)?;
    match given(value) {
        Value::Float(f) => Ok(Value::Float(f.abs())),
        other => match other.int()?.checked_abs() {
            Some(i) => Ok(Value::Int(i)),
            None => broken("a number is too large"),
        },
    }
}

pub(super) fn int(args: Args) -> Result<Value, Error> {
    let [value, default, base] = args.bind("int", ["value", "default", "base"], 1)?;
    let value = given(value);
    value.defined()?;
    let default = default.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |base| base.int())?;
    let Ok(base) = u32::try_from(base) else {
        return broken("int() base must be >= 2 and <= 36, or 0");
    };
    let whole = |f: f64| match f.is_finite() && f.abs() < 1e38 {
        true => Ok(Value::Int(f as i128)),
        false if f.is_finite() => broken("a number is too large"),
        false => Ok(default.clone()),
    };
    match &value {
        Value::Str(s) => match float::parse_int(s, base) {
            Some(i) => Ok(Value::Int(i)),
            None => float::parse(s).map_or_else(|| Ok(default.clone()), whole),
        },
        Value::Float(f) if f.is_infinite() => broken("cannot convert float infinity to integer"),
        Value::Float(f) => whole(*f),
        other => Ok(other.as_int().map_or(default, Value::Int)),
    }
}

pub(super) fn float(args: Args) -> Result<Value, Error> {
    let [value, default] = args.bind("float", ["value", "default"], 1)?;
    let value = given(value);
    value.defined()?;
    let found = match &value {
        Value::Str(s) => float::parse(s),
        other => other.as_float(),
    };
    Ok(found.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

pub(super) fn round(args: Args) -> Result<Value, Error> {
    let [value, precision, method] = args.bind("round", ["value", "precision", "method"], 1)?;
    let value = given(value);
    value.defined()?;
    let precision = precision.map_or(Ok(0), |p| p.int())?;
    let Some(x) = value.as_float() else {
        return broken(format!("type {} cannot be rounded", value.type_name()));
    };
    let Ok(precision) = i32::try_from(precision.clamp(-400, 400)) else {
        return broken("the precision is too large");
    };
    let method = method.as_ref().map_or(Some("common"), Value::as_str);
    let scaled = |round: fn(f64) -> f64| {
        let scale = 10f64.powi(precision);
        Ok(Value::Float(round(x * scale) / scale))
    };
    match (method, value.as_int()) {
        (Some("ceil"), _) => scaled(f64::ceil),
        (Some("floor"), _) => scaled(f64::floor),
        (Some("common"), Some(i)) if precision >= 0 => Ok(Value::Int(i)),
        (Some("common"), Some(i)) => {
            let Some(unit) = 10i128.checked_pow(precision.unsigned_abs()) else {
                return Ok(Value::Int(0));
            };
            let (quotient, rest) = (i.div_euclid(unit), i.rem_euclid(unit));
            // Halves go to the even side.
            let is_up = 2 * rest > unit || (2 * rest == unit && quotient % 2 != 0);
            Ok(Value::Int((quotient + i128::from(is_up)) * unit))
        }
        (Some("common"), None) if !x.is_finite() => Ok(Value::Float(x)),
        (Some("common"), None) if precision >= 0 => {
            let text = format!("{x:.*}", precision.unsigned_abs() as usize);
            Ok(Value::Float(text.parse().unwrap_or(x)))
        }
        (Some("common"), None) => {
            let unit = 10f64.powi(-precision);
            Ok(Value::Float((x / unit).round_ties_even() * unit))
        }
        (_, _) => broken("method must be common, ceil or floor"),
    }
}

pub(super) fn filesizeformat(cx: &Cx, args: Args) -> Result<Value, Error> {
    let [value, binary] = args.bind("filesizeformat", ["value", "binary"], 1)?;
    let value = given(value);
    let found = match &value {
        Value::Str(s) => float::parse(s),
        other => other.as_float(),
    };
    let Some(bytes) = found else {
        return broken("filesizeformat needs a number");
    };
    let is_binary = is_true(&binary);
    let (base, infix) = if is_binary {
        (1024.0, "i")
    } else {
        (1000.0, "")
    };
    if bytes == 1.0 {
        return cx.text("1 Byte");
    }
    if bytes < base {
        return cx.text(format!("{} Bytes", bytes.trunc()));
    }
    let kilo = if is_binary { "K" } else { "k" };
    let letters = [kilo, "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    for (idx, letter) in letters.iter().enumerate() {
        unit *= base;
        if bytes < unit || idx + 1 == letters.len() {
            return cx.text(format!("{:.1} {letter}{infix}B", base * bytes / unit));
        }
    }
    broken("the number is too large")
}
