//! Recommended precisions.

use llm_quant::{Code, Int8, LoadIn, QuantConfig, Scheme};

use super::*;

/// A small data centre GPU, two channels of memory, a solid-state drive.
const SPEEDS: Speeds = speeds(300e9, 12e9, 20e9, 1e9);

struct Case {
    model: &'static str,
    stored: DType,
    quant: Option<QuantConfig>,
    budgets: Budgets,
    expected: &'static str,
}

fn said(request: &Request<'_>) -> String {
    let found = recommend(request, &SPEEDS).unwrap();
    found.map_or("none".to_owned(), |r| {
        let rate = 1.0 / r.way.step.seconds(&SPEEDS);
        format!(
            "{:?} on {}, {rate:.1}: {:?}",
            r.choice, r.way.tiers, r.reason
        )
    })
}

#[test]
fn the_most_exact_precision_that_is_fast_enough() {
    let nf4 = QuantConfig {
        bnb_4bit_quant_type: Code::Nf4,
        ..QuantConfig::new(LoadIn::FourBit)
    };
    let bloom = "bigscience/bloomz-7b1-mt";
    let falcon = "tiiuae/falcon-7b-instruct";
    let case = |model, stored, quant, budgets, expected| Case {
        model,
        stored,
        quant,
        budgets,
        expected,
    };
    let ram = 12_700_000_000;
    let cases = [
        case(
            falcon,
            DType::BF16,
            None,
            budgets(&[15 * GB], ram, None),
            "AsAsked on GPU, 21.7: Comfortable",
        ),
        case(
            falcon,
            DType::BF16,
            Some(nf4.clone()),
            budgets(&[15 * GB], ram, None),
            "Unquantized on GPU, 21.7: Comfortable",
        ),
        case(
            falcon,
            DType::BF16,
            Some(nf4.clone()),
            budgets(&[6 * GB], ram, None),
            "AsAsked on GPU, 69.5: Comfortable",
        ),
        case(
            falcon,
            DType::F32,
            None,
            budgets(&[15 * GB], 64 * GB, None),
            "Precision(Bf16) on GPU, 21.7: Comfortable",
        ),
        case(
            bloom,
            DType::BF16,
            None,
            budgets(&[15 * GB], ram, None),
            "Precision(Int8) on GPU, 37.0: Comfortable",
        ),
        case(
            bloom,
            DType::BF16,
            None,
            budgets(&[7 * GB], ram, None),
            "Precision(Nf4) on GPU, 55.0: Comfortable",
        ),
        case(
            bloom,
            DType::BF16,
            None,
            budgets(&[], ram, Some(100 * GB)),
            "Precision(Int8) on RAM, 2.5: HalfOfTheFastest",
        ),
        case(
            bloom,
            DType::BF16,
            None,
            budgets(&[], 4 * GB, Some(100 * GB)),
            "Precision(Nf4) on RAM + disk, 0.4: HalfOfTheFastest",
        ),
        case(
            bloom,
            DType::BF16,
            None,
            budgets(&[], 64 * GB, None),
            "Precision(Int8) on RAM, 2.5: HalfOfTheFastest",
        ),
        case(bloom, DType::BF16, None, budgets(&[], GB, None), "none"),
    ];
    for Case {
        model,
        stored,
        quant,
        budgets,
        expected,
    } in cases
    {
        let skeleton = real(model);
        let stored = all_as(&skeleton, stored);
        let mut request = request(&skeleton, &stored);
        request.limits = Limits {
            n_sequences: 1,
            context: 2048,
            n_tokens: 512,
            n_logits: 1,
        };
        request.budgets = budgets;
        request.offload = fastest(SPEEDS);
        request.encodings.quant = quant.as_ref();
        let found = said(&request);
        assert_eq!(found, expected, "{model} {:?}", request.budgets);
    }
}

/// Quantized weights cannot be quantized once more, and no advice says so.
#[test]
fn a_quantized_checkpoint_stays_as_it_is() {
    let skeleton = llama_of(256, 4, false);
    let int8 = StoredTensor::in_order(Scheme::Int8(Int8 { threshold: 6.0 }));
    let mut stored = all_as(&skeleton, DType::F32);
    for (slot, stored) in skeleton.slots.iter().zip(&mut stored) {
        if slot.kind == llm_arch::TensorKind::Projection {
            *stored = int8;
        }
    }
    let mut request = request(&skeleton, &stored);
    assert_eq!(
        recommend(&request, &SPEEDS)
            .unwrap()
            .map(|r| (r.choice, r.reason)),
        Some((Choice::AsAsked, Reason::OnlyOne))
    );
    let names = |request: &Request<'_>| -> Vec<_> {
        let all = alternatives(request).unwrap();
        all.iter().map(|a| a.precision).collect()
    };
    assert_eq!(names(&request), [Precision::F32, Precision::Bf16]);
    request.budgets = budgets(&[], 1000, None);
    let changes = advice(&request).unwrap();
    let is_precision = |change: &Change| matches!(change, Change::Precision(p) if p.is_quantized());
    assert!(!changes.iter().any(is_precision), "{changes:?}");
}
