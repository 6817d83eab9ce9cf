// The gated delta rule, and gates on heads.
//
//   delta_rule   for each position: S = decay S + k (x) beta (v - decay S^T k), out = S^T q, with
//                decay = exp(-exp(rate) softplus(a + offset)), beta = sigmoid(b), and k and q of length one, q times scale;
//                delta_rule_channels: a decay, with its a and offset, for each row of S
//   gate_heads   x = norm(x) F(gate) or norm(x F(gate)), F(x) = sigmoid(x), x sigmoid(x) or x; no norm, rms or layer
//
// delta_rule_*: columns of S are independent. A block has 32 columns of a head of a sequence, four threads a column (16, and
//   eight, of delta_rule_256), which have every fourth (eighth) four rows of it in registers: up to 64, 128 or 256, of which those
//   beyond key_dim are zero.
//   Keys, queries and gates of 16 positions are brought to shared memory and prepared, by a warp each; then the columns go
//   through them without a barrier. rows [n_sequences, 4]: first row, rows, position of the first, and a number more. slots [n_sequences], each another.
//   Grid (ceil(value_dim / 32 or 16), n_value_heads, n_sequences), block 128. Reads and writes S once: 8 key_dim value_dim bytes a head,
//   and each block all keys and queries of its head. Operations: 7 key_dim value_dim a position.
// delta_rule_channels_*: the same, with decays beside keys and queries, 4 key_dim bytes a position and block more. Keys of up to
//   256 are prepared for 8 positions, as shared memory has no more room. Grid and operations the same.
// gate_heads: a head a warp. Grid (n_tokens, ceil(n_heads / 8)), block 256. Bytes 12 an element.
// gate_heads_wide: a head a block, for long ones. Grid (n_tokens, n_heads), block up to 1024, whole warps. Bytes the same.
#include "states.cuh"

// Sizes of a rule, and columns of its rows: queries, keys and values in x, a and b in gates.
struct DeltaSizes {
  int n_key_heads, n_value_heads, key_dim, value_dim;
  int decay, strength, gates_width, n_slots;
  int n_together;
  float norm_eps, scale;
};

// A column's rows, `SHARES * N`, over as many threads; `AT_ONCE` positions are prepared together. Where `CHANNELS`, each row
// has a decay.
template <int N, int SHARES, int AT_ONCE, bool CHANNELS>
__device__ __forceinline__ void delta(const float* x, const float* gates, const u32* rows, const u32* slots, Vector rate,
                                      Vector offset, float* state, float* out, DeltaSizes sizes) {
  enum { ROWS = SHARES * N, STRIDE = 4 * SHARES };
  __shared__ __align__(16) float keys[AT_ONCE][ROWS], queries[AT_ONCE][ROWS], fades[CHANNELS ? AT_ONCE : 1][ROWS];
  __shared__ float decays[AT_ONCE], strengths[AT_ONCE], products[AT_ONCE];
  int head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int share = threadIdx.x % SHARES, column = blockIdx.x * (THREADS / SHARES) + threadIdx.x / SHARES;
  const u32* of = rows + 4 * blockIdx.z;
  int first = of[0], n_tokens = of[1];
  u32 slot = slots[blockIdx.z];
  if (slot >= (u32)sizes.n_slots) return;
  bool is_here = column < sizes.value_dim;
  int keys_width = sizes.n_key_heads * sizes.key_dim, out_width = sizes.n_value_heads * sizes.value_dim;
  int row_width = 2 * keys_width + out_width, key_head = head / sizes.n_together % sizes.n_key_heads;
  float* stored = state + ((u64)slot * sizes.n_value_heads + head) * sizes.key_dim * sizes.value_dim + column;
  float s[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    int row = i / 4 * STRIDE + share * 4 + i % 4;
    s[i] = of[2] != 0 && is_here && row < sizes.key_dim ? stored[row * sizes.value_dim] : 0.f;
  }
  float speed = -expf(rate.at(head)), shift = CHANNELS ? 0.f : offset.at(head);
#pragma unroll 1
  for (int begin = 0; begin < n_tokens; begin += AT_ONCE) {
    int n = min((int)AT_ONCE, n_tokens - begin);
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
        if (CHANNELS) {
          int channel = head * sizes.key_dim + i;
          // Rows beyond the keys are zero, and stay so.
          fades[p][i] = i < sizes.key_dim ? expf(speed * softplus(gates[row * sizes.gates_width + sizes.decay + channel] + offset.at(channel))) : 1.f;
        }
      }
      if (lane == 0) {
        const float* gate = gates + row * sizes.gates_width + head;
        decays[p] = CHANNELS ? 1.f : expf(speed * softplus(gate[sizes.decay] + shift));
        strengths[p] = 1.f / (1.f + expf(-gate[sizes.strength]));
        products[p] = kq;
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int p = 0; p < n; p++) {
      float held = 0.f, read = 0.f;
      float decay = decays[p];
      if (CHANNELS) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
          float4 fade = *(const float4*)&fades[p][SHARES * i + 4 * share];
          s[i] *= fade.x;
          s[i + 1] *= fade.y;
          s[i + 2] *= fade.z;
          s[i + 3] *= fade.w;
        }
      }
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

#define DELTA(n, shares, at_once, channels, name)                                                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) delta_rule_##name(const float* x, const float* gates, const u32* rows, const u32* slots, const u8* rate, \
                                    int rate_element, const u8* offset, int offset_element, float* state, float* out,      \
                                    DeltaSizes sizes) {                                                                    \
    delta<n, shares, at_once, channels>(x, gates, rows, slots, Vector{rate, rate_element}, Vector{offset, offset_element}, state, out, sizes);       \
  }

DELTA(16, 4, POSITIONS, false, 64)
DELTA(32, 4, POSITIONS, false, 128)
DELTA(32, 8, POSITIONS, false, 256)
DELTA(16, 4, POSITIONS, true, channels_64)
DELTA(32, 4, POSITIONS, true, channels_128)
DELTA(32, 8, POSITIONS / 2, true, channels_256)

// What gates do: norm 0 none, 1 rms, 2 layer; after 0 before the gates, 1 after them; function 0 sigmoid, 1 silu. The gain
// and the bias are of one head, or of all where `of_all` is 1.
struct Gating {
  int width, first, function, norm, after, of_all;
  float eps, gain_offset;
  int n_heads, head_dim;
};

// Elements of a head that a thread keeps; of a longer one others are read again.
enum { KEPT = 8 };

// Head `head` of a row, whose threads are `n` and of which this is number `at`.
template <class Sum>
__device__ __forceinline__ void gate_head(const float* gates, Gating of, Vector gain, Vector bias, float* x, int head, int at,
                                          int n, Sum sum) {
  x += ((u64)blockIdx.x * of.n_heads + head) * of.head_dim;
  const float* gate = gates + (u64)blockIdx.x * of.width + of.first + (u64)head * of.head_dim;
  int vectors = of.of_all ? head * of.head_dim : 0;
  auto factor_of = [&](int i) {
    float g = gate[i];
    if (of.function == 2) return g;
    float sigmoid = 1.f / (1.f + expf(-g));
    return of.function ? g * sigmoid : sigmoid;
  };
  auto read = [&](int i) { return of.after ? x[i] * factor_of(i) : x[i]; };
  float kept[KEPT];
#pragma unroll
  for (int k = 0; k < KEPT; k++) kept[k] = at + n * k < of.head_dim ? read(at + n * k) : 0.f;
  float mean = 0.f, factor = 1.f;
  if (of.norm) {
    if (of.norm == 2) {
      float total = 0.f;
#pragma unroll
      for (int k = 0; k < KEPT; k++) total += kept[k];
#pragma unroll 1
      for (int i = at + n * KEPT; i < of.head_dim; i += n) total += read(i);
      mean = sum(total) / (float)of.head_dim;
    }
    float squares = 0.f;
#pragma unroll
    for (int k = 0; k < KEPT; k++) {
      float d = kept[k] - mean;
      if (at + n * k < of.head_dim) squares = fmaf(d, d, squares);
    }
#pragma unroll 1
    for (int i = at + n * KEPT; i < of.head_dim; i += n) {
      float d = read(i) - mean;
      squares = fmaf(d, d, squares);
    }
    factor = 1.f / sqrtf(sum(squares) / (float)of.head_dim + of.eps);
  }
  auto write = [&](float v, int i) {
    if (of.norm) {
      v = (v - mean) * factor * (of.gain_offset + gain.at(vectors + i));
      if (bias.part) v += bias.at(vectors + i);
    }
    x[i] = of.after ? v : v * factor_of(i);
  };
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    int i = at + n * k;
    if (i < of.head_dim) write(kept[k], i);
  }
#pragma unroll 1
  for (int i = at + n * KEPT; i < of.head_dim; i += n) write(read(i), i);
}

KERNEL(gate_heads)(const float* gates, const u8* gain, int gain_element, const u8* bias, int bias_element, float* x, Gating of) {
  int head = blockIdx.y * 8 + (threadIdx.x >> 5);
  if (head >= of.n_heads) return;
  gate_head(gates, of, Vector{gain, gain_element}, Vector{bias, bias_element}, x, head, threadIdx.x & 31, 32,
            [](float v) { return sum_of_warp(v); });
}

KERNEL_OF(1024, gate_heads_wide)(const float* gates, const u8* gain, int gain_element, const u8* bias, int bias_element, float* x,
                                 Gating of) {
  __shared__ float partial[32];
  gate_head(gates, of, Vector{gain, gain_element}, Vector{bias, bias_element}, x, blockIdx.y, threadIdx.x, blockDim.x,
            [&](float v) { return sum_of_block(v, partial); });
}
