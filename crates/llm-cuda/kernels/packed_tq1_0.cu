// Weights in TQ1_0: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(tq1_0, Blocks<TQ1_0>)
