//! The byte-level spelling of tokens.

/// The bytes of a byte-level token. One that is not in that spelling, as added tokens may be, stands for itself.
pub(crate) fn bytes_of(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// Bytes in the byte-level spelling, as [`byte_of`] reads it.
pub(crate) fn spelled(bytes: &[u8]) -> String {
    let spelled = bytes.iter().map(|&byte| {
        let code = u32::from(byte);
        let code = match code {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
            0x00..=0x20 => code + 0x100,
            0x7f..=0xa0 => code - 0x7f + 0x121,
            _ => 0x143,
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    });
    spelled.collect()
}

/// The byte that a character of the byte-level spelling stands for.
///
/// GPT-2 writes the printable bytes of Latin-1 as themselves, and the others, in order, as U+0100 and up.
pub(crate) fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}
