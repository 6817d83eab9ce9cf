//! The random values: such that activations stay in the range of a real model's.

use anyhow::{Result, bail};
use llm_arch::{Role, Slot, StackSpec};
use llm_tensor::{DType, f32_to_le_bytes};
use rayon::prelude::*;

/// Values by position: each follows from the seed, the tensor's name and its index alone, so that neither the number
/// of threads nor the order of writing matters.
pub(super) struct Values {
    seed: u64,
    /// Divisor of the standard deviation of matrices that write into the residual stream.
    residual_damping: f32,
    /// The mean of gains: families differ in whether they store them or their distance from one.
    gain: f32,
    /// Experts of the layers that have some.
    n_experts: usize,
}

impl Values {
    pub(super) fn new(seed: u64, stack: &StackSpec) -> Self {
        Values {
            seed,
            gain: 1.0 - stack.norm.gain_offset,
            n_experts: (stack.layers.iter().map(|layer| layer.mlp.n_experts()).max()).unwrap_or(0),
            // Two such matrices per layer: the variances of what they add sum to about 1.
            residual_damping: (2.0 * stack.n_layers() as f32).sqrt(),
        }
    }

    /// Makes the tensor's bytes, little-endian `dtype`, and hands them to `sink` in pieces of at most [`BATCH`].
    ///
    /// # Errors
    /// The sink's, and when `dtype` is none of weights.
    pub(super) fn write(
        &self,
        slot: &Slot,
        dtype: DType,
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let letters = slot.name.bytes().map(u64::from);
        let key = letters.fold(self.seed, |key, letter| scramble(key ^ letter));
        if slot.role == Role::RouterTokens {
            return sink(&self.experts(slot, key));
        }
        let draw: fn(&[u8], u64, &mut [u8]) = match dtype.size() {
            2 => draw::<2>,
            4 => draw::<4>,
            _ => bail!("weights are not made as {dtype}"),
        };
        let (mean, std) = self.distribution(slot);
        let samples: Vec<f32> = (0..N_SAMPLES).map(|i| mean + std * normal(i)).collect();
        let mut table = vec![0; samples.len() * dtype.size()];
        f32_to_le_bytes(&samples, dtype, &mut table)?;

        let n_bytes = slot.n_elements() * dtype.size() as u64;
        let mut bytes = vec![0; n_bytes.min(BATCH) as usize];
        for start in (0..n_bytes).step_by(BATCH as usize) {
            let batch = &mut bytes[..(n_bytes - start).min(BATCH) as usize];
            let pieces = batch.par_chunks_mut(PIECE).enumerate();
            pieces.for_each(|(idx, piece)| {
                let piece_key = scramble(key.wrapping_add(start / PIECE as u64 + idx as u64));
                draw(&table, piece_key, piece);
            });
            sink(batch)?;
        }
        Ok(())
    }

    /// Experts of each token, that follow each other from one drawn.
    fn experts(&self, slot: &Slot, key: u64) -> Vec<u8> {
        let ((rows, cols), n) = (slot.matrix(), self.n_experts as u64);
        let row = |row| (0..cols as u64).map(move |i| (scramble(key ^ row) % n + i) % n);
        let experts = (0..rows as u64).flat_map(row);
        experts.flat_map(u64::to_le_bytes).collect()
    }

    /// The mean and the standard deviation of a tensor's values.
    fn distribution(&self, slot: &Slot) -> (f32, f32) {
        // Keeps the variance: an output is a sum of `in` products.
        let matrix = slot
            .shape
            .last()
            .map_or(1.0, |&d| (d as f32).sqrt().recip());
        match slot.role {
            Role::TokenTable | Role::PositionTable | Role::PerLayerTable | Role::Head => {
                (0.0, matrix)
            }
            Role::ProjectIn | Role::ProjectOut | Role::Router | Role::RelativeBias => (0.0, matrix),
            Role::Qkv | Role::Q | Role::K | Role::V => (0.0, matrix),
            Role::CrossQ | Role::CrossK | Role::CrossV | Role::RouterTokens => (0.0, matrix),
            Role::QDown | Role::QUp | Role::KvDown | Role::KvUp => (0.0, matrix),
            Role::IndexQ | Role::IndexK | Role::LaurelDown | Role::LaurelUp => (0.0, matrix),
            Role::EntryFeatures | Role::EntryGates | Role::EntryPlaces => (0.0, matrix),
            Role::IndexFeatures | Role::IndexGates | Role::IndexPlaces => (0.0, matrix),
            Role::KeysUp | Role::ValuesUp | Role::IndexWeights | Role::OutGroups => (0.0, matrix),
            Role::MixerStreams | Role::MlpStreams | Role::EndStreams => (0.0, matrix),
            Role::MixerStreamsBase | Role::MlpStreamsBase | Role::EndStreamsBase => (0.0, 0.02),
            Role::MixerStreamsScale | Role::MlpStreamsScale | Role::EndStreamsScale => (1.0, 0.1),
            Role::Gate | Role::Up | Role::GateUp | Role::ExpertsIn => (0.0, matrix),
            Role::SharedScore | Role::SharedGate | Role::SharedUp | Role::SharedGateUp => {
                (0.0, matrix)
            }
            Role::RouterCorrection => (0.0, 0.02),
            Role::ConvIn | Role::ConvTaps | Role::SpaceIn => (0.0, matrix),
            Role::QTaps | Role::KTaps | Role::VTaps | Role::PerLayerModel => (0.0, matrix),
            Role::DeltaQkv | Role::DeltaGate | Role::DeltaStrength => (0.0, matrix),
            Role::DeltaDecay | Role::DeltaQkvGate | Role::DeltaStrengthDecay => (0.0, matrix),
            Role::DeltaGateDown | Role::DeltaGateUp | Role::PerLayerGate => (0.0, matrix),
            Role::DeltaDecayDown | Role::DeltaDecayUp | Role::PerLayerOut => (0.0, matrix),
            // States that fade within some positions.
            Role::DeltaRate | Role::DeltaOffset | Role::SpaceRate | Role::SpaceOffset => (0.0, 0.5),
            Role::SpaceSkip => (1.0, 0.1),
            Role::XieluAlphaP | Role::XieluAlphaN => (0.0, 0.5),
            Role::XieluBeta => (0.5, 0.0),
            Role::XieluEps => (-1e-6, 0.0),
            Role::DeltaNorm | Role::SpaceNorm | Role::QLatentNorm | Role::KvLatentNorm => {
                (self.gain, 0.1)
            }
            Role::Out
            | Role::ConvOut
            | Role::DeltaOut
            | Role::SpaceOut
            | Role::CrossOut
            | Role::Down
            | Role::ExpertsOut
            | Role::SharedDown => (0.0, matrix / self.residual_damping),
            Role::EmbedNorm | Role::AttnNorm | Role::MlpNorm | Role::FinalNorm => (self.gain, 0.1),
            Role::PostAttnNorm | Role::PostMlpNorm | Role::PostPerLayerNorm => (self.gain, 0.1),
            Role::CrossNorm | Role::EntryNorm | Role::IndexNorm => (self.gain, 0.1),
            Role::StreamNorm | Role::LaurelNorm => (self.gain, 0.1),
            Role::StreamIn1 | Role::StreamIn2 | Role::StreamIn3 => (0.0, matrix),
            Role::StreamOut1 | Role::StreamOut2 | Role::StreamOut3 => (0.0, matrix),
            Role::StreamRouter | Role::StreamPredict | Role::StreamCorrect => (0.0, matrix),
            Role::QNorm | Role::KNorm | Role::IndexKNorm | Role::PerLayerNorm => (self.gain, 0.1),
            Role::RopeFactors => (1.0, 0.0),
            Role::LayerScale | Role::StreamScale => (1.0, 0.1),
            Role::RouterNorm | Role::RouterScales => (1.0, 0.1),
            Role::ExpertsNorm | Role::PostExpertsNorm | Role::PostSharedNorm => (self.gain, 0.1),
            Role::EmbedNormBias
            | Role::AttnNormBias
            | Role::QNormBias
            | Role::KNormBias
            | Role::IndexKNormBias
            | Role::MlpNormBias
            | Role::FinalNormBias => (0.0, 0.02),
            Role::QkvBias | Role::QBias | Role::KBias | Role::VBias | Role::OutBias => (0.0, 0.02),
            Role::QDownBias | Role::KvDownBias | Role::Sinks | Role::RouterBias => (0.0, 0.02),
            Role::ConvInBias | Role::ConvTapsBias | Role::ConvOutBias => (0.0, 0.02),
            Role::SpaceInBias | Role::SpaceOutBias => (0.0, 0.02),
            Role::GateBias | Role::UpBias | Role::GateUpBias | Role::DownBias | Role::HeadBias => {
                (0.0, 0.02)
            }
        }
    }
}

/// Bytes that are in memory at a time.
const BATCH: u64 = 16 << 20;

/// Bytes that a thread makes at a time.
const PIECE: usize = 64 << 10;

/// Values that a tensor's are drawn from, rounded once instead of for each element.
const N_SAMPLES: u64 = 1 << 16;

/// Fills `out` with elements of `table`, which are of `SIZE` bytes: 64 random bits choose four of them.
fn draw<const SIZE: usize>(table: &[u8], key: u64, out: &mut [u8]) {
    let (table, _) = table.as_chunks::<SIZE>();
    let (out, _) = out.as_chunks_mut::<SIZE>();
    let mut counter = key;
    for group in out.chunks_mut(4) {
        counter = counter.wrapping_add(GOLDEN);
        let bits = scramble(counter);
        for (lane, element) in group.iter_mut().enumerate() {
            *element = table[usize::from((bits >> (16 * lane)) as u16)];
        }
    }
}

/// Value `idx` of a sequence that is nearly normal, with mean 0 and variance 1: a sum of four uniform 16-bit
/// numbers.
fn normal(idx: u64) -> f32 {
    let bits = scramble(idx.wrapping_mul(GOLDEN));
    let lane = |shift: u32| f32::from((bits >> shift) as u16);
    let sum = lane(0) + lane(16) + lane(32) + lane(48);
    // Each has mean (2¹⁶ − 1) / 2 and variance 2³² / 12.
    (sum - 131_070.0) * (3f32.sqrt() / 65_536.0)
}

/// A bijection of 64 bits in which every bit of the result depends on every bit of the argument.
///
/// *Source*: the output function of SplitMix64 (Steele, Lea, Flood 2014: Fast splittable pseudorandom number
/// generators), in Stafford's variant 13.
fn scramble(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// 2⁶⁴ divided by the golden ratio, made odd: multiples of it are spread evenly.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
