// States of sequences in registers: what the kernels over them share.
#pragma once
#include "reduce.cuh"
#include "stored.cuh"

// A weight's elements, of a type each and at any address.
struct Vector {
  const u8* part;
  int element;
  __device__ __forceinline__ float at(int i) const { return element_at(part, element, i); }
};

// Positions that are prepared together, and threads of a block.
enum { POSITIONS = 16, THREADS = 128 };

// Over neighbours.
template <int SHARES>
__device__ __forceinline__ float sum_of_shares(float v) {
#pragma unroll
  for (int o = 1; o < SHARES; o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// ln(1 + exp(x)), without overflow.
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }
