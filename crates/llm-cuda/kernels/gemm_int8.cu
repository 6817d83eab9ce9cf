// Products of many rows of quantized activations with LLM.int8() weights.
//
//   out[t, out_col + r] (+)= (sum_c a[t, c] w[r, c]) (absmax[t] scb[r]) 6.200124e-5 + sum_(outlier columns c) x[t, c] w[r, c] scb[r] / 127 + bias[r]
//
// gemm_int8_{128,64,32,16}  tensor cores of 8-bit integers, compute capability 8.0 and later: the number is tokens of a block
//   Bytes: activations' codes once for 128 rows, weights once for a block's tokens. Operations: 2 n_tokens rows cols, exact in i32.
//   Grid (ceil(rows / 128), ceil(n_tokens / tokens), 1), block 256, shared 3 * 64 * (tokens + 128) bytes.
//   cols a multiple of 16, both codes 16-byte aligned.
// gemm_int8_dp4a            the same for all cards. Grid (ceil(rows / 64), ceil(n_tokens / 64)), block 256.
//   cols a multiple of 4, both codes 4-byte aligned.
//
// Activations' codes are zero in outlier columns: `outliers` lists those, in any order; `n_outliers` is on the device too.
#include "tiles.cuh"

struct Int8 {
  const u8* codes;               // of activations, i8 [n_tokens, cols]
  const float* absmax;           // of their rows
  const float* x;                // they themselves, [n_tokens, cols]
  const u32 *outliers, *n_outliers;
  const u8* weight;              // i8 [rows, cols]
  const float* scb;              // of rows
};

constexpr float PRODUCT_SCALE = 6.200124e-5f;
constexpr float DEQUANTIZE = 1.f / 127.f;
constexpr int AT_ONCE = 24;      // outlier columns in shared memory

// Adds the outlier columns' products of tokens and rows that lie as `token(i)`, `row(j)` in the block.
template <int I, int J, int TOKENS, int ROWS, class Token, class Row>
__device__ __forceinline__ void add_outliers(float (&acc)[I][J], const Int8& p, const GemmShape& s, float* memory, int t0, int r0, Token token, Row row) {
  float *xs = memory, *ws = memory + AT_ONCE * (TOKENS + 1);
  const int n = *p.n_outliers;
#pragma unroll 1
  for (int o0 = 0; o0 < n; o0 += AT_ONCE) {
    const int m = min(AT_ONCE, n - o0);
    __syncthreads();
    for (int i = threadIdx.x; i < m * TOKENS; i += blockDim.x)
      xs[i / TOKENS * (TOKENS + 1) + i % TOKENS] = p.x[(u64)min(t0 + i % TOKENS, s.n_tokens - 1) * s.cols + p.outliers[o0 + i / TOKENS]];
    for (int i = threadIdx.x; i < m * ROWS; i += blockDim.x) {
      const int r = min(r0 + i % ROWS, s.rows - 1);
      ws[i / ROWS * (ROWS + 1) + i % ROWS] = (float)(i8)p.weight[(u64)r * s.cols + p.outliers[o0 + i / ROWS]] * p.scb[r] * DEQUANTIZE;
    }
    __syncthreads();
#pragma unroll 1
    for (int o = 0; o < m; o++) {
      float w[J];
#pragma unroll
      for (int j = 0; j < J; j++) w[j] = ws[o * (ROWS + 1) + row(j)];
#pragma unroll
      for (int i = 0; i < I; i++) {
        const float x = xs[o * (TOKENS + 1) + token(i)];
#pragma unroll
        for (int j = 0; j < J; j++) acc[i][j] = fmaf(x, w[j], acc[i][j]);
      }
    }
  }
}

#if __CUDA_ARCH__ >= 800
template <class W> __device__ __forceinline__ void int8(const Int8& p, const void* __restrict__ bias, float* __restrict__ out, const GemmShape& s) {
  DYN_SHARED(u8, memory);
  constexpr int X = W::TOKENS * STAGE_BYTES;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t0 = blockIdx.y * W::TOKENS, r0 = blockIdx.x * W::ROWS;
  const int t = warp % W::WM * W::MT * 16, r = warp / W::WM * W::NT * 8;
  const u8 *x = p.codes + (u64)t0 * s.cols, *w = p.weight + (u64)r0 * s.cols;
  i32 sum[W::MT][W::NT][4] = {};
  stages((s.cols + STAGE_BYTES - 1) / STAGE_BYTES, X + W::ROWS * STAGE_BYTES, memory,
    [&](u8* stage, int i) {
      bring<W::TOKENS, W::THREADS>(stage, x, s.cols, s.n_tokens - t0, s.cols, i * STAGE_BYTES);
      bring<W::ROWS, W::THREADS>(stage + X, w, s.cols, s.rows - r0, s.cols, i * STAGE_BYTES);
    },
    [](u8*) {},
    [&](u8* stage, int) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 b[W::NT / 2][4];
#pragma unroll
        for (int n = 0; n < W::NT / 2; n++) tiles_of_rows(b[n], stage + X, r + n * 16, half, lane);
#pragma unroll
        for (int m = 0; m < W::MT; m++) {
          u32 a[4];
          tile_of_x(a, stage, t + m * 16, half, lane);
#pragma unroll
          for (int n = 0; n < W::NT; n++) {
            const u32 c[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
            mma_m16n8k32_s8(sum[m][n], a, c);
          }
        }
      }
    });
  float acc[W::MT * 2][W::NT * 2];
#pragma unroll
  for (int i = 0; i < W::MT * 2; i++) {
    const float a = p.absmax[min(t0 + t + i / 2 * 16 + i % 2 * 8 + lane / 4, s.n_tokens - 1)];
#pragma unroll
    for (int j = 0; j < W::NT * 2; j++)
      acc[i][j] = (float)sum[i / 2][j / 2][i % 2 * 2 + j % 2] * (a * p.scb[min(r0 + r + j / 2 * 8 + lane % 4 * 2 + j % 2, s.rows - 1)]) * PRODUCT_SCALE;
  }
  add_outliers<W::MT * 2, W::NT * 2, W::TOKENS, W::ROWS>(acc, p, s, reinterpret_cast<float*>(memory), t0, r0,
      [&](int i) { return t + i / 2 * 16 + i % 2 * 8 + lane / 4; }, [&](int j) { return r + j / 2 * 8 + lane % 4 * 2 + j % 2; });
  float tiles[W::MT][W::NT][4];
#pragma unroll
  for (int i = 0; i < W::MT * 2; i++)
#pragma unroll
    for (int j = 0; j < W::NT * 2; j++) tiles[i / 2][j / 2][i % 2 * 2 + j % 2] = acc[i][j];
  store_tiles<W>(s, out, nullptr, bias, t0 + t, r0 + r, lane, tiles, [](int) { return 1.f; });
}
#define INT8(TOKENS, ...)                                                                                                    \
  KERNEL_OF(256, gemm_int8_##TOKENS)(Int8 p, const void* bias, float* out, GemmShape shape) {                                \
    int8<Warps<__VA_ARGS__>>(p, bias, out, shape);                                                                           \
  }
INT8(128, 4, 4, 2, 4)
INT8(64, 2, 4, 2, 4)
INT8(32, 2, 2, 1, 8)
INT8(16, 1, 2, 1, 8)
#endif

KERNEL_OF(256, gemm_int8_dp4a)(Int8 p, const void* __restrict__ bias, float* __restrict__ out, GemmShape s) {
  constexpr int SIZE = 64, DEPTH = 16;            // of 4 columns
  __shared__ __align__(16) union {
    struct { i32 x[DEPTH][SIZE + 4], w[DEPTH][SIZE + 4]; } codes;
    float outliers[AT_ONCE * 2 * (SIZE + 1)];
  } memory;
  const int t0 = blockIdx.y * SIZE, r0 = blockIdx.x * SIZE, line = threadIdx.x / 4, c4 = threadIdx.x % 4 * 4;
  const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4, n = s.cols / 4;
  const i32* x = reinterpret_cast<const i32*>(p.codes) + (u64)min(t0 + line, s.n_tokens - 1) * n;
  const i32* w = reinterpret_cast<const i32*>(p.weight) + (u64)min(r0 + line, s.rows - 1) * n;
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
      acc[i][j] = (float)sum[i][j] * (p.absmax[min(t0 + ty + i, s.n_tokens - 1)] * p.scb[min(r0 + tx + j, s.rows - 1)]) * PRODUCT_SCALE;
  add_outliers<4, 4, SIZE, SIZE>(acc, p, s, memory.outliers, t0, r0, [&](int i) { return ty + i; }, [&](int j) { return tx + j; });
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (t0 + ty + i < s.n_tokens && r0 + tx + j < s.rows) store(s, out, nullptr, bias, t0 + ty + i, r0 + tx + j, acc[i][j]);
}
