// Weights in IQ4_NL: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(iq4_nl, Blocks<IQ4_NL>)
