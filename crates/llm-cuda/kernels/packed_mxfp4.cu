// Weights in MXFP4: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(mxfp4, Blocks<MXFP4>)
