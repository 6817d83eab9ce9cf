// Weights in Q5_K: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q5_k, Blocks<Q5_K>)
