//! A report as text.

use std::fmt::Write;

use serde_json::Value;

/// The card, what became of each part, and the figures.
pub(crate) fn text(report: &Value) -> String {
    let empty = Vec::new();
    let parts = report["parts"].as_array().unwrap_or(&empty);
    let results = || {
        parts
            .iter()
            .flat_map(|part| part["results"].as_array().into_iter().flatten())
    };
    let of = |what: &'static str| results().filter(move |result| result["what"] == what);
    let mut text = String::new();
    for card in of("card") {
        let _ = writeln!(
            text,
            "{}, compute capability {}, driver for CUDA {}, {} of {} GB free",
            card["name"].as_str().unwrap_or("a GPU"),
            card["compute_capability"].as_str().unwrap_or(""),
            card["driver_cuda"].as_str().unwrap_or(""),
            gigabytes(&card["free_bytes"]),
            gigabytes(&card["total_bytes"]),
        );
        let _ = writeln!(
            text,
            "copy {} GB/s (read and written); to the GPU {} pinned, {} pageable; from it {} pinned, {} pageable",
            gigabytes(&card["copy_bytes_per_second"]),
            gigabytes(&card["to_gpu_pinned_bytes_per_second"]),
            gigabytes(&card["to_gpu_pageable_bytes_per_second"]),
            gigabytes(&card["from_gpu_pinned_bytes_per_second"]),
            gigabytes(&card["from_gpu_pageable_bytes_per_second"]),
        );
    }
    let _ = writeln!(text, "\n{:28} {:>8}  outcome", "part", "seconds");
    for part in parts {
        let reason = part["reason"].as_str().map(|reason| format!(": {reason}"));
        let _ = writeln!(
            text,
            "{:28} {:8.1}  {}{}",
            part["part"].as_str().unwrap_or(""),
            part["seconds"].as_f64().unwrap_or(0.0),
            part["outcome"].as_str().unwrap_or(""),
            reason.unwrap_or_default(),
        );
        for line in part["said"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "    {}", line.as_str().unwrap_or(""));
        }
    }
    if of("product").next().is_some() {
        let _ = writeln!(
            text,
            "\n{:12} {:>6} {:>6} {:>6} {:>10} {:>7} {:>14} {:>8}",
            "product", "rows", "cols", "tokens", "us", "GB/s", "share of copy", "TFLOP/s"
        );
    }
    for product in of("product") {
        let number = |name: &str| product[name].as_f64().unwrap_or(0.0);
        let _ = writeln!(
            text,
            "{:12} {:>6} {:>6} {:>6} {}",
            product["encoding"].as_str().unwrap_or(""),
            number("rows"),
            number("cols"),
            number("n_tokens"),
            speed(product),
        );
    }
    if of("attention").next().is_some() {
        let _ = writeln!(
            text,
            "\n{:12} {:>9} {:>8} {:>6} {:>10} {:>7} {:>14} {:>8}",
            "attention", "sequences", "context", "tokens", "us", "GB/s", "share of copy", "TFLOP/s"
        );
    }
    for attention in of("attention") {
        let number = |name: &str| attention[name].as_f64().unwrap_or(0.0);
        let _ = writeln!(
            text,
            "{:12} {:>9} {:>8} {:>6} {}",
            "",
            number("n_sequences"),
            number("context"),
            number("n_tokens"),
            speed(attention),
        );
    }
    if of("model").next().is_some() {
        let _ = writeln!(
            text,
            "\n{:12} {:12} {:>8} {:>14} {:>15} {:>12} {:>12} {:>12}",
            "model",
            "encoding",
            "load s",
            "decode tok/s",
            "prefill tok/s",
            "planned GB",
            "counted GB",
            "by driver GB"
        );
    }
    for model in of("model") {
        let number = |name: &str| model[name].as_f64().unwrap_or(0.0);
        let _ = writeln!(
            text,
            "{:12} {:12} {:>8.1} {:>14.1} {:>15.0} {:>12.3} {:>12.3} {:>12.3}",
            model["name"].as_str().unwrap_or(""),
            model["encoding"].as_str().unwrap_or(""),
            number("load_seconds"),
            number("decode_tokens_per_second"),
            number("prefill_tokens_per_second"),
            number("planned_bytes") / 1e9,
            number("counted_bytes") / 1e9,
            number("taken_of_free_bytes") / 1e9,
        );
    }
    seeds(&mut text, of("seed"));
    text
}

/// Tokens of models in small, wherever their weights rest, and their memory.
fn seeds<'r>(text: &mut String, seeds: impl Iterator<Item = &'r Value>) {
    for (idx, seed) in seeds.enumerate() {
        if idx == 0 {
            let _ = writeln!(
                text,
                "\n{:28} {:10} {:10} {:>8} {:>8} {:>9}  memories, GB planned = counted",
                "seed", "encoding", "weights", "load s", "tok/s", "expected"
            );
        }
        let number = |name: &str| seed[name].as_f64();
        let word = |name: &str| seed[name].as_str().unwrap_or("");
        let rate = |name: &str| number(name).map_or("-".to_owned(), |rate| format!("{rate:.1}"));
        let memories = seed["memories"].as_object().into_iter().flatten();
        let memories = memories.map(|(home, both)| {
            let gigabytes = |at: usize| both[at].as_f64().unwrap_or(0.0) / 1e9;
            format!("{home} {:.3} = {:.3}", gigabytes(0), gigabytes(1))
        });
        let _ = writeln!(
            text,
            "{:28} {:10} {:10} {:>8.1} {:>8} {:>9}  {}",
            word("name"),
            word("encoding"),
            word("placed"),
            number("load_seconds").unwrap_or(0.0),
            rate("tokens_per_second"),
            rate("expected_tokens_per_second"),
            memories.collect::<Vec<_>>().join(", "),
        );
    }
}

/// Time of an operation, and what it makes of memory and processors.
fn speed(of: &Value) -> String {
    let number = |name: &str| of[name].as_f64().unwrap_or(0.0);
    format!(
        "{:>10.1} {:>7.0} {:>13.0}% {:>8.1}",
        number("microseconds"),
        number("bytes_per_second") / 1e9,
        100.0 * number("share_of_copy"),
        number("teraflops"),
    )
}

/// `12.7`, in powers of 1000.
fn gigabytes(bytes: &Value) -> String {
    format!("{:.1}", bytes.as_f64().unwrap_or(0.0) / 1e9)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_and_outcomes_are_in_the_table() {
        let report = json!({"parts": [
            {"part": "card", "outcome": "passed", "seconds": 1.0, "results": [
                {"what": "card", "name": "H100", "compute_capability": "9.0", "driver_cuda": "12.4",
                 "free_bytes": 84e9, "total_bytes": 85e9, "copy_bytes_per_second": 3e12}]},
            {"part": "goldens", "outcome": "failed", "reason": "it ended", "seconds": 2.0, "said": ["llama is off"]},
            {"part": "kernels", "outcome": "passed", "seconds": 3.0, "results": [
                {"what": "product", "encoding": "nf4", "rows": 4096, "cols": 14336, "n_tokens": 1,
                 "microseconds": 15.5, "bytes_per_second": 2.1e12, "share_of_copy": 0.7, "teraflops": 7.0}]},
            {"part": "models", "outcome": "passed", "seconds": 3.0, "results": [
                {"what": "model", "name": "llama-8b", "encoding": "bf16", "load_seconds": 9.0,
                 "decode_tokens_per_second": 120.0, "prefill_tokens_per_second": 9000.0, "planned_bytes": 16e9,
                 "counted_bytes": 16e9, "taken_of_free_bytes": 16.1e9}]},
            {"part": "seeds", "outcome": "passed", "seconds": 3.0, "results": [
                {"what": "seed", "name": "gpt-j-6B", "encoding": "bf16", "placed": "everywhere", "load_seconds": 1.0,
                 "tokens_per_second": 80.25, "expected_tokens_per_second": null,
                 "memories": {"0": [4e8, 4e8], "cpu": [1e8, 1e8]}}]},
        ]});
        let text = text(&report);
        for words in [
            "H100, compute capability 9.0, driver for CUDA 12.4, 84.0 of 85.0 GB free",
            "copy 3000.0 GB/s",
            "goldens                           2.0  failed: it ended\n    llama is off\n",
            "nf4            4096  14336      1       15.5    2100            70%      7.0",
            "llama-8b     bf16              9.0          120.0            9000       16.000",
            "everywhere      1.0     80.2         -  0 0.400 = 0.400, cpu 0.100 = 0.100",
        ] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
}
