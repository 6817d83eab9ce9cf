// All other operations, a thread an element or a row.
#include "general.cuh"

__device__ __forceinline__ float sum_of(float v, float* partial) {
  partial[threadIdx.x] = v;
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  float sum = partial[0];
  __syncthreads();
  return sum;
}

// Element of [n_blocks][2][n_kv_heads][32][head_dim].
__device__ __forceinline__ u64 kv_at(const u32* table, int table_len, u32 position, int is_value, int n_kv_heads, int head,
                                     int head_dim) {
  u64 block = table[position / 32 % table_len];
  return (((block * 2 + is_value) * n_kv_heads + head) * 32 + position % 32) * head_dim;
}

__device__ __forceinline__ float kv_of(const void* pool, int dtype, u64 at) {
  if (dtype == F32) return ((const float*)pool)[at];
  if (dtype == F16) return __half2float(((const __half*)pool)[at]);
  return __bfloat162float(((const __nv_bfloat16*)pool)[at]);
}

// A head of a row a block of 256 threads: grid (rows of a sequence at most, sequences, heads).
KERNEL(plain_attention)(const float* q, const u32* rows, const u32* tables, int table_len, const void* pool, int dtype,
                        int n_heads, int n_kv_heads, int head_dim, int row_width, float scale, float cap, int window, int full,
                        const float* bias, int bias_row, int bias_zero, float* out) {
  __shared__ float partial[256];
  const u32* own = rows + blockIdx.y * 4;
  if (blockIdx.x >= own[1]) return;
  const u32* table = tables + (u64)blockIdx.y * table_len;
  int head = blockIdx.z, kv_head = head / (n_heads / n_kv_heads);
  int position = own[2] + blockIdx.x, begin = 0, end = full ? own[3] : position + 1;
  if (!full && window > 0 && position + 1 > window) begin = position + 1 - window;
  q += (u64)(own[0] + blockIdx.x) * row_width + head * head_dim;
  out += ((u64)(own[0] + blockIdx.x) * n_heads + head) * head_dim;
  float most = __int_as_float(0xff800000), total = 0.f;
  for (int pass = 0; pass < 2; pass++) {
    float own_total = 0.f;
    for (int p = begin + threadIdx.x; p < end; p += 256) {
      u64 at = kv_at(table, table_len, p, 0, n_kv_heads, kv_head, head_dim);
      float s = 0.f;
      for (int d = 0; d < head_dim; d++) s = fmaf(q[d], kv_of(pool, dtype, at + d), s);
      s *= scale;
      if (cap > 0.f) s = cap * tanhf(s / cap);
      if (bias) s += bias[(u64)head * bias_row + min(max(bias_zero + p - position, 0), bias_row - 1)];
      if (pass == 0) most = fmaxf(most, s);
      else own_total += expf(s - most);
    }
    partial[threadIdx.x] = most;
    __syncthreads();
    if (pass == 0) {
      for (int half = 128; half; half >>= 1) {
        if (threadIdx.x < half) partial[threadIdx.x] = fmaxf(partial[threadIdx.x], partial[threadIdx.x + half]);
        __syncthreads();
      }
      most = partial[0];
      __syncthreads();
    } else {
      __syncthreads();
      total = sum_of(own_total, partial);
    }
  }
  for (int d = threadIdx.x; d < head_dim; d += 256) {
    float sum = 0.f;
    for (int p = begin; p < end; p++) {
      u64 at = kv_at(table, table_len, p, 0, n_kv_heads, kv_head, head_dim);
      float s = 0.f;
      for (int i = 0; i < head_dim; i++) s = fmaf(q[i], kv_of(pool, dtype, at + i), s);
      s *= scale;
      if (cap > 0.f) s = cap * tanhf(s / cap);
      if (bias) s += bias[(u64)head * bias_row + min(max(bias_zero + p - position, 0), bias_row - 1)];
      at = kv_at(table, table_len, p, 1, n_kv_heads, kv_head, head_dim);
      sum = fmaf(expf(s - most), kv_of(pool, dtype, at + d), sum);
    }
    out[d] = sum / total;
  }
}
