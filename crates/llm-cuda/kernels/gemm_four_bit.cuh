// Products of many rows of activations with NF4 and FP4 weights on tensor cores: see gemm_four_bit.cu and gemm_four_bit_half.cu.
#pragma once
#include "tiles.cuh"

struct FourBit {
  const u8* codes;               // two a byte, the first in the high half
  const void* absmax;            // f32, or u8 where `nested`
  const float* map;              // [16]
  const float *nested_absmax, *nested_map, *offset;
  int block_log2, nested;
};

constexpr int FLUSH = 4;         // stages of 32 columns, at most

template <int PARTS, class W> __device__ __forceinline__ void four_bit(const u8* __restrict__ parts, const float* __restrict__ scale,
    const FourBit& weight, const void* __restrict__ bias, float* __restrict__ out, float* __restrict__ pieces, const GemmShape& s) {
  DYN_SHARED(u8, memory);
  constexpr int X = W::TOKENS * STAGE_BYTES, CODES = PARTS * X, SCALES = CODES + W::ROWS * 16;
  constexpr int VALUES = PARTS == 1 ? 256 : 16;  // of bytes, or of codes
  __shared__ u32 values[VALUES * 32];
  __shared__ float nested_map[256];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t0 = blockIdx.y * W::TOKENS, r0 = blockIdx.x * W::ROWS;
  const int t = warp % W::WM * W::MT * 16, r = warp / W::WM * W::NT * 8, n_tokens = count(s);
  if (t0 >= n_tokens) return;

  float most = 0.f;
  for (int c = 0; c < 16; c++) { float a = fabsf(weight.map[c]); most = fmaxf(most, a < INF ? a : 0.f); }
  const float factor = power_for(most);
  for (int i = threadIdx.x; i < VALUES * 32; i += W::THREADS) {
    if constexpr (PARTS == 1) {
      values[i] = pack2(weight.map[i / 512] * factor, weight.map[i / 32 % 16] * factor, __half());
    } else {
      float v = weight.map[i / 32] * factor;
      u32 big = pack2(v, 0.f, __half()), small = pack2(v - unpack2(big, __half()).x, 0.f, __half());
      values[i] = (big & 0xffff) | small << 16;
    }
  }
  if (weight.nested) for (int i = threadIdx.x; i < 256; i += W::THREADS) nested_map[i] = weight.nested_map[i];
  const float offset = weight.nested ? *weight.offset : 0.f;
  __syncthreads();

  const u64 x_stride = (u64)s.x_width * 2;
  const u8* x = parts + t0 * x_stride;
  // The first half of the threads bring codes, the others scales, a row each.
  const int line = threadIdx.x % W::ROWS;
  const u64 first = (u64)min(r0 + line, s.rows - 1) * s.cols;
  float brought = 0.f;
  int code = 0;
  float acc[W::MT][W::NT][4] = {}, sum[W::MT][W::NT][4] = {};
  int begin, end;
  share(begin, end, s.cols / 32);
  const int per = s.cols & ((1 << weight.block_log2) - 1) ? 1 : min(1 << weight.block_log2 >> 5, FLUSH);
  stages(end - begin, SCALES + W::ROWS * 4, memory,
    [&](u8* stage, int i) {
#pragma unroll
      for (int p = 0; p < PARTS; p++)
        bring<W::TOKENS, W::THREADS>(stage + p * X, x + p * s.n_tokens * x_stride, x_stride, n_tokens - t0, x_stride, (begin + i) * STAGE_BYTES);
      const u64 at = first + (begin + i) * 32;
      if (threadIdx.x < W::ROWS) { cp_async16_half_sector(stage + CODES + line * 16, weight.codes + at / 2); return; }
      const u64 b = at >> weight.block_log2;
      if (weight.nested) { code = static_cast<const u8*>(weight.absmax)[b]; brought = weight.nested_absmax[b >> 8]; }
      else brought = static_cast<const float*>(weight.absmax)[b];
    },
    [&](u8* stage) {
      if (threadIdx.x >= W::ROWS)
        reinterpret_cast<float*>(stage + SCALES)[line] = weight.nested ? __fadd_rn(__fmul_rn(nested_map[code], brought), offset) : brought;
    },
    [&](u8* stage, int i) {
      u32 codes[W::NT];
#pragma unroll
      for (int n = 0; n < W::NT; n++) codes[n] = *reinterpret_cast<const u32*>(stage + CODES + (r + n * 8 + lane / 4) * 16 + lane % 4 * 4);
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 big[W::NT][2], small[W::NT][2];
#pragma unroll
        for (int n = 0; n < W::NT; n++)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const u32 byte = codes[n] >> (half * 16 + h * 8);
            if constexpr (PARTS == 1) {
              big[n][h] = values[(byte & 255) * 32 + lane];
            } else {
              const u32 a = values[(byte >> 4 & 15) * 32 + lane], b = values[(byte & 15) * 32 + lane];
              big[n][h] = __byte_perm(a, b, 0x5410);
              small[n][h] = __byte_perm(a, b, 0x7632);
            }
          }
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
          for (int m = 0; m < W::MT; m++) {
            u32 a[4];
            tile_of_x(a, stage + p * X, t + m * 16, half, lane);
#pragma unroll
            for (int n = 0; n < W::NT; n++) {
              mma_m16n8k16(sum[m][n], a, big[n], __half());
              if (PARTS == 2 && p == 0) mma_m16n8k16(sum[m][n], a, small[n], __half());
            }
          }
      }
      if ((begin + i + 1) % per != 0 && begin + i + 1 != end) return;
#pragma unroll
      for (int n = 0; n < W::NT; n++) {
        const float2 f = *reinterpret_cast<const float2*>(stage + SCALES + (r + n * 8 + lane % 4 * 2) * 4);
#pragma unroll
        for (int m = 0; m < W::MT; m++)
#pragma unroll
          for (int i = 0; i < 4; i++) { acc[m][n][i] = fmaf(sum[m][n][i], i % 2 ? f.y : f.x, acc[m][n][i]); sum[m][n][i] = 0.f; }
      }
    });
  scale_tiles<W>(n_tokens, t0 + t, lane, acc, [&](int token) { return scale[token] / factor; });
  store_tiles<W>(s, out, pieces, bias, n_tokens, t0 + t, r0 + r, lane, acc, blockIdx.z);
}

#define FOUR_BIT(PARTS, TOKENS, ...)                                                                                         \
  extern "C" __global__ void __launch_bounds__(256, TOKENS < 128 ? 2 : 1) gemm_four_bit_##PARTS##_##TOKENS(\
      const u8* parts, const float* scale, FourBit weight, const void* bias,    \
      float* out, float* pieces, GemmShape shape) {                                                                          \
    four_bit<PARTS, Warps<__VA_ARGS__>>(parts, scale, weight, bias, out, pieces, shape);                                     \
  }
#define FOUR_BIT_OF(PARTS)                                                                                                   \
  FOUR_BIT(PARTS, 128, 4, 4, 2, 4) FOUR_BIT(PARTS, 32, 2, 2, 1, 8) FOUR_BIT(PARTS, 16, 1, 2, 1, 8)
