// What LLM.int8() has in common: rounding of elements to codes, activations as they are quantized, and what sums come to.
#pragma once
#include "product.cuh"

__device__ __forceinline__ float through_f16(float a) {
  a = __half2float(__float2half_rn(a));
  return a > 65504.f ? 65504.f : a < -65504.f ? -65504.f : a;  // and NaN
}

// The reciprocal is rounded before it is multiplied.
__device__ __forceinline__ float code_factor(u32 absmax) {
  return absmax == 0 ? 0.f : __fmul_rn(127.f, __fdiv_rn(1.f, __uint_as_float(absmax)));
}

__device__ __forceinline__ i32 code_of(float a, float factor) { return __float2int_rn(__fmul_rn(a, factor)); }

// The number of the last bit that is set.
__device__ __forceinline__ int last_bit(u32 bits) { return 31 - __clz(bits); }

__device__ __forceinline__ u32 block_max(u32 v, u32 (&partial)[32]) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  v = (threadIdx.x & 31) < (blockDim.x >> 5) ? partial[threadIdx.x & 31] : 0;
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// Activations as `int8_quantize` leaves them.
struct Codes {
  const i8* codes;
  const float* absmax;
  const u32* outliers;
};

// Bits of the outliers among 16 columns from `k` on.
__device__ __forceinline__ u32 outlier_bits(const Codes& q, int k) { return __ldg(q.outliers + (k >> 5)) >> (k & 16) & 0xffffu; }

// One of 16 codes.
__device__ __forceinline__ float code_at(const uint4& codes, int c) {
  const u32 word = c < 8 ? (c < 4 ? codes.x : codes.y) : (c < 12 ? codes.z : codes.w);
  return (float)(i8)(word >> (8 * (c & 3)));
}

// What the integer sum and the sum over outlier columns come to.
__device__ __forceinline__ float result(i32 sum, float beside, float absmax, float scale) {
  float product = __fmul_rn(__fmul_rn((float)sum, __fmul_rn(absmax, scale)), 6.200124e-5f);
  return product + __fmul_rn(__fmul_rn(beside, scale), 1.f / 127.f);
}
