// All other operations, a thread an element or a row.
#include "general.cuh"

KERNEL(plain_embed)(Stored w, const u32* ids, float scale, int adds, float* out) {
  int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= w.cols) return;
  float* to = out + (u64)blockIdx.y * w.cols + c;
  float value = __fmul_rn(value_of(w, ids[blockIdx.y], c), scale);
  *to = adds ? __fadd_rn(*to, value) : value;
}

KERNEL(plain_gather)(const float* x, const u32* rows, const u32* bounds, int n, int width, float* out) {
  int c = blockIdx.x * 256 + threadIdx.x;
  u32 first = bounds ? bounds[0] : 0, last = bounds ? bounds[1] : n;
  if (c >= width || blockIdx.y >= last - first) return;
  out[(u64)blockIdx.y * width + c] = x[(u64)rows[first + blockIdx.y] * width + c];
}

KERNEL(plain_scatter)(const float* y, const u32* rows, const float* weights, const u32* bounds, int width, float* x) {
  int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= width || blockIdx.y >= bounds[1] - bounds[0]) return;
  u32 i = bounds[0] + blockIdx.y;
  x[(u64)rows[i] * width + c] += weights[i] * y[(u64)blockIdx.y * width + c];
}

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

// Rows of `row_width`, of which heads `first` and on of as many columns as the gain has; grid (rows, heads).
KERNEL(plain_norm)(const float* x, float* out, Stored gain, Stored bias, int row_width, int first, float eps, float offset,
                   int layer) {
  __shared__ float partial[256];
  int width = gain.cols;
  u64 at = (u64)blockIdx.x * row_width + (u64)(first + blockIdx.y) * width;
  float mean = 0.f;
  if (layer) {
    for (int c = threadIdx.x; c < width; c += 256) mean += x[at + c];
    mean = sum_of(mean, partial) / width;
  }
  float squares = 0.f;
  for (int c = threadIdx.x; c < width; c += 256) squares += (x[at + c] - mean) * (x[at + c] - mean);
  float scale = 1.f / sqrtf(sum_of(squares, partial) / width + eps);
  for (int c = threadIdx.x; c < width; c += 256) {
    float b = bias.elements ? value_of(bias, 0, c) : 0.f;
    out[at + c] = (x[at + c] - mean) * scale * (offset + value_of(gain, 0, c)) + b;
  }
}

// Grid (rows, heads), block 256.
KERNEL(plain_rotate)(float* x, const float* angles, int head_dim, int rotary_dim, int row_width, int adjacent) {
  int half = rotary_dim / 2;
  float* head = x + (u64)blockIdx.x * row_width + (u64)blockIdx.y * head_dim;
  angles += (u64)blockIdx.x * rotary_dim;
  for (int i = threadIdx.x; i < half; i += 256) {
    int a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + half;
    float p = head[a], q = head[b], c = angles[i], s = angles[half + i];
    head[a] = p * c - q * s;
    head[b] = q * c + p * s;
  }
}

KERNEL(plain_ungroup)(const float* grouped, float* out, int n_groups, int n_queries, int head_dim) {
  int width = n_groups * (n_queries + 2) * head_dim, c = blockIdx.x * 256 + threadIdx.x;
  if (c >= width) return;
  int head = c / head_dim, group = head / (n_queries + 2), member = head % (n_queries + 2);
  int place = member < n_queries ? group * n_queries + member : member * n_groups + group;
  out[(u64)blockIdx.y * width + place * head_dim + c % head_dim] = grouped[(u64)blockIdx.y * width + c];
}

// Element of [n_blocks][2][n_kv_heads][32][head_dim].
__device__ __forceinline__ u64 kv_at(const u32* table, int table_len, u32 position, int is_value, int n_kv_heads, int head,
                                     int head_dim) {
  u64 block = table[position / 32 % table_len];
  return (((block * 2 + is_value) * n_kv_heads + head) * 32 + position % 32) * head_dim;
}

// Grid (rows of a sequence at most, sequences), block 256.
KERNEL(plain_append)(const float* kv, int first, int row_width, const u32* rows, const u32* tables, int table_len, void* pool,
                     int dtype, int n_kv_heads, int head_dim) {
  const u32* own = rows + blockIdx.y * 4;
  if (blockIdx.x >= own[1]) return;
  int width = n_kv_heads * head_dim;
  const float* row = kv + (u64)(own[0] + blockIdx.x) * row_width + first;
  for (int i = threadIdx.x; i < 2 * width; i += 256) {
    int c = i % width;
    u64 at = kv_at(tables + (u64)blockIdx.y * table_len, table_len, own[2] + blockIdx.x, i / width, n_kv_heads, c / head_dim,
                   head_dim) +
             c % head_dim;
    if (dtype == F32) ((float*)pool)[at] = row[i];
    if (dtype == F16) ((__half*)pool)[at] = __float2half_rn(row[i]);
    if (dtype == BF16) ((__nv_bfloat16*)pool)[at] = __float2bfloat16_rn(row[i]);
  }
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

KERNEL(plain_add)(const float* y, float* x, u64 n) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < n) x[i] += y[i];
}

// The functions of `Activation`, in its order: relu, gelu, gelu by tanh, silu.
__device__ __forceinline__ float activated(int f, float x) {
  if (f == 0) return x != x ? x : fmaxf(x, 0.f);
  if (f == 1) return x * normcdff(x);
  if (f == 2) return 0.5f * x * (1.f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
  return x / (1.f + expf(-x));
}

KERNEL(plain_activate)(int f, float* x, u64 n) {
  u64 i = (u64)blockIdx.x * 256 + threadIdx.x;
  if (i < n) x[i] = activated(f, x[i]);
}

KERNEL(plain_gate)(int f, const float* gate_up, float* out, int width) {
  int c = blockIdx.x * 256 + threadIdx.x;
  const float* row = gate_up + (u64)blockIdx.y * 2 * width;
  if (c < width) out[(u64)blockIdx.y * width + c] = activated(f, row[c]) * row[width + c];
}

// A row a thread, one thread a block.
KERNEL(plain_choose)(const float* scores, int n_experts, int n_active, int normalised, u32* chosen, float* weights) {
  scores += (u64)blockIdx.x * n_experts;
  chosen += (u64)blockIdx.x * n_active;
  weights += (u64)blockIdx.x * n_active;
  float most = __int_as_float(0xff800000), total = 0.f, of_chosen = 0.f;
  for (int e = 0; e < n_experts; e++) most = fmaxf(most, scores[e]);
  for (int e = 0; e < n_experts; e++) total += expf(scores[e] - most);
  for (int k = 0; k < n_active; k++) {
    int best = total != total ? k : -1;
    for (int e = 0; e < n_experts && total == total; e++) {
      bool is_taken = false;
      for (int j = 0; j < k; j++) is_taken |= chosen[j] == e;
      if (!is_taken && (best < 0 || scores[e] > scores[best])) best = e;
    }
    chosen[k] = best;
    weights[k] = total != total ? total : expf(scores[best] - most);
    of_chosen += weights[k];
  }
  for (int k = 0; k < n_active; k++) weights[k] /= normalised ? of_chosen : total;
}

// Rows by expert, by one thread.
KERNEL(plain_lists)(const u32* chosen, const float* weights, int n_tokens, int n_active, int n_experts, u32* starts, u32* rows,
                    float* row_weights) {
  u32 n = 0;
  for (int e = 0; e < n_experts; e++) {
    starts[e] = n;
    for (int i = 0; i < n_tokens * n_active; i++) {
      if (chosen[i] != e) continue;
      rows[n] = i / n_active;
      row_weights[n++] = weights[i];
    }
  }
  starts[n_experts] = n;
}
