// Weights in Q3_K: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(q3_k, Blocks<Q3_K>)
