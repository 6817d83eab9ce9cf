// Products of many rows of activations with NF4 and FP4 weights in 16 bits, on tensor cores; compute capability 8.0 and later.
//
//   out[t, out_col + r] (+)= scale[t] sum_b absmax[r, b] sum_(c in b) f16(x[t, c]) f16(map[code[r, c]]) + bias[r]
//
// gemm_four_bit_1_{128,32,16}   one f16 part of x (gemm_split, order 1), and tokens of a block
//   As gemm_four_bit.cu, with values rounded to f16, two of which a byte of codes looks up at once: a third of the products, and half of
//   the look-ups.
// needs: 80
#include "gemm_four_bit.cuh"

FOUR_BIT_OF(1)
