// LLM.int8() products of many rows: what they are given, and their outlier columns.
#pragma once
#include "gemm.cuh"


struct Int8 {
  const u8* codes;               // of activations, i8 [n_tokens, cols]
  const float* absmax;           // of their rows
  const float* x;                // they themselves, [n_tokens, cols]
  const u32* outliers;           // outlier columns as bits, 32 a word
  const u8* weight;              // i8 [rows, cols]
  const float* scb;              // of rows
};

constexpr float PRODUCT_SCALE = 6.200124e-5f;
constexpr float DEQUANTIZE = 1.f / 127.f;
__device__ __forceinline__ float int8_product(i32 sum, float absmax, float scb) { return (float)sum * (absmax * scb) * PRODUCT_SCALE; }

constexpr int AT_ONCE = 24;      // outlier columns in shared memory

// Adds the outlier columns' products, in their order, of tokens and rows that lie as `token(i)`, `row(j)` in the block.
template <int I, int J, int TOKENS, int ROWS, class Token, class Row>
__device__ __forceinline__ void add_outliers(float (&acc)[I][J], const Int8& p, const GemmShape& s, float* memory, int n_tokens, int t0,
    int r0, Token token, Row row) {
  __shared__ unsigned short columns[32 * 32];
  float *xs = memory, *ws = memory + AT_ONCE * (TOKENS + 1);
  const int lane = threadIdx.x & 31, n_words = (s.cols + 31) / 32;
#pragma unroll 1
  for (int first = 0; first < n_words; first += 32) {
    u32 word = first + lane < n_words ? p.outliers[first + lane] : 0;
    if (__ballot_sync(0xffffffffu, word != 0) == 0) continue;
    int n = __popc(word);
#pragma unroll
    for (int o = 1; o < 32; o *= 2) { int below = __shfl_up_sync(0xffffffffu, n, o); if (lane >= o) n += below; }
    int at = n - __popc(word);
    n = __shfl_sync(0xffffffffu, n, 31);
    __syncthreads();
    if (threadIdx.x < 32)
      for (; word; word &= word - 1) columns[at++] = lane * 32 + __popc((word & -word) - 1);
#pragma unroll 1
    for (int o0 = 0; o0 < n; o0 += AT_ONCE) {
      const int m = min(AT_ONCE, n - o0);
      __syncthreads();
      for (int i = threadIdx.x; i < m * TOKENS; i += blockDim.x)
        xs[i / TOKENS * (TOKENS + 1) + i % TOKENS] =
            p.x[(u64)min(t0 + i % TOKENS, n_tokens - 1) * s.cols + first * 32 + columns[o0 + i / TOKENS]];
      for (int i = threadIdx.x; i < m * ROWS; i += blockDim.x) {
        const int r = min(r0 + i % ROWS, s.rows - 1);
        ws[i / ROWS * (ROWS + 1) + i % ROWS] =
            (float)(i8)p.weight[(u64)r * s.cols + first * 32 + columns[o0 + i / ROWS]] * p.scb[r] * DEQUANTIZE;
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
}
