// The experts of a layer at once by LLM.int8(): see experts.cu.
//
//   experts_up_int8     gated[a, r] = A(p(a, gate_e[r])) * p(a, up_e[r])
//   experts_down_int8   delta[a, r] = p(a, down_e[r])
//   experts_outliers    bits of the outlier columns of each expert's rows, all of them, at the place of its first assignment
//
//   p(a, w) = sum_k w[k] codes[a, k] * (absmax[a] * scb) * 6.200124e-5 + sum_outliers x[a, k] w[k] * scb / 127
//
// An expert's rows are a pass of their own: a column in which one of them has an outlier is left out of the integer sums of all.
// int8_quantize.cu has made codes of each row once, wherever it goes, with zeros at its own outliers alone. What the expert's other
// outlier columns have added to an integer sum is taken off again, so that sums are exact.
//
// A block has a tile of up to 8 assignments and 16 rows of out (down: 32), a warp 2 rows of gate and 2 of up (down: 4 rows); a
// lane has 16 columns of each row at a time. Weights come from memory once a tile, and from L1 again where it has 5 or more rows.
// Grid (ceil(rows of out / 16) or, down, / 32, tiles that there may be), block 256, no shared memory. cols is a multiple of 16,
// codes and x lie on borders of 16 bytes, scales on one of 4.
// Bytes: the weights of the experts that were chosen, codes and out; 4 products of bytes an operation.
// experts_outliers: a thread a word of 32 columns, grid (experts, ceil(words / 256)), block 256. Bytes: 1 / 8 a column of each
// assignment.
#include "experts.cuh"
#include "int8.cuh"

// Rows of x, as int8_quantize leaves them.
struct Quantized {
  const float* x;
  const i8* codes;
  const float* absmax;
  const u32* outliers;  // of an expert: `stride` words times its first assignment from here on
  const u32* starts;    // first assignments
  int stride, reserved;
};

KERNEL(experts_outliers)(const u32* starts, const u32* rows, const u32* bits, int n_words, u32* of_experts) {
  const u32 begin = starts[blockIdx.x], end = starts[blockIdx.x + 1];
  const int w = blockIdx.y * 256 + threadIdx.x;
  if (w >= n_words || begin == end) return;
  u32 all = 0;
  for (u32 a = begin; a < end; a++) all |= bits[(u64)(rows ? rows[a] : a) * n_words + w];
  of_experts[(u64)begin * n_words + w] = all;
}

// Rows of weights: of gate and of up, or of down.
struct Lines {
  const i8* codes[4];
  float scale[4];
};

template <int N>
__device__ __forceinline__ void products(const Lines& w, const Quantized& q, const u32* outliers, const u64 (&row)[N], int cols,
                                         float (&sums)[4][N]) {
  i32 sum[4][N];
  float beside[4][N];
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < N; i++) sum[j][i] = 0, beside[j][i] = 0.f;
  for (int k = (threadIdx.x & 31) * 16; k < cols; k += 512) {
    uint4 v[4];
#pragma unroll
    for (int j = 0; j < 4; j++) v[j] = *(const uint4*)(w.codes[j] + k);
#pragma unroll
    for (int i = 0; i < N; i++) {
      const uint4 a = *(const uint4*)(q.codes + row[i] * cols + k);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        sum[j][i] = dp4a(v[j].x, a.x, sum[j][i]);
        sum[j][i] = dp4a(v[j].y, a.y, sum[j][i]);
        sum[j][i] = dp4a(v[j].z, a.z, sum[j][i]);
        sum[j][i] = dp4a(v[j].w, a.w, sum[j][i]);
      }
    }
    for (u32 left = outliers[k >> 5] >> (k & 16) & 0xffffu; left; left &= ~(1u << last_bit(left))) {
      const int c = last_bit(left);
#pragma unroll
      for (int i = 0; i < N; i++) {
        const u64 at = row[i] * cols + k + c;
        const float wide = q.x[at], code = (float)q.codes[at];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float of = code_at(v[j], c);
          sum[j][i] -= (i32)(of * code);
          beside[j][i] = fmaf(wide, of, beside[j][i]);
        }
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < N; i++)
      sums[j][i] = result(warp_sum(sum[j][i]), sum_of_warp(beside[j][i]), q.absmax[row[i]], w.scale[j]);
}

template <int N, class From>
__device__ __forceinline__ void some(const Lines& w, From from, const Quantized& q, const u32* outliers, Shape shape, uint4 tile,
                                     u32 first, int activation, float* out, int r) {
  u64 row[N];
#pragma unroll
  for (int i = 0; i < N; i++) row[i] = from.of(tile.y + (first + i < tile.z ? first + i : first));
  float sums[4][N];
  products<N>(w, q, outliers, row, shape.cols, sums);
  leave<N>(sums, shape, tile, first, activation, out, r);
}

template <class From>
__device__ __forceinline__ void tile_of(const Lines& w, From from, const Quantized& q, Shape shape, uint4 tile, int activation,
                                        float* out, int r) {
  const u32* outliers = q.outliers + (u64)q.starts[shape.first_expert + tile.x] * q.stride;
  if (tile.z == 1) return some<1>(w, from, q, outliers, shape, tile, 0, activation, out, r);
  for (u32 first = 0; first < tile.z; first += 4) some<4>(w, from, q, outliers, shape, tile, first, activation, out, r);
}

#define INT8_KERNEL(name) extern "C" __global__ void __launch_bounds__(256, 2) name

INT8_KERNEL(experts_up_int8)
(Words words, Shape shape, Quantized q, const uint4* tiles, const u32* n_tiles, const u32* rows, int activation, float* gated) {
  uint4 tile;
  if (!find(tiles, n_tiles, shape, tile)) return;
  const int r = blockIdx.x * 16 + (threadIdx.x >> 5) * 2, last = shape.rows - 1;
  if (r > last) return;
  Lines w;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const u64* at = words.at + tile.x * 4 + (j < 2 ? 0 : 2);
    const int line = min(r + (j & 1), last) + (j < 2 ? 0 : shape.up_row);
    w.codes[j] = (const i8*)at[0] + (u64)line * shape.cols;
    w.scale[j] = ((const float*)at[1])[line];
  }
  tile_of(w, Gathered{rows}, q, shape, tile, activation, gated, r);
}

INT8_KERNEL(experts_down_int8)
(Words words, Shape shape, Quantized q, const uint4* tiles, const u32* n_tiles, float* delta) {
  uint4 tile;
  if (!find(tiles, n_tiles, shape, tile)) return;
  const int r = blockIdx.x * 32 + (threadIdx.x >> 5) * 4, last = shape.rows - 1;
  if (r > last) return;
  Lines w;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const u64* at = words.at + tile.x * 2;
    const int line = min(r + j, last);
    w.codes[j] = (const i8*)at[0] + (u64)line * shape.cols;
    w.scale[j] = ((const float*)at[1])[line];
  }
  tile_of(w, Assigned(), q, shape, tile, -1, delta, r);
}
