// Weights in NVFP4: see packed.cuh and ggml.cuh.
// only: 75
#include "ggml.cuh"
#include "packed.cuh"

PACKED(nvfp4, Blocks<NVFP4>)
