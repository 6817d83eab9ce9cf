//! Keys that say nothing of the forward pass in evaluation, whatever the family; and keys that would, but not with the
//! value that means off. A key that a family reads is no matter of these tables.
//!
//! They hold what the base classes of transformers 2 to 5 write into every configuration, what trainers and converters
//! leave there, and options of one family that others' configurations carry switched off.

use serde_json::Value;

/// What is known of the keys that a family does not read.
pub(crate) struct Unread {
    /// Keys of any value.
    pub(crate) any: &'static [&'static str],
    /// Keys that may only be off.
    pub(crate) off: &'static [(&'static str, Off)],
}

/// The value of a key that changes nothing; `null` always is one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Off {
    False,
    True,
    Zero,
    One,
    /// An empty list or object, or an empty text.
    Empty,
    /// This word.
    Word(&'static str),
}

impl Off {
    fn holds(self, value: &Value) -> bool {
        match self {
            Off::False => *value == Value::Bool(false),
            Off::True => *value == Value::Bool(true),
            Off::Zero => value.as_f64() == Some(0.0),
            Off::One => value.as_f64() == Some(1.0),
            Off::Empty => match value {
                Value::Array(list) => list.is_empty(),
                Value::Object(object) => object.is_empty(),
                Value::String(text) => text.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) => false,
            },
            Off::Word(word) => value.as_str() == Some(word),
        }
    }
}

impl Unread {
    /// Whether `key` with `value` changes nothing.
    pub(crate) fn allows(&self, key: &str, value: &Value) -> bool {
        let is_off = |(name, off): &(&str, Off)| *name == key && off.holds(value);
        value.is_null() || self.any.contains(&key) || self.off.iter().any(is_off)
    }

    /// The keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'static str> {
        let off = self.off.iter().map(|(key, _)| *key);
        self.any.iter().copied().chain(off)
    }
}

/// Whether the key's beginning says that it is somebody's own note.
pub(crate) fn is_note(key: &str) -> bool {
    NOTES.iter().any(|prefix| key.starts_with(prefix))
}

const NOTES: [&str; 6] = ["_", "axolotl_", "trl_", "unsloth_", "wandb_", "mergekit_"];

/// Of every family.
pub(crate) const OF_ANY_FAMILY: Unread = Unread {
    any: &[
        // Where a model comes from.
        "architectures",
        "auto_map",
        "base_model",
        "bos_token",
        "custom_pipelines",
        "eos_token",
        "finetuning_task",
        "id2label",
        "label2id",
        "language",
        "license",
        "model_name",
        "model_name_or_path",
        "name_or_path",
        "num_labels",
        "pad_token",
        "problem_type",
        "task_specific_params",
        "tokenizer_class",
        "transformers.js_config",
        "transformers_version",
        "transformers_weights",
        "unk_token",
        // Tokens, which the tokenizer's own files tell.
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "mask_token_id",
        "pad_token_id",
        "prefix",
        "sep_token_id",
        "unk_token_id",
        // What a call returns, and by which program it is computed.
        "attn_implementation",
        "attention_implementation",
        "bf16",
        "chunk_size_feed_forward",
        "experts_implementation",
        "flash_attention",
        "fp16",
        "fp32",
        "neuron",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "output_router_logits",
        "return_dict",
        "tf_legacy_loss",
        "torch_compile",
        "torchscript",
        "use_bfloat16",
        "use_cache",
        "use_cache_quantization",
        "use_flash_attention",
        "use_flash_attention_2",
        "use_flash_attn",
        "use_return_dict",
        "use_xformers",
        "xla_device",
        // Training.
        "activation_dropout",
        "attention_dropout",
        "attention_dropout_prob",
        "attention_probs_dropout_prob",
        "attn_dropout",
        "attn_pdrop",
        "axolotl",
        "classifier_dropout",
        "dropout",
        "dropout_rate",
        "embd_pdrop",
        "embedding_dropout",
        "gradient_checkpointing",
        "hidden_dropout",
        "hidden_dropout_prob",
        "init_std",
        "initializer_factor",
        "initializer_range",
        "layerdrop",
        "max_seq_len",
        "max_seq_length",
        "max_sequence_length",
        "model_max_length",
        "neftune_noise_alpha",
        "num_steps",
        "pretraining_tp",
        "resid_dropout",
        "resid_pdrop",
        "residual_dropout",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "router_z_loss_coef",
        "tensor_parallel_degree",
        "trl",
        "use_reentrant_checkpointing",
        "wandb",
        "z_loss",
        // Generation, read elsewhere.
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "bad_words_ids",
        "begin_suppress_tokens",
        "cache_implementation",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "encoder_repetition_penalty",
        "epsilon_cutoff",
        "eta_cutoff",
        "exponential_decay_length_penalty",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "generation_config",
        "length_penalty",
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "min_p",
        "no_repeat_ngram_size",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "suppress_tokens",
        "target_lookbehind",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        // Classification heads, which are no part of a model that writes.
        "summary_activation",
        "summary_first_dropout",
        "summary_last_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        // Tokens that stand for pictures and sound, in the text half of a model that was taken out of one.
        "audio_token_id",
        "audio_token_index",
        "boi_token_id",
        "boi_token_index",
        "eoi_token_id",
        "eoi_token_index",
        "image_token_id",
        "image_token_index",
        "video_token_id",
        "video_token_index",
        "vision_end_token_id",
        "vision_start_token_id",
        "vision_token_id",
    ],
    off: &[
        // Of the base class.
        ("add_cross_attention", Off::False),
        ("cross_attention_hidden_size", Off::Zero),
        ("is_decoder", Off::False),
        ("is_decoder", Off::True),
        ("is_encoder_decoder", Off::False),
        ("pruned_heads", Off::Empty),
        ("tie_encoder_decoder", Off::False),
        // Of other families, and of implementations that a repository brought along.
        ("alibi", Off::False),
        ("attention_bias", Off::False),
        ("attention_multiplier", Off::One),
        ("attention_sink_size", Off::Zero),
        ("bias", Off::False),
        ("clip_qkv", Off::Zero),
        ("cross_layers", Off::Empty),
        ("embedding_multiplier", Off::One),
        ("full_attn_mod", Off::One),
        ("interpolate_factor", Off::One),
        ("kv_sharing", Off::False),
        ("layer_norm_elementwise_affine", Off::True),
        ("learned_embeddings", Off::True),
        ("lm_head_bias", Off::False),
        ("logit_scale", Off::One),
        ("logits_scaling", Off::One),
        ("mlp_bias", Off::False),
        ("mlp_only_layers", Off::Empty),
        ("mup", Off::False),
        ("no_bias", Off::True),
        ("num_experts", Off::Zero),
        ("num_local_experts", Off::Zero),
        ("num_nextn_predict_layers", Off::Zero),
        ("partial_rotary_factor", Off::One),
        ("position_embedding_type", Off::Word("rope")),
        ("position_embedding_type", Off::Word("rotary")),
        ("qk_layer_norms", Off::False),
        ("qk_layernorm", Off::False),
        ("qk_norm", Off::False),
        ("qkv_bias", Off::False),
        ("quantization", Off::Empty),
        ("residual_multiplier", Off::One),
        ("rms_norm", Off::True),
        ("rope_interleaved", Off::False),
        ("rope_scaling_factor", Off::One),
        ("rope_scaling_type", Off::Word("")),
        ("scale_attn_by_inverse_layer_idx", Off::False),
        ("scale_attn_weights", Off::True),
        ("scale_embeddings", Off::False),
        ("tie_word_embeddings", Off::False),
        ("use_alibi", Off::False),
        ("use_bias", Off::False),
        ("use_bidirectional_attention", Off::False),
        ("use_dynamic_ntk", Off::False),
        ("use_logn_attn", Off::False),
        ("use_mrope", Off::False),
        ("use_parallel_residual", Off::False),
        ("use_qk_norm", Off::False),
        ("use_qkv_bias", Off::False),
        ("use_sliding_window", Off::False),
    ],
};

/// Of objects like `rope_scaling`: what one kind of scaling reads is nothing to another.
pub(crate) const OF_ROPE: Unread = Unread {
    any: &[
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "factor",
        "finetuned",
        "high_freq_factor",
        "long_factor",
        "low_freq_factor",
        "mscale",
        "mscale_all_dim",
        "original_max_position_embeddings",
        "short_factor",
        "truncate",
        "type",
    ],
    off: &[],
};

/// Of nothing.
pub(crate) const OF_NONE: Unread = Unread { any: &[], off: &[] };
