// Attention of heads of any size, in f32: for those that the tiled kernels do not take, to values that are elements of
// keys, and for positions in chunks, which cost those kernels registers.
//
//   attention_wide   as in attention.cu. A head of a row a block of 256 threads, grid (rows of a sequence at most, sequences,
//                    heads). 256 positions at a time: a thread scores one of them, then sums up elements d, d + 256, … of
//                    their values; earlier sums shrink by the new maximum.
//   Bytes: the keys and values that a row sees, once a head. Shared memory 2 KB.
//
// pool [n_blocks][n_planes][n_kv_heads][32][head_dim]: keys and values, or keys alone, whose first value_dim elements are the
// values. window: positions that are seen, 0 for all before, -n for those of the position's chunk of n; full: all of n_positions.
#include "general.cuh"

__device__ __forceinline__ u64 kv_at(const u32* table, int table_len, u32 position, int plane, int n_planes, int n_kv_heads,
                                     int head, int head_dim) {
  u64 block = table[position / 32 % table_len];
  return (((block * n_planes + plane) * n_kv_heads + head) * 32 + position % 32) * head_dim;
}

__device__ __forceinline__ float kv_of(const void* pool, int dtype, u64 at) {
  if (dtype == F32) return ((const float*)pool)[at];
  if (dtype == F16) return __half2float(((const __half*)pool)[at]);
  return __bfloat162float(((const __nv_bfloat16*)pool)[at]);
}

// By all 256 threads; `shared` is theirs again when it returns.
template <bool MAX> __device__ __forceinline__ float over_block(float v, float (&shared)[256]) {
  shared[threadIdx.x] = v;
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (threadIdx.x < half) {
      float a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = MAX ? fmaxf(a, b) : a + b;
    }
    __syncthreads();
  }
  v = shared[0];
  __syncthreads();
  return v;
}

KERNEL(attention_wide)(const float* q, const u32* rows, const u32* tables, int table_len, const void* pool, int dtype,
                       int n_heads, int n_kv_heads, int head_dim, int value_dim, int n_planes, int row_width, float scale, float cap, int window, int full,
                       const float* bias, int bias_row, int bias_zero, const u8* sinks, int sinks_dtype, float* out) {
  __shared__ float weights[256];
  __shared__ float shared[256];
  const u32* own = rows + blockIdx.y * 4;
  if (blockIdx.x >= own[1]) return;
  const u32* table = tables + (u64)blockIdx.y * table_len;
  int head = blockIdx.z, kv_head = head / (n_heads / n_kv_heads);
  int position = own[2] + blockIdx.x, begin = 0, end = full ? own[3] : position + 1;
  if (!full && window > 0 && position + 1 > window) begin = position + 1 - window;
  if (!full && window < 0) begin = position - position % -window;
  q += (u64)(own[0] + blockIdx.x) * row_width + (u64)head * head_dim;
  out += ((u64)(own[0] + blockIdx.x) * n_heads + head) * value_dim;
  float most = __int_as_float(0xff800000), total = 0.f;
  if (sinks) { most = dense_of(sinks, sinks_dtype, head); total = 1.f; }
  for (int first = begin; first < end; first += 256) {
    int p = first + threadIdx.x;
    float s = __int_as_float(0xff800000);
    if (p < end) {
      u64 at = kv_at(table, table_len, p, 0, n_planes, n_kv_heads, kv_head, head_dim);
      s = 0.f;
      for (int d = 0; d < head_dim; d++) s = fmaf(q[d], kv_of(pool, dtype, at + d), s);
      s *= scale;
      if (cap > 0.f) s = cap * tanhf(s / cap);
      if (bias) s += bias[(u64)head * bias_row + min(max(bias_zero + p - position, 0), bias_row - 1)];
    }
    float next = fmaxf(most, over_block<true>(s, shared));
    float shrink = first == begin && !sinks ? 0.f : expf(most - next), weight = p < end ? expf(s - next) : 0.f;
    weights[threadIdx.x] = weight;
    total = total * shrink + over_block<false>(weight, shared);
    most = next;
    int n = min(end - first, 256);
    for (int d = threadIdx.x; d < value_dim; d += 256) {
      float sum = first == begin ? 0.f : out[d] * shrink;
      for (int i = 0; i < n; i++) {
        u64 at = kv_at(table, table_len, first + i, n_planes - 1, n_planes, n_kv_heads, kv_head, head_dim);
        sum = fmaf(weights[i], kv_of(pool, dtype, at + d), sum);
      }
      out[d] = sum;
    }
    __syncthreads();
  }
  for (int d = threadIdx.x; d < value_dim; d += 256) out[d] /= total;
}
