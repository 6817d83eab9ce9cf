// Products of many rows of activations with f16 and bf16 weights in 16 bits, on tensor cores; compute capability 8.0 and later.
//
//   out[t, out_col + r] (+)= scale[t] sum_c (sum of parts of x)[t, c] w[r, c] + bias[r]
//
// gemm_dense_{f16_1,bf16_2}_{128,64,32}   the number of parts (gemm_split), and tokens of a block
//   As gemm_dense.cu, with x rounded to 11 bits for f16 weights and to 16 for bf16 weights: half and two thirds of the work. One part
//   of bf16 would err by 2^-9 an element, and golden models then by up to 1e-2.
// needs: 80
#include "gemm_dense.cuh"

DENSE_OF(f16, __half, 1)
DENSE_OF(bf16, __nv_bfloat16, 2)
