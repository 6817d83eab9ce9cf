// Rotary positions, from tables that the host makes: powf and sincosf of large angles lose too much on a device.
//
//   (a, b) = (a * cos - b * sin, b * cos + a * sin)
//
// for the pairs of rotary_dim elements, from element `first` on, of the first n_heads heads of rows [n_tokens, row_width];
// angles [n_tokens, cos of rotary_dim / 2 | sin of rotary_dim / 2].
//   rotary_halves        pairs (i, i + rotary_dim / 2)
//   rotary_adjacent      pairs (2 i, 2 i + 1), each as 8 bytes: row_width, head_dim and first even, x at 8 bytes
//   rotary_adjacent_odd  the same anywhere
//
// A pair a thread. Grid (n_tokens, ceil(n_heads * rotary_dim / 2 / 256)), block 256, no shared memory.
// Bytes: 8 * n_tokens * n_heads * rotary_dim and the angles; 6 operations a pair, 4 roundings.
#include "prelude.cuh"

struct Pair {
  float a, b;
  __device__ __forceinline__ Pair turned(float cos, float sin) const {
    return Pair{fmaf(a, cos, -b * sin), fmaf(b, cos, a * sin)};
  }
};

struct Halves {
  static __device__ __forceinline__ Pair load(const float* head, int i, int half) { return Pair{head[i], head[i + half]}; }
  static __device__ __forceinline__ void store(float* head, int i, int half, Pair p) {
    head[i] = p.a;
    head[i + half] = p.b;
  }
};
struct Adjacent {
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

template <class Pairing>
__device__ __forceinline__ void rotate(float* x, int row_width, const float* angles, int n_heads, int head_dim, int first,
                                       int half) {
  int pair = blockIdx.y * 256 + threadIdx.x;
  if (pair >= n_heads * half) return;
  int head = pair / half, i = pair % half;
  const float* cos = angles + (u64)blockIdx.x * 2 * half;
  float* at = x + (u64)blockIdx.x * row_width + (u64)head * head_dim + first;
  Pairing::store(at, i, half, Pairing::load(at, i, half).turned(cos[i], cos[half + i]));
}

#define ROTARY(name, Pairing)                                                                                    \
  KERNEL(name)(float* x, int row_width, const float* angles, int n_heads, int head_dim, int first, int half) {   \
    rotate<Pairing>(x, row_width, angles, n_heads, head_dim, first, half);                                       \
  }

ROTARY(rotary_halves, Halves)
ROTARY(rotary_adjacent, Adjacent)
ROTARY(rotary_adjacent_odd, AdjacentOdd)
