// Weights in TQ2_0: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(tq2_0, Blocks<TQ2_0>)
