// Weights in Q4_K: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q4_k, Blocks<Q4_K>)
