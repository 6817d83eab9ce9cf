// Rotary positions, from tables that the host makes: powf and sincosf of large angles lose too much on a device.
//
//   (a, b) = (a * cos - b * sin, b * cos + a * sin)
//
// for the pairs of the leading rotary_dim elements of the first n_heads heads of rows [n_tokens, row_width];
// angles [n_tokens, cos of rotary_dim / 2 | sin of rotary_dim / 2].
//   rotary_halves        pairs (i, i + rotary_dim / 2)
//   rotary_adjacent      pairs (2 i, 2 i + 1), each as 8 bytes: row_width and head_dim even, x at 8 bytes
//   rotary_adjacent_odd  the same anywhere
//
// A pair a thread. Grid (n_tokens, ceil(n_heads * rotary_dim / 2 / 256)), block 256, no shared memory.
// Bytes: 8 * n_tokens * n_heads * rotary_dim and the angles; 6 operations a pair, 4 roundings.
#include "turn.cuh"

template <class Pairing>
__device__ __forceinline__ void rotate(float* x, int row_width, const float* angles, int n_heads, int head_dim, int half) {
  int pair = blockIdx.y * 256 + threadIdx.x;
  if (pair >= n_heads * half) return;
  int head = pair / half, i = pair % half;
  const float* cos = angles + (u64)blockIdx.x * 2 * half;
  float* at = x + (u64)blockIdx.x * row_width + (u64)head * head_dim;
  Pairing::store(at, i, half, Pairing::load(at, i, half).turned(cos[i], cos[half + i]));
}

#define ROTARY(name, Pairing)                                                                           \
  KERNEL(name)(float* x, int row_width, const float* angles, int n_heads, int head_dim, int half) {     \
    rotate<Pairing>(x, row_width, angles, n_heads, head_dim, half);                                     \
  }

ROTARY(rotary_halves, Halves)
ROTARY(rotary_adjacent, Adjacent)
ROTARY(rotary_adjacent_odd, AdjacentOdd)
