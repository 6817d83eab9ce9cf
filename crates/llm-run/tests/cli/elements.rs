//! Element types that nothing computes with, and those that are decoded when they are read: a tensor of one must not stop
//! what can be done with the others.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{fixture, run};

/// A safetensors file of these tensors, each with a name, an element type, a shape and bytes.
fn file(tensors: &[(&str, &str, &[u64], &[u8])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        header.insert((*name).to_owned(), entry);
        data.extend(*bytes);
    }
    let header = Value::Object(header).to_string().into_bytes();
    [(header.len() as u64).to_le_bytes().to_vec(), header, data].concat()
}

/// Header and data of a safetensors file.
fn parts(path: &Path) -> (Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    (header, bytes[8 + len..].to_vec())
}

#[test]
fn tensors_that_nothing_computes_with_are_listed_summed_and_copied() {
    for (dtype, shape, n_bytes, printed) in [
        ("U16", &[3][..], 6, "uint16"),
        ("U32", &[3], 12, "uint32"),
        ("U64", &[3], 24, "uint64"),
        ("C64", &[3], 24, "complex64"),
        ("F8_E8M0", &[3], 3, "float8_e8m0fnu"),
        ("F8_E4M3FNUZ", &[3], 3, "float8_e4m3fnuz"),
        ("F8_E5M2FNUZ", &[3], 3, "float8_e5m2fnuz"),
        ("F4", &[2, 3], 3, "F4"),
        ("F6_E2M3", &[4], 3, "F6_E2M3"),
        ("F6_E3M2", &[4, 2], 6, "F6_E3M2"),
        ("I4_OF_2031", &[5, 5], 13, "I4_OF_2031"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let [source, out] = ["a.safetensors", "out"].map(|name| folder.path().join(name));
        let odd: Vec<u8> = (0..n_bytes).map(|i| i * 7 + 1).collect();
        let tensors = [
            ("float", "F32", &[2][..], &[0; 8][..]),
            ("odd", dtype, shape, &odd),
        ];
        fs::write(&source, file(&tensors)).unwrap();
        let [path, out_path] = [&source, &out].map(|path| path.to_str().unwrap());

        let listed = run(&["inspect", path]);
        assert!(
            listed.stdout.contains(printed),
            "{dtype}: {}{}",
            listed.stdout,
            listed.stderr
        );
        for args in [
            &["verify", path][..],
            &["verify", path, "--write-manifest"],
            &["verify", path],
        ] {
            let output = run(args);
            assert_eq!(output.code, 0, "{dtype}: {}", output.stderr);
        }
        let output = run(&["shard", path, out_path]);
        assert_eq!(output.code, 0, "{dtype}: {}", output.stderr);
        let (header, data) = parts(&out.join("model.safetensors"));
        assert_eq!(
            (&header["odd"]["dtype"], &header["odd"]["shape"]),
            (&json!(dtype), &json!(shape))
        );
        let [start, end] =
            [0, 1].map(|i| header["odd"]["data_offsets"][i].as_u64().unwrap() as usize);
        assert_eq!(data[start..end], odd, "{dtype}");
        assert_eq!(run(&["verify", out_path]).code, 0, "{dtype}");
    }
    for file in fs::read_dir(fixture("faults/st-dtypes/model")).unwrap() {
        let path = file.unwrap().path();
        let output = run(&["inspect", path.to_str().unwrap()]);
        assert_eq!(output.code, 0, "{}", output.stderr);
    }
}

#[test]
fn half_a_byte_is_no_tensor_and_a_type_has_a_name() {
    for (dtype, shape, bytes, says) in [
        ("F4", &[3][..], &[0; 2][..], "do not end where a byte ends"),
        ("F6_E2M3", &[1], &[0], "do not end where a byte ends"),
        ("U16", &[3], &[0; 5], "take 6 bytes, found 5"),
        ("a b", &[1], &[0], "no element type `a b`"),
        ("", &[1], &[0], "no element type ``"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        fs::write(&path, file(&[("odd", dtype, shape, bytes)])).unwrap();
        let output = run(&["inspect", path.to_str().unwrap()]);
        assert_eq!(output.code, 2);
        assert!(output.stderr.contains("`odd`"), "{}", output.stderr);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
}

/// The model of 8-bit numbers, its header changed: `from` becomes `to` everywhere, which is as long.
fn changed(name: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(&format!("faults/{name}/model"));
    let config = fs::read(format!("{model}/config.json")).unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    let mut bytes = fs::read(format!("{model}/model.safetensors")).unwrap();
    let len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + len].to_vec()).unwrap();
    assert!(header.contains(from) && from.len() == to.len(), "{header}");
    bytes[8..8 + len].copy_from_slice(header.replace(from, to).as_bytes());
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    folder
}

fn score(folder: &Path) -> crate::support::Output {
    run(&[
        "score",
        folder.to_str().unwrap(),
        "--token-ids",
        "1,2,3",
        "--threads",
        "1",
    ])
}

#[test]
fn what_cannot_be_computed_with_is_refused_by_name_and_type() {
    for to in ["U8", "BOOL", "I8"] {
        let pair = [
            r#""dtype":"F8_E4M3""#,
            &format!(r#""dtype":{:>9}"#, format!("{to:?}")),
        ];
        let folder = changed("float8-weights", pair[0], pair[1]);
        let output = score(folder.path());
        assert_eq!(output.code, 2);
        assert!(output.stderr.contains("_proj."), "{}", output.stderr);
    }
    let pair = [r#""dtype":"F8_E4M3""#, r#""dtype":"FUTURE8""#];
    let output = score(changed("float8-weights", pair[0], pair[1]).path());
    assert_eq!(output.code, 2);
    let says = "of elements that are not computed with: `model.layers.0";
    assert!(output.stderr.contains(says), "{}", output.stderr);
    assert!(output.stderr.contains("of FUTURE8"), "{}", output.stderr);
}

#[test]
fn every_8_bit_format_loads_as_numbers() {
    for (dtype, is_same) in [("F8_E5M2", true), ("F8_E4M3", true)] {
        let pair = [r#""dtype":"F8_E4M3""#, &format!(r#""dtype":"{dtype}""#)];
        let output = score(changed("float8-weights", pair[0], pair[1]).path());
        assert_eq!(output.code == 0, is_same, "{}", output.stderr);
    }
}

#[test]
fn scales_that_do_not_fit_their_matrix_are_refused() {
    for (from, to, says) in [
        (
            r#""shape":[2,4]"#,
            r#""shape":[4,2]"#,
            "expected shape [2, 4] for blocks of 16 x 16",
        ),
        (
            r#""shape":[4,2]"#,
            r#""shape":[8,1]"#,
            "expected shape [4, 2]",
        ),
        (
            r#""dtype":"F32","shape":[2,4]"#,
            r#""dtype":"I32","shape":[2,4]"#,
            "expected scales of",
        ),
    ] {
        let output = score(changed("fp8-block-scales", from, to).path());
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(
            output.stderr.contains("weight_scale_inv`"),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
}

#[test]
fn activations_that_stay_as_they_are_are_spoken_of_once() {
    let output = score(Path::new(&fixture("faults/fp8-block-scales/model")));
    let notes = output
        .stderr
        .matches("activation_scheme: dynamic` is not applied")
        .count();
    assert_eq!((output.code, notes), (0, 1), "{}", output.stderr);
}

#[test]
fn what_a_quantized_matrix_consists_of_is_not_converted() {
    for (model, stay, n_notes) in [
        ("faults/shard-dtype-quantized/nf4", "U8", 1),
        ("faults/fp8-block-scales/model", "F8_E4M3", 1),
        ("faults/float8-weights/model", "", 0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_str().unwrap();
        let output = run(&["shard", &fixture(model), out, "--dtype", "bf16"]);
        assert_eq!(output.code, 0, "{}", output.stderr);
        let said = output
            .stderr
            .matches("of quantized matrices stay as they are")
            .count();
        assert_eq!(said, n_notes, "{}", output.stderr);
        let (header, _) = parts(&folder.path().join("model.safetensors"));
        let (old, _) = parts(&Path::new(&fixture(model)).join("model.safetensors"));
        for (name, entry) in header.as_object().unwrap() {
            let is_part = [".weight.", "scale", "SCB"]
                .iter()
                .any(|part| name.contains(part));
            let expected = match old[name]["dtype"].as_str() {
                Some(dtype) if dtype == stay || is_part => dtype,
                Some(_) => "BF16",
                None => continue,
            };
            assert_eq!(entry["dtype"], expected, "{name}");
        }
        let config = fs::read(folder.path().join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["dtype"], "bfloat16");
    }
}
