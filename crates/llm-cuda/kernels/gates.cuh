// The clamped gate, of one feature of each half.
#pragma once
#include "prelude.cuh"

struct ClampedGate {
  float alpha, limit, added;

  __device__ __forceinline__ float of(float g, float u) const {
    g = g > limit ? limit : g;
    u = u > limit ? limit : u < -limit ? -limit : u;
    return g / (1.f + expf(-alpha * g)) * (u + added);
  }
};
