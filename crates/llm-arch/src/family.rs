//! The families: one small file each, found by the name that a configuration gives.

mod apertus;
mod arcee;
mod bamba;
mod block;
mod bloom;
mod by_kind;
mod cohere;
mod deepseek;
mod deepseek_v4;
mod dsa;
mod ernie4_5;
mod exaone4;
mod falcon;
mod falcon_h1;
mod gemma;
mod gemma3n;
mod gemma4;
mod glm;
mod glm4_moe;
mod gpt2;
mod gpt_bigcode;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granite4;
mod hunyuan;
mod kimi_linear;
mod lfm2;
mod llama;
mod llama4;
mod mamba2;
mod minimax_m2;
mod mistral;
mod mixtral;
mod mpt;
mod nemotron;
mod nemotron_h;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod phimoe;
mod qwen;
mod qwen2_moe;
mod qwen3_5;
mod seed_oss;
mod sliding;
mod smollm3;
mod stablelm;
mod starcoder2;
mod state_space;
mod t5;
mod text_half;
mod written;

use serde_json::{Map, Value};

use crate::config::{Config, Unread, clipped_text};
use crate::error::UnknownKey;
use crate::skeleton::{Naming, Skeleton};
use crate::{ArchError, ModelSpec, RopeScaling};

/// Contents of a family's file.
struct Family {
    /// `model_type` in `config.json`: the present spelling first.
    model_types: &'static [&'static str],
    /// Reads a configuration; every key that it understands.
    spec: fn(&Config<'_>) -> Result<ModelSpec, ArchError>,
    /// Extents that every whole configuration gives; in a text half, what it means by leaving them out.
    core: &'static [(&'static str, u64)],
    /// Keys that change nothing in a forward pass, beside those that never do.
    unread: Unread,
    /// Hugging Face checkpoints.
    naming: fn(&ModelSpec) -> &'static Naming,
    /// GGUF checkpoints, where llama.cpp knows the family.
    gguf: Option<Gguf>,
}

/// GGUF form of a family.
struct Gguf {
    /// `general.architecture`.
    architecture: &'static str,
    /// Metadata keys, without the architecture before them, and what `config.json` calls the same.
    keys: &'static [GgufKeys],
    /// Tensors of the first layer, and the flag of `config.json` that each tells, the metadata saying nothing of it.
    flags: GgufKeys,
    naming: fn(&ModelSpec) -> &'static Naming,
    /// Differences from the family's other checkpoints.
    adjust: fn(&mut ModelSpec),
    /// Keys of a `config.json` for such a model, tokens and element type apart.
    config: fn(&ModelSpec) -> Result<Map<String, Value>, ArchError>,
}

impl Gguf {
    fn keys(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        self.keys.iter().copied().flatten()
    }
}

/// Metadata keys of GGUF, each with what `config.json` calls the same.
type GgufKeys = &'static [(&'static str, &'static str)];

const FAMILIES: [&Family; 68] = [
    &apertus::FAMILY,
    &arcee::FAMILY,
    &bamba::FAMILY,
    &bloom::FAMILY,
    &cohere::COHERE,
    &cohere::COHERE2,
    &deepseek::V2,
    &deepseek::V3,
    &dsa::DEEPSEEK,
    &deepseek_v4::FAMILY,
    &ernie4_5::ERNIE4_5,
    &ernie4_5::ERNIE4_5_MOE,
    &exaone4::FAMILY,
    &falcon::FAMILY,
    &falcon_h1::FAMILY,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &gemma3n::FAMILY,
    &gemma4::FAMILY,
    &glm::GLM,
    &glm::GLM4,
    &glm4_moe::FAMILY,
    &deepseek::GLM4_LITE,
    &dsa::GLM,
    &gpt2::FAMILY,
    &gpt_bigcode::FAMILY,
    &gpt_neox::FAMILY,
    &gpt_oss::FAMILY,
    &gptj::FAMILY,
    &granite4::FAMILY,
    &granite::GRANITE,
    &granite::GRANITE_MOE,
    &granite::GRANITE_MOE_SHARED,
    &hunyuan::DENSE,
    &hunyuan::MOE,
    &kimi_linear::FAMILY,
    &lfm2::LFM2,
    &lfm2::LFM2_MOE,
    &llama::FAMILY,
    &llama4::FAMILY,
    &mamba2::FAMILY,
    &minimax_m2::FAMILY,
    &mistral::MINISTRAL3,
    &mistral::MISTRAL,
    &mixtral::FAMILY,
    &mpt::FAMILY,
    &nemotron::FAMILY,
    &nemotron_h::FAMILY,
    &olmo::OLMO2,
    &olmo::OLMO3,
    &olmo::OLMOE,
    &opt::FAMILY,
    &phi::FAMILY,
    &phi3::FAMILY,
    &phimoe::FAMILY,
    &qwen::QWEN2,
    &qwen2_moe::FAMILY,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &qwen3_5::QWEN3_5,
    &qwen3_5::QWEN3_5_MOE,
    &qwen3_5::QWEN3_NEXT,
    &seed_oss::FAMILY,
    &smollm3::FAMILY,
    &stablelm::FAMILY,
    &starcoder2::FAMILY,
    &t5::FAMILY,
];

/// The names of the families, as `config.json` has them.
pub fn families() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|f| f.model_types[0])
}

/// Treatment of keys that nothing is known of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// They are an error.
    #[default]
    Refuse,
    /// They are passed over, with a notice.
    PassOver,
}

/// Reads a `config.json`.
///
/// # Errors
/// When the family is unknown, a key is missing, or a key or value is not understood.
pub fn from_config(config: &Map<String, Value>) -> Result<Skeleton, ArchError> {
    from_config_with(config, UnknownKeys::Refuse)
}

/// Reads a `config.json`, the text half of it where the model has others.
///
/// # Errors
/// As [`from_config`], but for keys that may be passed over.
pub fn from_config_with(
    config: &Map<String, Value>,
    unknown_keys: UnknownKeys,
) -> Result<Skeleton, ArchError> {
    let keys = Config::new(config, "");
    let model_type = keys.text("model_type")?.ok_or(ArchError::MissingKey {
        key: "model_type".to_owned(),
    })?;
    if let Some(half) = text_half::read(model_type, config)? {
        let passed_over = passed_over(half.unknown, unknown_keys)?;
        let naming = (half.family.naming)(&half.spec);
        let mut skeleton = Skeleton::new(half.spec, naming)?;
        skeleton.make_text_half();
        skeleton.notices = half.notices;
        skeleton.notices.extend(passed_over);
        return Ok(skeleton);
    }
    let family = family(model_type)?;
    let spec = read_spec(&keys, family)?;
    let passed_over = passed_over(keys.unknown(), unknown_keys)?;
    let naming = (family.naming)(&spec);
    let mut skeleton = Skeleton::new(spec, naming)?;
    skeleton.notices = passed_over;
    Ok(skeleton)
}

/// The configuration that the text half of a larger model has as a model of its own; `None` where there is no larger one.
///
/// # Errors
/// As [`from_config`].
pub(crate) fn text_half_alone(
    config: &Map<String, Value>,
) -> Result<Option<Map<String, Value>>, ArchError> {
    text_half::alone(config)
}

/// The notices of keys that are passed over.
fn passed_over(
    unknown: Vec<UnknownKey>,
    unknown_keys: UnknownKeys,
) -> Result<Vec<String>, ArchError> {
    match unknown_keys {
        UnknownKeys::Refuse if !unknown.is_empty() => Err(ArchError::UnknownKeys { keys: unknown }),
        UnknownKeys::Refuse | UnknownKeys::PassOver => {
            let notice =
                |key: &UnknownKey| format!("passed over a key of the configuration: {key}");
            Ok(unknown.iter().map(notice).collect())
        }
    }
}

/// The family of a `model_type`.
fn family(model_type: &str) -> Result<&'static Family, ArchError> {
    let is_named = |family: &&&'static Family| family.model_types.contains(&model_type);
    let family = FAMILIES.iter().find(is_named);
    Ok(family.ok_or_else(|| unknown_family(model_type, families()))?)
}

/// Reads a GGUF's metadata (scalar values; arrays are not looked at). `has_tensor` tells what the file contains,
/// as some facts of a model show only in that: `vocab` is the token table's number of rows.
///
/// # Errors
/// As [`from_config`].
pub fn from_gguf(
    metadata: &Map<String, Value>,
    vocab: usize,
    has_tensor: impl Fn(&str) -> bool,
) -> Result<Skeleton, ArchError> {
    let missing = || ArchError::MissingKey {
        key: "general.architecture".to_owned(),
    };
    let architecture = metadata
        .get("general.architecture")
        .and_then(Value::as_str)
        .ok_or_else(missing)?;
    let renamed;
    let alias = ALIASES.iter().find(|(alias, _)| *alias == architecture);
    let (metadata, architecture) = match alias {
        None => (metadata, architecture),
        Some(&(alias, name)) => {
            renamed = under_name(metadata, alias, name);
            (&renamed, name)
        }
    };
    let known = || FAMILIES.iter().filter_map(|f| Some((*f, f.gguf.as_ref()?)));
    // Mixtral is Llama with experts there, OLMo 3 is OLMo 2 with windows, and Ministral 3 is Mistral whose queries grow.
    let experts = format!("{architecture}.{EXPERT_COUNT}");
    let n_experts = metadata.get(&experts).and_then(Value::as_u64);
    let has_experts = n_experts.is_some_and(|n| n > 0);
    let scoring = metadata.get(&format!("{architecture}.{}", block::SCORING));
    // The first files of GLM-4.7-Flash say nothing; its vocabulary is its own.
    let has_sigmoids = match scoring {
        Some(number) => number.as_u64() == Some(2),
        None => match architecture {
            deepseek::GGUF => vocab == 154_880,
            _ => deepseek::is_gguf(architecture),
        },
    };
    let has = |key: &str| match key {
        EXPERT_COUNT => has_experts,
        block::SCORING => has_sigmoids,
        key => metadata.contains_key(&format!("{architecture}.{key}")),
    };
    let agreement = |gguf: &Gguf| {
        let agrees = |key: &&&str| gguf.keys().any(|(known, _)| *known == **key) == has(key);
        TELLING.iter().filter(agrees).count()
    };
    let of_architecture = known().filter(|(_, gguf)| gguf.architecture == architecture);
    // The first among equals.
    let found = of_architecture
        .rev()
        .max_by_key(|(_, gguf)| agreement(gguf));
    let (family, gguf) = found
        .ok_or_else(|| unknown_family(architecture, known().map(|(_, gguf)| gguf.architecture)))?;

    let mut config = renamed_keys(metadata, gguf);
    if !has_experts {
        // None, and none of them at a time.
        config.shift_remove(EXPERT_COUNT);
        config.shift_remove("expert_used_count");
    }
    // How the converter stored a tensor that our name tables know of.
    config.shift_remove("tensor_data_layout");
    config.insert("vocab_size".to_owned(), Value::from(vocab));
    config.insert(
        "tie_word_embeddings".to_owned(),
        // What is tied may be stored under either name.
        Value::from(!(has_tensor("output.weight") && has_tensor("token_embd.weight"))),
    );
    // Where the converter says nothing each query head has keys of its own.
    config.entry("num_key_value_heads").or_insert(Value::Null);
    for (tensor, flag) in gguf.flags {
        let is_there = has_tensor(&format!("blk.0.{tensor}"));
        config.insert((*flag).to_owned(), Value::from(is_there));
    }
    gather_rope_scaling(&mut config, gguf);
    if deepseek::is_gguf(architecture) {
        deepseek::gather(&mut config, has_sigmoids);
    }
    if deepseek::GGUF_SELECTING.contains(&architecture) {
        dsa::gather(&mut config);
    }
    match architecture {
        granite4::GGUF => granite4::gather(&mut config),
        kimi_linear::GGUF => kimi_linear::gather(&mut config, &has_tensor),
        nemotron_h::GGUF => nemotron_h::gather(&mut config),
        _ => {}
    }
    by_kind::gather(&mut config, &has_tensor)?;
    sliding::gather(&mut config, gguf.architecture);
    let keys = Config::new(&config, "");
    let mut spec = read_spec(&keys, family)?;
    passed_over(keys.unknown(), UnknownKeys::Refuse)?;
    (gguf.adjust)(&mut spec);
    // Of several kinds the first is that of layers that see all, whose factors they are.
    if has_tensor("rope_freqs.weight")
        && let Some(rotary) = spec.decoder.positions.rotary_mut().first_mut()
    {
        rotary.scaling = RopeScaling::Stored;
    }
    let naming = (gguf.naming)(&spec);
    Skeleton::new(spec, naming)
}

/// Keys of a `config.json` for a GGUF's model: those of its `spec`, and those that its `metadata` alone has, as given.
///
/// # Errors
/// [`ArchError::NoConfig`].
pub(crate) fn config_of_gguf(
    spec: &ModelSpec,
    metadata: &Map<String, Value>,
) -> Result<Map<String, Value>, ArchError> {
    let gguf = gguf_of(spec).ok_or(ArchError::NoConfig {
        reason: "its family has no GGUF",
    })?;
    let mut spec = spec.clone();
    let mut is_yarn = false;
    for rotary in spec.decoder.positions.rotary_mut() {
        if let RopeScaling::Yarn { .. } = rotary.scaling {
            rotary.scaling = RopeScaling::None;
            is_yarn = true;
        }
    }
    let mut config = (gguf.config)(&spec)?;
    if is_yarn {
        let mut given = renamed_keys(metadata, gguf);
        gather_rope_scaling(&mut given, gguf);
        config.extend(given.shift_remove_entry("rope_scaling"));
    }
    Ok(config)
}

/// Makes of a model as a configuration describes it the one that a GGUF of its family holds.
pub(crate) fn adjust_to_gguf(spec: &mut ModelSpec) {
    if let Some(gguf) = gguf_of(spec) {
        (gguf.adjust)(spec);
    }
}

fn gguf_of(spec: &ModelSpec) -> Option<&'static Gguf> {
    // A text half's name may say that it is one.
    let family = FAMILIES.iter().find(|family| {
        let name = family.model_types[0];
        name == spec.family || name.strip_suffix("_text") == Some(spec.family)
    })?;
    family.gguf.as_ref()
}

/// Metadata with another name of the architecture.
fn under_name(metadata: &Map<String, Value>, alias: &str, name: &str) -> Map<String, Value> {
    let keys = metadata.iter().map(|(key, value)| {
        let own = key.strip_prefix(alias).filter(|key| key.starts_with('.'));
        match (key.as_str(), own) {
            ("general.architecture", _) => (key.clone(), name.into()),
            (_, Some(own)) => (format!("{name}{own}"), value.clone()),
            (_, None) => (key.clone(), value.clone()),
        }
    });
    keys.collect()
}

/// Architectures of GGUF that are another one's models with experts.
const ALIASES: [(&str, &str); 1] = [("nemotron_h_moe", nemotron_h::GGUF)];

/// GGUF's key for the number of experts.
const EXPERT_COUNT: &str = "expert_count";

/// Keys by which families of one architecture differ there.
const TELLING: [&str; 5] = [
    EXPERT_COUNT,
    block::SCORING,
    "expert_shared_feed_forward_length",
    "attention.sliding_window",
    "attention.temperature_scale",
];

/// Architectures whose YaRN has a ramp between no whole numbers, of which GGUF has no word.
const UNTRUNCATED: [&str; 1] = ["gpt-oss"];

/// Architectures of families that mean a scaling where nothing is said of one; a GGUF means none.
const SCALED: [&str; 1] = ["apertus"];

fn read_spec(keys: &Config<'_>, family: &Family) -> Result<ModelSpec, ArchError> {
    let spec = (family.spec)(keys)?;
    keys.finish(&family.unread);
    Ok(spec)
}

/// GGUF has `rope.scaling.*` keys where `config.json` has an object.
fn gather_rope_scaling(config: &mut Map<String, Value>, gguf: &Gguf) {
    let mut rope = Map::new();
    config.retain(|key, value| {
        let Some(key) = key.strip_prefix("rope.scaling.") else {
            return true;
        };
        let names = [
            (
                "original_context_length",
                "original_max_position_embeddings",
            ),
            ("attn_factor", "attention_factor"),
            ("yarn_attn_factor", "attention_factor"),
            ("yarn_beta_fast", "beta_fast"),
            ("yarn_beta_slow", "beta_slow"),
        ];
        rope.insert(renamed(key, names.iter()).to_owned(), value.take());
        false
    });
    if UNTRUNCATED.contains(&gguf.architecture) && !rope.is_empty() {
        rope.insert("truncate".to_owned(), Value::from(false));
    }
    // What makes all of a score grow, of DeepSeek's a tenth of it. That beside it is one, and in its first architecture the same.
    if let Some(all) = rope
        .shift_remove("yarn_log_multiplier")
        .and_then(|all| all.as_f64())
        && all != 0.0
    {
        let all = match deepseek::is_gguf(gguf.architecture) {
            true => written::shortest((10.0 * written::shortest(all as f32)) as f32),
            false => all,
        };
        let beside = match gguf.architecture {
            deepseek::GGUF => all,
            _ => 1.0,
        };
        rope.insert("mscale".to_owned(), beside.into());
        rope.insert("mscale_all_dim".to_owned(), all.into());
    }
    if SCALED.contains(&gguf.architecture) {
        rope.entry("type").or_insert("default".into());
    }
    // `none` is GGUF's word for what `config.json` says by having no such object.
    if !rope.is_empty() && rope.get("type").is_none_or(|kind| kind != "none") {
        config.insert("rope_scaling".to_owned(), Value::Object(rope));
    }
}

/// The metadata of a GGUF's architecture, as `config.json` calls it.
fn renamed_keys(metadata: &Map<String, Value>, gguf: &Gguf) -> Map<String, Value> {
    let own = metadata.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix(gguf.architecture)?.strip_prefix('.')?;
        Some((renamed(key, gguf.keys()).to_owned(), value.clone()))
    });
    own.collect()
}

/// Second name of `key` in the pairs; itself where no pair has it.
fn renamed<'a, 'n>(
    key: &'a str,
    mut names: impl Iterator<Item = &'n (&'static str, &'static str)>,
) -> &'a str {
    names
        .find(|(from, _)| *from == key)
        .map_or(key, |(_, to)| to)
}

fn unknown_family(found: &str, known: impl Iterator<Item = &'static str>) -> ArchError {
    ArchError::UnknownFamily {
        found: clipped_text(found),
        known: known.collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests;
