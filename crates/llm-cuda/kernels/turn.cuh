// Pairs of a head's elements, and their rotary turn.
#pragma once
#include "prelude.cuh"

struct Pair {
  float a, b;
  __device__ __forceinline__ Pair turned(float cos, float sin) const {
    return Pair{fmaf(a, cos, -b * sin), fmaf(b, cos, a * sin)};
  }
};

struct Halves {
  static __device__ __forceinline__ int first(int i, int) { return i; }
  static __device__ __forceinline__ int second(int i, int half) { return i + half; }
  static __device__ __forceinline__ Pair load(const float* head, int i, int half) { return Pair{head[i], head[i + half]}; }
  static __device__ __forceinline__ void store(float* head, int i, int half, Pair p) {
    head[i] = p.a;
    head[i + half] = p.b;
  }
};
struct Adjacent {
  static __device__ __forceinline__ int first(int i, int) { return 2 * i; }
  static __device__ __forceinline__ int second(int i, int) { return 2 * i + 1; }
  static __device__ __forceinline__ Pair load(const float* head, int i, int) {
    float2 p = ((const float2*)head)[i];
    return Pair{p.x, p.y};
  }
  static __device__ __forceinline__ void store(float* head, int i, int, Pair p) {
    ((float2*)head)[i] = make_float2(p.a, p.b);
  }
};
struct AdjacentOdd {
  static __device__ __forceinline__ Pair load(const float* head, int i, int) { return Pair{head[2 * i], head[2 * i + 1]}; }
  static __device__ __forceinline__ void store(float* head, int i, int, Pair p) {
    head[2 * i] = p.a;
    head[2 * i + 1] = p.b;
  }
};
