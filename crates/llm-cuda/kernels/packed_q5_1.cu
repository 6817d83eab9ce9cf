// Weights in Q5_1: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q5_1, Blocks<Q5_1>)
