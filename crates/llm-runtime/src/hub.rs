//! The form that a GGUF's model has as a checkpoint with a `config.json`.

use llm_arch::{HubForm, Role};
use llm_checkpoint::Format;
use llm_tensor::DType;

use crate::bind::gguf_metadata;
use crate::{BoundModel, Result, RuntimeError};

impl BoundModel {
    /// Of a model that is bound to a GGUF, the form that it has as a checkpoint with a `config.json`: what that says, and
    /// what becomes of the tensors. `None` for any other.
    ///
    /// # Errors
    /// [`RuntimeError::Config`] when no configuration describes the model, [`RuntimeError::Checkpoint`].
    pub fn hub_form(&self) -> Result<Option<HubForm>> {
        let checkpoint = self.checkpoint();
        if checkpoint.format() != Format::Gguf {
            return Ok(None);
        }
        let mut factors = None;
        if let Some(bound) = self.tensors().find(|b| b.slot.role == Role::RopeFactors) {
            let n_elements = bound.tensor.shape.n_elements();
            let mut values = vec![0f32; n_elements as usize];
            let bytes = bytemuck::cast_slice_mut(&mut values);
            checkpoint.read_into(&bound.tensor.name, 0..n_elements, DType::F32, bytes)?;
            factors = Some(values);
        }
        let form = HubForm::new(
            self.skeleton(),
            &gguf_metadata(checkpoint)?,
            factors.as_deref(),
        );
        form.map(Some).map_err(|flaw| RuntimeError::Config {
            path: checkpoint.path().to_owned(),
            flaw: Box::new(flaw),
        })
    }

    /// The element type of a checkpoint that names none: its table of tokens', bf16 where that is in GGUF's blocks.
    pub fn stored_dtype(&self) -> DType {
        let mut tensors = self.tensors();
        let table = tensors.find(|bound| bound.slot.role == Role::TokenTable);
        match table.map(|bound| bound.scheme.elements()) {
            Some(Some(dtype)) if dtype.is_weight() => dtype,
            Some(Some(_)) => DType::F32,
            Some(None) | None => DType::BF16,
        }
    }
}
