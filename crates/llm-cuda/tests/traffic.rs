//! Bytes that operations move on a GPU, counted on the emulated one, beside what they must move: weights, activations and results
//! once each. A cache that forgets nothing within a launch is taken for granted, as the second cache of a card comes near to for
//! what is small; and sectors of 32 bytes, which is what memory gives.

#[path = "traffic/attention.rs"]
mod attention;
#[path = "traffic/bench.rs"]
mod bench;
#[path = "traffic/experts.rs"]
mod experts;
#[path = "traffic/products.rs"]
mod products;
#[path = "traffic/small.rs"]
mod small;

use std::collections::BTreeSet;

/// Kernels that no token waits for again and again, and why.
const SELDOM: [(&str, &str); 9] = [
    ("attention_any", "heads of sizes that are no multiple of 8"),
    ("attention_wide", "heads of more than 256 elements"),
    ("general_", "weights at odd addresses or of odd widths"),
    (
        "gemm_tile_int8",
        "columns that are no multiple of 16, or cards before 8.0",
    ),
    ("four_bit_encode", "weights are encoded once"),
    ("four_bit_double_", "weights are encoded once"),
    ("four_bit_decode", "weights are decoded to be saved"),
    ("int8_encode", "weights are encoded once"),
    ("int8_decode", "weights are decoded to be saved"),
];

/// Ends of names of kernels for odd widths, and for vectors of two types.
const SELDOM_ENDS: [&str; 2] = ["_odd", "_any"];

#[test]
fn every_kernel_is_counted_or_seldom() {
    let counted = [
        attention::KERNELS,
        experts::KERNELS,
        products::KERNELS,
        small::KERNELS,
    ]
    .concat();
    let list = include_str!("../ptx/kernels.txt");
    let names = list.lines().filter(|line| !line.starts_with('#'));
    let names: BTreeSet<&str> = names.filter_map(|line| line.split(' ').next()).collect();
    assert!(!names.is_empty());
    for name in names {
        let is_counted = counted.iter().any(|start| name.starts_with(start));
        let is_seldom = SELDOM.iter().any(|(start, _)| name.starts_with(start))
            || SELDOM_ENDS.iter().any(|end| name.ends_with(end));
        assert!(is_counted || is_seldom, "{name} is counted nowhere");
    }
}
