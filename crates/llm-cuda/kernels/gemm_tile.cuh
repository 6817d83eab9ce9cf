// The product of many rows of activations by f32 FMA, whatever a weight's elements are.
#pragma once
#include "gemm.cuh"

// `fetch(row, c, end, wv)` has the elements of columns c to c + 3 of a row, zeros from `end` on.
// Grid (ceil(rows / 64), ceil(n_tokens / 64), n_pieces), block 256, shared 17 KB.
template <class Fetch> __device__ __forceinline__ void tile(const float* __restrict__ x, Fetch fetch_row, const void* __restrict__ bias,
    float* __restrict__ out, float* __restrict__ pieces, const GemmShape& s) {
  constexpr int SIZE = 64, DEPTH = 16;
  __shared__ __align__(16) float xs[2][DEPTH][SIZE + 4], ws[2][DEPTH][SIZE + 4];
  const int t0 = blockIdx.y * SIZE, r0 = blockIdx.x * SIZE, line = threadIdx.x / 4, c4 = threadIdx.x % 4 * 4;
  const int tx = threadIdx.x % 16 * 4, ty = threadIdx.x / 16 * 4;
  const int depth = ((s.cols + gridDim.z - 1) / gridDim.z + 3) & ~3, begin = blockIdx.z * depth, end = min(begin + depth, s.cols);
  const int n = count(s);
  if (t0 >= n) return;
  const float* xl = x + (u64)min(t0 + line, n - 1) * s.cols;
  const int row = min(r0 + line, s.rows - 1);
  float xv[4], wv[4], acc[4][4] = {};
  auto fetch = [&](int c0) {
#pragma unroll
    for (int i = 0; i < 4; i++) xv[i] = c0 + c4 + i < end ? xl[c0 + c4 + i] : 0.f;
    fetch_row(row, c0 + c4, end, wv);
  };
  auto keep = [&](int b) {
#pragma unroll
    for (int i = 0; i < 4; i++) { xs[b][c4 + i][line] = xv[i]; ws[b][c4 + i][line] = wv[i]; }
  };
  fetch(begin);
  keep(0);
  __syncthreads();
  for (int c0 = begin, b = 0; c0 < end; c0 += DEPTH, b ^= 1) {
    if (c0 + DEPTH < end) fetch(c0 + DEPTH);
#pragma unroll
    for (int c = 0; c < DEPTH; c++) {
      float4 a = *reinterpret_cast<const float4*>(&xs[b][c][ty]), w = *reinterpret_cast<const float4*>(&ws[b][c][tx]);
      const float av[4] = {a.x, a.y, a.z, a.w}, bv[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = fmaf(av[i], bv[j], acc[i][j]);
    }
    if (c0 + DEPTH < end) keep(b ^ 1);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (t0 + ty + i < n) store4(s, out, pieces, bias, t0 + ty + i, r0 + tx, acc[i]);
}
