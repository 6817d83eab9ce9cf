use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_arch::{Role, Side, Unit};
use llm_backend::{Backend, Ops, Queue, Reference};
use llm_checkpoint::{Checkpoint, DirectFile, NewTensor, SafetensorsWriter};
use llm_conformance::{Deferred, Fault};
use llm_plan::SLOT_PADDING;
use llm_quant::{Parts, Scheme, StoredWeight};
use llm_tensor::{DType, Shape, WorkspaceShape};

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

/// Two of them are a finite number of 16 bits.
fn byte(unit: usize, at: usize) -> u8 {
    ((unit * 31 + at) % 113) as u8
}

/// A device that computes with what is brought.
struct Computing<B: Backend = Reference> {
    backend: Arc<B>,
    queue: B::Queue,
}

impl Computing {
    fn new() -> Self {
        Computing::on(Arc::new(Reference::new()))
    }
}

impl<B: Backend> Computing<B> {
    fn on(backend: Arc<B>) -> Self {
        let queue = backend.queue(Some(&WORKSPACE)).unwrap();
        Computing { backend, queue }
    }

    fn stream(&self, feed: Feed) -> Stream<B> {
        Stream::new(&self.backend, feed).unwrap()
    }

    fn bring<'s>(&mut self, stream: &'s Stream<B>, i: usize) -> Result<Lease<'s, B>> {
        stream.bring(&mut self.queue, key(i))
    }

    /// Has the elements of a unit looked up, and gives its place back.
    fn elements(&mut self, lease: Lease<'_, B>, i: usize, len: usize) -> B::Buffer {
        let buffer = self.looked_up(&lease, i, len);
        lease.end(&mut self.queue).unwrap();
        buffer
    }

    fn looked_up(&mut self, lease: &Lease<'_, B>, i: usize, len: usize) -> B::Buffer {
        let mut buffer = self.backend.alloc(len / 2).unwrap();
        let first = self.backend.alloc_index(1).unwrap();
        let weight = lease.weight(&self.backend, unit(i), ROLE).unwrap();
        let done = self.queue.embed(&weight, &first, 1, 1.0, &mut buffer);
        done.unwrap();
        buffer
    }

    /// True if they are what was written.
    fn is_right(&mut self, buffer: &B::Buffer, i: usize, len: usize) -> bool {
        let mut found = vec![0f32; len / 2];
        self.queue.download(buffer, &mut found).unwrap();
        found.iter().enumerate().all(|(at, x)| {
            let bits = u16::from_le_bytes([byte(i, 2 * at), byte(i, 2 * at + 1)]);
            x.to_bits() == u32::from(bits) << 16
        })
    }

    /// Brings a unit and looks at it, and gives its place back.
    fn check(&mut self, files: &Files, stream: &Stream<B>, i: usize) {
        let lease = self.bring(stream, i).unwrap();
        let buffer = self.elements(lease, i, files.lengths[i]);
        assert!(self.is_right(&buffer, i, files.lengths[i]), "unit {i}");
    }
}

const WORKSPACE: WorkspaceShape = WorkspaceShape {
    n_tokens: 1,
    cols: 1,
    rows: 1,
    context: 1,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 1,
};

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

    /// Begin of a unit's bytes.
    fn start(&self, unit: usize) -> u64 {
        let checkpoint = Checkpoint::open(&self.path()).unwrap();
        checkpoint.get(&unit.to_string()).unwrap().bytes.start
    }

    fn overwrite(&self, at: u64, byte: u8) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(self.path()).unwrap();
        file.write_all_at(&[byte], at).unwrap();
    }

    /// All units, as parts of a checkpoint or as a file with a sum.
    fn feed(&self, sum: Option<u64>) -> Feed {
        let checkpoint = Checkpoint::open(&self.path()).unwrap();
        let file = Arc::new(checkpoint.direct_file(0).unwrap());
        let parcels = (0..self.lengths.len()).map(|i| {
            let item = item(&checkpoint, &file, i);
            let whole = sum.map(|sum| (Arc::clone(&file), sum));
            (key(i), Parcel::new(vec![item], whole))
        });
        feed_of(parcels.collect())
    }
}

fn feed_of(parcels: HashMap<Key, Parcel>) -> Feed {
    Feed {
        place_len: parcels.values().map(|parcel| parcel.len).max().unwrap(),
        parcels,
        tables: HashMap::new(),
        prepared: Prepared::default(),
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
            scheme: Scheme::Dense(DType::BF16),
            rows: 1,
            cols: len / 2,
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
const LENGTHS: [usize; 6] = [5 << 20, 2, 4096, 100_002, 8190, 9 << 20];

#[test]
fn units_come_as_they_are_in_the_file_in_any_order() {
    let files = Files::new(&LENGTHS);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    let order = [0, 1, 2, 3, 4, 5];
    for _ in 0..3 {
        stream.expect(next(&order).chain(next(&order)));
        for i in order {
            device.check(&files, &stream, i);
        }
    }
    // What nobody expected, what was expected and is not wanted, the same twice.
    for i in [3, 3, 0, 5, 1, 5, 5, 2] {
        device.check(&files, &stream, i);
    }
    // Two at once, as a layer and its expert.
    let first = device.bring(&stream, 0).unwrap();
    for i in [5, 3, 1] {
        device.check(&files, &stream, i);
    }
    let first = device.elements(first, 0, files.lengths[0]);
    assert!(device.is_right(&first, 0, files.lengths[0]));
}

#[test]
fn experts_that_a_router_names_come_before_the_next_layer() {
    let files = Files::new(&[10_000; 6]);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    let unknown = [Next::Unknown];
    stream.expect(next(&[0]).chain(unknown).chain(next(&[5])));
    device.check(&files, &stream, 0);
    stream.resolve([3, 1].into_iter().map(key));
    {
        let state = stream.state.borrow();
        let expected = [3, 1, 5].map(|i| Next::Key(key(i)));
        assert_eq!(state.expected, expected);
        assert!(state.place_of(key(3)).is_some() && state.place_of(key(1)).is_some());
    }
    for i in [3, 1, 5] {
        device.check(&files, &stream, i);
    }
}

/// The next unit is on its way before it is asked for, while the one before is in use.
#[test]
fn a_place_that_is_free_is_filled_at_once() {
    let files = Files::new(&[10_000; 4]);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    stream.expect(next(&[0, 1, 2, 3, 0, 1]));
    let is_coming = |i| stream.state.borrow().place_of(key(i)).is_some();
    assert!(is_coming(0) && is_coming(1) && !is_coming(2));
    let first = device.bring(&stream, 0).unwrap();
    assert!(!is_coming(2));
    first.end(&mut device.queue).unwrap();
    assert!(is_coming(2) && !is_coming(0));
    // Across the end of a pass.
    for i in [1, 2, 3] {
        let lease = device.bring(&stream, i).unwrap();
        lease.end(&mut device.queue).unwrap();
    }
    assert!(is_coming(0) && is_coming(1));
}

#[test]
fn a_part_of_a_checkpoint_that_changes_is_noticed() {
    let files = Files::new(&LENGTHS);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    for i in 0..LENGTHS.len() {
        let lease = device.bring(&stream, i).unwrap();
        lease.end(&mut device.queue).unwrap();
    }
    // Nobody sums up the parts: a file that was written to is not believed any more.
    files.overwrite(files.start(0) + 1_000_000, 1);
    for i in [0, 3] {
        let Err(RuntimeError::SourceChanged { path }) = device.bring(&stream, i).map(drop) else {
            panic!("unit {i} may not be what it was")
        };
        assert_eq!(path, files.path());
    }
}

#[test]
fn a_file_with_a_sum_is_held_to_it() {
    let files = Files::new(&[6 << 20]);
    let sum = sum_of(&files.path());
    let mut device = Computing::new();
    let stream = device.stream(files.feed(Some(sum)));
    device.check(&files, &stream, 0);
    drop(stream);
    files.overwrite(files.start(0) + 4_500_000, 200);
    let stream = device.stream(files.feed(Some(sum)));
    let error = device.bring(&stream, 0).map(drop).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

#[test]
fn a_file_that_became_shorter_is_an_error_and_no_signal() {
    let files = Files::new(&[6 << 20, 6 << 20]);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    let file = fs::File::options().write(true).open(files.path()).unwrap();
    file.set_len(7 << 20).unwrap();
    for _ in 0..2 {
        let error = device.bring(&stream, 1).map(drop).unwrap_err();
        assert!(matches!(error, RuntimeError::Checkpoint(_)), "{error}");
        let error = device.bring(&stream, 0).map(drop).unwrap_err();
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
        let lengths: Vec<usize> = (0..2 + random(9)).map(|_| 2 + 2 * random(10_000)).collect();
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
        let mut device = Computing::new();
        let stream = device.stream(feed_of(HashMap::from([(key(0), parcel)])));
        let lease = device.bring(&stream, 0).unwrap();
        for &i in &chosen {
            let found = device.looked_up(&lease, i, lengths[i]);
            assert!(device.is_right(&found, i, lengths[i]), "unit {i}");
        }
    }
}

/// True if units that take turns in the places are right, on a device that puts off what it is asked for.
fn found_on(deferred: Deferred, files: &Files, order: &[usize]) -> bool {
    let mut device = Computing::on(Arc::new(deferred));
    let stream = device.stream(files.feed(None));
    stream.expect(next(order));
    let mut found = Vec::new();
    for &i in order {
        let lease = device.bring(&stream, i).unwrap();
        found.push((i, device.elements(lease, i, files.lengths[i])));
    }
    let mut all = true;
    for (i, buffer) in found {
        all &= device.is_right(&buffer, i, files.lengths[i]);
    }
    all
}

#[test]
fn a_device_that_puts_work_off_computes_with_what_was_brought_for_it() {
    let files = Files::new(&[6000; 5]);
    let order: Vec<usize> = (0..20).map(|i| i * 3 % 5).collect();
    for seed in 0..40 {
        assert!(found_on(Deferred::new(seed), &files, &order), "{seed}");
    }
}

#[test]
fn a_wait_that_is_forgotten_is_found() {
    let files = Files::new(&[6000; 5]);
    let order: Vec<usize> = (0..20).map(|i| i * 3 % 5).collect();
    for fault in Fault::ALL {
        let mut seeds = 0..60;
        let is_wrong = |seed| !found_on(Deferred::with_fault(seed, fault), &files, &order);
        assert!(seeds.any(is_wrong), "{fault:?}");
    }
}

/// Whoever fails gives no place back; what it put into the queue may still use it.
#[test]
fn a_place_that_nobody_gave_back_is_used_until_then() {
    let files = Files::new(&[6000; 5]);
    for seed in 0..20 {
        let mut device = Computing::on(Arc::new(Deferred::new(seed)));
        let stream = device.stream(files.feed(None));
        let mut found = Vec::new();
        for i in [0, 1, 2, 3, 4, 0, 2] {
            let lease = device.bring(&stream, i).unwrap();
            found.push((i, device.looked_up(&lease, i, 6000)));
            drop(lease);
        }
        for (i, buffer) in found {
            assert!(device.is_right(&buffer, i, 6000), "seed {seed}, unit {i}");
        }
    }
}
