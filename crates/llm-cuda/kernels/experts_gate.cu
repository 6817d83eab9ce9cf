// Between the products of experts with clamped gates, and behind them where they have biases: for all assignments a of all
// experts e at once, by the lists of routing.cu.
//
//   experts_gate         gated[a, c] = clamped gate of gates[a, step c] and ups[a, step c]
//   experts_gate_biased  the same of gates[a, step c] + gate_bias_e[step c] and ups[a, step c] + up_bias_e[step c]
//   experts_bias         delta[a, c] += bias_e[c]
//
// gates and ups [assignments, row_width] are what experts.cu makes, as it makes delta: of two matrices, or of one whose rows are those
// of gate and then of up, or come by turns, so that ups begin in the first row of gates. Biases are told by address, 0 for none, two
// or one of an expert, so many experts as fit into the arguments of a launch, from `first_expert` on; element: as in stored.cuh.
// A column a thread, a tile of assignments a block: grid (ceil(rows / 256), tiles that there may be), block 256.
// Bytes 12 an element of gated, 8 one of delta, and biases once a tile.
#include "experts.cuh"
#include "gates.cuh"
#include "stored.cuh"

// Where a column of gate and of up is in a row of sums.
struct Columns {
  int row_width, step;
};

__device__ __forceinline__ void gate_tile(uint4 tile, int c, int width, const float* gates, const float* ups, Columns columns,
                                          ClampedGate gate, float gate_bias, float up_bias, float* gated) {
  for (u32 a = tile.y; a < tile.y + tile.z; a++) {
    u64 at = (u64)a * columns.row_width + columns.step * c;
    gated[(u64)a * width + c] = gate.of(gates[at] + gate_bias, ups[at] + up_bias);
  }
}

KERNEL(experts_gate)(const uint4* tiles, const u32* n_tiles, const float* gates, const float* ups, Columns columns, ClampedGate gate,
                     int width, float* gated) {
  int c = blockIdx.x * 256 + threadIdx.x;
  if (blockIdx.y >= *n_tiles || c >= width) return;
  gate_tile(tiles[blockIdx.y], c, width, gates, ups, columns, gate, 0.f, 0.f, gated);
}

KERNEL(experts_gate_biased)(Words biases, Shape shape, const uint4* tiles, const u32* n_tiles, const float* gates, const float* ups,
                            Columns columns, ClampedGate gate, int element, float* gated) {
  uint4 tile;
  int c = blockIdx.x * 256 + threadIdx.x;
  if (!find(tiles, n_tiles, shape, tile) || c >= shape.rows) return;
  const u8 *of_gate = (const u8*)biases.at[2 * tile.x], *of_up = (const u8*)biases.at[2 * tile.x + 1];
  float gate_bias = of_gate ? element_at(of_gate, element, columns.step * c) : 0.f;
  float up_bias = of_up ? element_at(of_up, element, columns.step * c) : 0.f;
  gate_tile(tile, c, shape.rows, gates, ups, columns, gate, gate_bias, up_bias, gated);
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
