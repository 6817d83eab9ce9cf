// Weights in Q2_K: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q2_k, Blocks<Q2_K>)
