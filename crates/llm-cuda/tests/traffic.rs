//! Bytes that operations move on a GPU, counted on the emulated one, beside what they must move: weights, activations and results
//! once each. A cache that forgets nothing within a launch is taken for granted, as the second cache of a card comes near to for
//! what is small; and sectors of 32 bytes, which is what memory gives.
//!
//! The same operations, every kernel among them, run on a real GPU where [`ON_CARD`](bench::ON_CARD) is set: small enough for
//! compute-sanitizer.

#[path = "traffic/attention.rs"]
mod attention;
#[path = "traffic/bench.rs"]
mod bench;
#[path = "traffic/compress.rs"]
mod compress;
#[path = "traffic/conv.rs"]
mod conv;
#[path = "traffic/delta.rs"]
mod delta;
#[path = "traffic/experts.rs"]
mod experts;
#[path = "traffic/packed.rs"]
mod packed;
#[path = "traffic/products.rs"]
mod products;
#[path = "traffic/seldom.rs"]
mod seldom;
#[path = "traffic/select.rs"]
mod select;
#[path = "traffic/small.rs"]
mod small;
#[path = "traffic/state_space.rs"]
mod state_space;
#[path = "traffic/streams.rs"]
mod streams;

#[test]
fn every_kernel_is_counted_or_seldom() {
    let counted = [
        attention::KERNELS,
        compress::KERNELS,
        conv::KERNELS,
        delta::KERNELS,
        experts::KERNELS,
        packed::KERNELS,
        products::KERNELS,
        select::KERNELS,
        small::KERNELS,
        state_space::KERNELS,
        streams::KERNELS,
    ]
    .concat();
    for name in bench::kernels() {
        let is_of = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        let is_seldom =
            is_of(seldom::KERNELS) || seldom::ENDS.iter().any(|end| name.ends_with(end));
        assert!(is_of(&counted) || is_seldom, "{name} is counted nowhere");
    }
}
