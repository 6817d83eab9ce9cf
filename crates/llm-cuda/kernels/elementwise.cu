// Sums, activations, gates, and the largest of a row.
//
//   add          x += y
//   scale_by     x *= by[0]
//   activate_A   x = A(x)
//   scale        x[t, c] *= the factor of c's run, or zero where that is zero
//   add_gated    x[t, c] += y[t, c] / (1 + exp(-gates[t]))
//   gate_A       out[t, c] = A(gate_up[t, c]) * gate_up[t, width + c]
//   argmax       of rows [n_rows, width]: the first of the largest, or none where a number is not finite
//
//   relu       max(0, x)                          gelu  x * Phi(x)
//   relu2      max(0, x)^2
//   gelu_tanh  x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3))), which is 0.5 x (1 + tanh(..)) without its cancellation
//   silu       x / (1 + exp(-x))
// Library functions and IEEE division, none of the fast ones: 2 to 5 units in the last place. exp overflows to infinity
// and x / infinity is zero, so no argument needs a branch.
//
// add, scale_by, activate_A: n elements, 4 a thread at 16 bytes and the last n % 4 by the first threads. Grid ceil(n / 1024) or less
//   (the loop strides by the grid), block 256. Bytes 12 n and twice 8 n.
// gate_A: width a multiple of 4; 4 columns a thread, grid (n_tokens, ceil(width / 1024)), block 256. gate_A_odd: any width,
//   one column a thread, grid (n_tokens, ceil(width / 256)). Of rows that a router chose, bounds has the begin and the end: there
//   are as many as these lie apart, known on the device alone; else it is null. Bytes 12 an element of out.
// add_gated: any width, one column a thread, grid (n_tokens, ceil(width / 256)), block 256. Bytes 12 an element.
// scale: any width, one column a thread, grid (n_tokens, ceil(width / 256)), block 256. Bytes 8 an element.
// argmax_parts: grid (n_parts, n_rows), block 256; a part's best to best [n_rows, n_parts] as 8 bytes. argmax_of_parts: grid
//   n_rows, block 32; out [n_rows] the column, or 0xffffffff for none. Bytes 4 n_rows width.
#include "activation.cuh"
#include "reduce.cuh"
#include "stored.cuh"

template <class Next>
__device__ __forceinline__ void each(Next next, float* x, u32 n) {
  u32 thread = blockIdx.x * 256 + threadIdx.x, quads = n / 4;
  for (u32 i = thread; i < quads; i += gridDim.x * 256) next.four(((float4*)x)[i], i, (float4*)x);
  if (thread < n % 4) x[4 * quads + thread] = next.one(x[4 * quads + thread], 4 * quads + thread);
}

struct Plus {
  const float* y;
  __device__ __forceinline__ void four(float4 x, u32 i, float4* out) const {
    float4 b = ((const float4*)y)[i];
    out[i] = make_float4(x.x + b.x, x.y + b.y, x.z + b.z, x.w + b.w);
  }
  __device__ __forceinline__ float one(float x, u32 i) const { return x + y[i]; }
};
template <class A>
struct Activated {
  __device__ __forceinline__ void four(float4 x, u32 i, float4* out) const {
    out[i] = make_float4(A::of(x.x), A::of(x.y), A::of(x.z), A::of(x.w));
  }
  __device__ __forceinline__ float one(float x, u32) const { return A::of(x); }
};

struct Scaled {
  float factor;
  __device__ __forceinline__ float of(float x) const { return x * factor; }
  __device__ __forceinline__ void four(float4 x, u32 i, float4* out) const {
    out[i] = make_float4(of(x.x), of(x.y), of(x.z), of(x.w));
  }
  __device__ __forceinline__ float one(float x, u32) const { return of(x); }
};

KERNEL(scale_by)(const u8* by, int element, float* x, u32 n) {
  each(Scaled{element_at(by, element, 0)}, x, n);
}

KERNEL(add)(const float* y, float* x, u32 n) { each(Plus{y}, x, n); }

KERNEL(add_gated)(const float* gates, const float* y, float* x, int width) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  float* to = x + (u64)blockIdx.x * width + c;
  *to = fmaf(1.f / (1.f + expf(-gates[blockIdx.x])), y[(u64)blockIdx.x * width + c], *to);
}

// The ends of runs of columns, and their factors; those beyond the last run end with the row.
struct Runs {
  u32 ends[5];
  float factors[5];
};

KERNEL(scale)(float* x, int width, Runs runs) {
  u32 c = blockIdx.y * 256 + threadIdx.x;
  if (c >= (u32)width) return;
  float factor = runs.factors[4];
#pragma unroll
  for (int i = 3; i >= 0; i--) factor = c < runs.ends[i] ? runs.factors[i] : factor;
  float* at = x + (u64)blockIdx.x * width + c;
  *at = factor == 0.f ? 0.f : *at * factor;
}

__device__ __forceinline__ bool is_beyond(const u32* bounds) { return bounds && blockIdx.x >= bounds[1] - bounds[0]; }

template <class A>
__device__ __forceinline__ void gate(const float* gate_up, const u32* bounds, float* out, int width) {
  int c = blockIdx.y * 1024 + 4 * threadIdx.x;
  if (c >= width || is_beyond(bounds)) return;
  const float* row = gate_up + (u64)blockIdx.x * 2 * width + c;
  float4 g = *(const float4*)row, u = *(const float4*)(row + width);
  float4 y = make_float4(A::of(g.x) * u.x, A::of(g.y) * u.y, A::of(g.z) * u.z, A::of(g.w) * u.w);
  *(float4*)(out + (u64)blockIdx.x * width + c) = y;
}

template <class A>
__device__ __forceinline__ void gate_odd(const float* gate_up, const u32* bounds, float* out, int width) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width || is_beyond(bounds)) return;
  const float* row = gate_up + (u64)blockIdx.x * 2 * width + c;
  out[(u64)blockIdx.x * width + c] = A::of(row[0]) * row[width];
}

#define ACTIVATION(name, A)                                                                                            \
  KERNEL(activate_##name)(float* x, u32 n) { each(Activated<A>(), x, n); }                                             \
  KERNEL(gate_##name)(const float* gate_up, const u32* bounds, float* out, int width) {                                \
    gate<A>(gate_up, bounds, out, width);                                                                              \
  }                                                                                                                    \
  KERNEL(gate_##name##_odd)(const float* gate_up, const u32* bounds, float* out, int width) {                          \
    gate_odd<A>(gate_up, bounds, out, width);                                                                          \
  }

ACTIVATION(relu, Relu)
ACTIVATION(relu2, ReluSquared)
ACTIVATION(gelu, Gelu)
ACTIVATION(gelu_tanh, GeluTanh)
ACTIVATION(silu, Silu)

// A number and its column as one: larger numbers above smaller ones, lower columns above higher ones, and what is not finite
// above all.
constexpr u64 FLAW = ~(u64)0;
__device__ __forceinline__ u64 ranked(float x, u32 column) {
  if (!(fabsf(x) < __int_as_float(0x7f800000))) return FLAW;
  u32 bits = __float_as_uint(x + 0.f);  // plus zero: both zeros are equal
  bits = bits >> 31 ? ~bits : bits | 0x80000000u;
  return (u64)bits << 32 | (u32)~column;
}

__device__ __forceinline__ u64 max_of_warp(u64 v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    u64 other = __shfl_xor_sync(0xffffffffu, v, o);
    v = other > v ? other : v;
  }
  return v;
}

KERNEL(argmax_parts)(const float* x, u32 width, u64* best) {
  __shared__ u64 of_warps[8];
  const float* row = x + (u64)blockIdx.y * width;
  u64 most = 0;
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < width; i += gridDim.x * 256) {
    u64 key = ranked(row[i], i);
    most = key > most ? key : most;
  }
  most = max_of_warp(most);
  if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x >> 5] = most;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  most = max_of_warp(threadIdx.x < 8 ? of_warps[threadIdx.x] : 0);
  if (threadIdx.x == 0) best[(u64)blockIdx.y * gridDim.x + blockIdx.x] = most;
}

KERNEL(argmax_of_parts)(const u64* best, u32 n_parts, u32* out) {
  u64 most = 0;
  for (u32 i = threadIdx.x; i < n_parts; i += 32) {
    u64 key = best[(u64)blockIdx.x * n_parts + i];
    most = key > most ? key : most;
  }
  most = max_of_warp(most);
  if (threadIdx.x == 0) out[blockIdx.x] = most == FLAW ? 0xffffffffu : ~(u32)most;
}
