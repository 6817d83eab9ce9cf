//! Names of files of an offload folder.

use llm_arch::{Side, Unit};

/// Description of an entry.
pub(super) const ABOUT: &str = "offload.json";
/// Held, shared, while a model runs.
pub(super) const USE_LOCK: &str = "use.lock";
/// Held while files are written.
pub(super) const WRITE_LOCK: &str = "writing.lock";

/// Hexadecimal digits of an entry's key.
pub(super) const KEY_DIGITS: usize = 32;
const SUM_DIGITS: usize = 16;
const SUFFIX: &str = ".safetensors";
const PARTIAL_SUFFIX: &str = ".partial";

/// True if a folder is called as entries are.
pub(super) fn is_key(name: &str) -> bool {
    is_hex(name, KEY_DIGITS)
}

/// The name of a unit's file: `decoder-3-0123456789abcdef.safetensors`.
pub(super) fn file_name(unit: Unit, sum: u64) -> String {
    format!("{}-{sum:016x}{SUFFIX}", stem(unit))
}

/// Unit and checksum that a file is named for; `None` for what [`file_name`] does not make.
pub(super) fn parse_file_name(name: &str) -> Option<(Unit, u64)> {
    let (stem, sum) = name.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    let sum = is_hex(sum, SUM_DIGITS).then(|| u64::from_str_radix(sum, 16))?;
    Some((parse_stem(stem)?, sum.ok()?))
}

/// Begin and end of names of files that are being written, the random middle aside.
pub(super) fn partial(stem: &str) -> (String, &'static str) {
    (format!(".{stem}."), PARTIAL_SUFFIX)
}

/// True if a file is one that was being written.
pub(super) fn is_partial(name: &str) -> bool {
    let inner = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(PARTIAL_SUFFIX));
    let stem = inner.and_then(|inner| Some(inner.rsplit_once('.')?.0));
    stem.is_some_and(|stem| stem == ABOUT || parse_stem(stem).is_some())
}

/// True if a file is of our making, whatever it holds.
pub(super) fn is_ours(name: &str) -> bool {
    [ABOUT, USE_LOCK, WRITE_LOCK].contains(&name)
        || is_partial(name)
        || parse_file_name(name).is_some()
}

/// Name of a unit in names of files.
pub(super) fn stem(unit: Unit) -> String {
    match unit {
        Unit::Embedding => "embedding".to_owned(),
        Unit::PerLayerTable => "per-layer-table".to_owned(),
        Unit::Layer(Side::Encoder, layer) => format!("encoder-{layer}"),
        Unit::Layer(Side::Decoder, layer) => format!("decoder-{layer}"),
        Unit::Expert { layer, expert } => format!("expert-{layer}-{expert}"),
        Unit::FinalNorm(Side::Encoder) => "encoder-final-norm".to_owned(),
        Unit::FinalNorm(Side::Decoder) => "final-norm".to_owned(),
        Unit::Head => "head".to_owned(),
    }
}

fn parse_stem(name: &str) -> Option<Unit> {
    let unit = match name {
        "embedding" => Unit::Embedding,
        "per-layer-table" => Unit::PerLayerTable,
        "encoder-final-norm" => Unit::FinalNorm(Side::Encoder),
        "final-norm" => Unit::FinalNorm(Side::Decoder),
        "head" => Unit::Head,
        _ => {
            let (kind, numbers) = name.split_once('-')?;
            match kind {
                "encoder" => Unit::Layer(Side::Encoder, numbers.parse().ok()?),
                "decoder" => Unit::Layer(Side::Decoder, numbers.parse().ok()?),
                "expert" => {
                    let (layer, expert) = numbers.split_once('-')?;
                    Unit::Expert {
                        layer: layer.parse().ok()?,
                        expert: expert.parse().ok()?,
                    }
                }
                _ => return None,
            }
        }
    };
    // Numbers have many spellings, of which we write one.
    (stem(unit) == name).then_some(unit)
}

fn is_hex(text: &str, n_digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == n_digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_units_name_reads_back_and_no_other_spelling_does() {
        let expert = Unit::Expert {
            layer: 3,
            expert: 17,
        };
        for (unit, name) in [
            (Unit::Embedding, "embedding-00000000000000ff.safetensors"),
            (
                Unit::PerLayerTable,
                "per-layer-table-00000000000000ff.safetensors",
            ),
            (
                Unit::Layer(Side::Encoder, 0),
                "encoder-0-00000000000000ff.safetensors",
            ),
            (
                Unit::Layer(Side::Decoder, 12),
                "decoder-12-00000000000000ff.safetensors",
            ),
            (expert, "expert-3-17-00000000000000ff.safetensors"),
            (
                Unit::FinalNorm(Side::Encoder),
                "encoder-final-norm-00000000000000ff.safetensors",
            ),
            (
                Unit::FinalNorm(Side::Decoder),
                "final-norm-00000000000000ff.safetensors",
            ),
            (Unit::Head, "head-00000000000000ff.safetensors"),
        ] {
            assert_eq!(file_name(unit, 255), name);
            assert_eq!(parse_file_name(name), Some((unit, 255)));
            let (prefix, suffix) = partial(&stem(unit));
            let partial = format!("{prefix}x7Yz{suffix}");
            assert!(is_partial(&partial) && is_ours(&partial) && is_ours(name));
        }
        for foreign in [
            "model.safetensors",
            "head-ff.safetensors",
            "head-00000000000000FF.safetensors",
            "decoder-03-00000000000000ff.safetensors",
            "decoder-+3-00000000000000ff.safetensors",
            "decoder--00000000000000ff.safetensors",
            "../head-00000000000000ff.safetensors",
            "head-00000000000000ff.safetensors.bak",
            ".notes.x7Yz.partial",
            ".partial",
            "",
        ] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
