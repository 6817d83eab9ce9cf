use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_arch::{Role, Side, Unit};
use llm_checkpoint::{Checkpoint, DirectFile, NewTensor, SafetensorsWriter};
use llm_plan::SLOT_PADDING;
use llm_quant::{Part, Parts, Scheme, StoredWeight};
use llm_tensor::{DType, Shape};

use super::parcel::{Item, Parcel, Source, Span};
use super::*;
use crate::sum;

/// A file of bytes, each unit's one after the other.
struct Files {
    folder: tempfile::TempDir,
    lengths: Vec<usize>,
}

const ROLE: Role = Role::Out;

fn unit(i: usize) -> Unit {
    Unit::Layer(Side::Decoder, i)
}

fn key(i: usize) -> Key {
    Key::Unit(unit(i))
}

fn byte(unit: usize, at: usize) -> u8 {
    ((unit * 31 + at) % 253) as u8
}

impl Files {
    /// Unit `i` has `lengths[i]` bytes.
    fn new(lengths: &[usize]) -> Self {
        let files = Files {
            folder: tempfile::tempdir().unwrap(),
            lengths: lengths.to_vec(),
        };
        let tensors: Vec<_> = lengths
            .iter()
            .enumerate()
            .map(|(i, &len)| NewTensor {
                name: i.to_string(),
                dtype: DType::U8,
                shape: Shape::new(&[len as u64]).unwrap(),
            })
            .collect();
        let mut writer =
            SafetensorsWriter::create(&files.path(), &tensors, &Default::default()).unwrap();
        for (i, &len) in lengths.iter().enumerate() {
            let bytes: Vec<u8> = (0..len).map(|at| byte(i, at)).collect();
            writer.write(&bytes).unwrap();
        }
        writer.finish().unwrap();
        files
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("model.safetensors")
    }

    /// Where the bytes of a unit begin.
    fn start(&self, unit: usize) -> u64 {
        let checkpoint = Checkpoint::open(&self.path()).unwrap();
        checkpoint.get(&unit.to_string()).unwrap().bytes.start
    }

    fn overwrite(&self, at: u64, byte: u8) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(&[byte], at).unwrap();
    }

    /// A stream of all units, as parts of a checkpoint or as a file with a sum.
    fn stream(&self, sum: Option<u64>) -> Stream {
        let checkpoint = Checkpoint::open(&self.path()).unwrap();
        let file = Arc::new(checkpoint.direct_file(0).unwrap());
        let parcels = (0..self.lengths.len()).map(|i| {
            let item = item(&checkpoint, &file, i);
            let whole = sum.map(|sum| (Arc::clone(&file), sum));
            (key(i), Parcel::new(vec![item], whole))
        });
        let parcels: HashMap<_, _> = parcels.collect();
        let longest = parcels.values().map(|parcel| parcel.len).max();
        Stream::new(
            parcels,
            HashMap::new(),
            longest.unwrap(),
            Prepared::default(),
        )
        .unwrap()
    }

    /// Whether what was brought of a unit is what was written.
    fn check(&self, lease: &Lease<'_>, i: usize) {
        let mut source = lease;
        let weight = source.weight(unit(i), ROLE).unwrap();
        let bytes = weight.part(Part::Weight);
        assert_eq!(bytes.len(), self.lengths[i]);
        let is_right = |(at, &b): (usize, &u8)| b == byte(i, at);
        assert!(bytes.iter().enumerate().all(is_right), "unit {i}");
    }
}

fn item(checkpoint: &Checkpoint, file: &Arc<DirectFile>, i: usize) -> Item {
    let bytes = checkpoint.get(&i.to_string()).unwrap().bytes.clone();
    let len = (bytes.end - bytes.start) as usize;
    let span = Span {
        file: Arc::clone(file),
        bytes,
    };
    Item {
        unit: unit(i),
        role: ROLE,
        weight: StoredWeight {
            scheme: Scheme::Dense(DType::U8),
            rows: 1,
            cols: len,
            parts: Parts::weight(Source::File(span)),
        },
    }
}

fn next(units: &[usize]) -> impl Iterator<Item = Next> + '_ {
    units.iter().map(|&i| Next::Key(key(i)))
}

fn sum_of(path: &Path) -> u64 {
    sum::of(&fs::read(path).unwrap())
}

/// Longer than a chunk, shorter than a page, on borders and off them.
const LENGTHS: [usize; 6] = [5 << 20, 1, 4096, 100_001, 8191, 9 << 20];

#[test]
fn units_come_as_they_are_in_the_file_in_any_order() {
    let files = Files::new(&LENGTHS);
    let stream = files.stream(None);
    let order = [0, 1, 2, 3, 4, 5];
    for _ in 0..3 {
        stream.expect(next(&order).chain(next(&order)));
        for i in order {
            files.check(&stream.bring(key(i)).unwrap(), i);
        }
    }
    // What nobody expected, what was expected and is not wanted, the same twice.
    for i in [3, 3, 0, 5, 1, 5, 5, 2] {
        files.check(&stream.bring(key(i)).unwrap(), i);
    }
    // Two at once, as a layer and its expert.
    let first = stream.bring(key(0)).unwrap();
    for i in [5, 3, 1] {
        files.check(&stream.bring(key(i)).unwrap(), i);
    }
    files.check(&first, 0);
}

#[test]
fn experts_that_a_router_names_come_before_the_next_layer() {
    let files = Files::new(&[10_000; 6]);
    let stream = files.stream(None);
    let unknown = [Next::Unknown];
    stream.expect(next(&[0]).chain(unknown).chain(next(&[5])));
    files.check(&stream.bring(key(0)).unwrap(), 0);
    stream.resolve([3, 1].into_iter().map(key));
    {
        let state = stream.state.borrow();
        let expected = [3, 1, 5].map(|i| Next::Key(key(i)));
        assert_eq!(state.expected, expected);
        assert!(state.place_of(key(3)).is_some() && state.place_of(key(1)).is_some());
    }
    for i in [3, 1, 5] {
        files.check(&stream.bring(key(i)).unwrap(), i);
    }
}

/// What comes next is on its way before it is asked for, while the one before is in use.
#[test]
fn a_place_that_is_free_is_filled_at_once() {
    let files = Files::new(&[10_000; 4]);
    let stream = files.stream(None);
    stream.expect(next(&[0, 1, 2, 3, 0, 1]));
    let is_coming = |i| stream.state.borrow().place_of(key(i)).is_some();
    assert!(is_coming(0) && is_coming(1) && !is_coming(2));
    let first = stream.bring(key(0)).unwrap();
    assert!(!is_coming(2));
    drop(first);
    assert!(is_coming(2) && !is_coming(0));
    // Across the end of a pass.
    for i in [1, 2, 3] {
        drop(stream.bring(key(i)).unwrap());
    }
    assert!(is_coming(0) && is_coming(1));
}

#[test]
fn a_part_of_a_checkpoint_that_changes_is_noticed() {
    let files = Files::new(&LENGTHS);
    let stream = files.stream(None);
    for i in 0..LENGTHS.len() {
        drop(stream.bring(key(i)).unwrap());
    }
    // Nobody sums up the parts: a file that was written to is not believed any more.
    files.overwrite(files.start(0) + 1_000_000, 1);
    for i in [0, 3] {
        let Err(RuntimeError::SourceChanged { path }) = stream.bring(key(i)).map(drop) else {
            panic!("unit {i} may not be what it was")
        };
        assert_eq!(path, files.path());
    }
}

#[test]
fn a_file_with_a_sum_is_held_to_it() {
    let files = Files::new(&[6 << 20]);
    let sum = sum_of(&files.path());
    let stream = files.stream(Some(sum));
    files.check(&stream.bring(key(0)).unwrap(), 0);
    drop(stream);
    files.overwrite(files.start(0) + 4_500_000, 1);
    let stream = files.stream(Some(sum));
    let error = stream.bring(key(0)).map(drop).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_no_signal() {
    let files = Files::new(&[6 << 20, 6 << 20]);
    let stream = files.stream(None);
    let file = fs::File::options().write(true).open(files.path()).unwrap();
    file.set_len(7 << 20).unwrap();
    for _ in 0..2 {
        let error = stream.bring(key(1)).map(drop).unwrap_err();
        assert!(matches!(error, RuntimeError::Checkpoint(_)), "{error}");
        let error = stream.bring(key(0)).map(drop).unwrap_err();
        assert!(
            matches!(error, RuntimeError::SourceChanged { .. }),
            "{error}"
        );
    }
}

/// Parts of all lengths and places, near each other and far, in two files: each is found where its bytes were put, and
/// all take no more than was planned.
#[test]
fn parts_lie_in_a_place_as_in_the_file() {
    let mut state = 7u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for _ in 0..20 {
        let lengths: Vec<usize> = (0..2 + random(9)).map(|_| 1 + random(20_000)).collect();
        let both = [Files::new(&lengths), Files::new(&lengths)];
        let opened = both.each_ref().map(|files| {
            let checkpoint = Checkpoint::open(&files.path()).unwrap();
            let file = Arc::new(checkpoint.direct_file(0).unwrap());
            (checkpoint, file)
        });
        let chosen: Vec<usize> = (0..lengths.len()).filter(|_| random(3) > 0).collect();
        if chosen.is_empty() {
            continue;
        }
        let items = chosen.iter().map(|&i| {
            let (checkpoint, file) = &opened[random(2)];
            item(checkpoint, file, i)
        });
        let parcel = Parcel::new(items.collect(), None);
        let planned: usize = chosen.iter().map(|&i| lengths[i]).sum();
        assert!(parcel.len <= planned + chosen.len() * SLOT_PADDING as usize);
        let len = parcel.len;
        let parcels = HashMap::from([(key(0), parcel)]);
        let stream = Stream::new(parcels, HashMap::new(), len, Prepared::default()).unwrap();
        let lease = stream.bring(key(0)).unwrap();
        for &i in &chosen {
            both[0].check(&lease, i);
        }
    }
}
