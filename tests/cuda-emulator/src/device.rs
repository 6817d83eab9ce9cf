//! Memory of devices: regions at addresses of their own, each byte known as written or not, and what kernels moved.

mod first_cache;
mod memory;
mod stored;
mod traffic;
mod written;

pub(crate) use first_cache::FirstCache;
pub(crate) use memory::{Home, Memory, Region, View};
pub(crate) use stored::{Known, Stored};
pub(crate) use traffic::{Direction, Touched, Traffic};
