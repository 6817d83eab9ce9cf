//! Numbers, sizes and names in words.

use llm_checkpoint::Encoding;
use llm_tensor::Bytes;

/// `1,234,567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 difference`, `2 differences`.
pub(crate) fn counted(n: usize, one: &str) -> String {
    match (n, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (n, Some(stem)) => format!("{n} {stem}ies"),
        (n, None) => format!("{n} {one}s"),
    }
}

/// `14.1 GB`.
pub(crate) fn short(bytes: Bytes) -> String {
    let both = bytes.to_string();
    let decimal = both.split(" (").next();
    decimal.unwrap_or_default().to_owned()
}

/// `12.34 GB/s`.
pub(crate) fn bandwidth(bytes_per_second: f64) -> String {
    format!("{:.2} GB/s", bytes_per_second / 1e9)
}

/// The name of an element type in PyTorch, or of GGUF's encoding.
pub(crate) fn dtype_name(encoding: Encoding) -> String {
    match encoding {
        Encoding::Plain(dtype) => dtype.torch_name().to_owned(),
        Encoding::Block(_) | Encoding::Opaque(_) => encoding.to_string(),
    }
}

/// Text without the characters that a terminal obeys.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let escape = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_by_thousands() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }
}
