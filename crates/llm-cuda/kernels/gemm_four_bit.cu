// Products of many rows of activations with NF4 and FP4 weights on tensor cores; before compute capability 8.0 of 2 rows and more.
//
//   out[t, out_col + r] (+)= scale[t] sum_b absmax[r, b] sum_(c in b) (sum of parts of x)[t, c] map[code[r, c]] + bias[r]
//   absmax[i] = nested_map[q[i]] * nested_absmax[i / 256] + offset where scales are quantized themselves
//
// gemm_four_bit_2_{128,32,16}   the number of f16 parts of x (gemm_split, order 1), and tokens of a block
//   Values of codes are two f16 numbers as well, looked up in a table that every lane has in a bank of its own. With 2 parts the
//   product is f32's: big x big + small x big + big x small. Scales multiply sums over a block, in f32.
//   A lane takes 8 neighbouring codes of a row; the order of x's columns within 32 is made to fit.
//   Bytes: parts of x once for 128 rows, codes and scales once for a block's tokens. Operations: 2 (2 n_parts - 1) n_tokens rows cols.
//   Grid (ceil(rows / 128), ceil(n_tokens / tokens), n_pieces), block 256, shared 3 * (64 n_parts tokens + 128 * 20) bytes.
//   cols a multiple of 32, codes 16-byte aligned, scales at multiples of their size.
#include "gemm_four_bit.cuh"

FOUR_BIT_OF(2)
