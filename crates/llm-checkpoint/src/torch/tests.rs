use std::fs;
use std::path::{Path, PathBuf};

use llm_tensor::DType;

use super::testing::*;
use crate::testing::{Folder, cut_everywhere, flip_every_byte, message, natural_dtype, read_all};
use crate::{Checkpoint, Encoding, Format, Layout};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/pickle")
        .join(name)
}

#[test]
fn what_pytorch_wrote_is_what_it_meant() {
    let expected = Checkpoint::open(&fixture("expected.safetensors")).unwrap();
    for name in [
        "zip.bin",
        "legacy.bin",
        "nested.bin",
        "ordered.bin",
        "sharded",
    ] {
        let found = Checkpoint::open(&fixture(name)).unwrap();
        assert_eq!(found.format(), Format::Torch);
        assert_eq!(found.tensors().len(), expected.tensors().len(), "{name}");
        for (found_info, info) in found.tensors().zip(expected.tensors()) {
            assert_eq!(found_info.name, info.name, "{name}");
            assert_eq!(found_info.shape, info.shape, "{name}: {}", info.name);
            assert_eq!(found_info.encoding, info.encoding, "{name}: {}", info.name);
            let dtype = natural_dtype(info);
            let bytes = read_all(&expected, &info.name, dtype);
            assert_eq!(
                read_all(&found, &info.name, dtype),
                bytes,
                "{name}: {}",
                info.name
            );
            match (&found_info.layout, found.view(&info.name).unwrap()) {
                (Layout::RowMajor, Some(view)) => assert_eq!(*view, *bytes, "{name}"),
                // Only zip archives are aligned.
                (Layout::RowMajor, None) => assert_eq!(name, "legacy.bin"),
                (Layout::Strided(_), view) => assert!(view.is_none(), "{name}: {}", info.name),
            }
        }
        let strides = |tensor| match &found.get(tensor).unwrap().layout {
            Layout::RowMajor => None,
            Layout::Strided(strides) => Some(strides.to_vec()),
        };
        assert_eq!(strides("view.rows"), None);
        assert_eq!(strides("view.transposed"), Some(vec![1, 24]));
        assert_eq!(strides("view.strided"), Some(vec![48, 3]));
        let place = |tensor| found.get(tensor).unwrap().bytes.clone();
        assert_eq!(place("tied.one"), place("tied.two"), "one storage, not two");
    }
}

#[test]
fn code_is_refused_and_never_run() {
    for name in [
        "refuse-code-execution.bin",
        "refuse-code-execution-legacy.bin",
    ] {
        let text = message(Checkpoint::open(&fixture(name)));
        for part in [name, "refused: posix.system;", "no code of it is ever run"] {
            assert!(text.contains(part), "`{part}` in: {text}");
        }
    }
    assert!(!Path::new("/tmp/a-checkpoint-ran-code").exists());
}

#[test]
fn truncated_files_are_called_so() {
    for name in ["refuse-truncated.bin", "refuse-truncated-legacy.bin"] {
        let text = message(Checkpoint::open(&fixture(name)));
        assert!(
            text.contains(name) && text.contains("not downloaded completely"),
            "{text}"
        );
    }
}

/// Six floats as a matrix of 2 by 3, in storage `0`.
fn matrix(offset: i64, dims: &[i64], strides: &[i64]) -> Vec<u8> {
    dict(&[(
        "w",
        tensor(storage("FloatStorage", "0", 6), offset, dims, strides),
    )])
}

const SIX: &[u8] = &[1; 24];

#[test]
fn state_dicts_are_found_wherever_they_nest() {
    let weights = || matrix(0, &[2, 3], &[3, 1]);
    let loss = || tensor(storage("FloatStorage", "0", 6), 0, &[], &[]);
    let other = || {
        dict(&[
            ("lr", b"G\0\0\0\0\0\0\0\0".to_vec()),
            ("betas", ints(&[1, 2])),
        ])
    };
    let parameter = call(
        "torch._tensor",
        "_rebuild_from_type_v2",
        &[
            global("torch._utils", "_rebuild_tensor_v2"),
            global("torch.nn.parameter", "Parameter"),
            tuple(&[
                storage("FloatStorage", "0", 6),
                int(0),
                ints(&[6]),
                ints(&[1]),
            ]),
            dict(&[]),
        ],
    );
    let cases = [
        weights(),
        dict(&[
            ("optimizer", other()),
            ("state_dict", weights()),
            ("loss", loss()),
        ]),
        dict(&[("model", dict(&[("module", weights())]))]),
        dict(&[("model_state_dict", weights()), ("epoch", int(1))]),
        dict(&[("w", parameter), ("step", int(7)), ("none", b"N".to_vec())]),
        // An ordered dictionary with attributes, as `_metadata`.
        [
            &call("collections", "OrderedDict", &[])[..],
            &weights()[1..],
            &dict(&[("_metadata", other())]),
            b"b",
        ]
        .concat(),
    ];
    for (i, value) in cases.iter().enumerate() {
        for file in [zip_of(value, SIX), legacy_of(value, &[("0", 6, SIX)])] {
            let checkpoint = open(file).unwrap();
            let names: Vec<_> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
            assert_eq!(names, ["w"], "case {i}");
            assert_eq!(read_all(&checkpoint, "w", DType::F32), SIX, "case {i}");
        }
    }
}

#[test]
fn storages_without_a_type_have_one_per_tensor() {
    let tensor = |dtype| {
        call(
            "torch._utils",
            "_rebuild_tensor_v3",
            &[
                [
                    tuple(&[
                        text("storage"),
                        global("torch.storage", "UntypedStorage"),
                        text("0"),
                        text("cpu"),
                        int(24),
                    ]),
                    b"Q".to_vec(),
                ]
                .concat(),
                int(1),
                ints(&[2]),
                ints(&[1]),
                b"\x89".to_vec(),
                b"N".to_vec(),
                global("torch", dtype),
            ],
        )
    };
    let value = dict(&[("f8", tensor("float8_e4m3fn")), ("f64", tensor("float64"))]);
    for file in [zip_of(&value, SIX), legacy_of(&value, &[("0", 24, SIX)])] {
        let checkpoint = open(file).unwrap();
        let info = |name| checkpoint.get(name).unwrap();
        assert_eq!(info("f8").encoding, Encoding::Plain(DType::F8E4M3));
        assert_eq!(info("f64").bytes.start - info("f8").bytes.start, 8 - 1);
        assert_eq!(info("f64").stored_bytes().get(), 16);
    }
    for (name, printed) in [
        ("complex64", "c64"),
        ("uint16", "u16"),
        ("complex32", "complex32"),
    ] {
        let checkpoint = open(zip_of(&dict(&[("c", tensor(name))]), SIX)).unwrap();
        let info = checkpoint.get("c").unwrap();
        assert_eq!(info.encoding.to_string(), printed);
    }
}

#[test]
fn what_is_wrong_with_a_state_dict_is_said() {
    struct Case {
        what: &'static str,
        value: Vec<u8>,
        says: &'static [&'static str],
    }
    let case = |what, value, says| Case { what, value, says };
    let with = |class: &str, n: i64, dims: &[i64]| {
        dict(&[("w", tensor(storage(class, "0", n), 0, dims, &[1]))])
    };
    let huge = 1 << 62;
    let quantized = call(
        "torch._utils",
        "_rebuild_qtensor",
        &[
            storage("QInt8Storage", "0", 24),
            int(0),
            ints(&[24]),
            ints(&[1]),
        ],
    );
    let any_size = |size: Vec<u8>| {
        let arguments = [storage("FloatStorage", "0", 6), int(0), size, ints(&[1])];
        dict(&[("w", call("torch._utils", "_rebuild_tensor_v2", &arguments))])
    };
    let self_contained = [b"}q\0", &text("model")[..], b"h\0s"].concat();
    let cases = [
        case("no dictionary", int(1), &["a number, not a state dict"][..]),
        case(
            "a tensor alone",
            matrix(0, &[6], &[1])[14..].to_vec(),
            &["opcode"],
        ),
        case(
            "no tensors",
            dict(&[("model", dict(&[]))]),
            &["no tensors", "`state_dict`"],
        ),
        case("contains itself", self_contained, &["no tensors"]),
        case(
            "quantized",
            dict(&[("q", quantized)]),
            &["`q`", "a quantized tensor"],
        ),
        case(
            "a view of elements that are not understood",
            dict(&[(
                "w",
                tensor(storage("QUInt8Storage", "0", 24), 0, &[2], &[2]),
            )]),
            &["`w`", "quint8"],
        ),
        case(
            "untyped",
            with("UntypedStorage", 24, &[1]),
            &["`w`", "untyped"],
        ),
        case(
            "negative offset",
            matrix(-1, &[2], &[1]),
            &["`w`: its offset"],
        ),
        case(
            "negative stride",
            matrix(5, &[2], &[-1]),
            &["`w`: its list of strides"],
        ),
        case(
            "negative extent",
            matrix(0, &[-2], &[1]),
            &["`w`: its shape"],
        ),
        case(
            "fewer strides",
            matrix(0, &[2, 3], &[3]),
            &["`w`: its number of strides"],
        ),
        case(
            "past the end",
            matrix(1, &[2, 3], &[3, 1]),
            &["`w`", "beyond the 6"],
        ),
        case(
            "last element past the end",
            matrix(2, &[2], &[4]),
            &["beyond the 6"],
        ),
        case(
            "offset past the end",
            matrix(6, &[], &[]),
            &["beyond the 6"],
        ),
        case(
            "stride overflows",
            matrix(0, &[3], &[huge]),
            &["beyond the 6"],
        ),
        case(
            "sum overflows",
            matrix(i64::MAX, &[3], &[huge]),
            &["beyond the 6"],
        ),
        case(
            "shape overflows",
            matrix(0, &[huge, 8], &[1, 1]),
            &["`w`", "64 bits"],
        ),
        case(
            "repeated",
            matrix(0, &[huge], &[0]),
            &["`w`", "repetitions of the 6"],
        ),
        case(
            "65 dimensions",
            matrix(0, &[1; 65], &[1; 65]),
            &["65 dimensions"],
        ),
        case(
            "size of texts",
            any_size(tuple(&[text("2")])),
            &["`w`: its shape"],
        ),
        case(
            "size that is a number",
            any_size(int(2)),
            &["`w`: its shape"],
        ),
        case(
            "size of 255 bytes",
            any_size(tuple(&[[&b"\x8A\xFF"[..], &[1; 255]].concat()])),
            &["`w`: its shape"],
        ),
        case(
            "storage too long",
            with("FloatStorage", 5, &[1]),
            &["`0` has 24", "expected 20"],
        ),
        case(
            "storage too short",
            with("FloatStorage", 7, &[1]),
            &["`0` has 24", "expected 28"],
        ),
        case(
            "absurd storage",
            with("DoubleStorage", i64::MAX, &[1]),
            &["`0` has 24"],
        ),
        case(
            "storage absent",
            dict(&[("w", tensor(storage("FloatStorage", "9", 6), 0, &[6], &[1]))]),
            &["`w`: its storage `9` is not in the file"],
        ),
        case(
            "storage outside",
            dict(&[(
                "w",
                tensor(storage("FloatStorage", "../0", 6), 0, &[6], &[1]),
            )]),
            &["`w`: its storage `../0` is not in the file"],
        ),
        case(
            "storage of two sizes",
            dict(&[
                ("v", tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1])),
                ("w", tensor(storage("FloatStorage", "0", 7), 0, &[7], &[1])),
            ]),
            &["storage `0` is described in two ways"],
        ),
        case(
            "storage of two types",
            dict(&[
                ("v", tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1])),
                ("w", tensor(storage("IntStorage", "0", 6), 0, &[6], &[1])),
            ]),
            &["storage `0` is described in two ways"],
        ),
        case(
            "one name twice",
            dict(&[
                ("w", tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1])),
                ("w", tensor(storage("FloatStorage", "0", 6), 0, &[5], &[1])),
            ]),
            &["`w`: the header lists it twice"],
        ),
    ];
    for Case { what, value, says } in cases {
        let text = message(open(zip_of(&value, SIX)));
        for part in says {
            assert!(text.contains(part), "{what}: `{part}` in: {text}");
        }
    }
}

#[test]
fn what_is_wrong_with_a_zip_archive_is_said() {
    struct Case {
        what: &'static str,
        bend: fn(&mut Vec<u8>),
        says: &'static str,
    }
    /// Changes the bytes `at` behind the `nth` signature.
    fn set(file: &mut [u8], signature: &[u8; 4], nth: usize, at: usize, bytes: &[u8]) {
        let starts = (0..file.len()).filter(|i| file[*i..].starts_with(signature));
        let start = starts.collect::<Vec<_>>()[nth];
        file[start + at..][..bytes.len()].copy_from_slice(bytes);
    }
    const ENTRY: &[u8; 4] = b"PK\x03\x04";
    const DIRECTORY: &[u8; 4] = b"PK\x01\x02";
    const END: &[u8; 4] = b"PK\x05\x06";
    let cases = [
        Case {
            what: "compressed",
            bend: |f| {
                set(f, DIRECTORY, 0, 10, &[8]);
                set(f, ENTRY, 0, 8, &[8]);
            },
            says: "entry `m/data.pkl` of the zip archive is compressed",
        },
        Case {
            what: "encrypted",
            bend: |f| set(f, DIRECTORY, 2, 8, &[1]),
            says: "entry `m/data/0` of the zip archive is compressed or encrypted",
        },
        Case {
            what: "two lengths",
            bend: |f| set(f, DIRECTORY, 0, 24, &[1]),
            says: "`m/data.pkl` of the zip archive is compressed",
        },
        Case {
            what: "compressed by its own header",
            bend: |f| set(f, ENTRY, 0, 8, &[8]),
            says: "disagree about its compression",
        },
        Case {
            what: "other name",
            bend: |f| set(f, ENTRY, 1, 30, b"x"),
            says: "the header of entry `m/byteorder` disagree about its name",
        },
        Case {
            what: "other length",
            bend: |f| set(f, ENTRY, 2, 18, &[23]),
            says: "`m/data/0` disagree about its length",
        },
        Case {
            what: "too long",
            bend: |f| {
                set(f, DIRECTORY, 2, 20, &[0, 0, 1, 0, 0, 0, 1, 0]);
                set(f, ENTRY, 2, 18, &[0, 0, 1, 0, 0, 0, 1, 0]);
            },
            says: "entry `m/data/0` of the zip archive ends at",
        },
        Case {
            what: "header out of place",
            bend: |f| set(f, DIRECTORY, 1, 42, &[1]),
            says: "there is no entry at offset 1,",
        },
        Case {
            what: "header beyond",
            bend: |f| set(f, DIRECTORY, 1, 42, &[0, 0, 0, 0x70]),
            says: "entry `m/byteorder` of the zip archive ends at",
        },
        Case {
            what: "header of another entry",
            bend: |f| set(f, DIRECTORY, 1, 42, &[0]),
            says: "`m/byteorder` disagree about its name",
        },
        Case {
            what: "overlap",
            bend: |f| {
                set(f, ENTRY, 0, 22, &[0; 4]);
                set(f, ENTRY, 0, 6, &[8]);
                set(f, DIRECTORY, 0, 20, &[240, 0, 0, 0, 240, 0, 0, 0]);
            },
            says: "overlap",
        },
        Case {
            what: "one name twice",
            bend: |f| *f = zip(&[("m/data.pkl", b""), ("m/data.pkl", b"")]),
            says: "two entries `m/data.pkl`",
        },
        Case {
            what: "several parts",
            bend: |f| set(f, END, 0, 4, &[1]),
            says: "several parts",
        },
        Case {
            what: "fewer entries",
            bend: |f| set(f, END, 0, 8, &[2, 0, 2, 0]),
            says: "its 2 entries take",
        },
        Case {
            what: "more entries",
            bend: |f| set(f, END, 0, 8, &[4, 0, 4, 0]),
            says: "claims",
        },
        Case {
            what: "many entries",
            bend: |f| set(f, END, 0, 8, &[0xFF; 4]),
            says: "claims",
        },
        Case {
            what: "directory beyond",
            bend: |f| set(f, END, 0, 16, &[0xFF; 4]),
            says: "claims",
        },
        Case {
            what: "directory elsewhere",
            bend: |f| set(f, END, 0, 16, &[0; 4]),
            says: "there is no directory entry at offset 0,",
        },
        Case {
            what: "no end",
            bend: |f| f.truncate(f.len() - 1),
            says: "no end record",
        },
        Case {
            what: "something behind the end",
            bend: |f| f.push(0),
            says: "no end record",
        },
        Case {
            what: "a zip64 record that is none",
            bend: |f| {
                let end = f.split_off(f.len() - 22);
                f.extend(b"PK\x06\x07\0\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0");
                f.extend(end);
            },
            says: "no zip64 end record at offset 3,",
        },
        Case {
            what: "a zip64 record beyond",
            bend: |f| {
                let end = f.split_off(f.len() - 22);
                f.extend(b"PK\x06\x07\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\0\0\0");
                f.extend(end);
            },
            says: "no zip64 end record",
        },
        Case {
            what: "big-endian",
            bend: |f| *f = zip(&[("m/data.pkl", b"\x80\x02N."), ("m/byteorder", b"big")]),
            says: "little-endian",
        },
        Case {
            what: "no pickle",
            bend: |f| *f = zip(&[("word/document.xml", b"<w:document/>")]),
            says: "0 entries `<name>/data.pkl`",
        },
        Case {
            what: "two pickles",
            bend: |f| *f = zip(&[("a/data.pkl", b""), ("b/data.pkl", b"")]),
            says: "2 entries `<name>/data.pkl`",
        },
        Case {
            what: "TorchScript",
            bend: |f| *f = zip(&[("m/constants.pkl", b""), ("m/data.pkl", b"")]),
            says: "TorchScript",
        },
        Case {
            what: "an empty pickle",
            bend: |f| *f = zip(&[("m/data.pkl", b"")]),
            says: "claims 1 bytes",
        },
    ];
    let good = zip_of(&matrix(0, &[2, 3], &[3, 1]), SIX);
    open(good.clone()).unwrap();
    for Case { what, bend, says } in cases {
        let mut file = good.clone();
        bend(&mut file);
        let text = message(open(file));
        assert!(text.contains(says), "{what}: `{says}` in: {text}");
    }
}

#[test]
fn numbers_beyond_32_bits_stand_in_the_field_of_zip64() {
    let mut file = zip_of(&matrix(0, &[2, 3], &[3, 1]), SIX);
    let entry = file.len() - 22 - 46 - "m/data/0".len();
    assert!(file[entry..].starts_with(b"PK\x01\x02"));
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let (len, header) = (u32_at(entry + 24), u32_at(entry + 42));
    let numbers = [len, len, header].map(u64::from).map(u64::to_le_bytes);
    let field = [&[1, 0, 24, 0], &numbers.concat()[..]].concat();
    // Another field before it, which is passed over.
    let extra = [&b"FB\x02\0ZZ"[..], &field].concat();
    file[entry + 20..entry + 28].fill(0xFF);
    file[entry + 42..entry + 46].fill(0xFF);
    file[entry + 30] = extra.len() as u8;
    let directory_len = file.len() - 22 + 12;
    file[directory_len] += extra.len() as u8;
    let end = file.split_off(file.len() - 22);
    let at = file.len();
    file.extend(&extra);
    file.extend(end);
    let checkpoint = open(file.clone()).unwrap();
    assert_eq!(read_all(&checkpoint, "w", DType::F32), SIX);

    // Without the field the numbers are what they seem.
    file[at + 6] = 2;
    let text = message(open(file));
    assert!(
        text.contains("`m/data/0` of the zip archive ends at"),
        "{text}"
    );
}

#[test]
fn what_is_wrong_with_an_older_file_is_said() {
    let value = || matrix(0, &[2, 3], &[3, 1]);
    let storages: &[(&str, u64, &[u8])] = &[("0", 6, SIX)];
    let good = legacy_of(&value(), storages);
    open(good.clone()).unwrap();
    let with_front = |front: &[u8]| [front, &good[LEGACY_FRONT.len()..]].concat();
    let front_of = |version: &[u8]| [&LEGACY_FRONT[..15], version].concat();
    let big_endian = {
        let front = [
            LEGACY_FRONT,
            &pickle(&dict(&[("little_endian", b"\x89".to_vec())])),
        ];
        [&front.concat()[..], &good[LEGACY_FRONT.len()..]].concat()
    };
    let cases = [
        (
            "version",
            with_front(&front_of(&pickle(&int(1000)))),
            "version 1001",
        ),
        (
            "version",
            with_front(&front_of(&pickle(b"N"))),
            "version 1001",
        ),
        ("big-endian", big_endian, "little-endian"),
        (
            "no machine",
            [LEGACY_FRONT, &pickle(b"N")].concat(),
            "little-endian",
        ),
        ("cut", good[..good.len() - 1].to_vec(), "24 bytes"),
        (
            "count",
            legacy_of(&value(), &[("0", 7, SIX)]),
            "`0` has 28 bytes, expected 24",
        ),
        (
            "count",
            legacy_of(&value(), &[("0", u64::MAX, SIX)]),
            "expected 24",
        ),
        (
            "key",
            legacy_of(&value(), &[("1", 6, SIX)]),
            "no tensor uses",
        ),
        (
            "no key",
            legacy_of(&value(), &[]),
            "`w`: its storage `0` is not",
        ),
        (
            "twice",
            legacy_of(&value(), &[("0", 6, SIX), ("0", 6, SIX)]),
            "twice",
        ),
    ];
    for (what, file, says) in cases {
        let text = message(open(file));
        assert!(text.contains(says), "{what}: `{says}` in: {text}");
    }
    let claim = dict(&[(
        "w",
        tensor(storage("FloatStorage", "0", 1 << 61), 0, &[6], &[1]),
    )]);
    let text = message(open(legacy_of(&claim, &[("0", 1 << 61, SIX)])));
    assert!(text.contains("only 24 are left"), "{text}");
}

#[test]
fn wrong_bytes_never_panic() {
    let value = dict(&[
        (
            "a",
            tensor(storage("FloatStorage", "0", 6), 0, &[3, 2], &[1, 3]),
        ),
        ("b", tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1])),
    ]);
    for file in [zip_of(&value, SIX), legacy_of(&value, &[("0", 6, SIX)])] {
        flip_every_byte(&file, file.len(), "m.bin");
        // A file that is too short to be recognised is not even called a checkpoint.
        cut_everywhere(&file, "m.bin");
    }
}

#[test]
fn folders_are_searched_for_models_only() {
    let folder = Folder::new();
    let opened = || Checkpoint::open(folder.path());
    let model = zip_of(&matrix(0, &[6], &[1]), SIX);
    for other in [
        "training_args.bin",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state_0.pth",
    ] {
        folder.write(other, &model);
    }
    folder.write("tokens.bin", "no checkpoint");
    fs::create_dir(folder.path().join("folder.bin")).unwrap();
    assert!(message(opened()).contains("no PyTorch .bin"));

    let only = folder.write("only.pth", &model);
    assert_eq!(opened().unwrap().path(), only);
    folder.write("another.pt", &model);
    assert!(message(opened()).contains("name one of them: another.pt, only.pth"));
    let index = r#"{"weight_map":{"w":"only.pth"}}"#;
    let preferred = folder.write("pytorch_model.bin.index.json", index);
    assert_eq!(opened().unwrap().path(), preferred);
    let preferred = folder.write("pytorch_model.bin", &model);
    assert_eq!(opened().unwrap().path(), preferred);
    let safetensors = fs::read(fixture("expected.safetensors")).unwrap();
    folder.write("a.safetensors", &safetensors);
    let checkpoint = opened().unwrap();
    assert_eq!(checkpoint.path(), preferred, "by its usual name");
    let said = checkpoint.notices().last().unwrap().to_string();
    assert!(
        said.contains("as transformers does, and `a.safetensors`"),
        "{said}"
    );
    folder.write("model.safetensors", &safetensors);
    assert_eq!(opened().unwrap().format(), Format::Safetensors);
}

#[test]
fn files_are_known_by_what_they_begin_like() {
    let folder = Folder::new();
    let model = zip_of(&matrix(0, &[6], &[1]), SIX);
    for name in ["model", "model.ckpt", "model.bin"] {
        let checkpoint = Checkpoint::open(&folder.write(name, &model)).unwrap();
        assert_eq!(checkpoint.format(), Format::Torch, "{name}");
    }
    let other = fs::read(fixture("expected.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(&folder.write("other.bin", other)).unwrap();
    assert_eq!(checkpoint.format(), Format::Safetensors);
    let text = message(Checkpoint::open(&folder.write("text.pt", "hello")));
    assert!(text.contains("neither a zip archive nor"), "{text}");
}
