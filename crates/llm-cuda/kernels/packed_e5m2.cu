// Weights in scaled 8-bit floating-point numbers, E5M2: see packed.cuh and fp8.cuh.
// only: 75
#include "fp8.cuh"

PACKED(e5m2, Fp8<E5M2>)
