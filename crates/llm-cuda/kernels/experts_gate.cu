// Between the products of experts with biases and clamped gates, whose matrices of gate and up have rows by turns: for all
// assignments a of all experts e at once, by the lists of routing.cu.
//
//   experts_gate   gated[a, c] = clamped gate of sums[a, 2 c] + bias_e[2 c] and sums[a, 2 c + 1] + bias_e[2 c + 1]
//   experts_bias   delta[a, c] += bias_e[c]
//
// sums [assignments, 2 rows] are what experts.cu makes of both at once, as it makes delta. Biases are told by address, 0 for none,
// so many experts as fit into the arguments of a launch, from `first_expert` on; element: as in stored.cuh.
// A column a thread, a tile of assignments a block: grid (ceil(rows / 256), tiles that there may be), block 256.
// Bytes 12 an element of gated, 8 one of delta, and biases once a tile.
#include "experts.cuh"
#include "gates.cuh"
#include "stored.cuh"

KERNEL(experts_gate)(Words biases, Shape shape, const uint4* tiles, const u32* n_tiles, const float* sums, int element,
                     float alpha, float limit, float* gated) {
  uint4 tile;
  int c = blockIdx.x * 256 + threadIdx.x;
  if (!find(tiles, n_tiles, shape, tile) || c >= shape.rows) return;
  const u8* bias = (const u8*)biases.at[tile.x];
  float of_gate = bias ? element_at(bias, element, 2 * c) : 0.f, of_up = bias ? element_at(bias, element, 2 * c + 1) : 0.f;
  for (u32 a = tile.y; a < tile.y + tile.z; a++) {
    float2 both = ((const float2*)sums)[(u64)a * shape.rows + c];
    gated[(u64)a * shape.rows + c] = clamped_gate(both.x + of_gate, both.y + of_up, alpha, limit);
  }
}

KERNEL(experts_bias)(Words biases, Shape shape, const uint4* tiles, const u32* n_tiles, int element, float* delta) {
  uint4 tile;
  int c = blockIdx.x * 256 + threadIdx.x;
  if (!find(tiles, n_tiles, shape, tile) || c >= shape.rows) return;
  const u8* bias = (const u8*)biases.at[tile.x];
  if (!bias) return;
  float of = element_at(bias, element, c);
  for (u32 a = tile.y; a < tile.y + tile.z; a++) delta[(u64)a * shape.rows + c] += of;
}
