//! State spaces as the families that have them give them.

use llm_tensor::{Activation, MAX_TAPS};
use serde_json::{Map, Value, json};

use super::written;
use crate::ArchError;
use crate::config::Config;
use crate::skeleton::{Names, Role};
use crate::spec::{GroupNorm, ModelSpec, NormSpec, StateSpaceSpec};

/// A family's keys, each with what it means to leave it out.
pub(super) struct Keys {
    pub(super) n_heads: (&'static str, usize),
    /// The residual's width, as often as `expand` says, shared among the heads where a family has no default.
    pub(super) head_dim: (&'static str, Option<usize>),
    pub(super) n_groups: (&'static str, usize),
    pub(super) state_dim: (&'static str, usize),
    pub(super) kernel: (&'static str, usize),
    /// Elements of all heads together, where a family may say so; `null` leaves it to `expand`.
    pub(super) width: Option<(&'static str, usize)>,
    /// The residual's widths that all heads together have; of a family that does not say so they may have any.
    pub(super) expand: Option<(&'static str, usize)>,
    pub(super) activation: &'static str,
    pub(super) conv_bias: &'static str,
    pub(super) bias: &'static str,
}

/// Keys of the state spaces of Granite 4 and Bamba.
pub(super) const MAMBA_KEYS: Keys = Keys {
    n_heads: ("mamba_n_heads", 128),
    head_dim: ("mamba_d_head", None),
    n_groups: ("mamba_n_groups", 1),
    state_dim: ("mamba_d_state", 256),
    kernel: ("mamba_d_conv", 4),
    width: None,
    expand: Some(("mamba_expand", 2)),
    activation: "hidden_act",
    conv_bias: "mamba_conv_bias",
    bias: "mamba_proj_bias",
};

/// Names of a state space in blocks that have attention or a feed-forward beside it.
pub(super) const MAMBA_NAMES: Names = &[
    (Role::SpaceIn, "mamba.in_proj"),
    (Role::ConvTaps, "mamba.conv1d"),
    (Role::SpaceRate, "mamba.A_log"),
    (Role::SpaceOffset, "mamba.dt_bias"),
    (Role::SpaceSkip, "mamba.D"),
    (Role::SpaceNorm, "mamba.norm"),
    (Role::SpaceOut, "mamba.out_proj"),
];

/// Tensors that are called as they are, with nothing behind.
pub(super) const BARE: &[Role] = &[Role::SpaceRate, Role::SpaceOffset, Role::SpaceSkip];

/// A state space, of heads whose results are normalised in the groups that share what they read by.
pub(super) fn state_space(
    config: &Config<'_>,
    keys: &Keys,
    (hidden, eps): (usize, f64),
    step_limits: [f64; 2],
) -> Result<StateSpaceSpec, ArchError> {
    let count = |(key, default): (&str, usize)| {
        let count = config.opt_count(key)?;
        Ok::<_, ArchError>(count.unwrap_or(default))
    };
    let n_heads = count(keys.n_heads)?;
    let expand = keys.expand.map(count).transpose()?;
    let width = match keys.width {
        Some((key, _)) if config.mentions(key) => config.opt_count(key)?,
        Some((_, default)) => Some(default),
        None => None,
    };
    let width = width.or(expand.map(|expand| expand.saturating_mul(hidden)));
    let width = config.opt_count(GGUF_WIDTH)?.or(width);
    let (key, default) = keys.head_dim;
    let shared = || width.filter(|width| width.is_multiple_of(n_heads));
    let is_auto = config.is_word(key, "auto");
    let given = match is_auto {
        true => None,
        // A GGUF has no word for it.
        false => config
            .opt_count(key)?
            .or(default.filter(|_| !config.has(GGUF_WIDTH))),
    };
    let Some(head_dim) = given.or_else(|| Some(shared()? / n_heads)) else {
        return config.bad_value(key, "elements of a head");
    };
    if let Some(width) = width.filter(|width| n_heads.checked_mul(head_dim) != Some(*width)) {
        let expected = format!("heads of {width} elements together");
        return config.bad_value(keys.n_heads.0, &expected);
    }
    let n_groups = count(keys.n_groups)?;
    if !n_heads.is_multiple_of(n_groups) {
        let expected = format!("a divisor of the {n_heads} heads");
        return config.bad_value(keys.n_groups.0, &expected);
    }
    let state_dim = count(keys.state_dim)?;
    if state_dim > MAX_STATE_DIM {
        let expected = format!("at most {MAX_STATE_DIM} numbers of each element");
        return config.bad_value(keys.state_dim.0, &expected);
    }
    let kernel = count(keys.kernel)?;
    if !(2..=MAX_TAPS).contains(&kernel) {
        let expected = format!("2 to {MAX_TAPS} positions");
        return config.bad_value(keys.kernel.0, &expected);
    }
    Ok(StateSpaceSpec {
        n_heads,
        head_dim,
        state_dim,
        n_groups,
        kernel,
        activation: config.activation(keys.activation, Activation::Silu)?,
        conv_bias: config.flag(keys.conv_bias, true)?,
        bias: config.flag(keys.bias, false)?,
        step_limits: step_limits.map(|limit| limit as f32),
        norm: Some(GroupNorm {
            norm: NormSpec::rms(eps),
            n_groups,
        }),
        scales: None,
        input_scale: 1.0,
        result_scale: 1.0,
    })
}

/// Key of a GGUF: elements of all heads together.
pub(super) const GGUF_WIDTH: &str = "ssm.inner_size";

/// Metadata keys of a state space that has `keys` in a configuration.
pub(super) const fn gguf_keys(keys: &Keys) -> [(&'static str, &'static str); 4] {
    [
        ("ssm.conv_kernel", keys.kernel.0),
        ("ssm.group_count", keys.n_groups.0),
        ("ssm.state_size", keys.state_dim.0),
        ("ssm.time_step_rank", keys.n_heads.0),
    ]
}

/// Tensors of the first block that tell of its biases.
pub(super) const fn gguf_flags(keys: &Keys) -> [(&'static str, &'static str); 2] {
    [
        ("ssm_conv1d.bias", keys.conv_bias),
        ("ssm_in.bias", keys.bias),
    ]
}

/// GGUF names of a state space's tensors.
pub(super) const GGUF_NAMES: Names = &[
    (Role::SpaceIn, "ssm_in"),
    (Role::ConvTaps, "ssm_conv1d"),
    (Role::SpaceRate, "ssm_a"),
    (Role::SpaceOffset, "ssm_dt.bias"),
    (Role::SpaceSkip, "ssm_d"),
    (Role::SpaceNorm, "ssm_norm"),
    (Role::SpaceOut, "ssm_out"),
];

/// A state space as a configuration with these keys has it.
///
/// # Errors
/// When steps are bounded, of which a GGUF has no word.
pub(super) fn written(spec: &ModelSpec, keys: &Keys) -> Result<Value, ArchError> {
    let mut layers = spec.decoder.layers.iter();
    let Some(space) = layers.find_map(|layer| layer.mixer.space()) else {
        return written::none("it has no state space");
    };
    if space.step_limits != [0.0, f32::INFINITY] {
        return written::none("its steps are bounded");
    }
    let mut object = Map::new();
    for (key, value) in [
        (keys.n_heads.0, json!(space.n_heads)),
        (keys.head_dim.0, json!(space.head_dim)),
        (keys.n_groups.0, json!(space.n_groups)),
        (keys.state_dim.0, json!(space.state_dim)),
        (keys.kernel.0, json!(space.kernel)),
        (keys.activation, json!(written::name(space.activation))),
        (keys.conv_bias, json!(space.conv_bias)),
        (keys.bias, json!(space.bias)),
    ] {
        object.insert(key.to_owned(), value);
    }
    if let Some((key, _)) = keys.width {
        object.insert(key.to_owned(), json!(space.values_width()));
    }
    Ok(Value::Object(object))
}

/// `time_step_limit`, by which steps are bounded.
pub(super) fn step_limits(config: &Config<'_>) -> Result<[f64; 2], ArchError> {
    let limits = config.limits("time_step_limit")?;
    Ok(limits.unwrap_or([0.0, f64::INFINITY]))
}

/// Numbers of the longest row of a state that there are kernels for.
const MAX_STATE_DIM: usize = 256;
