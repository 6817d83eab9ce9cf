// The clamped gate, of one feature of each half.
#pragma once
#include "prelude.cuh"

__device__ __forceinline__ float clamped_gate(float g, float u, float alpha, float limit) {
  g = g > limit ? limit : g;
  u = u > limit ? limit : u < -limit ? -limit : u;
  return g / (1.f + expf(-alpha * g)) * (u + 1.f);
}
