// Products of heads with rows of a matrix that are a head's own: of head h those from h * stride + first on, n_rows of them.
//
//   head_products_rows     out[t, h, j] = sum_k x[t, h, k] w[row(h) + j, k],  k < cols, j < n_rows
//   head_products_columns  out[t, h, j] = sum_k x[t, h, k] w[row(h) + k, j],  k < n_rows, j < cols
//
// x [n_tokens, n_heads, from + carried], out [n_tokens, n_heads, to + carried]: the last `carried` elements of a head go along as
// they are. w in f32, f16 or bf16 at any address. A block has 16 tokens and 64 results of a head: 32 elements of each at a time
// go through shared memory, and two warps have 4 tokens each.
//   Grid (ceil(to / 64), ceil(n_tokens / 16), n_heads), block 256, shared 10.3 KB.
//   Bytes: the head's rows once for 16 tokens. Operations: 2 from to a token and head.
#include "general.cuh"

enum { TOKENS = 16, RESULTS = 64, DEPTH = 32, EACH = 4 };

template <bool COLUMNS>
__device__ __forceinline__ void products(const u8* w, int dtype, int cols, int stride, int first, int n_rows, const float* x,
                                         float* out, int n_heads, int carried, int n_tokens) {
  __shared__ float xs[TOKENS][DEPTH];
  __shared__ float ws[DEPTH][RESULTS + 1];
  const int from = COLUMNS ? n_rows : cols, to = COLUMNS ? cols : n_rows;
  const int head = blockIdx.z, t0 = blockIdx.y * TOKENS, j0 = blockIdx.x * RESULTS;
  const int n = min(TOKENS, n_tokens - t0);
  const u64 x_width = (u64)n_heads * (from + carried), out_width = (u64)n_heads * (to + carried);
  x += t0 * x_width + (u64)head * (from + carried);
  out += t0 * out_width + (u64)head * (to + carried);
  const u64 row = (u64)head * stride + first;
  if (blockIdx.x == 0)
    for (int i = threadIdx.x; i < n * carried; i += blockDim.x)
      out[i / carried * out_width + to + i % carried] = x[i / carried * x_width + from + i % carried];
  const int j = threadIdx.x % RESULTS, own = threadIdx.x / RESULTS * EACH;
  float sums[EACH];
#pragma unroll
  for (int e = 0; e < EACH; e++) sums[e] = 0.f;
  for (int k0 = 0; k0 < from; k0 += DEPTH) {
    const int depth = min(DEPTH, from - k0);
    for (int i = threadIdx.x; i < TOKENS * DEPTH; i += blockDim.x) {
      int t = i / DEPTH, k = i % DEPTH;
      xs[t][k] = t < n && k < depth ? x[t * x_width + k0 + k] : 0.f;
    }
    for (int i = threadIdx.x; i < DEPTH * RESULTS; i += blockDim.x) {
      // Neighbouring threads read neighbouring elements of a row.
      int k = COLUMNS ? i / RESULTS : i % DEPTH, r = COLUMNS ? i % RESULTS : i / DEPTH;
      u64 at = COLUMNS ? (row + k0 + k) * cols + j0 + r : (row + j0 + r) * cols + k0 + k;
      ws[k][r] = k < depth && j0 + r < to ? dense_of(w, dtype, at) : 0.f;
    }
    __syncthreads();
    if (own < n)
      for (int k = 0; k < depth; k++)
#pragma unroll
        for (int e = 0; e < EACH; e++) sums[e] = fmaf(xs[own + e][k], ws[k][j], sums[e]);
    __syncthreads();
  }
  if (j0 + j >= to) return;
#pragma unroll
  for (int e = 0; e < EACH; e++)
    if (own + e < n) out[(own + e) * out_width + j0 + j] = sums[e];
}

#define PRODUCTS(name, COLUMNS)                                                                                            \
  KERNEL(name)(const u8* w, int dtype, int cols, int stride, int first, int n_rows, const float* x, float* out, int n_heads, \
               int carried, int n_tokens) {                                                                                \
    products<COLUMNS>(w, dtype, cols, stride, first, n_rows, x, out, n_heads, carried, n_tokens);                          \
  }

PRODUCTS(head_products_rows, false)
PRODUCTS(head_products_columns, true)
