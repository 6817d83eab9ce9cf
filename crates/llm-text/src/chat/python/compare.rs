//! Comparisons as Python makes them.

use std::cmp::Ordering;
use std::sync::Arc;

use minijinja::Error;

use super::Cx;
use super::broken;
use super::value::{Value, View};
use super::write::is_same;

/// The operators of comparisons.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

impl Compare {
    pub(super) fn of(sign: &str) -> Option<Compare> {
        Some(match sign {
            "==" => Compare::Eq,
            "!=" => Compare::Ne,
            "<" => Compare::Lt,
            "<=" => Compare::Le,
            ">" => Compare::Gt,
            ">=" => Compare::Ge,
            "in" => Compare::In,
            "not in" => Compare::NotIn,
            _other => return None,
        })
    }
}

impl Cx {
    pub(super) fn compare(&self, op: Compare, a: &Value, b: &Value) -> Result<bool, Error> {
        match op {
            Compare::Eq => self.equal(a, b),
            Compare::Ne => Ok(!self.equal(a, b)?),
            Compare::In => self.contains(b, a),
            Compare::NotIn => Ok(!self.contains(b, a)?),
            Compare::Lt => self.ordered(a, b, "<", |o| o == Ordering::Less),
            Compare::Le => self.ordered(a, b, "<=", |o| o != Ordering::Greater),
            Compare::Gt => self.ordered(a, b, ">", |o| o == Ordering::Greater),
            Compare::Ge => self.ordered(a, b, ">=", |o| o != Ordering::Less),
        }
    }

    pub(super) fn less(&self, a: &Value, b: &Value) -> Result<bool, Error> {
        self.compare(Compare::Lt, a, b)
    }

    pub(super) fn equal(&self, a: &Value, b: &Value) -> Result<bool, Error> {
        self.meter.step(1)?;
        self.equal_inner(a, b)
    }

    fn equal_inner(&self, a: &Value, b: &Value) -> Result<bool, Error> {
        Ok(match (a, b) {
            (Value::Undefined, Value::Undefined) | (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => {
                self.meter.read(a)?;
                **a == **b
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                Arc::ptr_eq(a, b) || self.all_equal(&a.items, &b.items)?
            }
            (Value::Dict(a), Value::Dict(b)) => {
                if Arc::ptr_eq(a, b) {
                    return Ok(true);
                }
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    let Some(other) = b.find(key) else {
                        return Ok(false);
                    };
                    if !self.equal(value, other)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::View(view @ (View::Keys | View::Items), a), Value::View(other, b))
                if view == other =>
            {
                let (a, b) = (Value::View(*view, a.clone()), Value::View(*view, b.clone()));
                let items = self.items(&a)?;
                let mut is_equal = items.len() == self.len(&b)?;
                for item in items {
                    is_equal = is_equal && self.contains(&b, &item)?;
                }
                is_equal
            }
            (Value::Range(a), Value::Range(b)) => {
                let n = a.len();
                let same = |idx| self.equal(&a.at(idx), &b.at(idx));
                n == b.len() && (n == 0 || (same(0)? && same(n - 1)?))
            }
            (a, b) => match number_order(a, b) {
                Some(order) => order == Some(Ordering::Equal),
                None => is_same(a, b),
            },
        })
    }

    fn all_equal(&self, a: &[Value], b: &[Value]) -> Result<bool, Error> {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !self.same_or_equal(a, b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Containers' equality: a NaN is in the list that holds it.
    fn same_or_equal(&self, a: &Value, b: &Value) -> Result<bool, Error> {
        Ok(is_same(a, b) || self.equal(a, b)?)
    }

    fn ordered(
        &self,
        a: &Value,
        b: &Value,
        op: &str,
        holds: fn(Ordering) -> bool,
    ) -> Result<bool, Error> {
        self.meter.step(1)?;
        match (a, b) {
            (Value::Str(a), Value::Str(b)) => {
                self.meter.read(a)?;
                Ok(holds((**a).cmp(&**b)))
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !self.same_or_equal(a, b)? {
                        self.meter.step(1)?;
                        let result = self.ordered(a, b, op, holds);
                        return result;
                    }
                }
                Ok(holds(a.items.len().cmp(&b.items.len())))
            }
            (a, b) => match number_order(a, b) {
                Some(order) => Ok(order.is_some_and(holds)),
                None => {
                    a.defined()?;
                    b.defined()?;
                    broken(format!(
                        "'{op}' not supported between instances of '{}' and '{}'",
                        a.type_name(),
                        b.type_name()
                    ))
                }
            },
        }
    }

    pub(super) fn contains(&self, container: &Value, item: &Value) -> Result<bool, Error> {
        match container {
            Value::Str(text) => match item {
                Value::Str(part) => {
                    self.meter.read(text)?;
                    Ok(text.contains(&**part))
                }
                other => {
                    other.defined()?;
                    broken(format!(
                        "'in <string>' requires string as left operand, not {}",
                        other.type_name()
                    ))
                }
            },
            Value::Dict(d) | Value::View(View::Keys, d) => {
                super::value::Key::new(item)?;
                Ok(d.find(item).is_some())
            }
            _other => {
                if let Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) = container {
                    return broken(format!(
                        "argument of type '{}' is not iterable",
                        container.type_name()
                    ));
                }
                for other in self.items(container)? {
                    if self.same_or_equal(&other, item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Sorts as Python does: equal items stay in their order, and only `<` is asked.
    pub(super) fn sorted(
        &self,
        keyed: Vec<(Value, Value)>,
        is_reversed: bool,
    ) -> Result<Vec<Value>, Error> {
        let mut items = keyed;
        if is_reversed {
            items.reverse();
        }
        let mut items = self.merge_sort(items)?;
        if is_reversed {
            items.reverse();
        }
        Ok(items.into_iter().map(|(_, value)| value).collect())
    }

    fn merge_sort(&self, items: Vec<(Value, Value)>) -> Result<Vec<(Value, Value)>, Error> {
        if items.len() < 2 {
            return Ok(items);
        }
        let mut left = items;
        let right = left.split_off(left.len() / 2);
        let left = self.merge_sort(left)?;
        let right = self.merge_sort(right)?;
        let mut merged = Vec::with_capacity(left.len() + right.len());
        let mut left = left.into_iter().peekable();
        let mut right = right.into_iter().peekable();
        while let (Some(l), Some(r)) = (left.peek(), right.peek()) {
            let next = match self.less(&r.0, &l.0)? {
                true => right.next(),
                false => left.next(),
            };
            merged.extend(next);
        }
        merged.extend(left);
        merged.extend(right);
        Ok(merged)
    }
}

/// Order of two values that are numbers; NaNs have none.
pub(super) fn number_order(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    if let (Some(a), Some(b)) = (a.as_int(), b.as_int()) {
        return Some(Some(a.cmp(&b)));
    }
    let (x, y) = (a.as_float()?, b.as_float()?);
    // Beyond 2^53 an integer is not what its float is.
    let exact = |int: i128, float: f64| {
        let whole = float.trunc();
        if float.is_nan() {
            None
        } else if whole.abs() >= 1e38 {
            0.0.partial_cmp(&whole)
        } else {
            let order = int.cmp(&(whole as i128));
            Some(order.then_with(|| 0.0.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)))
        }
    };
    Some(match (a.as_int(), b.as_int()) {
        (Some(int), None) => exact(int, y),
        (None, Some(int)) => exact(int, x).map(Ordering::reverse),
        (_, _) => x.partial_cmp(&y),
    })
}
