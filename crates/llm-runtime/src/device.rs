//! A device as a session sees it: dynamic outside, whatever is generic inside.

use llm_arch::{ModelSpec, Unit};
use llm_backend::DeviceInfo;
use llm_plan::{Limits, RunOn, StagePlan};
use llm_tensor::DType;

use crate::Result;
use crate::allocated::Allocated;
use crate::pass::{Interrupts, Pass};
use crate::port::Port;
use crate::probe::Probe;
use crate::source::WeightSource;
use crate::stream::Feed;

/// A device that stages can be built on, whatever its backend.
pub trait Device: Send + Sync {
    /// Description of the device.
    fn info(&self) -> &DeviceInfo;

    /// Loads all units that compute on the device and allocates all that it will need. `feed` has those of them that
    /// rest elsewhere.
    ///
    /// # Errors
    /// When a weight cannot be read or the device has no room.
    fn stages(
        &self,
        options: &StageOptions,
        source: &mut dyn WeightSource,
        feed: Option<Feed>,
    ) -> Result<Box<dyn Stages>>;
}

/// A device's part of a model.
#[derive(Debug, Clone)]
pub struct StageOptions {
    /// The whole model.
    pub spec: ModelSpec,
    /// All of its stages, in order.
    pub stages: Vec<StagePlan>,
    /// The device among theirs.
    pub run_on: RunOn,
    /// The largest passes it has to serve.
    pub limits: Limits,
    /// Element type of keys and values.
    pub kv_dtype: DType,
}

impl StageOptions {
    /// The device's own stages.
    pub fn own(&self) -> impl Iterator<Item = &StagePlan> {
        let run_on = self.run_on;
        self.stages.iter().filter(move |s| s.run_on == run_on)
    }

    /// True of a unit of one of them.
    pub fn has(&self, unit: Unit) -> bool {
        self.own().any(|stage| stage.has(unit))
    }
}

/// The stages of a model that one device computes: they share its activations, its workspace and its staging places. A
/// stage is named by its number among all of the model's.
pub trait Stages: Port + Send {
    /// Takes the rows of the pass through a stage: from their tokens where it embeds them, and else from
    /// [`Crossing::Hidden`](crate::Crossing::Hidden), to there. `elsewhere` computes experts of its layers that are not its own.
    ///
    /// # Errors
    /// When a device fails or the interrupt is raised.
    fn forward(
        &mut self,
        stage: usize,
        pass: &Pass<'_>,
        elsewhere: &mut dyn Elsewhere,
    ) -> Result<()>;

    /// Takes the prompt of an encoder-decoder model through what a stage has of the encoder; the last stage that has some
    /// leaves the result in [`Crossing::Encoded`](crate::Crossing::Encoded).
    ///
    /// # Errors
    /// When the device fails or the interrupt is raised.
    fn encode(
        &mut self,
        stage: usize,
        ids: &[u32],
        watch: (Interrupts<'_>, Option<&Probe>),
    ) -> Result<()>;

    /// Takes from [`Crossing::Encoded`](crate::Crossing::Encoded) what all layers of the device will attend to in `sequence`.
    ///
    /// # Errors
    /// When the device fails or the interrupt is raised.
    fn attend_to(
        &mut self,
        sequence: usize,
        n_positions: usize,
        interrupt: Interrupts<'_>,
    ) -> Result<()>;

    /// Says which experts of a layer of another device follow.
    fn expect_experts(&self, layer: usize, is_chosen: &dyn Fn(usize) -> bool);

    /// Takes rows of [`Crossing::ExpertInput`](crate::Crossing::ExpertInput) through an expert of a layer of another device to
    /// [`Crossing::ExpertOutput`](crate::Crossing::ExpertOutput).
    ///
    /// # Errors
    /// When the device fails.
    fn expert(&mut self, unit: Unit, n_rows: usize) -> Result<()>;

    /// True if the device still has all that position `len` of a sequence sees.
    fn can_rewind(&self, sequence: usize, len: usize) -> bool;

    /// Forgets positions of a sequence from `len` on, which [`Stages::can_rewind`] allows.
    fn rewind(&mut self, sequence: usize, len: usize);

    /// Makes sequence `to` what `from` is.
    ///
    /// # Errors
    /// When the device fails.
    fn fork(&mut self, from: usize, to: usize) -> Result<()>;

    /// Logits of some rows of the last pass into `out` `[rows, vocab]`; the head's device only.
    ///
    /// # Errors
    /// When the device fails.
    fn logits(&mut self, rows: &[usize], out: &mut [f32]) -> Result<()>;

    /// The most probable tokens after some rows of the last pass, the first among equals, and nothing where a logit is not
    /// finite; the head's device only, of heads that do not change their logits
    /// ([`HeadSpec::changes_logits`](llm_arch::HeadSpec::changes_logits)).
    ///
    /// # Errors
    /// When the device fails.
    fn ids(&mut self, rows: &[usize], ids: &mut [Option<u32>]) -> Result<()>;

    /// Waits for all that the device was given.
    ///
    /// # Errors
    /// When some of it failed.
    fn finish(&mut self) -> Result<()>;

    /// Counts everything but the weights, which whoever hands them over counts.
    fn count(&self, allocated: &mut Allocated);
}

/// The other devices, for experts that compute on another one than their layer.
pub trait Elsewhere {
    /// Says which experts of a layer follow.
    fn expect_experts(&self, layer: usize, is_chosen: &dyn Fn(usize) -> bool);

    /// Takes rows of [`Crossing::ExpertInput`](crate::Crossing::ExpertInput) through an expert on another device to
    /// [`Crossing::ExpertOutput`](crate::Crossing::ExpertOutput), both on the device of `port`.
    ///
    /// # Errors
    /// When a device fails.
    fn expert(&mut self, at: (RunOn, Unit), port: &mut dyn Port, n_rows: usize) -> Result<()>;
}
