// Weights in Q4_0: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q4_0, Blocks<Q4_0>)
