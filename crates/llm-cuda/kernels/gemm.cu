// Products of many rows of activations: splitting them into 16-bit parts, joining pieces, and the product itself in f32.
//
//   out[t, out_col + r] (+)= sum_c x[t, c] w[r, c] + bias[r]
//
// gemm_split_{f16,bf16}_N  x to `n_parts` 16-bit numbers whose sum it is: to 22 bits of f16 in 2, to 24 of bf16 in 3; or
//   rounded to it, to 11 bits of f16 in 1 and 16 of bf16 in 2, which is half as much work or two thirds of it. Rows of f16
//   are first brought to magnitudes up to 2^10 by a power of 2; `scale` takes them back. Columns are padded with zeros to a
//   multiple of 32. `order` 1 is that of the 4-bit product (see there). parts [n_parts][n_tokens][x_width].
//   Bytes: 4 + 2 n_parts an element. Grid n_tokens, block 256.
// gemm_join              sums of pieces [n_pieces][n_tokens][rows], in their order. Grid ceil(n_tokens * rows / 256), block 256.
// gemm_join_int8         the same for LLM.int8(), of integers. The same grid and block.
// gemm_tile_{f32,f16,bf16}  the product by f32 FMA, for cards without tensor cores for it, f32 weights, and columns that are no
//   multiple of 8. Weights at addresses of their element's size. Grid (ceil(rows / 64), ceil(n_tokens / 64), n_pieces), block 256.
//   Bytes: x once for 64 rows, weights once for 64 tokens. Operations: 2 n_tokens rows cols.
// gemm_tile_int8         that of LLM.int8() (see gemm_int8.cu) for all cards. The same grid, one piece, block 256.
//   cols a multiple of 4, codes of activations and weights 4-byte aligned.
#include "gemm_tile.cuh"
#include "int8_tile.cuh"

template <class T, int PARTS, bool SCALED>
__device__ __forceinline__ void split(const float* __restrict__ x, T* __restrict__ parts, float* __restrict__ scale, const GemmShape& s,
    int order) {
  __shared__ float most[8];
  if ((int)blockIdx.x >= count(s)) return;
  const int cols = s.cols;
  const float* row = x + (u64)blockIdx.x * cols;
  float factor = 1.f;
  if (SCALED) {
    float m = 0.f;
    for (int c = threadIdx.x; c < cols; c += 256) { float a = fabsf(row[c]); m = fmaxf(m, a < INF ? a : 0.f); }
    m = warp_max(m);
    if ((threadIdx.x & 31) == 0) most[threadIdx.x >> 5] = m;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < 8; w++) m = fmaxf(m, most[w]);
    factor = power_for(m);
    if (threadIdx.x == 0) scale[blockIdx.x] = 1.f / factor;
  }
  for (int c = threadIdx.x * 2; c < s.x_width; c += 512) {
    float2 v = make_float2(0.f, 0.f);
    if (cols % 2 == 0 && c < cols) v = *(const float2*)(row + c);
    else if (c < cols) v = make_float2(row[c], c + 1 < cols ? row[c + 1] : 0.f);
    float a = v.x * factor, b = v.y * factor;
    // Within 32 columns 8 t + 4 s + 2 h + i goes to 16 s + 8 h + 2 t + i.
    int to = order ? (c & ~31) | (c & 4) << 2 | (c & 2) << 2 | (c >> 3 & 3) << 1 : c;
    u32* part = reinterpret_cast<u32*>(parts + (u64)blockIdx.x * s.x_width + to);
    u32 p[PARTS];
    split2<T, PARTS>(p, 1, a, b, T());
#pragma unroll
    for (int i = 0; i < PARTS; i++) part[(u64)i * s.n_tokens * s.x_width / 2] = p[i];
  }
}
#define SPLIT(name, T, PARTS, SCALED)                                                                                                \
  KERNEL(name)(const float* x, T* parts, float* scale, int order, GemmShape shape) {                                         \
    split<T, PARTS, SCALED>(x, parts, scale, shape, order);                                                                          \
  }
SPLIT(gemm_split_f16_1, __half, 1, true)
SPLIT(gemm_split_f16_2, __half, 2, true)
SPLIT(gemm_split_bf16_2, __nv_bfloat16, 2, false)
SPLIT(gemm_split_bf16_3, __nv_bfloat16, 3, false)

KERNEL(gemm_join)(const float* __restrict__ pieces, const void* __restrict__ bias, float* __restrict__ out, int n_pieces, GemmShape s) {
  const u32 n = s.n_tokens * s.rows, i = blockIdx.x * 256 + threadIdx.x;
  if (i >= (u32)(max(count(s), 0) * s.rows)) return;
  float v = 0.f;
  for (int p = 0; p < n_pieces; p++) v += pieces[(u64)p * n + i];
  store(s, out, nullptr, bias, i / s.rows, i % s.rows, v);
}

// The last of the pieces has outlier columns.
KERNEL(gemm_join_int8)(const float* __restrict__ pieces, Int8 p, const void* __restrict__ bias, float* __restrict__ out, int n_pieces,
    GemmShape s) {
  const u32 n = s.n_tokens * s.rows, i = blockIdx.x * 256 + threadIdx.x;
  if (i >= (u32)(max(count(s), 0) * s.rows)) return;
  const int token = i / s.rows, row = i % s.rows;
  i32 sum = 0;
  for (int x = 0; x < n_pieces; x++) sum += __float_as_int(pieces[(u64)x * n + i]);
  store(s, out, nullptr, bias, token, row, int8_product(sum, p.absmax[token], p.scb[row]) + pieces[(u64)n_pieces * n + i]);
}

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

#define TILE(name, T)                                                                                                        \
  KERNEL_OF(256, name)(const float* x, const void* weight, const void* bias, float* out, float* pieces, GemmShape shape) {   \
    tile(                                                                                                                    \
        x,                                                                                                                   \
        [&](int row, int c, int end, float(&wv)[4]) {                                                                        \
          const T* of = static_cast<const T*>(weight) + (u64)row * shape.cols;                                               \
          _Pragma("unroll") for (int i = 0; i < 4; i++) wv[i] = c + i < end ? widen(of[c + i]) : 0.f;                        \
        },                                                                                                                   \
        bias, out, pieces, shape);                                                                                           \
  }
TILE(gemm_tile_f32, float)
TILE(gemm_tile_f16, __half)
TILE(gemm_tile_bf16, __nv_bfloat16)

KERNEL_OF(256, gemm_tile_int8)(Int8 p, const void* __restrict__ bias, float* __restrict__ out, GemmShape s) {
  constexpr int SIZE = 64, DEPTH = 16;            // of 4 columns
  __shared__ __align__(16) union {
    struct { i32 x[DEPTH][SIZE + 4], w[DEPTH][SIZE + 4]; } codes;
    float outliers[AT_ONCE * 2 * (SIZE + 1)];
  } memory;
  const int n_tokens = count(s), t0 = blockIdx.y * SIZE, r0 = blockIdx.x * SIZE, line = threadIdx.x / 4, c4 = threadIdx.x % 4 * 4;
  const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4, n = s.cols / 4;
  const i32* x = reinterpret_cast<const i32*>(p.codes) + (u64)min(t0 + line, n_tokens - 1) * n;
  const i32* w = reinterpret_cast<const i32*>(p.weight) + (u64)min(r0 + line, s.rows - 1) * n;
  if (t0 >= n_tokens) return;
  i32 sum[4][4] = {};
  for (int c0 = 0; c0 < n; c0 += DEPTH) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool there = c0 + c4 + i < n;
      memory.codes.x[c4 + i][line] = there ? x[c0 + c4 + i] : 0;
      memory.codes.w[c4 + i][line] = there ? w[c0 + c4 + i] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < DEPTH; c++) {
      const int4 a = *reinterpret_cast<const int4*>(&memory.codes.x[c][ty]), b = *reinterpret_cast<const int4*>(&memory.codes.w[c][tx]);
      const i32 av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = dp4a(av[i], bv[j], sum[i][j]);
    }
    __syncthreads();
  }
  float acc[4][4];
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      acc[i][j] = int8_product(sum[i][j], p.absmax[min(t0 + ty + i, n_tokens - 1)], p.scb[min(r0 + tx + j, s.rows - 1)]);
  add_outliers<4, 4, SIZE, SIZE>(acc, p, s, memory.outliers, n_tokens, t0, r0, [&](int i) { return ty + i; }, [&](int j) { return tx + j; });
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (t0 + ty + i < n_tokens) store4(s, out, nullptr, bias, t0 + ty + i, r0 + tx, acc[i]);
}
