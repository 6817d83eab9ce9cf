// Products of 1 to 8 rows of activations with NF4 and FP4 weights in 16 bits, on tensor cores; compute capability 8.0 and later.
//
//   out[m, first + r] (+)= sum_b absmax[r, b] sum_(k in b) f16(map[code[r, k]]) f16(x[m, k]) + bias[r]
//
// four_bit_half_8[_double][_32]   double-quantized scales; blocks of 32, else of 64 and more
//
// As four_bit.cu, but values and x are rounded to f16 once, rows of x scaled by a power of two before: 16 rows of the weight are the
// 16 rows of one tensor product and 8 rows of x its 8 columns, where the exact kernel multiplies four times. An entry of the table
// has 4 bytes and is there 32 times, so that a warp looks up in one turn what takes the exact kernel two. Sums are f32.
//
// Bytes moved: those of the weight once, x once a block, out. Operations: a lookup of 4 bytes, an integer operation and a quarter of
// a tensor product of 16 x 16 x 8 for 2 elements a lane.
// Grid, block and constraints: as four_bit.cu.
// needs: 80
#include "four_bit_tile.cuh"

FOUR_BIT(four_bit_half_8, 8, 1, false, 6)
FOUR_BIT(four_bit_half_8_double, 8, 1, true, 6)
FOUR_BIT(four_bit_half_8_32, 8, 1, false, 5)
FOUR_BIT(four_bit_half_8_double_32, 8, 1, true, 5)
