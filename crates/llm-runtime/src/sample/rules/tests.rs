use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
struct Golden {
    config: Value,
    source: Vec<u32>,
    ids: Vec<u32>,
    n_prompt: usize,
    logits: Vec<f32>,
    expected: Vec<Value>,
}

/// The rules of a `generation_config.json`, with the ends of text and the length that the goldens were made with.
fn rules(config: &Value) -> Rules {
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    let whole = |value: &Value| value.as_u64().unwrap() as usize;
    let mut rules = Rules {
        eos_ids: vec![2, 13],
        max_length: 12,
        ..Rules::default()
    };
    for (key, value) in config.as_object().unwrap() {
        match key.as_str() {
            "sequence_bias" => {
                rules.sequence_bias = serde_json::from_value(value.clone()).unwrap();
            }
            "encoder_repetition_penalty" => rules.encoder_repetition_penalty = number(value),
            "repetition_penalty" => rules.repetition_penalty = number(value),
            "no_repeat_ngram_size" => rules.no_repeat_ngram_size = whole(value),
            "encoder_no_repeat_ngram_size" => rules.encoder_no_repeat_ngram_size = whole(value),
            "bad_words_ids" => rules.bad_words = serde_json::from_value(value.clone()).unwrap(),
            "min_length" => rules.min_length = whole(value),
            "min_new_tokens" => rules.min_new_tokens = whole(value),
            "forced_bos_token_id" => rules.forced_bos = Some(whole(value) as u32),
            "forced_eos_token_id" => rules.forced_eos = ids(value),
            "remove_invalid_values" => rules.remove_invalid_values = true,
            "exponential_decay_length_penalty" => {
                rules.exponential_decay = Some((whole(&value[0]), number(&value[1])));
            }
            "suppress_tokens" => rules.suppress = ids(value),
            "begin_suppress_tokens" => rules.begin_suppress = ids(value),
            key => panic!("no rule {key}"),
        }
    }
    if rules.min_new_tokens > 0 {
        rules.min_length = 0;
    }
    rules
}

#[test]
fn logits_become_what_transformers_makes_of_them() {
    let text = include_bytes!("../../../../../tests/fixtures/generation/processors.json");
    let goldens: Vec<Golden> = serde_json::from_slice(text).unwrap();
    assert!(goldens.len() > 100);
    for golden in &goldens {
        let past = Past {
            ids: &golden.ids,
            n_prompt: golden.n_prompt,
            source: &golden.source,
        };
        let mut found = golden.logits.clone();
        let mut marks = Marks::new(found.len());
        rules(&golden.config).apply(&past, &mut marks, &mut found);
        for (id, (&found, expected)) in found.iter().zip(&golden.expected).enumerate() {
            let expected = match expected.as_str() {
                Some("-inf") => f32::NEG_INFINITY,
                Some("inf") => f32::INFINITY,
                _ => expected.as_f64().unwrap() as f32,
            };
            // Some roundings, each relative.
            let tolerance = 4.0 * f32::EPSILON * expected.abs();
            let is_same = found == expected || (found - expected).abs() <= tolerance;
            let (config, ids) = (&golden.config, &golden.ids);
            assert!(
                is_same,
                "{config} after {ids:?}: logit {id} is {found}, expected {expected}"
            );
        }
    }
}

#[test]
fn the_openai_penalties_count_what_was_generated() {
    let rules = Rules {
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..Rules::default()
    };
    let past = Past {
        ids: &[0, 0, 1, 2, 2, 2],
        n_prompt: 2,
        source: &[0, 0],
    };
    let mut logits = [1.0; 4];
    rules.apply(&past, &mut Marks::new(4), &mut logits);
    // Minus 0.5 and 0.25 for each time.
    assert_eq!(logits, [1.0, 0.25, -0.25, 1.0]);
}

#[test]
fn an_end_that_is_listed_twice_is_hastened_once() {
    let rules = Rules {
        eos_ids: vec![1, 0, 1],
        exponential_decay: Some((0, 2.0)),
        ..Rules::default()
    };
    let past = Past {
        ids: &[2, 2],
        n_prompt: 0,
        source: &[],
    };
    let mut logits = [-1.0, 0.5, 1.0];
    rules.apply(&past, &mut Marks::new(3), &mut logits);
    // Each and 2² − 1 times its magnitude.
    assert_eq!(logits, [2.0, 2.0, 1.0]);
}

#[test]
fn ids_beyond_the_vocabulary_do_nothing() {
    let config = json!({
        "sequence_bias": [[[99], 1.0], [[7, 99], 1.0]],
        "bad_words_ids": [[99], [7, 99]],
        "suppress_tokens": [99],
        "begin_suppress_tokens": [4_000_000_000_u32],
        "min_new_tokens": 3,
    });
    let rules = Rules {
        eos_ids: vec![99],
        ..rules(&config)
    };
    let past = Past {
        ids: &[7],
        n_prompt: 1,
        source: &[7],
    };
    let mut logits = [1.5; 8];
    rules.apply(&past, &mut Marks::new(8), &mut logits);
    assert_eq!(logits, [1.5; 8]);
}

#[test]
fn ends_of_text_and_a_length_alone_change_nothing() {
    let rules = Rules {
        eos_ids: vec![2],
        max_length: 7,
        remove_invalid_values: true,
        ..Rules::default()
    };
    assert!(rules.is_neutral());
    let rules = Rules {
        suppress: vec![1],
        ..rules
    };
    assert!(!rules.is_neutral());
}
