// Weights in Q5_0: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q5_0, Blocks<Q5_0>)
