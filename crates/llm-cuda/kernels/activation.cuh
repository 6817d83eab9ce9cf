// Activations, by library functions and IEEE division.
#pragma once
#include "prelude.cuh"

struct Relu {
  static __device__ __forceinline__ float of(float x) { return fmaxf(x, 0.f); }
};
struct ReluSquared {
  static __device__ __forceinline__ float of(float x) { float y = fmaxf(x, 0.f); return y * y; }
};
struct Gelu {
  static __device__ __forceinline__ float of(float x) { return x * normcdff(x); }
};
struct GeluTanh {
  static __device__ __forceinline__ float of(float x) {
    float inner = x * fmaf(0.044715f * x, x, 1.f);
    return x / (1.f + expf(-1.5957691216057308f * inner));
  }
};
struct Silu {
  static __device__ __forceinline__ float of(float x) { return x / (1.f + expf(-x)); }
};
