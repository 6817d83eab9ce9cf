use std::path::Path;
use std::time::{Duration, Instant};

use llm_tensor::HostBytes;

use super::{Id, Pickle, Value};
use crate::CheckpointError;
use crate::cursor::Cursor;
use crate::source::SourceFile;
use crate::testing::message;
use crate::torch::testing::*;

fn read(bytes: &[u8]) -> Result<Pickle, CheckpointError> {
    let file = SourceFile::in_memory(Path::new("m.bin"), HostBytes::new(bytes.to_vec()));
    super::read(&mut Cursor::new(&file))
}

/// A value in Python's words, up to some depth.
fn words(pickle: &Pickle, id: Id) -> String {
    let all = |ids: &[Id]| {
        let items = ids.iter().map(|id| words(pickle, *id));
        items.collect::<Vec<_>>().join(", ")
    };
    match pickle.value(id) {
        Value::List(items) => format!("[{}]", all(items)),
        Value::Tuple(items) => format!("({})", all(items)),
        Value::Dict(entries) => {
            let entries = entries
                .iter()
                .map(|(k, v)| format!("{}: {}", words(pickle, *k), words(pickle, *v)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        Value::Int(n) => n.to_string(),
        Value::Text(text) => format!("'{text}'"),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_instruction_means_what_python_means() {
    let cases: &[(&[u8], &str)] = &[
        (b"N", "None"),
        (b"\x88", "Bool(true)"),
        (b"I01\n", "Bool(true)"),
        (b"I00\n", "Bool(false)"),
        (b"I-17\n", "-17"),
        (b"L12345678901234567890L\n", "12345678901234567890"),
        (b"J\xFE\xFF\xFF\xFF", "-2"),
        (b"K\xFF", "255"),
        (b"M\xFF\xFF", "65535"),
        (b"\x8A\x00", "0"),
        (b"\x8A\x01\xFF", "-1"),
        (b"\x8A\x02\xFF\x00", "255"),
        (b"\x8B\x03\0\0\0\x00\x00\x80", "-8388608"),
        (b"\x8A\x11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01", "Other"),
        (b"G\0\0\0\0\0\0\0\0", "Other"),
        (b"X\x02\0\0\0ab", "'ab'"),
        (b"\x8C\x02\xC3\xA9", "'é'"),
        (b"\x8D\x01\0\0\0\0\0\0\0a", "'a'"),
        (b"U\x01a", "'a'"),
        (b"T\x01\0\0\0a", "'a'"),
        (b"C\x01a", "Other"),
        (b"B\x01\0\0\0a", "Other"),
        (b"\x8E\x01\0\0\0\0\0\0\0a", "Other"),
        (b"\x96\x01\0\0\0\0\0\0\0a", "Other"),
        (b")", "()"),
        (b"K\x01K\x02K\x03\x87", "(1, 2, 3)"),
        (b"K\x01K\x02K\x03\x86\x86", "(1, (2, 3))"),
        (b"(K\x01(K\x02tt", "(1, (2))"),
        (b"]K\x01a(K\x02K\x03e", "[1, 2, 3]"),
        (b"(K\x01l", "[1]"),
        (b"}K\x01K\x02s(K\x03K\x04u", "{1: 2, 3: 4}"),
        (b"(K\x01K\x02d", "{1: 2}"),
        (b"\x8F(K\x01\x90", "Other"),
        (b"(K\x01\x91", "Other"),
        (b"K\x01K\x020", "1"),
        (b"K\x01(0", "1"),
        (b"K\x01(K\x021", "1"),
        (b"K\x012\x86", "(1, 1)"),
        (b"K\x01q\x07K\x02h\x07\x86", "(2, 1)"),
        (b"K\x01r\x07\0\0\x80K\x02j\x07\0\0\x80\x86", "(2, 1)"),
        (b"K\x01\x94K\x02\x94h\0h\x01\x87", "(2, 1, 2)"),
        (b"\x95\x02\0\0\0\0\0\0\0K\x01", "1"),
        (b"ccollections\nOrderedDict\n)RNNs", "{None: None}"),
        (b"\x8C\x0Bcollections\x8C\x0BOrderedDict\x93)R", "{}"),
        (b"ctorch\nSize\n(K\x02t\x85R", "(2)"),
        (b"cbuiltins\nset\n](K\x01e\x85R", "Other"),
    ];
    for (value, expected) in cases {
        let pickle = read(&[b"\x80\x05", *value, b"."].concat())
            .unwrap_or_else(|error| panic!("{expected}: {error}"));
        assert_eq!(words(&pickle, pickle.root), *expected);
    }
}

#[test]
fn what_is_wrong_with_a_pickle_is_said() {
    let bytes = |parts: &[&[u8]]| parts.concat();
    let long_line = bytes(&[b"I", &[b'1'; 600], b"\n"]);
    let cases: &[(&str, &[u8], &str)] = &[
        ("nothing", b"", "claims 1 bytes"),
        ("no end", b"N", "claims 1 bytes"),
        ("no value", b".", "STOP takes more values"),
        ("protocol", b"\x80\x06", "protocol 6"),
        ("pop", b"0.", "POP takes more values"),
        ("pop below a mark", b"N(a.", "APPEND takes more values"),
        ("no mark", b"Nt.", "TUPLE takes more values"),
        ("no mark", b"N1.", "POP_MARK takes more values"),
        ("dup", b"2.", "DUP takes more values"),
        ("tuple", b"N\x86.", "TUPLE2 takes more values"),
        (
            "tuple below a mark",
            b"N(N\x86.",
            "TUPLE2 takes more values",
        ),
        (
            "append to none",
            b"NNa.",
            "APPEND finds a value that is no list",
        ),
        ("append to a tuple", b")Na.", "no list"),
        ("append to nothing", b"Na.", "APPEND takes more values"),
        (
            "extend a dictionary",
            b"}(Ne.",
            "APPENDS finds a value that is no list",
        ),
        (
            "set in a list",
            b"]NNs.",
            "SETITEM finds a value that is no dictionary",
        ),
        ("set in nothing", b"(NNu.", "SETITEMS takes more values"),
        (
            "a key without a value",
            b"}(Nu.",
            "no pair of key and value",
        ),
        (
            "add to a list",
            b"](N\x90.",
            "ADDITEMS finds a value that is no set",
        ),
        ("put nothing", b"q\0.", "BINPUT takes more values"),
        ("get nothing", b"h\x05.", "memo under 5"),
        (
            "get nothing",
            b"j\xFF\xFF\xFF\xFF.",
            "memo under 4294967295",
        ),
        ("integer", b"Iabc\n.", "`abc` is not an integer"),
        ("long line", &long_line, "longer than the 512 bytes"),
        ("text", b"U\x01\xFF.", "not UTF-8"),
        (
            "text cut off",
            b"X\xFF\xFF\xFF\xFFab",
            "claims 4294967295 bytes",
        ),
        (
            "text cut off",
            b"\x8D\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFab",
            "claims 18446744073709551615",
        ),
        (
            "bytes cut off",
            b"\x8E\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fab",
            "claims 9223372036854775807",
        ),
        (
            "integer cut off",
            b"\x8B\xFF\xFF\xFF\xFF\x01",
            "claims 4294967295 bytes",
        ),
        (
            "frame cut off",
            b"\x95\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFFN.",
            "claims 18446744073709551615",
        ),
        (
            "global without texts",
            b"NN\x93.",
            "STACK_GLOBAL finds a value that is no text",
        ),
        (
            "call none",
            b"N)R.",
            "REDUCE finds a value that is no function",
        ),
        (
            "call without a tuple",
            b"ccollections\nOrderedDict\nNR.",
            "no function with a tuple",
        ),
        (
            "call a class",
            b"ctorch\nFloatStorage\n)R.",
            "no function with the arguments",
        ),
        (
            "call with too few",
            b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
            "the arguments that",
        ),
        (
            "no storage",
            b"ctorch._utils\n_rebuild_tensor_v2\n(NNNNtR.",
            "no storage",
        ),
        (
            "no tensor",
            b"ctorch._utils\n_rebuild_parameter\nN\x85R.",
            "no tensor",
        ),
        ("no tuple", b"ctorch\nSize\nN\x85R.", "no tuple"),
        (
            "items",
            b"ccollections\nOrderedDict\n]\x85R.",
            "the arguments that",
        ),
        (
            "attributes of none",
            b"NNb.",
            "BUILD finds a value that is no object",
        ),
        (
            "persistent id",
            b"NQ.",
            "BINPERSID finds a value that is no description",
        ),
        ("persistent id", b")Q.", "no description of a storage"),
        ("refused", b"cos\nsystem\n.", "refused: os.system;"),
        ("refused", b"cbuiltins\neval\n.", "refused: builtins.eval;"),
        ("refused", b"ctorch\nload\n.", "refused: torch.load;"),
        (
            "refused",
            b"ctorch.hub\nload\n.",
            "refused: torch.hub.load;",
        ),
        ("refused", b"\x8C\x02os\x8C\x01\n\x93.", r"refused: os.\n;"),
        ("instance", b"(ios\nsystem\n.", "refused: opcode 0x69"),
        ("object", b"(No.", "refused: opcode 0x6f"),
        ("extension", b"\x82\x01.", "refused: opcode 0x82"),
        ("buffer", b"\x97.", "refused: opcode 0x97"),
    ];
    for (what, pickle, says) in cases {
        let text = message(read(pickle).map(|_| ()));
        assert!(text.contains(says), "{what}: `{says}` in: {text}");
    }
}

#[test]
fn any_two_instructions_are_read_or_refused() {
    for first in 0..=255 {
        for second in 0..=255 {
            for below in [
                &b""[..],
                b"N",
                b"(",
                b"}N",
                b"](",
                b"ccollections\nOrderedDict\n)",
            ] {
                // Whatever they are, the result is an error or a pickle, at once.
                let program = [b"\x80\x02", below, &[first, 1, second, 1, 0, 0, 0, b'.']].concat();
                if let Ok(pickle) = read(&program) {
                    assert!(program.len() > pickle.storages.len());
                }
            }
        }
    }
}

/// Checks that reading takes only a moment, as it does when nothing is followed or copied.
fn at_once<T>(read: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = read();
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
    result
}

#[test]
fn depth_costs_nothing() {
    const DEPTH: usize = 1_000_000;
    let nested = |open: &[u8], close: &[u8]| [open.repeat(DEPTH), close.repeat(DEPTH)].concat();
    for value in [
        [b")".to_vec(), nested(b"", b"\x85")].concat(),
        [b"N".to_vec(), nested(b"(", b"t")].concat(),
        nested(b"]", b"")
            .into_iter()
            .chain(b"a".repeat(DEPTH - 1))
            .collect(),
        [nested(b"}N", b""), b"N".to_vec(), nested(b"", b"s")].concat(),
        nested(b"(", b"0").into_iter().chain(*b"N").collect(),
    ] {
        at_once(|| drop(read(&[&value[..], b"."].concat()).unwrap()));
    }
}

#[test]
fn repetition_costs_nothing() {
    // Each list holds the one before it ten times: ten to the thousandth of the first one.
    let mut laughs = b"]q\0".to_vec();
    for _ in 0..1000 {
        laughs.extend(b"](h\0h\0h\0h\0h\0h\0h\0h\0h\0h\0eq\0");
    }
    at_once(|| drop(read(&[&laughs[..], b"."].concat()).unwrap()));
    // A list and a dictionary that hold themselves.
    at_once(|| drop(read(b"]q\0h\0a}q\x01Nh\x01s\x86.").unwrap()));

    // A long name for a hundred thousand tensors, a long shape, and a long key of storages.
    let name = "x".repeat(1 << 20);
    let tensor = tensor(storage("FloatStorage", "0", 6), 0, &[6], &[1]);
    let mut entries = [
        b"}".to_vec(),
        text(&name),
        b"q\0".to_vec(),
        tensor,
        b"q\x01s".to_vec(),
    ]
    .concat();
    entries.extend(b"h\0h\x01s".repeat(100_000));
    let error = at_once(|| message(open(zip_of(&entries, &[1; 24]))));
    assert!(error.contains("lists it twice"));

    let dims = [
        text("k"),
        b"0(".to_vec(),
        b"K\x01".repeat(1 << 20),
        b"tq\x02".to_vec(),
    ]
    .concat();
    let call = [
        global("torch._utils", "_rebuild_tensor_v2"),
        b"(".to_vec(),
        storage("FloatStorage", "0", 6),
        b"K\0h\x02h\x02tR".to_vec(),
    ]
    .concat();
    let mut many = [dims, b"0}".to_vec()].concat();
    for i in 0..1000 {
        many.extend([text(&i.to_string()), call.clone(), b"s".to_vec()].concat());
    }
    let error = at_once(|| message(open(zip_of(&many, &[1; 24]))));
    assert!(error.contains("1048576 dimensions"), "{error}");

    let error = at_once(|| message(read(&pickle(&storage("FloatStorage", &name, 6))).map(drop)));
    assert!(error.contains("no description of a storage"), "{error}");
}

#[test]
fn endless_programs_end() {
    let text = at_once(|| message(read(&b"(0".repeat(10_000_000)).map(drop)));
    assert!(text.contains("16777216 instructions"), "{text}");
}
