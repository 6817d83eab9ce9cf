// Weights in Q4_1: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q4_1, Blocks<Q4_1>)
