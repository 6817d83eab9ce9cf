//! Floats as Python writes them.

/// The shortest text that reads back as the same float, as `repr` gives it.
pub(super) fn repr(x: f64) -> String {
    if !x.is_finite() {
        return not_finite(x).to_owned();
    }
    let (digits, exponent) = shortest(x);
    let sign = if x.is_sign_negative() { "-" } else { "" };
    match (-4..16).contains(&exponent) {
        true => format!("{sign}{}", positional(&digits, exponent, 1)),
        false => format!("{sign}{}", scientific(&digits, exponent, 'e')),
    }
}

pub(super) fn not_finite(x: f64) -> &'static str {
    match (x.is_nan(), x > 0.0) {
        (true, _) => "nan",
        (false, true) => "inf",
        (false, false) => "-inf",
    }
}

/// The fewest digits that tell the float, and the power of ten of the first one.
fn shortest(x: f64) -> (String, i32) {
    split(&format!("{:e}", x.abs()))
}

/// The digits and the exponent of a number in Rust's scientific notation.
fn split(text: &str) -> (String, i32) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    (mantissa.replace('.', ""), exponent.parse().unwrap_or(0))
}

/// Digits without exponent, with at least `min_decimals` after the point.
fn positional(digits: &str, exponent: i32, min_decimals: usize) -> String {
    let mut whole = String::new();
    let mut decimals = String::new();
    if exponent < 0 {
        whole.push('0');
        decimals.extend(std::iter::repeat_n('0', (-exponent - 1) as usize));
        decimals.push_str(digits);
    } else {
        let n_whole = exponent as usize + 1;
        whole.push_str(&digits[..n_whole.min(digits.len())]);
        whole.extend(std::iter::repeat_n(
            '0',
            n_whole.saturating_sub(digits.len()),
        ));
        decimals.push_str(digits.get(n_whole..).unwrap_or_default());
    }
    while decimals.len() < min_decimals {
        decimals.push('0');
    }
    match decimals.is_empty() {
        true => whole,
        false => format!("{whole}.{decimals}"),
    }
}

fn scientific(digits: &str, exponent: i32, e: char) -> String {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{first}{point}{rest}{e}{sign}{:02}", exponent.abs())
}

/// The size of a float by one of the letters `e`, `f`, `g` and `%`, without its sign.
///
/// `keep_zeros` is the flag `#`, which keeps the point and the zeros at the end.
pub(super) fn formatted(x: f64, letter: char, precision: usize, keep_zeros: bool) -> String {
    let text = sized(x.abs(), letter.to_ascii_lowercase(), precision, keep_zeros);
    match letter.is_ascii_uppercase() {
        true => text.to_ascii_uppercase(),
        false => text,
    }
}

fn sized(x: f64, letter: char, precision: usize, keep_zeros: bool) -> String {
    if !x.is_finite() {
        let percent = if letter == '%' { "%" } else { "" };
        return format!("{}{percent}", not_finite(x));
    }
    let point = if keep_zeros && precision == 0 {
        "."
    } else {
        ""
    };
    match letter {
        'e' => {
            let (digits, exponent) = split(&format!("{x:.precision$e}"));
            let text = scientific(&digits, exponent, 'e');
            match point {
                "" => text,
                point => text.replacen('e', &format!("{point}e"), 1),
            }
        }
        'g' => {
            let precision = precision.max(1);
            let (mut digits, exponent) = split(&format!("{x:.*e}", precision - 1));
            if !keep_zeros {
                let kept = digits.trim_end_matches('0').len().max(1);
                digits.truncate(kept);
            }
            match exponent >= -4 && i64::from(exponent) < precision as i64 {
                true => positional(&digits, exponent, 0),
                false => scientific(&digits, exponent, 'e'),
            }
        }
        '%' => format!("{:.precision$}{point}%", x * 100.0),
        _fixed => format!("{x:.precision$}{point}"),
    }
}

/// The float of a text, as Python's `float` reads it.
pub(super) fn parse(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::super::source::is_space);
    let number = without_underscores(text)?;
    let unsigned = number.strip_prefix(['+', '-']).unwrap_or(&number);
    let named = ["inf", "infinity", "nan"];
    let is_named = named.iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    let begins_well = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    match is_named || begins_well {
        true => number.parse().ok(),
        false => None,
    }
}

/// The integer of a text, as Python's `int` reads it.
pub(super) fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::super::source::is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0b", 2), ("0o", 8), ("0x", 16)];
    let found = prefixes
        .iter()
        .find(|(prefix, radix)| lower.starts_with(prefix) && (base == 0 || base == *radix));
    let (digits, base) = match found {
        Some((_, radix)) => {
            let digits = &lower[2..];
            (digits.strip_prefix('_').unwrap_or(digits), *radix)
        }
        None if base == 0 => {
            let is_zero = lower.bytes().all(|b| matches!(b, b'0' | b'_'));
            if lower.starts_with('0') && !is_zero {
                return None;
            }
            (&*lower, 10)
        }
        None => (&*lower, base),
    };
    let digits = without_underscores(digits)?;
    if digits.starts_with(['+', '-']) || !(2..=36).contains(&base) {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

/// A number without the underscores between its digits, if they are where Python allows them.
fn without_underscores(text: &str) -> Option<String> {
    if !text.contains('_') {
        return Some(text.to_owned());
    }
    let chars: Vec<char> = text.chars().collect();
    let fits = |idx: usize| {
        let around = [idx.checked_sub(1), Some(idx + 1)];
        around.into_iter().all(|at| {
            at.and_then(|at| chars.get(at))
                .is_some_and(char::is_ascii_alphanumeric)
        })
    };
    let well = chars
        .iter()
        .enumerate()
        .all(|(idx, c)| *c != '_' || fits(idx));
    well.then(|| chars.into_iter().filter(|c| *c != '_').collect())
}
