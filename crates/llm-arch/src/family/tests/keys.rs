//! Keys that pass, and keys that do not.

use super::*;

/// Inserts `key`, which may be `object.key`.
fn with(mut config: Map<String, Value>, key: &str, value: Value) -> Map<String, Value> {
    match key.split_once('.') {
        Some((object, key)) => {
            let object = config.entry(object).or_insert_with(|| json!({}));
            object
                .as_object_mut()
                .unwrap()
                .insert(key.to_owned(), value);
        }
        None => {
            config.insert(key.to_owned(), value);
        }
    }
    config
}

#[test]
fn what_changes_nothing_passes() {
    let plain = from_config(&llama()).unwrap().spec;
    let cases = [
        ("use_mrope", json!(false)),
        ("unsloth_version", json!("2025.3.1")),
        ("quantization", Value::Null),
        ("frobnicate", Value::Null),
        ("pruned_heads", json!({})),
        ("mlp_only_layers", json!([])),
        ("cross_attention_hidden_size", Value::Null),
        ("is_decoder", json!(true)),
        ("tie_encoder_decoder", json!(false)),
        ("rope_scaling", json!({"type": "default"})),
        (
            "rope_scaling",
            json!({"rope_type": "default", "factor": 8.0}),
        ),
        ("rope_scaling", json!({})),
        ("rope_scaling", json!({"factor": 1.0})),
        ("_anything", json!([1, {"a": "Infinity"}])),
        ("attention_dropout", json!("NaN")),
        ("num_experts", json!(0)),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("partial_rotary_factor", json!(1.0)),
        ("rope_parameters", json!({"partial_rotary_factor": 1.0})),
        ("rotary_pct", json!(1)),
        ("keys_to_ignore_at_inference", json!(["past_key_values"])),
        ("ignore_index", json!(-100)),
        ("loss_type", json!("ForCausalLMLoss")),
        ("adapters", json!({"adapters": {}, "config_map": {}})),
        ("badwordsids", json!([[13460]])),
        ("fuse_attention_qkv", json!(false)),
        ("mm_vision_tower", json!("clip")),
        ("shared_expert_intermediate_size", json!(0)),
    ];
    for (key, value) in cases {
        let of = format!("{key}: {value}");
        let skeleton = from_config(&with(llama(), key, value));
        let skeleton = skeleton.unwrap_or_else(|e| panic!("{of}: {e}"));
        assert_eq!(skeleton.spec, plain, "{of}");
        assert!(skeleton.notices.is_empty(), "{of}");
    }
}

#[test]
fn what_would_change_something_does_not_pass() {
    let cases = [
        ("use_mrope", json!(true)),
        ("use_sliding_window", json!(true)),
        ("quantization", json!({"group_size": 64, "bits": 4})),
        ("pruned_heads", json!({"0": [1]})),
        ("is_encoder_decoder", json!(true)),
        ("qk_layernorm", json!(true)),
        ("attention_multiplier", json!(0.5)),
        ("num_experts", json!(8)),
        ("use_mrope", json!("NaN")),
        ("unslothed", json!(1)),
        ("rope_scaling.surprise", json!(1)),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_parameters.partial_rotary_factor", json!(0.5)),
        ("rotary_pct", json!(0.25)),
        ("fuse_attention_qkv", json!(true)),
    ];
    for (key, value) in cases {
        let config = with(llama(), key, value.clone());
        let error = from_config(&config).unwrap_err();
        let ArchError::UnknownKeys { keys } = &error else {
            panic!("{key}: {error}");
        };
        assert_eq!(keys.len(), 1);
        let shown = value.as_str().map_or(value.to_string(), str::to_owned);
        assert_eq!((&*keys[0].key, &keys[0].value), (key, &shown));
        let skeleton = from_config_with(&config, UnknownKeys::PassOver).unwrap();
        assert_eq!(skeleton.notices.len(), 1, "{key}");
        assert!(skeleton.notices[0].contains(&format!("`{key}`: {shown}")));
        assert_eq!(skeleton.spec, from_config(&llama()).unwrap().spec, "{key}");
    }
}

#[test]
fn families_know_what_their_own_files_carry() {
    let cases = [
        ("gemma2", "sliding_window_size", json!(4096)),
        ("gpt2", "n_special", json!(0)),
        ("gpt2", "predict_special_tokens", json!(true)),
        ("qwen2", "seq_length", json!(8192)),
        ("qwen2", "use_qkv_bias", json!(true)),
        ("qwen3", "use_qk_norm", json!(true)),
        ("qwen3_moe", "use_qk_norm", json!(true)),
    ];
    for (family, key, value) in cases {
        let core = super::super::family(family).unwrap().core;
        let plain = object(json!({"model_type": family}));
        let plain = core.iter().fold(plain, |config, (key, value)| {
            with(config, key, json!(value))
        });
        let spec = |config: &Map<String, Value>| from_config(config).unwrap().spec;
        assert_eq!(
            spec(&with(plain.clone(), key, value)),
            spec(&plain),
            "{key}"
        );
    }
}

#[test]
fn what_a_t5_stores_of_its_activation_counts() {
    let t5 = |more: Value| {
        let mut config = object(json!({
            "model_type": "t5", "feed_forward_proj": "gated-gelu", "d_model": 64, "d_kv": 16,
            "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 97
        }));
        config.extend(object(more));
        from_config(&config).unwrap().spec
    };
    let plain = t5(json!({}));
    assert_eq!(
        t5(json!({"dense_act_fn": "gelu_new", "is_gated_act": true})),
        plain
    );
    let relu = t5(json!({"feed_forward_proj": "gated-relu"}));
    assert_eq!(t5(json!({"dense_act_fn": "relu"})), relu);
    let ungated = t5(json!({"feed_forward_proj": "relu"}));
    assert_eq!(
        t5(json!({"dense_act_fn": "relu", "is_gated_act": false})),
        ungated
    );
}

#[test]
fn values_are_not_passed_over() {
    let wrong = [
        ("hidden_size", json!("NaN")),
        ("rms_norm_eps", json!("Infinity")),
        ("rope_scaling", json!({"factor": 2.0})),
    ];
    for (key, value) in wrong {
        let error = from_config_with(&with(llama(), key, value), UnknownKeys::PassOver);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}")), "{error}");
    }
    let error = from_config(&with(llama(), "hidden_size", json!("NaN"))).unwrap_err();
    assert!(
        error.to_string().contains("`hidden_size` is NaN"),
        "{error}"
    );
}

#[test]
fn a_slip_of_the_pen_is_recognised() {
    let cases = [
        ("rope_thetta", "`rope_theta`"),
        ("num_key_value_head", "`num_key_value_heads`"),
        ("atention_bias", "`attention_bias`"),
        ("rope_scaling.factr", "`rope_scaling.factor`"),
    ];
    for (key, guess) in cases {
        let error = from_config(&with(llama(), key, json!(7))).unwrap_err();
        let words = format!("`{key}`: 7 (did you mean {guess}?)");
        assert!(error.to_string().contains(&words), "{error}");
    }
    let error = from_config(&with(llama(), "frobnicate", json!(7))).unwrap_err();
    assert!(!error.to_string().contains("mean"), "{error}");
}

#[test]
fn spellings_of_one_key_may_not_contradict_each_other() {
    let same = with(gpt2(), "hidden_size", json!(768));
    assert_eq!(
        from_config(&same).unwrap().spec,
        from_config(&gpt2()).unwrap().spec
    );
    let error = from_config(&with(gpt2(), "hidden_size", json!(1024))).unwrap_err();
    let words = "`hidden_size` is 1024 and `n_embd` is 768";
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn the_older_spelling_of_rope_counts_where_both_are_there() {
    let both = with(
        with(
            llama(),
            "rope_scaling",
            json!({"type": "linear", "factor": 2.0}),
        ),
        "rope_parameters",
        json!({"rope_type": "default", "rope_theta": 5e5}),
    );
    let older = with(
        llama(),
        "rope_scaling",
        json!({"type": "linear", "factor": 2.0}),
    );
    assert_eq!(
        from_config(&both).unwrap().spec,
        from_config(&older).unwrap().spec
    );
}

#[test]
fn what_gemma3n_does_not_run_is_named() {
    let gemma3n = |key: &str, value: Value| {
        let config = json!({
            "model_type": "gemma3n_text", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 3,
            "num_attention_heads": 4, "vocab_size": 100, "num_kv_shared_layers": 1,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        });
        from_config(&with(object(config), key, value))
    };
    let plain = gemma3n("rms_norm_eps", json!(1e-6)).unwrap();
    let streams = plain.spec.decoder.streams.unwrap();
    assert_eq!((streams.n, streams.row_width(64)), (4, 256));
    let seen = plain.spec.decoder.attentions().map(|a| a.keys_of);
    assert_eq!(seen.collect::<Vec<_>>(), [None, None, Some(1)]);
    assert!(plain.is_harmless("model.layers.2.self_attn.v_proj.weight"));
    // As the reference says of a table that knows fewer tokens: others have the first one's row.
    let few = gemma3n("vocab_size_per_layer_input", json!(90)).unwrap();
    let table = few.slots.iter().find(|s| s.role == Role::PerLayerTable);
    assert_eq!(*table.unwrap().shape, [90, 3 * 256]);
    let two = gemma3n("altup_num_inputs", json!(2)).unwrap();
    let of_streams = |skeleton: &Skeleton| {
        let names = skeleton.slots.iter().map(|slot| slot.name.clone());
        let all = names.filter(|name| name.contains("altup_"));
        all.collect::<Vec<_>>()
    };
    assert_eq!(
        of_streams(&two),
        [
            "model.altup_projections.0.weight",
            "model.altup_unembed_projections.0.weight"
        ]
    );
    assert_eq!(of_streams(&plain).len(), 6);
    let unscaled = gemma3n("altup_correct_scale", json!(false)).unwrap();
    let scale = "model.layers.1.altup.correct_output_scale";
    let has = |skeleton: &Skeleton| skeleton.slots.iter().any(|slot| slot.name == scale);
    assert_eq!((has(&plain), has(&unscaled)), (true, false));
    assert!(unscaled.is_harmless(scale), "the reference makes it anyway");
    let sparse = gemma3n("activation_sparsity_pattern", json!([0.95, 0, 0.5])).unwrap();
    let cut_offs = sparse
        .spec
        .decoder
        .layers
        .iter()
        .map(|layer| match layer.mlp {
            // In thousandths.
            MlpSpec::Dense(mlp) => mlp.cut_off.map(|deviations| (1e3 * deviations).round()),
            MlpSpec::Experts(_) | MlpSpec::Absent => unreachable!("all are dense"),
        });
    assert_eq!(
        cut_offs.collect::<Vec<_>>(),
        [Some(1645.0), None, Some(0.0)]
    );
    for (key, value, words) in [
        (
            "altup_active_idx",
            json!(1),
            "blocks compute with the first",
        ),
        ("altup_num_inputs", json!(5), "2, 3 or 4"),
        ("altup_num_inputs", json!(1), "2, 3 or 4"),
        ("activation_sparsity_pattern", json!(0.95), "a list of 3"),
        ("activation_sparsity_pattern", json!([1.0, 0, 0]), "below 1"),
        ("intermediate_size", json!([64, 0, 64]), "positive"),
        ("intermediate_size", json!([64, 64]), "a list of 3"),
        (
            "hidden_size_per_layer_input",
            json!(0),
            "hidden_size_per_layer_input",
        ),
        ("num_kv_shared_layers", json!(2), "of each kind"),
        ("laurel_rank", json!(0), "laurel_rank"),
        ("altup_clip", json!(1), "`altup_clip`"),
    ] {
        let error = gemma3n(key, value).unwrap_err().to_string();
        assert!(error.contains(words), "{key}: {error}");
    }
}

#[test]
fn what_gemma4_does_not_run_is_named() {
    let gemma4 = |key: &str, value: Value| {
        let config = json!({
            "model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "attention_k_eq_v": true,
            "hidden_size_per_layer_input": 0
        });
        from_config(&with(object(config), key, value))
    };
    let spec = gemma4("num_global_key_value_heads", json!(1)).unwrap().spec;
    let heads = spec.decoder.attentions();
    let heads: Vec<_> = heads.map(|a| (a.head_dim, a.n_kv_heads)).collect();
    assert_eq!(heads, [(256, 2), (512, 1)]);
    let small = gemma4("hidden_size_per_layer_input", json!(8)).unwrap();
    let table = small.slots.iter().find(|s| s.role == Role::PerLayerTable);
    assert_eq!(*table.unwrap().shape, [262_144, 2 * 8]);
    let own = gemma4("attention_k_eq_v", json!(false)).unwrap();
    let unread = "model.layers.7.self_attn.k_proj.weight";
    assert!(own.is_harmless(unread), "of layers that see others'");
    let mut few =
        object(json!({"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 99}));
    few.extend(object(json!({"model_type": "gemma4_text", "hidden_size": 64, "intermediate_size": 64, "vocab_size": 100})));
    few.extend(object(
        json!({"num_hidden_layers": 2, "num_attention_heads": 4}),
    ));
    let error = from_config(&few).unwrap_err().to_string();
    assert!(error.contains("each of the 100 tokens"), "{error}");
    let by_layer = json!({"1": {"head_dim": 24}});
    let spec = gemma4("per_layer_config", by_layer).unwrap().spec;
    let heads = spec.decoder.attentions();
    let heads: Vec<_> = heads.map(|a| (a.head_dim, a.n_kv_heads)).collect();
    assert_eq!(heads, [(256, 2), (24, 2)]);
    for (key, value, words) in [
        ("num_kv_shared_layers", json!(1), "of each kind"),
        ("num_kv_shared_layers", json!(2), "of each kind"),
        ("num_kv_shared_layers", json!(3), "of each kind"),
        ("use_bidirectional_attention", json!("all"), "vision"),
        ("num_global_key_value_heads", json!(3), "divisor of the 4"),
        (
            "per_layer_config",
            json!({"0": {"num_key_value_heads": 3}}),
            "divisor",
        ),
        (
            "per_layer_config",
            json!({"0": {"window": 3}}),
            "`per_layer_config.0.window`",
        ),
        (
            "rope_parameters",
            json!({"rope_theta": 7.0}),
            "each kind of layer",
        ),
    ] {
        let error = gemma4(key, value).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(words), "{error}");
    }
}

#[test]
fn halves_say_what_they_leave_out() {
    let gemma3 = |key: &str, value: Value| {
        let config = json!({
            "model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 2},
            "vision_config": {"num_hidden_layers": 27}, "mm_tokens_per_image": 256
        });
        from_config(&with(object(config), key, value))
    };
    let skeleton = gemma3("image_token_index", json!(7)).unwrap();
    let words = ["gemma3", "vision tower of 27 layers", "left out"];
    assert!(
        words.iter().all(|w| skeleton.notices[0].contains(w)),
        "{:?}",
        skeleton.notices
    );
    let names = |skeleton: &Skeleton| skeleton.slots[0].name.clone();
    assert_eq!(names(&skeleton), "model.language_model.embed_tokens.weight");
    let mut settled = skeleton.clone();
    settled.settle_names(|name| name == "language_model.model.embed_tokens.weight");
    assert_eq!(names(&settled), "language_model.model.embed_tokens.weight");
    assert!(settled.is_harmless("vision_tower.encoder.layers.0.mlp.fc1.bias"));
    assert!(settled.is_harmless("language_model.lm_head.weight"), "tied");
    assert!(!settled.is_harmless("language_model.model.layers.0.adapter.weight"));
    for (key, words) in [
        ("frobnicate", "`frobnicate`"),
        ("text_config.frobnicate", "`text_config.frobnicate`"),
        (
            "text_config.num_attention_heads",
            "`text_config.num_attention_heads`",
        ),
    ] {
        let error = gemma3(key, json!(0)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    for (model_type, words) in [("paligemma", "attends"), ("gemma5", "unknown model family")] {
        let config = object(json!({"model_type": model_type, "text_config": {}}));
        let error = from_config(&config).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

/// A spec of a state space's model, with other keys.
fn with_states(family: &str, more: Value) -> Result<ModelSpec, ArchError> {
    let mut config = object(json!({
        "model_type": family, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 97, "num_hidden_layers": 3,
        "num_heads": 4, "head_dim": 32, "n_groups": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "mamba_num_heads": 8,
    }));
    config.extend(object(more));
    from_config_with(&config, UnknownKeys::PassOver).map(|skeleton| skeleton.spec)
}

#[test]
fn bounds_of_steps_may_be_infinite() {
    let bounds = |limits: Value| {
        let spec = with_states("mamba2", json!({"time_step_limit": limits}));
        spec.map(|spec| match spec.decoder.layers[0].mixer {
            crate::MixerSpec::StateSpace(space) => space.step_limits,
            ref other => panic!("{other:?}"),
        })
    };
    let infinity = f32::INFINITY;
    for (limits, expected) in [
        (json!(null), [0.0, infinity]),
        (json!([0.0, "Infinity"]), [0.0, infinity]),
        (json!([0.25, {"__float__": "Infinity"}]), [0.25, infinity]),
        (json!([0.25, 0.5]), [0.25, 0.5]),
    ] {
        assert_eq!(bounds(limits.clone()).unwrap(), expected, "{limits}");
    }
    for limits in [
        json!([0.5, 0.25]),
        json!([-1.0, 1.0]),
        json!([0.0, "NaN"]),
        json!([0.0, {"__float__": "NaN"}]),
        json!([0.0]),
        json!(0.5),
    ] {
        let error = bounds(limits.clone()).unwrap_err().to_string();
        assert!(error.contains("`time_step_limit`"), "{error}");
    }
}

#[test]
fn blocks_of_one_thing_are_named_by_letters_or_words() {
    let blocks = |more: Value| with_states("nemotron_h", more);
    let letters = blocks(json!({"hybrid_override_pattern": "M-*"})).unwrap();
    let experts = blocks(json!({"hybrid_override_pattern": "ME*"})).unwrap();
    let listed = blocks(json!({"layers_block_type": ["mamba", "moe", "attention"]}));
    assert_eq!(listed.unwrap(), experts);
    for words in [
        json!(["mamba", "mlp", "attention"]),
        json!(["linear_attention", "mlp", "full_attention"]),
    ] {
        let listed = blocks(json!({"layers_block_type": words})).unwrap();
        assert_eq!(listed, letters);
    }
    let is_one_thing = |layer: &crate::LayerSpec| {
        let has_mixer = layer.mixer != crate::MixerSpec::Absent;
        has_mixer != (layer.mlp != MlpSpec::Absent)
    };
    assert!(letters.decoder.layers.iter().all(is_one_thing));
    for more in [
        json!({"hybrid_override_pattern": "MX*"}),
        json!({"hybrid_override_pattern": "M-"}),
        json!({"layers_block_type": ["mamba", "expert", "attention"]}),
        json!({"hybrid_override_pattern": "ME*", "mlp_bias": true}),
        json!({"hybrid_override_pattern": "ME*", "moe_latent_size": 1 << 20}),
        json!({}),
    ] {
        assert!(blocks(more.clone()).is_err(), "{more}");
    }
}

#[test]
fn layers_that_attend_are_counted_from_one_or_named() {
    let kimi = |more: Value| {
        let mut config = object(json!({"num_hidden_layers": 5, "num_key_value_heads": 2}));
        config.extend(object(more));
        with_states("kimi_linear", Value::Object(config))
    };
    let attending = |more: Value| {
        let layers = kimi(more).unwrap().decoder.layers;
        let latent = |layer: &crate::LayerSpec| match layer.mixer {
            crate::MixerSpec::Latent(latent) => {
                assert_eq!(latent.rotary_idx, None);
                true
            }
            crate::MixerSpec::Delta(_) => false,
            ref other => panic!("{other:?}"),
        };
        (0..layers.len())
            .filter(|&i| latent(&layers[i]))
            .collect::<Vec<_>>()
    };
    let lists = |full: Value, kda: Value| json!({"linear_attn_config": {"full_attn_layers": full, "kda_layers": kda}});
    assert_eq!(attending(json!({})), [4]);
    assert_eq!(attending(lists(json!([4, 5]), json!([1, 2, 3]))), [3, 4]);
    let words = json!([
        "full_attention",
        "linear_attention",
        "linear_attention",
        "linear_attention",
        "full_attention"
    ]);
    let mut both = lists(json!([4, 5]), json!([1, 2, 3]));
    both["layer_types"] = words;
    assert_eq!(attending(both), [0, 4], "words count, as in transformers");
    for (more, named) in [
        (lists(json!([4]), json!([1, 2, 3])), "kda_layers"),
        (lists(json!([3, 4, 5]), json!([1, 2, 3])), "kda_layers"),
        (
            lists(json!([4, 6]), json!([1, 2, 3, 5])),
            "full_attn_layers",
        ),
        (json!({"linear_head_dim": 512}), "linear_head_dim"),
        (
            json!({"linear_conv_kernel_dim": 1}),
            "linear_conv_kernel_dim",
        ),
    ] {
        let error = kimi(more.clone()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{more}: {error}");
    }
}

/// A layer selects positions by a list, by a pattern, by its number, or each does.
#[test]
fn layers_that_select_positions_are_listed_or_counted() {
    let selecting = |model_type: &str, more: Value| {
        let mut config = object(json!({
            "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 97, "num_hidden_layers": 5,
            "num_attention_heads": 2, "num_key_value_heads": 2,
        }));
        config.extend(object(more));
        let spec = from_config(&config)
            .map_err(|error| error.to_string())?
            .spec;
        let index = |latent: &crate::LatentSpec| latent.index.unwrap().heads.is_some();
        Ok::<_, String>(spec.decoder.latents().map(index).collect::<Vec<_>>())
    };
    let glm = |more| selecting("glm_moe_dsa", more);
    let [own, shared] = [true, false];
    let all = Ok(vec![own; 5]);
    assert_eq!(glm(json!({})), all);
    assert_eq!(selecting("deepseek_v32", json!({})), all);
    assert_eq!(glm(json!({"index_topk_freq": 0})), all);
    let every = json!({"index_topk_freq": 2, "index_skip_topk_offset": 3});
    let expected = Ok(vec![own, own, own, shared, own]);
    assert_eq!(glm(every.clone()), expected);
    let mut pattern = every;
    pattern["index_topk_pattern"] = json!("FSSFS");
    let expected = Ok(vec![own, shared, shared, own, shared]);
    assert_eq!(glm(pattern.clone()), expected);
    let list = json!(["full", "full", "full", "shared", "shared"]);
    pattern["indexer_types"] = list.clone();
    let expected = Ok(vec![own, own, own, shared, shared]);
    assert_eq!(
        glm(pattern),
        expected,
        "the list counts, as in transformers"
    );
    assert_eq!(glm(json!({"index_topk_pattern": list})), expected);
    for (model_type, more, named) in [
        (
            "glm_moe_dsa",
            json!({"index_topk_pattern": "FSSFX"}),
            "index_topk_pattern",
        ),
        (
            "glm_moe_dsa",
            json!({"index_topk_pattern": "FS"}),
            "index_topk_pattern",
        ),
        (
            "glm_moe_dsa",
            json!({"index_topk_pattern": "SFFFF"}),
            "indexer_types",
        ),
        (
            "glm_moe_dsa",
            json!({"index_head_dim": 32}),
            "index_head_dim",
        ),
        (
            "glm_moe_dsa",
            json!({"indexer_rope_interleave": false}),
            "indexer_rope_interleave",
        ),
        ("glm_moe_dsa", json!({"q_lora_rank": null}), "q_lora_rank"),
        (
            "deepseek_v32",
            json!({"index_topk_freq": 2}),
            "index_topk_freq",
        ),
        (
            "deepseek_v32",
            json!({"indexer_rope_interleave": true}),
            "indexer_rope_interleave",
        ),
        (
            "deepseek_v32",
            json!({"rope_interleave": false}),
            "rope_interleave",
        ),
    ] {
        let error = selecting(model_type, more.clone()).unwrap_err();
        assert!(error.contains(named), "{more}: {error}");
    }
}

#[test]
fn what_kimi_linear_does_not_run_is_named() {
    let model = |key: &str, value: Value| {
        let config = json!({
            "model_type": "kimi_linear", "hidden_size": 64, "intermediate_size": 96, "vocab_size": 97, "num_hidden_layers": 3,
            "num_attention_heads": 2, "num_key_value_heads": 2,
        });
        from_config(&with(object(config), key, value))
    };
    model("mla_use_nope", json!(true)).unwrap();
    for (key, value) in [
        ("mla_use_nope", json!(false)),
        ("moe_layer_freq", json!(2)),
        ("moe_router_activation_func", json!("softmax")),
        ("use_grouped_topk", json!(false)),
        ("linear_attn_config.gate_lower_bound", json!(-5.0)),
    ] {
        let error = model(key, value).unwrap_err().to_string();
        let name = key.rsplit('.').next().unwrap();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn layers_of_deepseek_v4_see_what_a_list_says() {
    let seen = |more: Value| {
        let mut config = object(json!({
            "model_type": "deepseek_v4", "hidden_size": 64, "vocab_size": 97, "num_hidden_layers": 5, "num_attention_heads": 8,
            "head_dim": 128, "index_topk": 7,
        }));
        config.extend(object(more));
        let spec = from_config(&config)
            .map_err(|error| error.to_string())?
            .spec;
        let rate = |of: &crate::SharedKeySpec| of.entries.map_or(0, |entries| entries.rate);
        let by_token = spec
            .decoder
            .layers
            .iter()
            .map(|layer| layer.mlp.experts().unwrap().by_token);
        let n_first = by_token.take_while(|by_token| *by_token).count();
        Ok::<_, String>((
            spec.decoder.shared_keys().map(rate).collect::<Vec<_>>(),
            n_first,
        ))
    };
    let by_default = Ok((vec![128, 128, 128, 4, 128], 3));
    assert_eq!(seen(json!({})), by_default);
    // Lists go on with layers that guess tokens.
    let ratios = json!({"compress_ratios": [0, 0, 4, 128, 4, 0], "num_hash_layers": 1});
    assert_eq!(seen(ratios), Ok((vec![0, 0, 4, 128, 4], 1)));
    let [none, some, all] = [
        "sliding_attention",
        "compressed_sparse_attention",
        "heavily_compressed_attention",
    ];
    let words = json!({
        "layer_types": [none, some, all, some, none], "compress_ratios": [0, 0, 0, 0, 0],
        "compress_rates": {some: 3, all: 20}, "compress_rate_hca": 10,
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe", "moe"],
    });
    assert_eq!(seen(words), Ok((vec![0, 3, 10, 3, 0], 2)));
    for (more, named) in [
        (
            json!({"compress_ratios": [0, 4, 8, 4, 4]}),
            "compress_ratios",
        ),
        (json!({"compress_ratios": [0, 4]}), "compress_ratios"),
        (json!({"compress_rates": {some: 1}}), "compress_rates"),
        (json!({"compress_rates": {"others": 2}}), "others"),
        (
            json!({"head_dim": 512, "index_head_dim": 32}),
            "index_head_dim",
        ),
        (json!({"o_groups": 3}), "o_groups"),
        (json!({"qk_rope_head_dim": 7}), "qk_rope_head_dim"),
        (json!({"hc_mult": 9}), "hc_mult"),
        (json!({"hc_mult": 1}), "hc_mult"),
        (json!({"scoring_func": "tanh"}), "scoring_func"),
        (json!({"num_key_value_heads": 2}), "num_key_value_heads"),
        (json!({"norm_topk_prob": false}), "norm_topk_prob"),
        (json!({"n_shared_experts": 2}), "n_shared_experts"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (
            json!({"rope_parameters": {"main": {"rope_type": "default"}, "compress": {"rope_type": "default", "partial_rotary_factor": 0.25}}}),
            "qk_rope_head_dim",
        ),
    ] {
        let error = seen(more.clone()).unwrap_err();
        assert!(error.contains(named), "{more}: {error}");
    }
}

#[test]
fn the_positions_of_runs_have_a_base_of_their_own() {
    let rotary = |more: Value| {
        let mut config = object(json!({
            "model_type": "deepseek_v4", "hidden_size": 64, "vocab_size": 97, "num_hidden_layers": 5, "num_attention_heads": 8,
            "head_dim": 128, "qk_rope_head_dim": 32, "rope_theta": 5e3, "compress_rope_theta": 9e4,
        }));
        config.extend(object(more));
        let spec = from_config(&config).unwrap().spec;
        let kinds = spec.decoder.positions.rotary().iter();
        kinds
            .map(|kind| (kind.base, kind.magnitude(1), kind.turns_back))
            .collect::<Vec<_>>()
    };
    let expected = |magnitude| {
        let [plain, of_runs] = [(5e3, 1.0), (9e4, magnitude)];
        let both = [plain, of_runs].into_iter();
        both.flat_map(|(base, magnitude)| [false, true].map(|back| (base, magnitude, back)))
            .collect::<Vec<_>>()
    };
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let mut own = yarn.clone();
    own["rope_theta"] = json!(1e6);
    own["attention_factor"] = json!(1.5);
    assert_eq!(rotary(json!({})), expected(1.0));
    assert_eq!(rotary(json!({"rope_scaling": yarn})), expected(1.0));
    assert_eq!(rotary(json!({"rope_scaling": own})), expected(1.5));
    let nested = json!({"rope_parameters": {"main": {"rope_type": "default", "rope_theta": 5e3}, "compress": yarn}});
    assert_eq!(rotary(nested), expected(1.0));
}
