//! Tests that every backend passes, against [`Reference`].
//!
//! A case is one call, or a few in a row, with deterministic inputs. [`check`] runs each on the
//! backend and on the reference and compares with bounds that follow from f32 arithmetic on the case's own data;
//! as every number of tokens is compared with the same reference, no result can depend on how many were computed
//! together by more than rounding. [`check_reproducible`] demands the same bits of two backends, or of two runs.

mod attention;
mod case;
mod conv;
mod copies;
mod data;
mod deferred;
mod delta;
mod elementwise;
mod entries;
mod four_bit;
mod gates;
mod groups;
mod heads;
mod hyper;
mod int8;
mod linear;
mod memory;
mod norm;
mod packed;
mod places;
mod routing;
mod schemes;
mod select;
mod state_space;
mod states;
mod streams;
mod tables;
mod xielu;

use std::sync::Arc;

use llm_backend::{Backend, Reference};
use llm_quant::{Activations, Scheme};

pub use deferred::{Deferred, Fault};

use attention::AttentionCase;
use case::{Case, check_against, check_each, check_same_bits};

/// Checks every operation.
///
/// # Panics
/// When a result is further from the reference's than rounding explains, or an operation fails. The message names
/// the case.
pub fn check<B: Backend>(backend: &Arc<B>) {
    check_memory(backend);
    check_tables(backend);
    check_norm(backend);
    check_elementwise(backend);
    check_linear(backend);
    check_attention(backend);
    check_selection(backend);
    check_entries(backend);
    check_states(backend);
    check_delta(backend);
    check_state_space(backend);
    check_streams(backend);
    check_routing(backend);
    check_queues(backend);
}

/// Checks that what is allocated is as large as promised, and that weights of no floating-point numbers are refused.
///
/// # Panics
/// As [`check`].
pub fn check_memory<B: Backend>(backend: &Arc<B>) {
    memory::check_sizes(backend);
    memory::check_refusals(backend);
}

/// Checks buffers, embeddings, learned positions, the gathering of rows and the order of heads.
///
/// # Panics
/// As [`check`].
pub fn check_tables<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &tables::cases());
    check_each(backend, &groups::cases());
}

/// Checks normalisations of rows and of heads.
///
/// # Panics
/// As [`check`].
pub fn check_norm<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &norm::cases());
    check_each(backend, &norm::heads());
    check_each(backend, &norm::unit_heads());
}

/// Checks sums, products with a number, activations, gates, rotary positions and the largest of rows.
///
/// # Panics
/// As [`check`].
pub fn check_elementwise<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &elementwise::sums());
    check_each(backend, &elementwise::scales());
    check_each(backend, &elementwise::gated_sums());
    check_each(backend, &routing::weighed());
    check_each(backend, &elementwise::products());
    check_each(backend, &elementwise::activations());
    check_each(backend, &gates::clamped(1.0));
    check_each(backend, &xielu::cases());
    check_each(backend, &elementwise::rotations());
    check_each(backend, &elementwise::largest());
}

/// Checks operations on a residual of several streams, and what belongs to models that have one.
///
/// # Panics
/// As [`check`].
pub fn check_streams<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &streams::mixes());
    check_each(backend, &streams::sums());
    check_each(backend, &streams::matches());
    check_each(backend, &streams::cut_offs());
    check_each(backend, &streams::tangents());
}

/// Checks linear operations, and products of heads.
///
/// # Panics
/// As [`check`].
pub fn check_linear<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &linear::cases());
    check_each(backend, &heads::cases());
    check_each(backend, &four_bit::cases());
    check_each(backend, &int8::cases());
}

/// Checks weights in the formats of published files, of a backend that has kernels for them: products, tables, experts, and
/// weights that are brought to places.
///
/// # Panics
/// As [`check`].
pub fn check_packed<B: Backend>(backend: &Arc<B>) {
    let schemes = packed_schemes();
    check_packed_linear(backend, &schemes);
    check_packed_tables(backend, &schemes);
    check_packed_experts(backend, &schemes);
}

/// Checks products with such weights of a backend that rounds activations to 8 bits for those that can be multiplied so.
///
/// Sums of codes are exact, so that what is left to differ is the order in which blocks are added, in f32.
///
/// # Panics
/// As [`check`].
pub fn check_rounded_packed<B: Backend>(backend: &Arc<B>) {
    let reference = Arc::new(Reference::with_activations(Activations::Q8));
    let cases = packed::rounded_cases(&packed_schemes());
    check_against(&reference, backend, &cases);
}

/// Checks that two backends that pass [`check_rounded_packed`] give the same bits in its cases.
///
/// # Panics
/// When they do not. The message names the case.
pub fn check_rounded_reproducible<A: Backend, B: Backend>(one: &Arc<A>, other: &Arc<B>) {
    check_same_bits(one, other, &packed::rounded_cases(&packed_schemes()));
}

/// The formats of published files, which a backend may refuse.
pub fn packed_schemes() -> Vec<Scheme> {
    schemes::packed()
}

/// Checks products with weights in some of them, and those that are brought to places.
///
/// # Panics
/// As [`check`].
pub fn check_packed_linear<B: Backend>(backend: &Arc<B>, schemes: &[Scheme]) {
    check_each(backend, &packed::cases(schemes));
    check_each(backend, &places::packed_streams(schemes));
}

/// Checks tables in them.
///
/// # Panics
/// As [`check`].
pub fn check_packed_tables<B: Backend>(backend: &Arc<B>, schemes: &[Scheme]) {
    check_each(backend, &tables::packed_cases(schemes));
}

/// Checks experts in them.
///
/// # Panics
/// As [`check`].
pub fn check_packed_experts<B: Backend>(backend: &Arc<B>, schemes: &[Scheme]) {
    check_each(backend, &routing::packed_experts(schemes));
}

/// Checks linear operations of a backend that rounds what it multiplies: each product of floating-point numbers may err by
/// `product_error`, relatively.
///
/// # Panics
/// As [`check`].
pub fn check_rounded_linear<B: Backend>(backend: &Arc<B>, product_error: f64) {
    let (mut dense, mut four_bit) = (linear::cases(), four_bit::cases());
    for case in &mut dense {
        case.product_error += product_error;
    }
    for case in &mut four_bit {
        case.product_error += product_error;
    }
    check_each(backend, &dense);
    check_each(backend, &four_bit);
}

/// Like [`check_packed_linear`], with products that have a relative error of `product_error` besides.
///
/// # Panics
/// As [`check`].
pub fn check_rounded_packed_linear<B: Backend>(
    backend: &Arc<B>,
    schemes: &[Scheme],
    product_error: f64,
) {
    let mut cases = packed::cases(schemes);
    for case in &mut cases {
        case.product_error += product_error;
    }
    check_each(backend, &cases);
}

/// Checks attention, and the blocks of keys and values that it reads.
///
/// # Panics
/// As [`check`].
pub fn check_attention<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &attention::cases());
    check_each(backend, &attention::copies());
    check_each(backend, &attention::together());
    check_each(backend, &attention::forks());
}

/// Checks the selection of positions, and attention to those that are selected.
///
/// # Panics
/// As [`check`].
pub fn check_selection<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &select::cases());
}

/// Checks what DeepSeek-V4 has: the compression of positions to entries, their selection, attention to them beside positions, experts
/// that are given, gates that nothing is added to, and weights of streams.
///
/// # Panics
/// As [`check`].
pub fn check_entries<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &entries::compressions());
    check_each(backend, &entries::attentions());
    check_each(backend, &routing::given());
    check_each(backend, &gates::clamped(0.0));
    check_each(backend, &hyper::cases());
}

/// Checks the delta rule, prompts at once and in pieces, and gates on heads.
///
/// # Panics
/// As [`check`].
pub fn check_delta<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &delta::cases());
    check_each(backend, &delta::gates());
    for cuts in delta::cuts() {
        check_cuts(backend, &cuts);
    }
}

/// Checks state spaces, prompts at once and in pieces.
///
/// # Panics
/// As [`check`].
pub fn check_state_space<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &state_space::cases());
    check_cuts(backend, &state_space::cuts());
}

/// Holds a prompt in pieces to the same prompt at once, on one backend.
fn check_cuts<B: Backend, C: Case>(backend: &Arc<B>, cuts: &[C; 3]) {
    let whole = cuts[0].run(backend);
    let bounds = cuts[0].bounds(&whole);
    for cut in &cuts[1..] {
        for ((&found, &expected), bound) in cut.run(backend).iter().zip(&whole).zip(&bounds) {
            assert!(
                f64::from(found - expected).abs() <= *bound,
                "{found}, and at once {expected}: {cut:?}"
            );
        }
    }
}

/// Checks operations on states of one size.
///
/// # Panics
/// As [`check`].
pub fn check_states<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &conv::cases());
}

/// Checks the choice of experts, and rows sent through them.
///
/// # Panics
/// As [`check`].
pub fn check_routing<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &routing::routings());
    check_each(backend, &routing::experts());
    check_each(backend, &routing::clamped_experts());
    check_each(backend, &routing::ungated_experts());
    check_each(backend, &routing::together());
    check_each(backend, &routing::int8());
}

/// Checks places, what is brought to them, and events between queues.
///
/// # Panics
/// As [`check`].
pub fn check_queues<B: Backend>(backend: &Arc<B>) {
    check_each(backend, &places::streams());
    check_each(backend, &places::queues());
    check_each(backend, &copies::copies());
}

/// Checks that rows go from one device of a backend to another in the order of both devices' work.
///
/// # Panics
/// When they do not. The message names the case.
pub fn check_devices<B: Backend>(one: &Arc<B>, other: &Arc<B>) {
    let reference = Arc::new(Reference::new());
    for case in copies::copies() {
        let expected = case.run(&reference);
        let names = [&one.info().name, &other.info().name];
        assert!(
            case.run_between([one, other]) == expected,
            "{names:?}: {case:?}"
        );
        assert!(
            case.run_between([other, one]) == expected,
            "{names:?}: {case:?}"
        );
    }
}

/// Checks that each of up to `n` rows of a sequence attends as it does alone, bit by bit.
///
/// # Panics
/// When it does not. The message names the case.
pub fn check_few_rows<B: Backend>(backend: &Arc<B>, n: usize) {
    let bits = |case: &AttentionCase| -> Vec<u32> {
        case.run(backend).iter().map(|x| x.to_bits()).collect()
    };
    for [alone, together] in attention::few_rows(n) {
        assert!(
            bits(&alone) == bits(&together),
            "{}: {together:?}",
            backend.info().name
        );
    }
}

/// Checks that two backends that pass [`check_packed`] give the same bits in its cases, as [`check_reproducible`] does in
/// others.
///
/// # Panics
/// When they do not. The message names the case.
pub fn check_packed_reproducible<A: Backend, B: Backend>(one: &Arc<A>, other: &Arc<B>) {
    let schemes = packed_schemes();
    check_same_bits(one, other, &packed::cases(&schemes));
    check_same_bits(one, other, &routing::packed_experts(&schemes));
}

/// Checks that two backends give the same bits in every case: one in two runs, or one with different numbers of
/// threads.
///
/// # Panics
/// When they do not. The message names the case.
pub fn check_reproducible<A: Backend, B: Backend>(one: &Arc<A>, other: &Arc<B>) {
    check_same_bits(one, other, &norm::cases());
    check_same_bits(one, other, &norm::heads());
    check_same_bits(one, other, &elementwise::sums());
    check_same_bits(one, other, &elementwise::scales());
    check_same_bits(one, other, &elementwise::gated_sums());
    check_same_bits(one, other, &routing::weighed());
    check_same_bits(one, other, &elementwise::activations());
    check_same_bits(one, other, &elementwise::rotations());
    check_same_bits(one, other, &linear::cases());
    check_same_bits(one, other, &heads::cases());
    check_same_bits(one, other, &four_bit::cases());
    check_same_bits(one, other, &int8::cases());
    check_same_bits(one, other, &attention::cases());
    check_same_bits(one, other, &attention::together());
    check_same_bits(one, other, &select::cases());
    check_same_bits(one, other, &conv::cases());
    check_same_bits(one, other, &delta::cases());
    check_same_bits(one, other, &state_space::cases());
    check_same_bits(one, other, &delta::gates());
    check_same_bits(one, other, &routing::routings());
    check_same_bits(one, other, &routing::experts());
    check_same_bits(one, other, &routing::together());
    check_same_bits(one, other, &routing::int8());
    check_same_bits(one, other, &places::streams());
    check_same_bits(one, other, &places::queues());
    check_same_bits(one, other, &copies::copies());
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_SEEDS: u64 = 20;

    #[test]
    fn putting_work_off_conforms() {
        check(&Arc::new(Deferred::new(0)));
        check_packed(&Arc::new(Deferred::new(0)));
    }

    #[test]
    fn no_order_of_queues_changes_a_bit() {
        let reference = Arc::new(Reference::new());
        for seed in 0..N_SEEDS {
            let deferred = Arc::new(Deferred::new(seed));
            check_same_bits(&reference, &deferred, &places::streams());
            check_same_bits(&reference, &deferred, &places::queues());
            check_same_bits(&reference, &deferred, &copies::copies());
            check_devices(&deferred, &Arc::new(deferred.beside()));
            check_devices(&deferred, &Arc::new(Deferred::new(seed)));
        }
    }

    #[test]
    fn a_wait_that_is_forgotten_is_noticed() {
        for fault in Fault::ALL {
            for case in places::streams() {
                let expected = case.run(&Arc::new(Reference::new()));
                assert!(expected.iter().all(|x| x.is_finite()));
                let is_noticed =
                    |seed| case.run(&Arc::new(Deferred::with_fault(seed, fault))) != expected;
                assert!(
                    (0..N_SEEDS).any(is_noticed),
                    "{fault:?} is never noticed: {case:?}"
                );
            }
        }
    }
}
