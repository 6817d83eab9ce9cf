//! SIMD kernels and threads for the CPU.
