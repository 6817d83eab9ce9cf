// Products of many rows of activations with f16 and bf16 weights on tensor cores: see gemm_dense.cu and gemm_dense_half.cu.
#pragma once
#include "tiles.cuh"

constexpr int FLUSH = 4;   // stages of 32 columns

template <class T, int PARTS, class W> __device__ __forceinline__ void dense(const u8* __restrict__ parts, const float* __restrict__ scale,
    const u8* __restrict__ weight, const void* __restrict__ bias, float* __restrict__ out, float* __restrict__ pieces, const GemmShape& s) {
  DYN_SHARED(u8, memory);
  constexpr int X = W::TOKENS * STAGE_BYTES;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t0 = blockIdx.y * W::TOKENS, r0 = blockIdx.x * W::ROWS;
  const int t = warp % W::WM * W::MT * 16, r = warp / W::WM * W::NT * 8, n_tokens = count(s);
  if (t0 >= n_tokens) return;
  const u64 x_stride = (u64)s.x_width * 2, w_stride = (u64)s.cols * 2;
  const u8 *x = parts + t0 * x_stride, *w = weight + r0 * w_stride;
  float acc[W::MT][W::NT][4] = {}, sum[W::MT][W::NT][4] = {};
  int begin, end;
  share(begin, end, s.x_width / 32);
  auto flush = [&] {
#pragma unroll
    for (int m = 0; m < W::MT; m++)
#pragma unroll
      for (int n = 0; n < W::NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) { acc[m][n][i] += sum[m][n][i]; sum[m][n][i] = 0.f; }
  };
  stages(end - begin, PARTS * X + W::ROWS * STAGE_BYTES, memory,
    [&](u8* stage, int i) {
#pragma unroll
      for (int p = 0; p < PARTS; p++)
        bring<W::TOKENS, W::THREADS>(stage + p * X, x + p * s.n_tokens * x_stride, x_stride, n_tokens - t0, x_stride, (begin + i) * STAGE_BYTES);
      bring<W::ROWS, W::THREADS>(stage + PARTS * X, w, w_stride, s.rows - r0, w_stride, (begin + i) * STAGE_BYTES);
    },
    [](u8*) {},
    [&](u8* stage, int i) {
      // Where there are registers, a part of x is loaded while the one before is multiplied.
      constexpr int AHEAD = W::TOKENS == 128;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 b[W::NT / 2][4], a[AHEAD + 1][W::MT][4];
#pragma unroll
        for (int n = 0; n < W::NT / 2; n++) tiles_of_rows(b[n], stage + PARTS * X, r + n * 16, half, lane);
#pragma unroll
        for (int p = -AHEAD; p < PARTS; p++) {
#pragma unroll
          for (int m = 0; m < W::MT; m++)
            if (p + AHEAD < PARTS) tile_of_x(a[(p + AHEAD) & AHEAD][m], stage + (p + AHEAD) * X, t + m * 16, half, lane);
          if (p < 0) continue;
#pragma unroll
          for (int m = 0; m < W::MT; m++)
#pragma unroll
            for (int n = 0; n < W::NT; n++) mma_m16n8k16(sum[m][n], a[p & AHEAD][m], &b[n / 2][n % 2 * 2], T());
        }
      }
      if (i % FLUSH == FLUSH - 1) flush();
    });
  flush();
  scale_tiles<W>(n_tokens, t0 + t, lane, acc, [&](int token) { return scale ? scale[token] : 1.f; });
  store_tiles<W>(s, out, pieces, bias, n_tokens, t0 + t, r0 + r, lane, acc, blockIdx.z);
}

#define DENSE(type, T, PARTS, TOKENS, ...)                                                                                   \
  extern "C" __global__ void __launch_bounds__(256, TOKENS < 128 ? 2 : 1) gemm_dense_##type##_##PARTS##_##TOKENS(\
      const u8* parts, const float* scale, const u8* weight,              \
      const void* bias, float* out, float* pieces, GemmShape shape) {                                                        \
    dense<T, PARTS, Warps<__VA_ARGS__>>(parts, scale, weight, bias, out, pieces, shape);                                     \
  }
#define DENSE_OF(type, T, PARTS)                                                                                             \
  DENSE(type, T, PARTS, 128, 2, 8, 4, 2) DENSE(type, T, PARTS, 64, 2, 4, 2, 4)                                               \
  DENSE(type, T, PARTS, 32, 2, 2, 1, 8)
