// Weights in Q8_0: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q8_0, Blocks<Q8_0>)
