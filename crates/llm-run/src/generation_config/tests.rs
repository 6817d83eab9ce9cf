use super::*;

fn parse(text: &str, others: OtherKeys) -> Result<GenerationConfig, String> {
    let config = GenerationConfig::parse(Path::new("x.json"), text.as_bytes(), others);
    config.map_err(|error| format!("{error:#}"))
}

#[test]
fn values_out_of_bounds_are_named_with_their_file() {
    let cases = [
        (
            r#"{"repetition_penalty": 0}"#,
            "`repetition_penalty` is 0, expected a number above 0",
        ),
        (
            r#"{"repetition_penalty": NaN}"#,
            "`repetition_penalty` is \"NaN\", expected",
        ),
        (
            r#"{"top_p": 5}"#,
            "`top_p` is 5, expected a number above 0, up to 1",
        ),
        (r#"{"top_p": "0.9"}"#, "`top_p` is \"0.9\""),
        (
            r#"{"temperature": -1}"#,
            "`temperature` is -1, expected a number of at least 0",
        ),
        (
            r#"{"temperature": Infinity}"#,
            "`temperature` is \"Infinity\"",
        ),
        (r#"{"temperature": [1.0]}"#, "`temperature` is [1.0]"),
        (
            r#"{"top_k": -5}"#,
            "`top_k` is -5, expected a whole number of at least 0",
        ),
        (r#"{"top_k": 2.5}"#, "`top_k` is 2.5"),
        (r#"{"min_p": 1.5}"#, "`min_p` is 1.5"),
        (r#"{"typical_p": 0}"#, "`typical_p` is 0"),
        (r#"{"top_h": 2}"#, "`top_h` is 2"),
        (
            r#"{"num_beams": 0}"#,
            "`num_beams` is 0, expected a whole number from 1 to 256",
        ),
        (r#"{"num_beams": 100000}"#, "`num_beams` is 100000"),
        (r#"{"max_new_tokens": 0}"#, "`max_new_tokens` is 0"),
        (r#"{"max_length": true}"#, "`max_length` is true"),
        (
            r#"{"do_sample": "yes"}"#,
            "`do_sample` is \"yes\", expected true or false",
        ),
        (
            r#"{"early_stopping": "always"}"#,
            "expected true, false or \"never\"",
        ),
        (
            r#"{"eos_token_id": [1, -2]}"#,
            "`eos_token_id` is [1,-2], expected a token id",
        ),
        (
            r#"{"eos_token_id": 4294967296}"#,
            "`eos_token_id` is 4294967296",
        ),
        (
            r#"{"bad_words_ids": [5]}"#,
            "expected a list of lists of token ids",
        ),
        (
            r#"{"bad_words_ids": [[]]}"#,
            "expected a list of lists of token ids",
        ),
        (r#"{"sequence_bias": {"[5]": 1.0}}"#, "`sequence_bias` is"),
        (r#"{"sequence_bias": [[[5], "x"]]}"#, "`sequence_bias` is"),
        (
            r#"{"exponential_decay_length_penalty": [1]}"#,
            "expected a pair",
        ),
        (
            r#"{"suppress_tokens": [7], "forced_eos_token_id": 7}"#,
            "also among `suppress_tokens`",
        ),
        (r#"{"stop_strings": [""]}"#, "`stop_strings` is"),
        ("[1]", "x.json: "),
        ("{", "x.json: "),
        ("", "x.json: "),
    ];
    for (text, words) in cases {
        let error = parse(text, OtherKeys::AreNamed).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
        assert!(error.contains("x.json"), "{text}: {error}");
        // What is wrong in a config.json is so, too.
        assert!(parse(text, OtherKeys::AreTheModels).is_err(), "{text}");
    }
    let long = format!(r#"{{"suppress_tokens": "{}"}}"#, "é".repeat(500));
    assert!(parse(&long, OtherKeys::AreNamed).unwrap_err().len() < 200);
}

#[test]
fn what_is_not_done_is_named_and_what_changes_nothing_is_not() {
    let text = r#"{
        "guidance_scale": 1.5, "penalty_alpha": 0.6, "watermarking_config": {"bias": 2.5},
        "num_return_sequences": 3, "my_own": 1, "forced_decoder_ids": [[1, 2]], "nothing": null,
        "use_cache": true, "cache_implementation": "static", "output_scores": true, "pad_token_id": 0,
        "bos_token_id": 1, "transformers_version": "5.24.0", "_from_model_config": true,
        "num_assistant_tokens": 20, "compile_config": {}, "token_healing": false, "dola_layers": null
    }"#;
    let config = parse(text, OtherKeys::AreNamed).unwrap();
    let expected = [
        "x.json: `guidance_scale`, `watermarking_config`, `penalty_alpha`, `num_return_sequences` are not supported and were not applied",
        "x.json: `my_own`, `forced_decoder_ids` are not understood and were not applied",
    ];
    assert_eq!(config.notices, expected);
    let config = parse(
        r#"{"guidance_scale": 1.5, "hidden_size": 5}"#,
        OtherKeys::AreTheModels,
    );
    let expected = ["x.json: `guidance_scale` is not supported and was not applied"];
    assert_eq!(config.unwrap().notices, expected);
    let neutral = r#"{
        "guidance_scale": 1.0, "penalty_alpha": 0.0, "num_return_sequences": 1, "num_beam_groups": 1,
        "diversity_penalty": 0.0, "constraints": null
    }"#;
    assert!(
        parse(neutral, OtherKeys::AreNamed)
            .unwrap()
            .notices
            .is_empty()
    );
}

#[test]
fn a_wrappers_text_model_fills_in() {
    let text = r#"{"eos_token_id": null, "top_k": 7, "text_config": {"eos_token_id": [1, 106], "top_k": 9}}"#;
    let config = parse(text, OtherKeys::AreTheModels).unwrap();
    assert_eq!((config.eos_token_id, config.top_k), (vec![1, 106], Some(7)));
}

#[test]
fn no_end_of_text_may_be_written_as_minus_one() {
    let config = parse(
        r#"{"eos_token_id": -1, "pad_token_id": -1}"#,
        OtherKeys::AreNamed,
    )
    .unwrap();
    assert!(config.eos_token_id.is_empty() && config.notices.is_empty());
}

/// Values of every type in every key: each is taken, or refused in one short line that names the key.
#[test]
fn a_value_of_any_type_in_any_key_is_taken_or_refused() {
    let keys = [
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "max_time",
        "stop_strings",
        "do_sample",
        "length_penalty",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "top_h",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "encoder_repetition_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "suppress_tokens",
        "begin_suppress_tokens",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "renormalize_logits",
        "remove_invalid_values",
        "eos_token_id",
        "decoder_start_token_id",
        "num_beams",
        "early_stopping",
        "bad_words_ids",
        "sequence_bias",
        "exponential_decay_length_penalty",
        "guidance_scale",
        "num_beam_groups",
        "watermarking_config",
        "frobnicate",
    ];
    let long = format!("\"{}\"", "ü".repeat(70_000));
    let many = format!("[{}]", vec!["7"; 3_000].join(","));
    let values = [
        "null",
        "true",
        "false",
        "0",
        "-0.0",
        "1",
        "-1",
        "2",
        "0.5",
        "1e-300",
        "1e30",
        "-1e30",
        "1e300",
        "4294967295",
        "4294967296",
        "18446744073709551615",
        "18446744073709551616",
        "NaN",
        "Infinity",
        "-Infinity",
        "\"\"",
        "\"x\"",
        "\"1\"",
        "\"never\"",
        "[]",
        "[null]",
        "[1]",
        "[1, 1]",
        "[-1]",
        "[1, 1e300]",
        "[[]]",
        "[[1]]",
        "[[[1], 1e300]]",
        "[[[], 1]]",
        "[[1, 2], [3]]",
        "[\"\"]",
        "[\"a\"]",
        "[{}]",
        "{}",
        "{\"a\": [1]}",
        &long,
        &many,
    ];
    for key in keys {
        for value in values {
            for others in [OtherKeys::AreNamed, OtherKeys::AreTheModels] {
                match parse(&format!("{{\"{key}\": {value}}}"), others) {
                    Ok(config) => {
                        _ = config.check_ids(131);
                        let are_short = config.notices.iter().all(|line| line.len() < 400);
                        assert!(are_short, "{key} {value:.40}");
                    }
                    Err(message) => {
                        let is_clear = message.contains(&format!("`{key}`"));
                        assert!(is_clear && message.len() < 400, "{key}: {message:.500}");
                    }
                }
            }
        }
    }
}
