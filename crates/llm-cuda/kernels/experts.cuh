// What products with the experts of a layer share: weights by address, tiles of assignments, and what leaves a warp. See experts.cu.
#pragma once
#include "activation.cuh"
#include "reduce.cuh"

enum { N_WORDS = 448 };

struct Words {
  u64 at[N_WORDS];
};

struct Shape {
  u32 first_expert, n_experts;  // that the words tell of
  int rows, cols;               // of out; of x
  int up_row, block_log2;
};

__device__ __forceinline__ float activated(int activation, float x) {
  return activation == 0 ? Relu::of(x) : activation == 1 ? Gelu::of(x) : activation == 2 ? GeluTanh::of(x) : Silu::of(x);
}

// Rows of x and of out of a tile: x by assignment or by the row that is assigned.
struct Gathered {
  const u32* rows;
  __device__ __forceinline__ u64 of(u32 assignment) const { return rows[assignment]; }
};
struct Assigned {
  __device__ __forceinline__ u64 of(u32 assignment) const { return assignment; }
};

// Sums of two rows of gate and of up, or of four of down, leave: every lane of a warp has all, and writes one of out.
template <int N>
__device__ __forceinline__ void leave(const float (&sums)[4][N], Shape shape, uint4 tile, u32 first, int activation, float* out,
                                      int r) {
  int lane = threadIdx.x & 31, each = activation < 0 ? 4 : 2, i = lane / each, j = lane % each;
  float value = 0.f, factor = 1.f;
#pragma unroll
  for (int k = 0; k < 4 * N; k++) {
    if (k % 4 == j && k / 4 == i) value = sums[k % 4][k / 4];
    if (activation >= 0 && k % 4 == j + 2 && k / 4 == i) factor = sums[k % 4][k / 4];
  }
  if (activation >= 0) value = activated(activation, value) * factor;
  if (i < N && first + i < tile.z && r + j < shape.rows) out[(u64)(tile.y + first + i) * shape.rows + r + j] = value;
}

__device__ __forceinline__ bool find(const uint4* tiles, const u32* n_tiles, Shape shape, uint4& tile) {
  if (blockIdx.y >= *n_tiles) return false;
  tile = tiles[blockIdx.y];
  tile.x -= shape.first_expert;
  return tile.x < shape.n_experts;
}

// A multiprocessor has three blocks at once, which hides what memory takes.
#define BUSY_KERNEL(name) extern "C" __global__ void __launch_bounds__(256, 3) name
