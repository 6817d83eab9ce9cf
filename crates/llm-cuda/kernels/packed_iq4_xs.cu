// Weights in IQ4_XS: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(iq4_xs, Blocks<IQ4_XS>)
