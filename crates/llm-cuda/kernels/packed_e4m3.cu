// Weights in scaled 8-bit floating-point numbers, E4M3: see packed.cuh and fp8.cuh.
// only: 75
#include "fp8.cuh"

PACKED(e4m3, Fp8<E4M3>)
