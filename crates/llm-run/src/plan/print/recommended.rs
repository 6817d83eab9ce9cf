//! Recommendation in a line: a precision to take, or a change that would make the model fit.

use llm_plan::{COMFORTABLE, Choice, Reason, Tiers};

use super::speed::rate;
use crate::placement::flags::{flag, with_flag};
use crate::plan::report::PlanReport;

/// `use --load-in-4bit: wholly on the GPU, 38 tokens/s`; nothing where nothing would do.
pub(super) fn sentence(report: &PlanReport<'_>) -> Option<String> {
    let Some(recommendation) = &report.recommendation else {
        let change = report.advice.first()?;
        let of_all = match report.advice.len() {
            1 => "the only single change that makes it fit",
            _ => "as it is it does not fit",
        };
        return Some(format!("{} ({of_all})", with_flag(change)));
    };
    let [_, tokens] = (recommendation.way.step).tokens_per_second(&report.rates.speeds);
    Some(format!(
        "{}: {}, {} tokens/s{}{}",
        action(recommendation.choice),
        place(report, recommendation.way.tiers),
        rate(tokens),
        as_asked(report, recommendation.choice),
        rule(recommendation.reason),
    ))
}

/// The flags that the recommendation adds to those that were given; empty where it adds none.
pub(super) fn flags(choice: Choice) -> &'static str {
    match choice {
        Choice::AsAsked | Choice::Unquantized => "",
        Choice::Precision(precision) => flag(precision),
    }
}

fn action(choice: Choice) -> String {
    match choice {
        Choice::AsAsked => "as it is".to_owned(),
        Choice::Unquantized => "do not quantize".to_owned(),
        Choice::Precision(precision) => format!("use {}", flag(precision)),
    }
}

/// `wholly on the GPU`, or `on GPU + RAM`.
fn place(report: &PlanReport<'_>, tiers: Tiers) -> String {
    let only = |gpu, ram, disk| tiers == Tiers { gpu, ram, disk };
    if only(true, false, false) {
        let several = report.request.budgets.gpus.len() > 1;
        let s = if several { "s" } else { "" };
        format!("wholly on the GPU{s}")
    } else if only(false, true, false) {
        "wholly in RAM".to_owned()
    } else if only(false, false, true) {
        "wholly on disk".to_owned()
    } else {
        format!("on {tiers}")
    }
}

/// The plan as asked, which is given up for it.
fn as_asked(report: &PlanReport<'_>, choice: Choice) -> String {
    match (choice, report.verdict.plan()) {
        (Choice::AsAsked, _) => String::new(),
        (Choice::Unquantized | Choice::Precision(_), None) => {
            " (as it is it does not fit)".to_owned()
        }
        (Choice::Unquantized | Choice::Precision(_), Some(plan)) => {
            let [_, tokens] = plan.step.tokens_per_second(&report.rates.speeds);
            let place = place(report, plan.map.tiers());
            format!(" (as it is: {place}, {})", rate(tokens))
        }
    }
}

/// Reason, by the rule of [`recommend`](llm_plan::recommend()).
fn rule(reason: Reason) -> String {
    match reason {
        Reason::OnlyOne => String::new(),
        Reason::Comfortable => {
            format!("; the most exact precision that makes {COMFORTABLE:.0} or more there")
        }
        Reason::HalfOfTheFastest => {
            "; the most exact precision that is at least half as fast as the fastest".to_owned()
        }
    }
}
