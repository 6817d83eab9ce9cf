// Products of many rows of activations with f16 and bf16 weights on tensor cores, compute capability 8.0 and later.
//
//   out[t, out_col + r] (+)= scale[t] sum_c (sum of parts of x)[t, c] w[r, c] + bias[r]
//
// gemm_dense_{f16_2,bf16_3}_{128,64,32}   the number of parts (gemm_split), and tokens of a block
//   Weights are taken as they are, so that 2 parts of f16 and 3 of bf16 give what f32 would. Tensor cores round sums towards zero:
//   after 128 columns they are added to those in registers, which round to nearest.
//   Bytes: parts of x once for 128 rows, weights once for a block's tokens. Operations: 2 n_parts n_tokens rows cols.
//   Grid (ceil(rows / 128), ceil(n_tokens / tokens), n_pieces), block 256, shared 3 * 64 * (n_parts * tokens + 128) bytes.
//   cols a multiple of 8, weights 16-byte aligned. `scale` null: 1.
// needs: 80
#include "gemm_dense.cuh"

DENSE_OF(f16, __half, 2)
DENSE_OF(bf16, __nv_bfloat16, 3)
