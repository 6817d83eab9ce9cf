// The gated delta rule, and gates on heads.
//
//   delta_rule   for each position: S = decay S + k (x) beta (v - decay S^T k), out = S^T q, with
//                decay = exp(-exp(rate) softplus(a + offset)), beta = sigmoid(b), and k and q of length one, q times scale
//   gate_heads   x = norm(x) F(gate), F(x) = sigmoid(x) or x sigmoid(x); no norm, rms or layer
//
// delta_rule_*: columns of S are independent. A block has 32 columns of a head of a sequence, four threads a column (16, and
//   eight, of delta_rule_256), which have every fourth (eighth) four rows of it in registers: up to 64, 128 or 256, of which those
//   beyond key_dim are zero.
//   Keys, queries and gates of 16 positions are brought to shared memory and prepared, by a warp each; then the columns go
//   through them without a barrier. rows [n_sequences, 4]: first row, rows, position of the first, and a number more. slots [n_sequences], each another.
//   Grid (ceil(value_dim / 32 or 16), n_value_heads, n_sequences), block 128. Reads and writes S once: 8 key_dim value_dim bytes a head,
//   and each block all keys and queries of its head. Operations: 7 key_dim value_dim a position.
// gate_heads: a head a warp. Grid (n_tokens, ceil(n_heads / 8)), block 256. Bytes 12 an element.
#include "reduce.cuh"
#include "stored.cuh"

// A weight's elements, of a type each and at any address.
struct Vector {
  const u8* part;
  int element;
  __device__ __forceinline__ float at(int i) const { return element_at(part, element, i); }
};

// Sizes of a rule, and columns of its rows: queries, keys and values in x, a and b in gates.
struct DeltaSizes {
  int n_key_heads, n_value_heads, key_dim, value_dim;
  int decay, strength, gates_width, n_slots;
  float norm_eps, scale;
};

enum { POSITIONS = 16, THREADS = 128 };

// Over neighbours.
template <int SHARES>
__device__ __forceinline__ float sum_of_shares(float v) {
#pragma unroll
  for (int o = 1; o < SHARES; o *= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// A column's rows, `SHARES * N`, over as many threads.
template <int N, int SHARES>
__device__ __forceinline__ void delta(const float* x, const float* gates, const u32* rows, const u32* slots, Vector rate,
                                      Vector offset, float* state, float* out, DeltaSizes sizes) {
  enum { ROWS = SHARES * N, STRIDE = 4 * SHARES };
  __shared__ __align__(16) float keys[POSITIONS][ROWS], queries[POSITIONS][ROWS];
  __shared__ float decays[POSITIONS], strengths[POSITIONS], products[POSITIONS];
  int head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int share = threadIdx.x % SHARES, column = blockIdx.x * (THREADS / SHARES) + threadIdx.x / SHARES;
  const u32* of = rows + 4 * blockIdx.z;
  int first = of[0], n_tokens = of[1];
  u32 slot = slots[blockIdx.z];
  if (slot >= (u32)sizes.n_slots) return;
  bool is_here = column < sizes.value_dim;
  int keys_width = sizes.n_key_heads * sizes.key_dim, out_width = sizes.n_value_heads * sizes.value_dim;
  int row_width = 2 * keys_width + out_width, key_head = head / (sizes.n_value_heads / sizes.n_key_heads);
  float* stored = state + ((u64)slot * sizes.n_value_heads + head) * sizes.key_dim * sizes.value_dim + column;
  float s[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    int row = i / 4 * STRIDE + share * 4 + i % 4;
    s[i] = of[2] != 0 && is_here && row < sizes.key_dim ? stored[row * sizes.value_dim] : 0.f;
  }
  float speed = -expf(rate.at(head)), shift = offset.at(head);
#pragma unroll 1
  for (int begin = 0; begin < n_tokens; begin += POSITIONS) {
    int n = min((int)POSITIONS, n_tokens - begin);
    __syncthreads();
#pragma unroll 1
    for (int p = warp; p < n; p += 4) {
      u64 row = first + begin + p;
      const float* query = x + row * row_width + key_head * sizes.key_dim;
      const float* key = query + keys_width;
      float k2 = 0.f, q2 = 0.f, kq = 0.f;
#pragma unroll 1
      for (int i = lane; i < ROWS; i += 32) {
        float k = i < sizes.key_dim ? key[i] : 0.f, q = i < sizes.key_dim ? query[i] : 0.f;
        keys[p][i] = k;
        queries[p][i] = q;
        k2 = fmaf(k, k, k2);
        q2 = fmaf(q, q, q2);
        kq = fmaf(k, q, kq);
      }
      float of_key = 1.f / sqrtf(sum_of_warp(k2) + sizes.norm_eps);
      float of_query = sizes.scale / sqrtf(sum_of_warp(q2) + sizes.norm_eps);
      kq = sum_of_warp(kq) * of_key * of_query;
#pragma unroll 1
      for (int i = lane; i < ROWS; i += 32) {
        keys[p][i] *= of_key;
        queries[p][i] *= of_query;
      }
      if (lane == 0) {
        const float* gate = gates + row * sizes.gates_width + head;
        float a = gate[sizes.decay] + shift;
        decays[p] = expf(speed * (fmaxf(a, 0.f) + log1pf(expf(-fabsf(a)))));
        strengths[p] = 1.f / (1.f + expf(-gate[sizes.strength]));
        products[p] = kq;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int p = 0; p < n; p++) {
      float held = 0.f, read = 0.f;
      float decay = decays[p];
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        float4 k = *(const float4*)&keys[p][SHARES * i + 4 * share], q = *(const float4*)&queries[p][SHARES * i + 4 * share];
        held = fmaf(k.x, s[i], fmaf(k.y, s[i + 1], fmaf(k.z, s[i + 2], fmaf(k.w, s[i + 3], held))));
        read = fmaf(q.x, s[i], fmaf(q.y, s[i + 1], fmaf(q.z, s[i + 2], fmaf(q.w, s[i + 3], read))));
      }
      held = sum_of_shares<SHARES>(held);
      read = sum_of_shares<SHARES>(read);
      u64 row = first + begin + p;
      float v = is_here ? x[row * row_width + 2 * keys_width + head * sizes.value_dim + column] : 0.f;
      float correction = strengths[p] * (v - decay * held);
      if (is_here && share == 0)
        out[row * out_width + head * sizes.value_dim + column] = fmaf(products[p], correction, decay * read);
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        float4 k = *(const float4*)&keys[p][SHARES * i + 4 * share];
        s[i] = fmaf(k.x, correction, decay * s[i]);
        s[i + 1] = fmaf(k.y, correction, decay * s[i + 1]);
        s[i + 2] = fmaf(k.z, correction, decay * s[i + 2]);
        s[i + 3] = fmaf(k.w, correction, decay * s[i + 3]);
      }
    }
  }
  if (n_tokens == 0) return;
#pragma unroll
  for (int i = 0; i < N; i++) {
    int row = i / 4 * STRIDE + share * 4 + i % 4;
    if (is_here && row < sizes.key_dim) stored[row * sizes.value_dim] = s[i];
  }
}

#define DELTA(n, shares, name)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) delta_rule_##name(const float* x, const float* gates, const u32* rows, const u32* slots, const u8* rate, \
                                    int rate_element, const u8* offset, int offset_element, float* state, float* out,      \
                                    DeltaSizes sizes) {                                                                    \
    delta<n, shares>(x, gates, rows, slots, Vector{rate, rate_element}, Vector{offset, offset_element}, state, out, sizes);       \
  }

DELTA(16, 4, 64)
DELTA(32, 4, 128)
DELTA(32, 8, 256)

// norm: 0 none, 1 rms, 2 layer; function: 0 sigmoid, 1 silu.
KERNEL(gate_heads)(const float* gates, int gates_width, int first, int function, int norm, float eps, float gain_offset,
                   const u8* gain, int gain_element, const u8* bias, int bias_element, int n_heads, int head_dim, float* x) {
  int head = blockIdx.y * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (head >= n_heads) return;
  float* at = x + ((u64)blockIdx.x * n_heads + head) * head_dim;
  const float* gate = gates + (u64)blockIdx.x * gates_width + first + (u64)head * head_dim;
  enum { KEPT = 8 };
  float kept[KEPT];
#pragma unroll
  for (int k = 0; k < KEPT; k++) kept[k] = lane + 32 * k < head_dim ? at[lane + 32 * k] : 0.f;
  float mean = 0.f, factor = 1.f;
  if (norm) {
    float sum = 0.f;
    if (norm == 2) {
#pragma unroll
      for (int k = 0; k < KEPT; k++) sum += kept[k];
#pragma unroll 1
      for (int i = lane + 32 * KEPT; i < head_dim; i += 32) sum += at[i];
      mean = sum_of_warp(sum) / (float)head_dim;
    }
    float squares = 0.f;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
      float d = kept[k] - mean;
      if (lane + 32 * k < head_dim) squares = fmaf(d, d, squares);
    }
#pragma unroll 1
    for (int i = lane + 32 * KEPT; i < head_dim; i += 32) squares = fmaf(at[i] - mean, at[i] - mean, squares);
    factor = 1.f / sqrtf(sum_of_warp(squares) / (float)head_dim + eps);
  }
  auto gated = [&](float v, int i) {
    float g = gate[i], sigmoid = 1.f / (1.f + expf(-g));
    if (norm) {
      v = (v - mean) * factor * (gain_offset + element_at(gain, gain_element, i));
      if (bias) v += element_at(bias, bias_element, i);
    }
    at[i] = v * (function ? g * sigmoid : sigmoid);
  };
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    int i = lane + 32 * k;
    if (i < head_dim) gated(kept[k], i);
  }
#pragma unroll 1
  for (int i = lane + 32 * KEPT; i < head_dim; i += 32) gated(at[i], i);
}
