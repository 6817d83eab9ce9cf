//! Keys and values of a model of no known family, as far as usual configuration keys tell.

use llm_checkpoint::{Checkpoint, Format, MAX_CONFIG, Metadata, read_small};
use llm_tensor::Bytes;
use serde_json::{Map, Value};

/// Keys and values of a model whose family is not known: an upper bound, if all its layers keep the whole context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KvBound {
    pub(super) n_layers: usize,
    pub(super) n_kv_heads: u64,
    pub(super) head_dim: u64,
    /// Positions that the model was made for.
    pub(super) context: Option<usize>,
}

impl KvBound {
    /// Bound for a checkpoint, by the configuration beside it or, for GGUF, inside it.
    ///
    /// # Errors
    /// Reason why it is not known, in a few words.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, String> {
        if checkpoint.format() == Format::Gguf {
            return Self::of_gguf(checkpoint.metadata());
        }
        let path = checkpoint.folder().join("config.json");
        let text =
            read_small(&path, MAX_CONFIG).map_err(|_| "there is no config.json".to_owned())?;
        let config: Map<String, Value> =
            llm_json::parse_as(&text).map_err(|_| "config.json is no JSON object".to_owned())?;
        Self::of_config(&config)
    }

    fn of_config(config: &Map<String, Value>) -> Result<Self, String> {
        // Models of text and images keep the language model's keys apart.
        let text = config.get("text_config").and_then(Value::as_object);
        let config = text.unwrap_or(config);
        let get = |names: &[&str]| {
            let mut found = names.iter().filter_map(|&name| config.get(name)?.as_u64());
            found.find(|&n| (1..=MAX).contains(&n))
        };
        if let Some(key) = OTHERWISE.iter().find(|&&key| config.contains_key(key)) {
            return Err(format!("`{key}` says that it is laid out otherwise"));
        }
        let lacks = |key: &str| format!("config.json does not say `{key}`");
        let n_layers = get(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"]);
        let n_heads = get(&["num_attention_heads", "n_head", "n_heads"]);
        let hidden = get(&["hidden_size", "n_embd", "d_model"]);
        let n_kv_heads = get(&["num_key_value_heads"]).or(n_heads);
        let head_dim = get(&["head_dim"]).or_else(|| Some(hidden? / n_heads?));
        Ok(KvBound {
            n_layers: n_layers.ok_or_else(|| lacks("num_hidden_layers"))? as usize,
            n_kv_heads: n_kv_heads.ok_or_else(|| lacks("num_key_value_heads"))?,
            head_dim: head_dim.ok_or_else(|| lacks("head_dim"))?,
            context: get(&["max_position_embeddings", "n_positions", "seq_length"])
                .map(|n| n as usize),
        })
    }

    fn of_gguf(metadata: &Metadata) -> Result<Self, String> {
        let family = metadata
            .get("general.architecture")
            .and_then(llm_checkpoint::Value::as_str)
            .ok_or("there is no `general.architecture`")?;
        let get = |key: &str| {
            let value = metadata.get(&format!("{family}.{key}"))?;
            value.as_u64().filter(|n| (1..=MAX).contains(n))
        };
        let lacks = |key: &str| format!("there is no `{family}.{key}`");
        if get("attention.kv_lora_rank").is_some() {
            let key = format!("{family}.attention.kv_lora_rank");
            return Err(format!("`{key}` says that it is laid out otherwise"));
        }
        let n_heads = get("attention.head_count");
        let n_kv_heads = get("attention.head_count_kv").or(n_heads);
        let head_dim =
            get("attention.key_length").or_else(|| Some(get("embedding_length")? / n_heads?));
        Ok(KvBound {
            n_layers: get("block_count").ok_or_else(|| lacks("block_count"))? as usize,
            n_kv_heads: n_kv_heads.ok_or_else(|| lacks("attention.head_count_kv"))?,
            head_dim: head_dim.ok_or_else(|| lacks("attention.key_length"))?,
            context: get("context_length").map(|n| n as usize),
        })
    }

    /// Bytes of the keys and values of one layer, in 16 bits.
    pub(super) fn of_layer(&self, context: usize, n_sequences: usize) -> Bytes {
        let numbers = [
            2,
            self.n_kv_heads,
            self.head_dim,
            SIXTEEN_BITS,
            context as u64,
            n_sequences as u64,
        ];
        Bytes::new(numbers.into_iter().fold(1, u64::saturating_mul))
    }
}

const SIXTEEN_BITS: u64 = 2;
/// More than any extent of a real model.
const MAX: u64 = 1 << 24;
/// Keys of families that keep something else than keys and values of each head.
const OTHERWISE: [&str; 5] = [
    "kv_lora_rank",
    "state_size",
    "ssm_cfg",
    "mamba_d_state",
    "linear_num_key_heads",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usual_keys_are_understood_and_others_not_guessed_at() {
        let shape = |n_layers, n_kv_heads, head_dim, context| {
            Ok(KvBound {
                n_layers,
                n_kv_heads,
                head_dim,
                context,
            })
        };
        let lacks = |reason: &str| Err(reason.to_owned());
        let cases = [
            (
                json!({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "num_key_value_heads": 2,
                    "max_position_embeddings": 512}),
                shape(4, 2, 8, Some(512)),
            ),
            (
                json!({"text_config": {"num_hidden_layers": 3, "num_attention_heads": 8, "head_dim": 16}}),
                shape(3, 8, 16, None),
            ),
            (
                json!({"n_layer": 2, "n_head": 2, "n_embd": 10, "n_positions": 7}),
                shape(2, 2, 5, Some(7)),
            ),
            (
                json!({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, "kv_lora_rank": 512}),
                lacks("`kv_lora_rank` says that it is laid out otherwise"),
            ),
            (
                json!({"num_hidden_layers": -1, "num_attention_heads": 8, "head_dim": 64}),
                lacks("config.json does not say `num_hidden_layers`"),
            ),
            (
                json!({"num_hidden_layers": 4, "head_dim": 64}),
                lacks("config.json does not say `num_key_value_heads`"),
            ),
            (
                json!({"num_hidden_layers": 4, "num_attention_heads": 8}),
                lacks("config.json does not say `head_dim`"),
            ),
            (
                json!({"num_hidden_layers": 1e300, "num_attention_heads": u64::MAX, "head_dim": []}),
                lacks("config.json does not say `num_hidden_layers`"),
            ),
        ];
        for (config, expected) in cases {
            let found = KvBound::of_config(config.as_object().unwrap());
            assert_eq!(found, expected, "{config}");
        }
        let large = KvBound {
            n_layers: 1,
            n_kv_heads: MAX,
            head_dim: MAX,
            context: None,
        };
        assert_eq!(large.of_layer(usize::MAX, usize::MAX).get(), u64::MAX);
    }
}
