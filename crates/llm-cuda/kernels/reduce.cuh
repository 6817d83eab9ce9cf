// Sums over a warp and over a block; the same bits in every thread and in every run.
#pragma once
#include "prelude.cuh"

__device__ __forceinline__ float sum_of_warp(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// Of a warp's lanes up to this one.
__device__ __forceinline__ u32 sum_up_to_lane(u32 v) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    u32 before = __shfl_up_sync(0xffffffffu, v, o);
    if ((threadIdx.x & 31) >= o) v += before;
  }
  return v;
}

// Blocks are whole warps. Barriers before and after: calls may follow each other with the same `partial`.
__device__ __forceinline__ float sum_of_block(float v, float (&partial)[32]) {
  int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5;
  v = sum_of_warp(v);
  if (lane == 0) partial[warp] = v;
  __syncthreads();
  v = sum_of_warp(lane < n_warps ? partial[lane] : 0.f);
  __syncthreads();
  return v;
}
