//! Streamed weights in the memories that they come through.

use llm_arch::{Role, Side, Slot, Unit};
use llm_quant::{LoadIn, QuantConfig, Scheme};

use super::*;

/// Bytes of a unit in a staging buffer, tensor by tensor.
fn staged(request: &Request<'_>, of: Unit) -> u64 {
    let slots = request.skeleton.slots.iter().zip(request.stored);
    let in_unit = slots.filter(|(slot, _)| slot.unit == of);
    let bytes = in_unit.map(|(slot, &stored)| {
        let scheme = request.encodings.scheme(slot, stored, RunOn::Cpu);
        staged_bytes(slot.matrix(), scheme).get()
    });
    bytes.sum()
}

/// Memory is taken in whole pages.
fn pages(n_bytes: u64) -> u64 {
    n_bytes.next_multiple_of(4096)
}

fn all_on_disk<'a>(skeleton: &'a Skeleton, stored: &'a [StoredTensor]) -> Request<'a> {
    let mut request = request(skeleton, stored);
    request.strategy = r#"{"": "disk"}"#.parse().unwrap();
    request.budgets = budgets(&[], GB, Some(GB));
    request
}

#[test]
fn a_place_holds_each_part_of_each_tensor_of_the_largest_unit_with_its_padding() {
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let quant = |load_in, double| QuantConfig {
        bnb_4bit_use_double_quant: double,
        ..QuantConfig::new(load_in)
    };
    // Seven projections, q, out and k, v of 32 columns, gate, up and down of 96 times 32; two norms.
    let elements: u64 = 2 * (32 + 16) * 32 + 3 * 96 * 32;
    let norms = 2 * (2 * 32 + SLOT_PADDING);
    let rows = 2 * (32 + 16) + 2 * 96 + 32;
    let blocks = elements / 64;
    let maps = 7 * 16 * 4;
    let cases = [
        (None, 2 * elements + 7 * SLOT_PADDING),
        (
            Some(quant(LoadIn::EightBit, false)),
            elements + 4 * rows + 7 * 2 * SLOT_PADDING,
        ),
        (
            Some(quant(LoadIn::FourBit, false)),
            elements / 2 + 4 * blocks + maps + 7 * 3 * SLOT_PADDING,
        ),
        (
            // A scale of scales, their values and an offset.
            Some(quant(LoadIn::FourBit, true)),
            elements / 2 + blocks + 7 * (4 + 256 * 4 + 4) + maps + 7 * 5 * SLOT_PADDING,
        ),
    ];
    for (quant, layer) in cases {
        let mut request = all_on_disk(&skeleton, &stored);
        request.encodings.quant = quant.as_ref();
        let layer = layer + norms;
        assert_eq!(
            staged(&request, Unit::Layer(Side::Decoder, 0)),
            layer,
            "{quant:?}"
        );
        let ram = *fits(&request).estimate.memory(Home::Ram).unwrap();
        // The table is only looked up in, and the pass has sixteen rows.
        let rows = 16 * 2 * 32;
        let staging = ram.terms.get(Term::Staging).get();
        assert_eq!(staging, 2 * pages(layer) + pages(rows), "{quant:?}");
        assert_eq!(ram.terms.get(Term::Weights), Bytes::ZERO);
    }
}

#[test]
fn rows_of_tables_come_beside_what_a_place_holds() {
    struct Case {
        skeleton: Skeleton,
        /// Elements of a row of each table.
        rows: &'static [u64],
    }
    let cases = [
        Case {
            skeleton: llama(1, false),
            rows: &[32],
        },
        // For the head its table is staged whole.
        Case {
            skeleton: llama(1, true),
            rows: &[32],
        },
        Case {
            skeleton: opt(1),
            rows: &[16, 32],
        },
    ];
    for Case { skeleton, rows } in cases {
        let stored = all_as(&skeleton, DType::F32);
        let request = all_on_disk(&skeleton, &stored);
        let plan = fits(&request);
        let slots = request.skeleton.slots.iter();
        let is_tied = plan.map.is_tied();
        let is_staged = |slot: &&Slot| match slot.role {
            Role::TokenTable => is_tied,
            role => role != Role::PositionTable,
        };
        let mut units = BTreeMap::new();
        for slot in slots.filter(is_staged) {
            let bytes = staged_bytes(slot.matrix(), Scheme::Dense(DType::F32)).get();
            *units.entry(slot.unit).or_insert(0) += bytes;
        }
        let largest = units.values().max().unwrap();
        let staging = plan.estimate.total(Term::Staging).get();
        let rows: u64 = rows.iter().map(|row| pages(16 * 4 * row)).sum();
        assert_eq!(staging, 2 * pages(*largest) + rows);
    }
}

/// A GPU has its own places, beside those in RAM through which weights come from disk.
#[test]
fn what_is_streamed_to_a_gpu_takes_places_there() {
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = all_on_disk(&skeleton, &stored);
    request.budgets = budgets(&[GB], GB, Some(GB));
    let map = |home: &str| {
        let map = json!({"model.embed_tokens": home, "model.layers": home, "model.norm": 0, "lm_head": 0});
        map.to_string().parse().unwrap()
    };
    request.strategy = map("disk");
    let staging = |request: &Request<'_>, home| {
        let plan = fits(request);
        plan.estimate.memory(home).unwrap().terms.get(Term::Staging)
    };
    let from_disk = staging(&request, Home::Ram);
    assert!(from_disk > Bytes::ZERO);
    // Rows of the table, and places for a layer whose norms take a border each.
    let layer = Bytes::new(2 * pages(LAYER) + pages(16 * 2 * 32));
    assert_eq!(staging(&request, Home::Gpu(0)), layer);
    request.strategy = map("cpu");
    assert_eq!(staging(&request, Home::Gpu(0)), layer);
    // The rows that a pass looks up are gathered there.
    assert_eq!(staging(&request, Home::Ram), Bytes::new(pages(16 * 2 * 32)));
}

/// A layer in bf16 in a staging place: the norms' 32 elements take a border each, all else fills its own.
const LAYER: u64 = 2 * (2 * (32 + 16) * 32 + 3 * 96 * 32) + 2 * 256;

/// What rests in RAM for a GPU begins on borders of its own, in pages of its unit's own.
#[test]
fn weights_in_ram_for_a_gpu_are_padded() {
    let skeleton = llama(2, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    request.budgets = budgets(&[GB], GB, None);
    let map = json!({
        "model.embed_tokens": 0, "model.layers.0": "cpu", "model.layers.1": 0, "model.norm": 0, "lm_head": 0,
    });
    request.strategy = map.to_string().parse().unwrap();
    let plan = fits(&request);
    let layer = Unit::Layer(Side::Decoder, 0);
    let planned = plan.estimate.units().iter().find(|of| of.unit == layer);
    let weights = Bytes::new(pages(LAYER));
    assert_eq!(planned.map(|unit| unit.weights), Some(weights));
    let ram = plan.estimate.memory(Home::Ram).unwrap().terms;
    assert_eq!(ram.get(Term::Weights), weights);
    assert_eq!(ram.get(Term::Staging), Bytes::ZERO);
    let gpu = plan.estimate.memory(Home::Gpu(0)).unwrap().terms;
    assert_eq!(gpu.get(Term::Staging), Bytes::new(2 * pages(LAYER)));
    // It is copied there when it is loaded.
    let int8 = QuantConfig::new(LoadIn::EightBit);
    request.encodings.quant = Some(&int8);
    request.load_piece = Bytes::new(1000);
    let ram = fits(&request).estimate.memory(Home::Ram).unwrap().terms;
    let gate = 1000 + 96 * 32 + 96 * 4;
    assert_eq!(ram.get(Term::LoadTransient), Bytes::new(gate));
}

/// Each device has buffers of its own for what it computes with and is on disk.
#[test]
fn each_device_has_buffers_of_its_own() {
    let skeleton = llama(4, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = all_on_disk(&skeleton, &stored);
    request.budgets = budgets(&[GB, GB], GB, Some(GB));
    let map = json!({
        "model.embed_tokens": 0, "model.layers.0": "disk", "model.layers.1": 1, "model.layers.2": "disk",
        "model.layers.3": 1, "model.norm": 1, "lm_head": 1,
    });
    request.strategy = map.to_string().parse().unwrap();
    let plan = fits(&request);
    let staging = |home| {
        plan.estimate
            .memory(home)
            .unwrap()
            .terms
            .get(Term::Staging)
            .get()
    };
    assert_eq!(staging(Home::Gpu(0)), 2 * pages(LAYER));
    assert_eq!(staging(Home::Gpu(1)), 2 * pages(LAYER));
    let buffers = 2 * pages(staged(&request, Unit::Layer(Side::Decoder, 0)));
    assert_eq!(staging(Home::Ram), 2 * buffers);
}

#[test]
fn views_are_written_before_they_are_streamed() {
    let skeleton = llama(1, false);
    let plain = all_as(&skeleton, DType::BF16);
    let strided = vec![
        StoredTensor {
            order: Order::Strided,
            ..plain[0]
        };
        plain.len()
    ];
    let disk = |stored: &[StoredTensor]| {
        let plan = fits(&all_on_disk(&skeleton, stored));
        let disk = *plan.estimate.memory(Home::Disk).unwrap();
        (disk.in_place, disk.needed())
    };
    let (all, nothing) = disk(&plain);
    assert_eq!(nothing, Bytes::ZERO);
    assert_eq!(disk(&strided), (Bytes::ZERO, all));
}

/// A tensor is quantized as a whole; of a dense one only a piece is on its way.
#[test]
fn a_quantized_tensor_is_whole_before_it_is_written() {
    let skeleton = llama(1, false);
    let stored = all_as(&skeleton, DType::F16);
    let quant = QuantConfig::new(LoadIn::EightBit);
    let mut request = all_on_disk(&skeleton, &stored);
    request.encodings.dtype = WeightDType::As(DType::BF16);
    request.load_piece = Bytes::new(1000);
    let transient = |request: &Request<'_>| {
        let estimate = fits(request).estimate;
        estimate.total(Term::LoadTransient).get()
    };
    assert_eq!(transient(&request), 1000 + 1000);
    request.encodings.quant = Some(&quant);
    assert_eq!(transient(&request), 1000 + 96 * 32 + 96 * 4);
    // In RAM it is where it stays.
    request.strategy = r#"{"": "cpu"}"#.parse().unwrap();
    assert_eq!(transient(&request), 1000);
}

#[test]
fn the_program_is_there_at_load_and_in_generation() {
    let skeleton = llama(1, false);
    let stored = all_as(&skeleton, DType::BF16);
    let mut request = request(&skeleton, &stored);
    let without = fits(&request).estimate.memories()[0];
    request.costs.program = Bytes::new(777);
    let with = fits(&request).estimate.memories()[0];
    assert_eq!(with.terms.get(Term::Program), Bytes::new(777));
    let more = |of: fn(&MemoryUse) -> Bytes| of(&with).get() - of(&without).get();
    assert_eq!(more(MemoryUse::peak_at_load), 777);
    assert_eq!(more(MemoryUse::peak_in_generation), 777);
}
