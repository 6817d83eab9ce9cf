//! Streams: what may run late does, and what an event or a wait orders is in order, whatever the seed.
#![expect(
    unsafe_code,
    reason = "page-locked memory without cudarc's own events is what is tested"
)]

use std::collections::BTreeSet;
use std::io::Write as _;

use cuda_emulator::harness::Machine;
use cudarc::driver::{CudaContext, CudaSlice, DevicePtr as _, result, sys};

use crate::lab::{Arg, BASICS, Lab, at};

/// Whether something that should be ordered is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Kept,
    Forgotten,
}

/// All outcomes of a body over ten seeds; empty in the processes that run it.
fn outcomes(body: impl Fn(&Lab) -> f32) -> BTreeSet<String> {
    (0..10)
        .filter_map(|seed| {
            let run = Machine::new().devices(2).seed(seed).outcome(|| {
                let outcome = body(&Lab::new(BASICS));
                writeln!(std::io::stdout(), "outcome {outcome}").expect("output");
            })?;
            let text = run.text();
            assert!(run.output.status.success(), "{text}");
            let outcome = text.split("outcome ").nth(1).expect("an outcome");
            Some(outcome.lines().next().unwrap_or_default().to_owned())
        })
        .collect()
}

/// In the process that looks at outcomes: which ones there must be.
fn assert_outcomes(found: &BTreeSet<String>, wanted: &[&str]) {
    if !found.is_empty() {
        let wanted: BTreeSet<String> = wanted.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(*found, wanted);
    }
}

/// A kernel on one stream and a kernel that needs its result on another.
fn two_streams(lab: &Lab, order: Order) -> f32 {
    let other = lab.context.new_stream().expect("a stream");
    let (x, y) = (lab.put(&[0f32]), lab.put(&[0f32]));
    lab.stream.synchronize().expect("the copies");
    lab.launch("add_one", 1, 32, &[at(&x), Arg::Int(1)])
        .expect("a launch");
    if order == Order::Kept {
        let event = lab.stream.record_event(None).expect("an event");
        other.wait(&event).expect("a wait");
    }
    let scale = [at(&x), at(&y), Arg::Int(1), Arg::Float(10.0)];
    lab.launch_on(&other, "scale", 1, 32, &scale)
        .expect("a launch");
    other.synchronize().expect("the second kernel");
    lab.stream.synchronize().expect("the first kernel");
    lab.get(&y)[0]
}

#[test]
fn an_event_orders_two_streams() {
    assert_outcomes(&outcomes(|lab| two_streams(lab, Order::Kept)), &["10"]);
}

#[test]
fn a_forgotten_event_is_found() {
    let found = outcomes(|lab| two_streams(lab, Order::Forgotten));
    assert_outcomes(&found, &["0", "10"]);
}

/// A kernel on one device, and a copy of its result to another that the other's stream does.
fn two_devices(lab: &Lab, order: Order) -> f32 {
    let context = CudaContext::new(1).expect("a second device");
    let other = context.new_stream().expect("a stream");
    let (x, y) = (
        lab.put(&[1f32]),
        other.clone_htod(&[0f32]).expect("a buffer"),
    );
    lab.stream.synchronize().expect("the copy");
    other.synchronize().expect("the copy");
    lab.context.bind_to_thread().expect("the first device");
    lab.launch("add_one", 1, 32, &[at(&x), Arg::Int(1)])
        .expect("a launch");
    let (from, to) = (x.device_ptr(x.stream()).0, y.device_ptr(y.stream()).0);
    lab.context.bind_to_thread().expect("the first device");
    let event = lab.stream.record_event(None).expect("an event");
    context.bind_to_thread().expect("the second device");
    // SAFETY: one value on both sides; that it may not be there yet is what is tested.
    unsafe {
        if order == Order::Kept {
            result::stream::wait_event(
                other.cu_stream(),
                event.cu_event(),
                sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT,
            )
            .expect("a wait");
        }
        sys::cuMemcpyPeerAsync(
            to,
            context.cu_ctx(),
            from,
            lab.context.cu_ctx(),
            4,
            other.cu_stream(),
        )
        .result()
        .expect("a copy");
    }
    other.synchronize().expect("the copy");
    let value = other.clone_dtoh(&y).expect("a copy")[0];
    lab.context.bind_to_thread().expect("the first device");
    lab.stream.synchronize().expect("the kernel");
    value
}

#[test]
fn an_event_orders_two_devices() {
    assert_outcomes(&outcomes(|lab| two_devices(lab, Order::Kept)), &["2"]);
}

#[test]
fn a_forgotten_event_between_devices_is_found() {
    let found = outcomes(|lab| two_devices(lab, Order::Forgotten));
    assert_outcomes(&found, &["1", "2"]);
}

#[test]
fn a_copy_between_devices_goes_through_the_host_unless_one_may_reach_the_other() {
    for (peers, enabled) in [(true, true), (true, false), (false, false)] {
        let report = Machine::new().devices(2).peers(peers).inside(|| {
            let lab = Lab::new(BASICS);
            let other = CudaContext::new(1).expect("a second device");
            lab.context.bind_to_thread().expect("the first device");
            if enabled {
                // SAFETY: both contexts are there.
                let twice =
                    [(); 2].map(|()| unsafe { sys::cuCtxEnablePeerAccess(other.cu_ctx(), 0) });
                let again = sys::CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
                assert_eq!(twice, [sys::CUresult::CUDA_SUCCESS, again]);
            }
            two_devices(&lab, Order::Kept);
        });
        if let Some(report) = report {
            assert_eq!(report.bytes_between_devices, 4);
            assert_eq!(report.bytes_staged, if enabled { 0 } else { 4 });
        }
    }
}

/// A value that the host takes from page-locked memory after it waited for a stream, which may be another than the copy's.
fn read_back(lab: &Lab, order: Order) -> f32 {
    let other = lab.context.new_stream().expect("a stream");
    let x = lab.put(&[1f32]);
    lab.stream.synchronize().expect("the copy");
    let pinned = Pinned::new(0.0);
    lab.launch("add_one", 1, 32, &[at(&x), Arg::Int(1)])
        .expect("a launch");
    pinned.copy_from(&x, &lab.stream);
    let waited = match order {
        Order::Kept => &lab.stream,
        Order::Forgotten => &other,
    };
    waited.synchronize().expect("a wait");
    let value = pinned.get();
    lab.stream.synchronize().expect("a wait");
    value
}

#[test]
fn a_wait_for_the_stream_of_a_copy_brings_its_value() {
    assert_outcomes(&outcomes(|lab| read_back(lab, Order::Kept)), &["2"]);
}

#[test]
fn a_wait_for_the_wrong_stream_is_found() {
    let found = outcomes(|lab| read_back(lab, Order::Forgotten));
    assert_outcomes(&found, &["0"]);
}

/// A staging place that is filled anew for a second upload, after or without a wait for the first.
fn staging(lab: &Lab, order: Order) -> f32 {
    let (x, y) = (lab.put(&[0f32]), lab.put(&[0f32]));
    lab.stream.synchronize().expect("the copies");
    let place = Pinned::new(3.0);
    place.copy_to(&x, &lab.stream);
    if order == Order::Kept {
        lab.stream.synchronize().expect("the first upload");
    }
    place.set(4.0);
    place.copy_to(&y, &lab.stream);
    lab.stream.synchronize().expect("both uploads");
    lab.get(&x)[0]
}

#[test]
fn a_stale_staging_place_is_found() {
    assert_outcomes(&outcomes(|lab| staging(lab, Order::Kept)), &["3"]);
    assert_outcomes(&outcomes(|lab| staging(lab, Order::Forgotten)), &["4"]);
}

#[test]
fn pageable_memory_is_read_before_the_call_returns() {
    let found = outcomes(|lab| {
        let mut values = vec![5f32];
        let x = lab.put(&values);
        values[0] = 6.0;
        lab.get(&x)[0]
    });
    assert_outcomes(&found, &["5"]);
}

/// One page-locked value.
struct Pinned(*mut f32);

impl Pinned {
    fn new(value: f32) -> Self {
        // SAFETY: a plain allocation.
        let pointer = unsafe { result::malloc_host(4, 0) }.expect("page-locked memory");
        let out = Self(pointer.cast());
        out.set(value);
        out
    }

    fn set(&self, value: f32) {
        // SAFETY: the memory lives as long as the process.
        unsafe { self.0.write_volatile(value) };
    }

    fn get(&self) -> f32 {
        // SAFETY: as in `set`.
        unsafe { self.0.read_volatile() }
    }

    fn copy_to(&self, x: &CudaSlice<f32>, stream: &cudarc::driver::CudaStream) {
        let address = x.device_ptr(x.stream()).0;
        // SAFETY: one value on both sides; that it may change before the copy runs is what is tested.
        unsafe {
            let from = std::slice::from_raw_parts(self.0, 1);
            result::memcpy_htod_async(address, from, stream.cu_stream()).expect("a copy");
        }
    }

    fn copy_from(&self, x: &CudaSlice<f32>, stream: &cudarc::driver::CudaStream) {
        let address = x.device_ptr(x.stream()).0;
        // SAFETY: as in `copy_to`.
        unsafe {
            let to = std::slice::from_raw_parts_mut(self.0, 1);
            result::memcpy_dtoh_async(to, address, stream.cu_stream()).expect("a copy");
        }
    }
}

/// A captured chain of two kernels, launched twice.
fn captured(lab: &Lab) -> f32 {
    let (x, y) = (lab.put(&[0f32]), lab.put(&[0f32]));
    lab.stream.synchronize().expect("the copies");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    lab.stream.begin_capture(mode).expect("a capture");
    lab.launch("add_one", 1, 32, &[at(&x), Arg::Int(1)])
        .expect("a launch");
    let scale = [at(&x), at(&y), Arg::Int(1), Arg::Float(10.0)];
    lab.launch("scale", 1, 32, &scale).expect("a launch");
    let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = lab
        .stream
        .end_capture(flags)
        .expect("a graph")
        .expect("work in it");
    assert_eq!(lab.get(&y), [0.0], "a capture runs nothing");
    graph.launch().expect("a launch");
    graph.launch().expect("a launch");
    lab.stream.synchronize().expect("both launches");
    lab.get(&y)[0]
}

#[test]
fn a_captured_graph_runs_when_it_is_launched_and_not_before() {
    assert_outcomes(&outcomes(captured), &["20"]);
}

/// A graph built by hand of two kernels, the second after the first or in no order.
fn built(lab: &Lab, order: Order) -> f32 {
    let (x, y) = (lab.put(&[0f32]), lab.put(&[0f32]));
    lab.stream.synchronize().expect("the copies");
    let scale = [at(&x), at(&y), Arg::Int(1), Arg::Float(10.0)];
    let graph = lab.graph(
        &[("add_one", &[at(&x), Arg::Int(1)]), ("scale", &scale)],
        order == Order::Kept,
    );
    lab.launch_graph(graph);
    lab.stream.synchronize().expect("the graph");
    lab.get(&y)[0]
}

#[test]
fn nodes_of_a_graph_run_in_the_order_of_its_edges() {
    assert_outcomes(&outcomes(|lab| built(lab, Order::Kept)), &["10"]);
}

#[test]
fn a_forgotten_edge_is_found() {
    assert_outcomes(&outcomes(|lab| built(lab, Order::Forgotten)), &["0", "10"]);
}

#[test]
fn blocks_run_in_an_order_that_the_seed_chooses() {
    let found = outcomes(|lab| {
        let y = lab.room(1);
        lab.launch("last_block", 5, 32, &[at(&y)])
            .expect("a launch");
        lab.get(&y)[0]
    });
    assert_ne!(found.len(), 1, "{found:?}");
}
