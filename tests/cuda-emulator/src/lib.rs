//! An emulated CUDA driver, for tests on machines without a GPU.
//!
//! The shared library of this crate has the driver API's functions. Kernels run by interpreting their PTX, over memory of
//! the host, and every mistake that a device would punish, or would not notice, is told with its kernel, block, thread and
//! line of PTX. Work of streams is put off until something waits for it, and then runs in an order that a seed chooses among
//! those that streams and events allow.
//!
//! Programs find it by the loader's path alone, in place of NVIDIA's library: [`harness::Machine`] starts them so.

pub mod allocations;
mod api;
mod block;
mod device;
mod driver;
mod exec;
mod fault;
pub mod harness;
pub mod pace;
mod program;
mod ptx;
pub mod report;
mod settings;
mod shared;
