use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use llm_arch::{Role, Side, Unit};
use llm_backend::{Backend, Ops, Queue, Reference};
use llm_checkpoint::{Checkpoint, DirectFile, NewTensor, SafetensorsWriter};
use llm_conformance::{Deferred, Fault};
use llm_plan::SLOT_PADDING;
use llm_quant::{Part, Parts, Scheme, StoredWeight};
use llm_tensor::{DType, Shape, WorkspaceShape};

use super::lease::Lease;
use super::parcel::{Item, Parcel, Source, Span};
use super::*;
use crate::{RuntimeError, sum};

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

/// What rests in RAM.
struct Bytewise;

impl WeightSource for Bytewise {
    fn weight(&mut self, unit: Unit, role: Role) -> Result<StoredWeight> {
        unreachable!("{role:?} of {unit} is written where it rests")
    }

    fn weight_into(
        &mut self,
        of: Unit,
        role: Role,
        to: &StoredWeight<Range<usize>>,
        out: &mut [u8],
    ) -> Result<()> {
        assert_eq!(role, ROLE);
        let i = (0..LENGTHS.len()).find(|&i| unit(i) == of).unwrap();
        let out = &mut out[to.part(Part::Weight).clone()];
        out.iter_mut()
            .zip(0..)
            .for_each(|(out, at)| *out = byte(i, at));
        Ok(())
    }

    fn values(&mut self, unit: Unit, role: Role) -> Result<Vec<f32>> {
        unreachable!("{role:?} of {unit} is a table of a stage's own")
    }

    fn rope_factors(&mut self) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
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
        Stream::new(&self.backend, feed, &mut Bytewise).unwrap()
    }

    fn bring<'s>(&mut self, stream: &'s Stream<B>, i: usize) -> Result<Lease<'s, B>> {
        stream.shared().bring(&mut self.queue, key(i))
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
        let (weight, _) = lease.weight(unit(i), ROLE).unwrap();
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
    n_selecting: 0,
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

    /// All units, for a device with memory of its own: those of `in_ram` rest there.
    fn mixed(&self, in_ram: &[usize]) -> Feed {
        let mut feed = self.feed(None);
        feed.run_on = RunOn::Gpu(0);
        for &i in in_ram {
            feed.parcels.remove(&key(i)).unwrap();
            let mut layout = Layout::new(unit(i));
            layout.add(
                (key(i), ROLE),
                Scheme::Dense(DType::BF16),
                (1, self.lengths[i] / 2),
                None,
            );
            feed.resting.push(layout);
        }
        feed
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
    let largest = parcels.values().map(|parcel| parcel.len).max().unwrap();
    Feed {
        run_on: RunOn::Cpu,
        places: Staging { n: 2, len: largest },
        buffers: Staging { n: 2, len: largest },
        cut: HashMap::new(),
        parcels,
        resting: Vec::new(),
        tables: HashMap::new(),
        n_tokens: 1,
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
        let state = stream.state();
        let expected = [3, 1, 5].map(|i| Next::Key(key(i)));
        assert_eq!(state.expected, expected);
        assert!(state.buffers.find(key(3)).is_some() && state.buffers.find(key(1)).is_some());
    }
    for i in [3, 1, 5] {
        device.check(&files, &stream, i);
    }
}

/// Keys and values of an encoder's result are made once, and not read for each token.
#[test]
fn slices_for_an_encoders_result_are_read_for_that_alone() {
    let files = Files::new(&[10_000; 2]);
    let device = Computing::new();
    let stream = device.stream(files.feed(None));
    let slices = |role| [0, 1].map(|i| Key::Slice(key(0).unit(), role, i));
    let [q, k, v] = [Role::CrossQ, Role::CrossK, Role::CrossV].map(slices);
    let all = [&[key(0)][..], &q, &k, &v].concat();
    stream.state().portions.insert(key(0), all);
    let expected = |next: &[Next]| -> Vec<Next> {
        stream.expect(next.iter().copied());
        stream.state().expected.iter().copied().collect()
    };
    let keys =
        |parts: &[&[Key]]| -> Vec<Next> { parts.concat().into_iter().map(Next::Key).collect() };
    let of_pass = expected(&[Next::Key(key(0)), Next::Key(key(1))]);
    assert_eq!(of_pass, keys(&[&[key(0)], &q, &[key(1)]]));
    let of_encoded = expected(&[Next::FromEncoded(key(0)), Next::FromEncoded(key(1))]);
    assert_eq!(of_encoded, keys(&[&[key(0)], &k, &v, &[key(1)]]));
}

/// The next unit is on its way before it is asked for, while the one before is in use.
#[test]
fn a_place_that_is_free_is_filled_at_once() {
    let files = Files::new(&[10_000; 4]);
    let mut device = Computing::new();
    let stream = device.stream(files.feed(None));
    stream.expect(next(&[0, 1, 2, 3, 0, 1]));
    let is_coming = |i| stream.state().buffers.find(key(i)).is_some();
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

/// Units on disk, all in RAM, and some in each; the device has memory of its own, or computes in host memory.
const PLACEMENTS: [Option<&[usize]>; 5] = [
    None,
    Some(&[]),
    Some(&[0, 1, 2, 3, 4]),
    Some(&[0, 2, 3]),
    Some(&[1]),
];

impl Files {
    fn placed(&self, in_ram: Option<&[usize]>) -> Feed {
        in_ram.map_or_else(|| self.feed(None), |in_ram| self.mixed(in_ram))
    }
}

/// True if units that take turns in the places are right, on a device that puts off what it is asked for.
fn found_on(deferred: Deferred, files: &Files, feed: Feed, order: &[usize]) -> bool {
    let mut device = Computing::on(Arc::new(deferred));
    let stream = device.stream(feed);
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
    for in_ram in PLACEMENTS {
        for seed in 0..20 {
            let feed = files.placed(in_ram);
            let is_right = found_on(Deferred::new(seed), &files, feed, &order);
            assert!(is_right, "{in_ram:?} {seed}");
        }
    }
}

#[test]
fn a_wait_that_is_forgotten_is_found() {
    let files = Files::new(&[6000; 5]);
    let order: Vec<usize> = (0..20).map(|i| i * 3 % 5).collect();
    let shows = |in_ram: Option<&[usize]>, fault| {
        (0..60).any(|seed| {
            let faulty = Deferred::with_fault(seed, fault);
            !found_on(faulty, &files, files.placed(in_ram), &order)
        })
    };
    for fault in Fault::ALL {
        for in_ram in PLACEMENTS {
            // In host memory nothing is brought; a buffer has another unit only where there are more of them than buffers.
            let applies = match fault {
                Fault::ComputeBeforeBring | Fault::BringBeforeLastUse => in_ram.is_some(),
                Fault::FillBeforeBring => in_ram.is_none_or(|in_ram| in_ram.len() < 3),
            };
            assert!(shows(in_ram, fault) || !applies, "{fault:?} {in_ram:?}");
        }
    }
}

/// Whoever fails gives no place back; what it put into the queue may still use it.
#[test]
fn a_place_that_nobody_gave_back_is_used_until_then() {
    let files = Files::new(&[6000; 5]);
    for in_ram in PLACEMENTS {
        for seed in 0..10 {
            let mut device = Computing::on(Arc::new(Deferred::new(seed)));
            let stream = device.stream(files.placed(in_ram));
            let mut found = Vec::new();
            for i in [0, 1, 2, 3, 4, 0, 2] {
                let lease = device.bring(&stream, i).unwrap();
                found.push((i, device.looked_up(&lease, i, 6000)));
                drop(lease);
            }
            for (i, buffer) in found {
                let is_right = device.is_right(&buffer, i, 6000);
                assert!(is_right, "{in_ram:?}, seed {seed}, unit {i}");
            }
        }
    }
}

#[test]
fn units_from_ram_and_disk_come_in_any_order() {
    let files = Files::new(&LENGTHS);
    for in_ram in [&[0, 3][..], &[0, 1, 2, 3, 4, 5], &[5, 1, 2], &[]] {
        let mut device = Computing::new();
        let stream = device.stream(files.mixed(in_ram));
        for i in [0, 1, 2, 3, 4, 5, 5, 3, 1, 0] {
            device.check(&files, &stream, i);
        }
        stream.expect(next(&[2, 0, 5, 1]));
        // As a head of its own beside a table; nobody expected the latter.
        let first = device.bring(&stream, 2).unwrap();
        device.check(&files, &stream, 4);
        device.elements(first, 2, files.lengths[2]);
        for i in [0, 5, 1] {
            device.check(&files, &stream, i);
        }
        let bytes = stream.state().places.as_ref().unwrap().bytes().get();
        let largest = 9 * (1 << 20) + SLOT_PADDING;
        assert!(bytes <= 2 * largest, "{bytes}");
    }
}

/// What is on disk is read as soon as a buffer is free, however much from RAM is computed with before it.
#[test]
fn the_disk_does_not_wait_for_what_comes_from_ram() {
    let files = Files::new(&[10_000; 6]);
    let mut device = Computing::new();
    let stream = device.stream(files.mixed(&[0, 1, 2, 3]));
    let (in_buffer, in_place) = (
        |i| stream.state().buffers.find(key(i)).is_some(),
        |i| {
            let state = stream.state();
            state.places.as_ref().unwrap().find(key(i)).is_some()
        },
    );
    let order = [0, 1, 2, 4, 3, 5];
    stream.expect(next(&order).chain(next(&order)));
    assert!(in_buffer(4) && in_buffer(5));
    assert!(in_place(0) && in_place(1));
    for i in [0, 1] {
        device.check(&files, &stream, i);
        assert!(in_buffer(4) || in_place(4));
        assert!(in_buffer(5));
    }
    assert!(in_place(2));
    for i in [2, 4, 3, 5] {
        device.check(&files, &stream, i);
    }
    // Both are in places no more, or soon will be.
    assert!(in_place(0) && in_buffer(4));
}

/// While the host does something else, what has been read is sent on, and the disk goes on.
#[test]
fn what_is_read_is_sent_on_while_the_host_is_busy() {
    let files = Files::new(&[10_000; 6]);
    for in_ram in [&[][..], &[0], &[1]] {
        let mut device = Computing::new();
        let stream = device.stream(files.mixed(in_ram));
        let order = [0, 1, 2, 3, 4, 5];
        stream.expect(next(&order));
        // Nothing is asked of the stream from here on.
        let is_done = || {
            let state = stream.state();
            let places = state.places.as_ref().unwrap();
            let is_filled = |i| state.buffers.is_filled(key(i));
            places.is_filled(key(0)) && places.is_filled(key(1)) && is_filled(2) && is_filled(3)
        };
        let begin = Instant::now();
        while !is_done() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{in_ram:?}");
            thread::yield_now();
        }
        for i in order {
            device.check(&files, &stream, i);
        }
    }
}

/// Where places hold all that is on disk nothing is read again.
#[test]
fn what_stays_in_a_place_is_not_read_again() {
    let files = Files::new(&[10_000; 2]);
    let mut device = Computing::new();
    let stream = device.stream(files.mixed(&[0]));
    for _ in 0..3 {
        stream.expect(next(&[0, 1, 0, 1]));
        device.check(&files, &stream, 0);
        stream.expect(next(&[1, 0, 1]));
        device.check(&files, &stream, 1);
    }
    fs::remove_file(files.path()).unwrap();
    let buffers = || stream.state().buffers.find(key(1));
    assert_eq!(buffers(), None);
}
