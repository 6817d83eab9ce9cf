// What products with few rows of activations share: the weights of a launch, and the writing of results.
#pragma once
#include "mma.cuh"

// A weight: its parts, a bias or none, and its columns of the result.
struct Part {
  const u8* elements;
  const float* scales;  // of rows or blocks; of double-quantized blocks their codes
  const float* map;
  const float* nested_absmax;
  const float* nested_map;
  const float* nested_offset;
  const void* bias;
  int rows, first;
  int bias_type;  // 0 f32, 1 f16, 2 bf16
  int block_log2;
};

// Weights that are multiplied in one launch, their rows shared out in tiles.
struct Parts {
  Part part[4];
  int n, reserved;
};

// The activations and the results: n rows, or as many as two numbers lie apart, at most n.
struct Rows {
  const float* x;     // [n, cols]
  float* out;         // [n, width]
  const u32* bounds;  // or null
  int n, cols, width, adds;
};

__device__ __forceinline__ int count(const Rows& rows) {
  return rows.bounds ? min((int)(rows.bounds[1] - rows.bounds[0]), rows.n) : rows.n;
}

// The number of the part that a tile of `height` rows belongs to; `tile` becomes its number within the part. -1 beyond the last.
__device__ __forceinline__ int part_of(const Parts& parts, int height, int& tile) {
  int found = -1;
#pragma unroll
  for (int p = 0; p < 4; p++) {
    if (found >= 0 || p >= parts.n) continue;
    int n_tiles = (parts.part[p].rows + height - 1) / height;
    if (tile < n_tiles) found = p;
    else tile -= n_tiles;
  }
  return found;
}

// A field of part `p`: parameters are not indexed by numbers that are known only then.
#define FIELD(parts, p, field)                                       \
  (p == 0 ? parts.part[0].field : p == 1 ? parts.part[1].field : p == 2 ? parts.part[2].field : parts.part[3].field)

// The part of a tile of R rows that warps of a block of 8 take, `split` of them together, and the first row that they read: the last
// tile of a part begins where its rows are all there, and those before `first`, which the tile before has, are not written again.
template <int R> __device__ __forceinline__ int tile_of_warp(const Parts& parts, int split, int& first, int& row) {
  int tile = blockIdx.x * (8 / split) + (threadIdx.x >> 5) / split;
  const int p = part_of(parts, R, tile);
  first = tile * R;
  row = p < 0 ? 0 : min(first, FIELD(parts, p, rows) - R);
  return p;
}

__device__ __forceinline__ float bias_of(const void* bias, int type, int row) {
  if (!bias) return 0.f;
  if (type == 0) return ((const float*)bias)[row];
  if (type == 1) return __half2float(((const __half*)bias)[row]);
  return __bfloat162float(((const __nv_bfloat16*)bias)[row]);
}

// Row `row` of part `p`, for row `m` of the activations.
__device__ __forceinline__ void put(const Parts& parts, int p, const Rows& rows, int m, int row, float sum) {
  float* to = rows.out + (u64)m * rows.width + FIELD(parts, p, first) + row;
  sum += bias_of(FIELD(parts, p, bias), FIELD(parts, p, bias_type), row);
  *to = rows.adds ? *to + sum : sum;
}

// 16 bytes that are read once: they leave no trace in the first cache.
__device__ __forceinline__ uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

__device__ __forceinline__ i32 warp_sum(i32 v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
