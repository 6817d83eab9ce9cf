//! Programs over cudarc on the emulated driver: right kernels, planted faults, streams and machines.

#[path = "programs/blas.rs"]
mod blas;
#[path = "programs/calls.rs"]
mod calls;
#[path = "programs/faults.rs"]
mod faults;
#[path = "programs/kernels.rs"]
mod kernels;
#[path = "programs/lab.rs"]
mod lab;
#[path = "programs/machines.rs"]
mod machines;
#[path = "programs/streams.rs"]
mod streams;
#[path = "programs/timelines.rs"]
mod timelines;
