// Products of 1 to 8 rows of activations with NF4 and FP4 weights, on tensor cores; compute capability 8.0 and later.
//
//   out[m, first + r] (+)= sum_b absmax[r, b] sum_(k in b) map[code[r, k]] x[m, k] + bias[r]
//   absmax[i] = nested_map[q[i]] * nested_absmax[i / 256] + offset where scales are quantized themselves
//
// four_bit_{4,8}[_double][_32]   up to 4 or 8 rows; double-quantized scales; blocks of 32, else of 64 and more
//
// A byte of codes is looked up whole: its entry holds both values as f16 numbers and what these leave over, as f16 too, so that the
// product is f32's. The table is there 16 times, so that lanes do not share banks. x is scaled by a power of two and split into two
// f16 numbers alike: 4 rows of x and what they leave over are the 8 columns of one tensor product, 8 rows those of two. 8 rows of
// the weight and what they leave over are its 16 rows, so that an entry is where the product wants it.
// A warp takes 16 rows of the weight and 256 columns at a time, which cp.async brings to a ring of its own, one ahead. A lane's 16
// codes of a row are any 16 of a block of 64: the order of columns within a block is of no matter as long as x has the same. Sums
// over a block are multiplied by its scale in f32.
// The warps of a team share the columns of a tile, and blocks of `teams` go on to further tiles with the ring full. Where x does not fit
// into shared memory, `slices` groups of blocks take a part of the columns each, and `four_bit_sum` adds up what they leave.
//
// Bytes moved: those of the weight once, x once a block, out. Operations: a lookup of 8 bytes, 3 integer operations and half a tensor
// product of 16 x 16 x 8 an element pair... see docs/kernels.md for registers.
// Grid a multiple of `slices`, block 32 to 512, to 256 for blocks of 32; shared memory: `four_bit_shared` in choose.rs. Codes lie on a border of 16 bytes, scales on
// one of 4; cols is a multiple of 64; a part has 16 rows or more.
#include "four_bit_tile.cuh"

FOUR_BIT(four_bit_4, 4, 2, false, 6)
FOUR_BIT(four_bit_8, 8, 2, false, 6)
FOUR_BIT(four_bit_4_double, 4, 2, true, 6)
FOUR_BIT(four_bit_8_double, 8, 2, true, 6)
FOUR_BIT(four_bit_4_32, 4, 2, false, 5)
FOUR_BIT(four_bit_8_32, 8, 2, false, 5)
FOUR_BIT(four_bit_4_double_32, 4, 2, true, 5)
FOUR_BIT(four_bit_8_double_32, 8, 2, true, 5)

// Sums of slices, with the bias. Grid (ceil(rows of all parts / 256), n), block 256.
KERNEL(four_bit_sum)(const Parts parts, const Rows rows, int slices, const float* __restrict__ pieces) {
  int row = blockIdx.x * 256 + threadIdx.x;
  const int m = blockIdx.y, p = part_of(parts, 1, row);
  if (p < 0 || m >= count(rows)) return;
  float sum = 0.f;
  for (int s = 0; s < slices; s++) sum += pieces[((u64)s * rows.n + m) * rows.width + FIELD(parts, p, first) + row];
  put(parts, p, rows, m, row, sum);
}
