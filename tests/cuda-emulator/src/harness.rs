//! Programs started on an emulated machine.
