//! Meaning of a key left out, against the reference library.

use super::*;
use crate::MixerSpec;

fn fixture(name: &str) -> Map<String, Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    read(&folder.join("configs").join(name))
}

fn spec(config: &Map<String, Value>, of: &str) -> ModelSpec {
    let skeleton = from_config(config).unwrap_or_else(|e| panic!("{of}: {e}"));
    skeleton.spec
}

#[test]
fn what_is_left_out_means_what_it_does_to_the_reference() {
    let mut reference = fixture("reference-defaults.json");
    reference.shift_remove("text_halves");
    assert_eq!(reference.len(), FAMILIES.len());
    let mut n_cases = 0;
    for (family, cases) in &reference {
        let whole = cases["whole"].as_object().unwrap();
        let core = super::super::family(family).unwrap().core;
        for key in whole.keys().filter(|key| *key != "model_type") {
            let of = format!("{family} without {key}");
            let (mut expected, mut config) = (whole.clone(), whole.clone());
            config.shift_remove(key);
            let changed = cases["without"].get(key);
            if changed.is_some_and(Value::is_null) {
                // The reference refuses the rest, whose extents do not fit its default.
                continue;
            }
            if let Some(changed) = changed {
                expected.extend(changed.as_object().unwrap().clone());
                for changed in changed.as_object().unwrap().keys() {
                    config.shift_remove(changed);
                }
            }
            if let Some((key, default)) = core.iter().find(|(name, _)| name == key) {
                let error = from_config(&config).unwrap_err();
                let key = (*key).to_owned();
                assert_eq!(error, ArchError::MissingKey { key: key.clone() }, "{of}");
                config.insert(key, Value::from(*default));
            }
            match from_config(&expected) {
                Ok(expected) => assert_eq!(spec(&config, &of), expected.spec, "{of}"),
                // What the reference builds is no model.
                Err(_) => assert!(from_config(&config).is_err(), "{of}"),
            }
            n_cases += 1;
        }
    }
    assert!(n_cases > 250, "{n_cases}");
}

#[test]
fn what_a_text_half_leaves_out_means_what_it_does_to_the_reference() {
    let reference = fixture("reference-defaults.json");
    let halves = reference["text_halves"].as_object().unwrap();
    assert!(halves.len() > 20);
    for (model_type, whole) in halves {
        let of = |text: Value| object(json!({"model_type": model_type, "text_config": text}));
        let expected = spec(&of(whole.clone()), model_type);
        assert_eq!(spec(&of(json!({})), model_type), expected, "{model_type}");
        let named = json!({"model_type": whole["model_type"]});
        assert_eq!(spec(&of(named), model_type), expected, "{model_type}");
    }
}

#[test]
fn configurations_as_they_are_published_open() {
    let published = fixture("real-keys.json");
    assert!(published.len() > 70);
    for (name, config) in &published {
        let skeleton = from_config(config.as_object().unwrap());
        let skeleton = skeleton.unwrap_or_else(|e| panic!("{name}: {e}"));
        let is_half = config.get("vision_config").is_some();
        assert_eq!(skeleton.notices.len(), usize::from(is_half), "{name}");
    }
}

#[test]
fn models_of_published_extents_have_as_many_parameters_as_the_reference_counts() {
    let published = fixture("parameters.json");
    assert!(published.len() > 12);
    for (name, model) in &published {
        let skeleton = from_config(model["config"].as_object().unwrap());
        let skeleton = skeleton.unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = model["parameters"].as_u64();
        assert_eq!(Some(skeleton.n_parameters()), expected, "{name}");
    }
}

#[test]
fn models_of_published_extents_keep_as_much_of_a_sequence_as_the_reference_does() {
    let published = fixture("parameters.json");
    let mut n_cases = 0;
    for (name, model) in &published {
        let Some(cache) = model.get("cache") else {
            continue;
        };
        let decoder = spec(model["config"].as_object().unwrap(), name).decoder;
        let (mut by_token, mut states) = (0, 0);
        for layer in &decoder.layers {
            match &layer.mixer {
                MixerSpec::Attention(attention) => by_token += attention.own_kv_width(),
                MixerSpec::Latent(latent) => {
                    let index = latent.index.and_then(|index| index.heads);
                    by_token += latent.key_dim() + index.map_or(0, |heads| heads.head_dim);
                }
                MixerSpec::SharedKey(of) => {
                    let entries = of.entry_dims();
                    by_token += entries.map(|(of, width)| width / of.rate).sum::<usize>();
                }
                MixerSpec::Conv(conv) => states += conv.state_elements(),
                MixerSpec::Delta(delta) => states += delta.elements().iter().sum::<usize>(),
                MixerSpec::StateSpace(space) => states += space.elements().iter().sum::<usize>(),
                MixerSpec::Hybrid(hybrid) => {
                    by_token += 2 * hybrid.attention.kv_width();
                    states += hybrid.space.elements().iter().sum::<usize>();
                }
                MixerSpec::Absent => (),
            }
        }
        let found = json!({"elements_by_token": by_token, "state_elements": states});
        assert_eq!(&found, cache, "{name}");
        n_cases += 1;
    }
    assert!(n_cases > 6, "{n_cases}");
}
