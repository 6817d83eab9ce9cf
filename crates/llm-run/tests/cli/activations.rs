//! Activations in 8 bits, where they are asked for.

use safetensors::SafeTensors;

use crate::support::{fixture, logits, run};

/// All of whose matrices are in MXFP4.
fn packed() -> String {
    fixture("faults/gguf-mxfp4/model/tiny.gguf")
}

fn values(file: &[u8]) -> Vec<f32> {
    let file = SafeTensors::deserialize(file).unwrap();
    let logits = file.tensor("logits").unwrap();
    let values = logits.data().as_chunks().0.iter();
    values.map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn products_are_rounded_where_that_is_asked_for_alone() {
    let model = packed();
    let exact = logits(&model, &[]);
    assert_eq!(logits(&model, &["--activations", "f32"]), exact);
    let rounded = logits(&model, &["--activations", "q8"]);
    let (exact, rounded) = (values(&exact), values(&rounded));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    let difference = norm(&mut exact.iter().zip(&rounded).map(|(a, b)| a - b));
    let error = difference / norm(&mut exact.iter().copied());
    // Seven bits and a sign, in each of some products after each other.
    assert!((1e-4..3e-2).contains(&error), "off by {error:.1e}");
}

#[test]
fn what_is_rounded_and_allocated_is_shown() {
    let ids = "1,".repeat(40) + "1";
    let model = packed();
    let args = ["generate", &model, "--token-ids", &ids, "--max-new-tokens"];
    let flags = ["2", "--activations", "q8", "-v"];
    let output = run(&[&args[..], &flags].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("activations are rounded to 8 bits for 15 of 15 matrices on the CPU\n"),
        "{}",
        output.stderr
    );
    assert!(!output.stderr.contains("note: --activations"));
    let mut lines = output.stderr.lines();
    let line = lines.find(|line| line.starts_with("workspace")).unwrap();
    let words: Vec<_> = line.split_whitespace().skip(1).collect();
    let (planned, allocated) = words.split_at(words.len() / 2);
    assert_eq!(planned, allocated, "{line}");
    let output = run(&[&args[..], &["2", "-v"]].concat());
    assert!(!output.stderr.contains("activations are rounded"));
}

#[test]
fn weights_that_take_activations_as_they_are_are_named() {
    let exact = logits("demo", &[]);
    let args = ["score", "demo", "--token-ids", "40,41,42", "--activations"];
    let output = run(&[&args[..], &["q8"]].concat());
    assert_eq!(output.code, 0, "{}", output.stderr);
    let note = "note: --activations q8 is for matrices in GGUF's blocks of whole numbers; others multiply activations in f32: ";
    let named = output.stderr.lines().find_map(|l| l.strip_prefix(note));
    assert!(
        named.is_some_and(|named| named.ends_with(" in bf16")),
        "{}",
        output.stderr
    );
    assert_eq!(logits("demo", &["--activations", "q8"]), exact);

    let output = run(&[&args[..], &["q4"]].concat());
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("expected f32 or q8"));
}
