// Weights in Q6_K: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q6_k, Blocks<Q6_K>)
