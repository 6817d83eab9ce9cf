//! Rows of activations that leave a device, or come to it.

use crate::Result;

/// Rows of activations that cross between devices, each as wide as the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crossing {
    /// The residual stream, from stage to stage.
    Hidden,
    /// An encoder's result, to all layers that attend to it.
    Encoded,
    /// The rows of an expert that computes on another device than its layer,
    ExpertInput,
    /// and its result.
    ExpertOutput,
}

/// The activations of a device, as links reach them.
pub trait Port {
    /// Copies the first elements of some rows to host memory.
    ///
    /// # Errors
    /// When the device fails.
    fn download(&mut self, rows: Crossing, out: &mut [f32]) -> Result<()>;

    /// Copies `from` to the first elements of some rows.
    ///
    /// # Errors
    /// When the device fails.
    fn upload(&mut self, rows: Crossing, from: &[f32]) -> Result<()>;
}
