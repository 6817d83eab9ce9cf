//! Rotary positions as configurations spell them: `rope_theta` beside `rope_scaling`, or both in `rope_parameters`.

use std::f64::consts::TAU;

use llm_tensor::Pairing;

use crate::config::{Config, OF_ROPE};
use crate::{ArchError, RopeScaling, RotarySpec};

type Result<T> = std::result::Result<T, ArchError>;

/// Defaults of a family's rotary positions.
#[derive(Clone, Copy)]
pub(crate) struct RopeDefaults {
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// Positions that the model has.
    pub(crate) context: usize,
    /// The base where the configuration gives none.
    pub(crate) base: f64,
    /// The part of each head that is turned where the configuration gives none; `None` in families that turn all of it
    /// and whose references read no such key.
    pub(crate) fraction: Option<f64>,
    pub(crate) pairing: Pairing,
    /// True where `alpha` of a dynamic scaling, if there is one, makes the base larger once and for all.
    pub(crate) has_alpha: bool,
    /// True where a longrope says what it multiplies by, up to its first context and beyond.
    pub(crate) has_mscales: bool,
    /// True where the base that stands beside the object counts, whatever it says itself.
    pub(crate) outer_base_counts: bool,
}

impl RopeDefaults {
    /// All of every head, pairs of halves, a base of 10000.
    pub(crate) fn new(head_dim: usize, context: usize) -> Self {
        RopeDefaults {
            head_dim,
            context,
            base: 10_000.0,
            fraction: None,
            pairing: Pairing::Halves,
            has_alpha: false,
            has_mscales: false,
            outer_base_counts: false,
        }
    }
}

/// The rotary positions of a configuration.
pub(crate) fn rotary(config: &Config<'_>, defaults: RopeDefaults) -> Result<RotarySpec> {
    let base_key = config.spelling(&["rotary_emb_base", "rope_theta"])?;
    let outer_base = config.opt_positive(base_key)?;
    match object(config)? {
        Some(rope) => {
            let spec = of_object(config, Some(&rope), defaults, outer_base)?;
            // Positions of pictures have three axes, which text goes along all at once.
            rope.tick_all(&["mrope_section", "mrope_interleaved"]);
            rope.finish(&OF_ROPE);
            Ok(spec)
        }
        None => of_object(config, None, defaults, outer_base),
    }
}

/// The factor by which DeepSeek multiplies products of queries and keys where positions are scaled: the square of what
/// `mscale_all_dim` makes of the scaling's.
pub(crate) fn score_growth(config: &Config<'_>) -> Result<f64> {
    let Some(rope) = object(config)? else {
        return Ok(1.0);
    };
    let kind = rope.text("rope_type")?.or(rope.text("type")?);
    match (kind, rope.opt_positive("mscale_all_dim")?) {
        (None | Some("default"), _) | (_, None) => Ok(1.0),
        (Some(_), Some(all)) => Ok(grown(all, rope.positive("factor")?).powi(2)),
    }
}

/// The object of the rotary positions, if there is one.
fn object<'a>(config: &Config<'a>) -> Result<Option<Config<'a>>> {
    let (older, newer) = (
        config.object("rope_scaling")?,
        config.object("rope_parameters")?,
    );
    // Where both are there the older spelling counts.
    Ok(older.filter(|rope| !rope.is_empty()).or(newer))
}

/// What YaRN multiplies by for a stretch of `factor`.
fn grown(mscale: f64, factor: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// The rotary positions of layers that see all, and of those that slide, where `rope_parameters` has an object for each
/// kind; `rope_theta` beside it is for the first.
pub(crate) fn by_type(
    config: &Config<'_>,
    [full, sliding]: [RopeDefaults; 2],
) -> Result<Option<[RotarySpec; 2]>> {
    let is_by_type =
        |rope: &Config<'_>| rope.mentions("full_attention") || rope.mentions("sliding_attention");
    let Some(by_type) = config.object("rope_parameters")?.filter(is_by_type) else {
        return Ok(None);
    };
    let objects = [
        by_type.object("full_attention")?,
        by_type.object("sliding_attention")?,
    ];
    let outer_base = config.opt_positive("rope_theta")?;
    let specs = [
        of_object(config, objects[0].as_ref(), full, outer_base)?,
        of_object(config, objects[1].as_ref(), sliding, None)?,
    ];
    for object in objects.iter().flatten().chain([&by_type]) {
        object.finish(&OF_ROPE);
    }
    Ok(Some(specs))
}

/// The rotary positions of layers that see positions alone, and of those that see what runs of them are compressed to (DeepSeek-V4):
/// `rope_parameters` has an object for each, or one, which is then a scaling of the second. YaRN multiplies by nothing there unless
/// it says so.
pub(crate) fn of_runs(
    config: &Config<'_>,
    plain: RopeDefaults,
    base_of_runs: f64,
) -> Result<[RotarySpec; 2]> {
    let base = config.opt_positive("rope_theta")?;
    let of_runs = config.opt_positive("compress_rope_theta")?;
    let of_runs = of_runs.unwrap_or(base_of_runs);
    let is_nested = |rope: &Config<'_>| rope.mentions("main") || rope.mentions("compress");
    let (both, main, scaled) = match object(config)? {
        Some(both) if is_nested(&both) => {
            let [main, scaled] = [both.object("main")?, both.object("compress")?];
            for (key, object) in [("main", &main), ("compress", &scaled)] {
                if object.is_none() {
                    return both.bad_value(key, "an object");
                }
            }
            (Some(both), main, scaled)
        }
        scaled => (None, None, scaled),
    };
    let first = of_object(config, main.as_ref(), plain, base)?;
    let runs = RopeDefaults {
        // One object is of both, and its base that of positions.
        outer_base_counts: both.is_none(),
        ..plain
    };
    let mut second = of_object(config, scaled.as_ref(), runs, Some(of_runs))?;
    if let RopeScaling::Yarn { magnitude, .. } = &mut second.scaling
        && !scaled
            .as_ref()
            .is_some_and(|rope| rope.has("attention_factor"))
    {
        *magnitude = 1.0;
    }
    for object in [&main, &scaled, &both].into_iter().flatten() {
        object.finish(&OF_ROPE);
    }
    Ok([first, second])
}

/// The rotary positions of an object like `rope_parameters`, if there is one; `outer_base` is what stands beside it.
pub(crate) fn of_object(
    config: &Config<'_>,
    rope: Option<&Config<'_>>,
    defaults: RopeDefaults,
    outer_base: Option<f64>,
) -> Result<RotarySpec> {
    let inner = |key: &str| rope.map_or(Ok(None), |rope| rope.opt_positive(key));
    let inner_base = inner("rope_theta")?;
    let base = match defaults.outer_base_counts {
        true => outer_base.or(inner_base),
        false => inner_base.or(outer_base),
    };
    let base = base.unwrap_or(defaults.base);
    let (fraction, fraction_key) = match defaults.fraction {
        Some(default) => {
            let key = config.spelling(&["rotary_pct", "partial_rotary_factor"])?;
            let outer = config.opt_positive(key)?;
            let fraction = inner("partial_rotary_factor")?.or(outer);
            (fraction.unwrap_or(default), key)
        }
        None => (1.0, "partial_rotary_factor"),
    };
    if defaults.head_dim > MAX_HEAD_DIM {
        let expected = format!("heads of at most {MAX_HEAD_DIM} elements");
        let key = if config.has("head_dim") {
            "head_dim"
        } else {
            "hidden_size"
        };
        return config.bad_value(key, &expected);
    }
    let dim = match config.opt_count("rope.dimension_count")? {
        // Only GGUF gives the number itself.
        Some(dim) => dim,
        // Truncated, as the references do.
        None => (defaults.head_dim as f64 * fraction) as usize,
    };
    if !(1..=defaults.head_dim).contains(&dim) || dim.next_multiple_of(2) > defaults.head_dim {
        let expected = format!("an even part of a head's {} elements", defaults.head_dim);
        return match rope.filter(|rope| rope.has("partial_rotary_factor")) {
            Some(rope) => rope.bad_value("partial_rotary_factor", &expected),
            None => config.bad_value(fraction_key, &expected),
        };
    }
    let alpha = rope.filter(|_| defaults.has_alpha);
    let alpha = alpha.map_or(Ok(None), |rope| alpha_of(rope, dim))?;
    let (base, scaling) = match (rope, alpha) {
        (Some(_), Some(alpha)) => {
            let dim = dim as f64;
            (base * alpha.powf(dim / (dim - 2.0)), RopeScaling::None)
        }
        (Some(rope), None) => (base, scaling(config, rope, (dim, base), defaults)?),
        (None, _) => (base, RopeScaling::None),
    };
    let spec = RotarySpec {
        dim: dim.next_multiple_of(2),
        series: dim,
        base,
        pairing: defaults.pairing,
        scaling,
        turns_back: false,
    };
    if is_usable(&spec, defaults.context) {
        return Ok(spec);
    }
    let expected = "numbers that make finite angles";
    match rope.filter(|rope| !rope.is_empty()) {
        Some(rope) => Err(ArchError::BadValue {
            key: rope.name().to_owned(),
            found: rope.shown(),
            expected: expected.to_owned(),
        }),
        None => config.bad_value("rope_theta", expected),
    }
}

/// A thousand times as many elements as the widest heads have: each pair's angle is computed.
const MAX_HEAD_DIM: usize = 1 << 20;

/// True if angles come out as numbers, at the first positions and at the last.
fn is_usable(spec: &RotarySpec, context: usize) -> bool {
    let is_finite = |n_positions| {
        let frequencies = spec.frequencies(n_positions, None);
        frequencies.iter().all(|frequency| frequency.is_finite())
    };
    spec.magnitude(context).is_finite() && is_finite(1) && is_finite(spec.reach(context))
}

fn scaling(
    config: &Config<'_>,
    rope: &Config<'_>,
    (dim, base): (usize, f64),
    defaults: RopeDefaults,
) -> Result<RopeScaling> {
    let context = defaults.context;
    let key = match rope.has("rope_type") {
        true => "rope_type",
        false => "type",
    };
    match rope.text(key)? {
        None if rope.has("factor") => {
            let factor = rope.positive("factor")?;
            if factor == 1.0 {
                return Ok(RopeScaling::None);
            }
            rope.bad_value(key, "a kind of scaling beside `factor`")
        }
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear {
            factor: rope.positive("factor")?,
        }),
        Some("dynamic") if dim > 2 => Ok(RopeScaling::Dynamic {
            factor: rope.positive("factor")?,
            original_context: context as f64,
        }),
        Some("dynamic") => rope.bad_value(key, "another kind, since heads turn but two elements"),
        Some("yarn") => yarn(config, rope, dim, base, context),
        Some("llama3") => {
            let low_freq_factor = rope.positive("low_freq_factor")?;
            let high_freq_factor = rope.positive("high_freq_factor")?;
            // Llama 4 has equal ones, and so nothing between.
            if high_freq_factor < low_freq_factor {
                return rope.bad_value("high_freq_factor", &format!("{low_freq_factor} or more"));
            }
            Ok(RopeScaling::Llama3 {
                factor: rope.positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: original_context(config, rope)?.unwrap_or(context as f64),
            })
        }
        // `su` is the first spelling of `longrope`.
        Some("longrope" | "su") => longrope(config, rope, dim, defaults),
        // Its share is of the pairs that are turned, and not of the head that the series is spread over.
        Some("proportional") if defaults.fraction.is_none() => {
            let share = rope.opt_positive("partial_rotary_factor")?.unwrap_or(1.0);
            let n_pairs = (share * dim as f64 / 2.0) as usize;
            if !(1..=dim / 2).contains(&n_pairs) {
                let expected = format!("a part of a head's {dim} elements");
                return rope.bad_value("partial_rotary_factor", &expected);
            }
            Ok(RopeScaling::Proportional {
                n_pairs,
                factor: rope.opt_positive("factor")?.unwrap_or(1.0),
            })
        }
        Some(_) => rope.bad_value(
            key,
            "default, linear, dynamic, yarn, llama3, longrope or su",
        ),
    }
}

/// `alpha` of a dynamic scaling of `dim` elements, if there is one: the reference has no word of its own for what it does.
fn alpha_of(rope: &Config<'_>, dim: usize) -> Result<Option<f64>> {
    let kind = rope.text("rope_type")?.or(rope.text("type")?);
    match rope.opt_positive("alpha")? {
        Some(_) if kind == Some("dynamic") && dim <= 2 => {
            rope.bad_value("alpha", "none, since heads turn but two elements")
        }
        alpha => Ok(alpha.filter(|_| kind == Some("dynamic"))),
    }
}

/// Positions the model was first trained for, given beside the object or, if not there, inside it.
fn original_context(config: &Config<'_>, rope: &Config<'_>) -> Result<Option<f64>> {
    let key = "original_max_position_embeddings";
    let (inner, outer) = (rope.opt_positive(key)?, config.opt_positive(key)?);
    Ok(outer.or(inner))
}

fn yarn(
    config: &Config<'_>,
    rope: &Config<'_>,
    dim: usize,
    base: f64,
    context: usize,
) -> Result<RopeScaling> {
    let original = original_context(config, rope)?.unwrap_or(context as f64);
    let factor = match rope.mentions("factor") && !rope.has("factor") {
        true => context as f64 / original,
        false => rope.positive("factor")?,
    };
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
    let grown = |mscale: f64| grown(mscale, factor);
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
    defaults: RopeDefaults,
) -> Result<RopeScaling> {
    let context = defaults.context;
    let original = original_context(config, rope)?.unwrap_or(context as f64);
    let factor = rope.opt_positive("factor")?;
    let factor = factor.unwrap_or(context as f64 / original);
    let grown = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / original.ln()).sqrt()
    };
    if !grown.is_finite() {
        return rope.bad_value("original_max_position_embeddings", "more than 1");
    }
    // GGUF has it rounded.
    let given = match defaults.has_mscales {
        true => Some(mscale(rope)?),
        false => rope.opt_positive("attention_factor")?,
    };
    let differs = |given: &f64| (given - grown).abs() > grown * f64::from(f32::EPSILON);
    Ok(RopeScaling::LongRope {
        short: rope.factors("short_factor", dim.div_ceil(2))?,
        long: rope.factors("long_factor", dim.div_ceil(2))?,
        original_context: original as usize,
        magnitude: given.filter(differs).unwrap_or(grown),
    })
}

/// What a longrope multiplies by in all contexts.
fn mscale(rope: &Config<'_>) -> Result<f64> {
    let (short, long) = (
        rope.positive("short_mscale")?,
        rope.positive("long_mscale")?,
    );
    match short == long {
        true => Ok(short),
        false => rope.bad_value("long_mscale", &format!("{short}, as `short_mscale` is")),
    }
}
