//! Rotary positions as configurations spell them: `rope_theta` beside `rope_scaling`, or both in `rope_parameters`.

use std::f64::consts::TAU;

use llm_tensor::Pairing;

use crate::config::Config;
use crate::{ArchError, RopeScaling, RotarySpec};

type Result<T> = std::result::Result<T, ArchError>;

/// What a family takes for granted about its rotary positions.
#[derive(Clone, Copy)]
pub(crate) struct RopeDefaults {
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// Positions that the model has.
    pub(crate) context: usize,
    /// The base where the configuration gives none.
    pub(crate) base: f64,
    /// The part of each head that is turned where the configuration gives none.
    pub(crate) fraction: f64,
    pub(crate) pairing: Pairing,
}

impl RopeDefaults {
    /// All of every head, pairs of halves, a base of 10000.
    pub(crate) fn new(head_dim: usize, context: usize) -> Self {
        RopeDefaults {
            head_dim,
            context,
            base: 10_000.0,
            fraction: 1.0,
            pairing: Pairing::Halves,
        }
    }
}

/// The rotary positions of a configuration.
pub(crate) fn rotary(config: &Config<'_>, defaults: RopeDefaults) -> Result<RotarySpec> {
    let outer_base = config.opt_positive(config.spelling(&["rotary_emb_base", "rope_theta"]))?;
    let key = config.spelling(&["rope_parameters", "rope_scaling"]);
    match config.object(key)? {
        Some(rope) => {
            let spec = of_object(config, Some(&rope), defaults, outer_base)?;
            rope.finish(&[])?;
            Ok(spec)
        }
        None => of_object(config, None, defaults, outer_base),
    }
}

/// The rotary positions of an object like `rope_parameters`, if there is one; `outer_base` is what stands beside it.
pub(crate) fn of_object(
    config: &Config<'_>,
    rope: Option<&Config<'_>>,
    defaults: RopeDefaults,
    outer_base: Option<f64>,
) -> Result<RotarySpec> {
    let inner = |key: &str| rope.map_or(Ok(None), |rope| rope.opt_positive(key));
    let base = inner("rope_theta")?.or(outer_base).unwrap_or(defaults.base);
    let fraction_key = config.spelling(&["rotary_pct", "partial_rotary_factor"]);
    let outer_fraction = config.opt_positive(fraction_key)?;
    let fraction = inner("partial_rotary_factor")?
        .or(outer_fraction)
        .unwrap_or(defaults.fraction);
    let dim = match config.opt_count("rope.dimension_count")? {
        // Only GGUF gives the number itself.
        Some(dim) => dim,
        // Truncated, as the references do.
        None => (defaults.head_dim as f64 * fraction) as usize,
    };
    if dim == 0 || dim.next_multiple_of(2) > defaults.head_dim {
        return config.bad_value(
            fraction_key,
            &format!("an even part of a head's {} elements", defaults.head_dim),
        );
    }
    let scaling = match rope {
        Some(rope) => scaling(config, rope, dim, base, defaults.context)?,
        None => RopeScaling::None,
    };
    Ok(RotarySpec {
        dim: dim.next_multiple_of(2),
        series: dim,
        base,
        pairing: defaults.pairing,
        scaling,
    })
}

fn scaling(
    config: &Config<'_>,
    rope: &Config<'_>,
    dim: usize,
    base: f64,
    context: usize,
) -> Result<RopeScaling> {
    let key = rope.spelling(&["rope_type", "type"]);
    rope.tick("type");
    match rope.text(key)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: rope.positive("factor")?,
        }),
        Some("dynamic") => {
            let original_context = original_context(config, rope)?.unwrap_or(context as f64);
            Ok(RopeScaling::Dynamic {
                factor: rope.positive("factor")?,
                original_context,
            })
        }
        Some("yarn") => yarn(config, rope, dim, base, context),
        Some("llama3") => {
            let low_freq_factor = rope.positive("low_freq_factor")?;
            let high_freq_factor = rope.positive("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                return rope.bad_value("high_freq_factor", &format!("more than {low_freq_factor}"));
            }
            Ok(RopeScaling::Llama3 {
                factor: rope.positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: rope.positive("original_max_position_embeddings")?,
            })
        }
        // `su` is the first spelling of `longrope`.
        Some("longrope" | "su") => longrope(config, rope, dim, context),
        Some(_) => rope.bad_value(
            key,
            "default, linear, dynamic, yarn, llama3, longrope or su",
        ),
    }
}

/// Positions the model was first trained for, given inside the object or beside it.
fn original_context(config: &Config<'_>, rope: &Config<'_>) -> Result<Option<f64>> {
    let key = "original_max_position_embeddings";
    Ok(rope.opt_positive(key)?.or(config.opt_positive(key)?))
}

fn yarn(
    config: &Config<'_>,
    rope: &Config<'_>,
    dim: usize,
    base: f64,
    context: usize,
) -> Result<RopeScaling> {
    let factor = rope.positive("factor")?;
    let original = original_context(config, rope)?.unwrap_or(context as f64);
    let fast = rope.opt_positive("beta_fast")?.unwrap_or(32.0);
    let slow = rope.opt_positive("beta_slow")?.unwrap_or(1.0);
    // The pair whose wavelength fits `periods` times into the original context.
    let pair = |periods: f64| dim as f64 * (original / (periods * TAU)).ln() / (2.0 * base.ln());
    let (low, high) = match rope.flag("truncate", true)? {
        true => (pair(fast).floor(), pair(slow).ceil()),
        false => (pair(fast), pair(slow)),
    };
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    let (mscale, mscale_all) = (
        rope.opt_positive("mscale")?,
        rope.opt_positive("mscale_all_dim")?,
    );
    let grown = |mscale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * factor.ln() + 1.0
        }
    };
    let magnitude = match (rope.opt_positive("attention_factor")?, mscale, mscale_all) {
        (Some(given), ..) => given,
        (None, Some(mscale), Some(all)) => grown(mscale) / grown(all),
        (None, ..) => grown(1.0),
    };
    // As the references do where both fall on one pair.
    let high = if low == high { high + 0.001 } else { high };
    Ok(RopeScaling::Yarn {
        factor,
        low,
        high,
        magnitude,
    })
}

fn longrope(
    config: &Config<'_>,
    rope: &Config<'_>,
    dim: usize,
    context: usize,
) -> Result<RopeScaling> {
    let given = original_context(config, rope)?;
    let original = given.unwrap_or(context as f64);
    // Where both contexts are known their ratio counts, not what the object says.
    let asked = rope.opt_positive("factor")?;
    let factor = given
        .map(|original| context as f64 / original)
        .or(asked)
        .unwrap_or(1.0);
    let grown = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / original.ln()).sqrt()
    };
    Ok(RopeScaling::LongRope {
        short: rope.factors("short_factor", dim.div_ceil(2))?,
        long: rope.factors("long_factor", dim.div_ceil(2))?,
        original_context: original as usize,
        magnitude: rope.opt_positive("attention_factor")?.unwrap_or(grown),
    })
}
