// Attention of query rows to the keys and values of block tables, in f32, for every head size and card.
//
//   out[row, head] = sum_p w[p] v[p] / sum_p w[p],  w[p] = exp(s[p] - max s),  the sink of a head being a score without a value,
//  s[p] = cap(scale q.k[p]) + bias[head, p - row's position]
//
// attention_rows_{f32,f16,bf16}_{1,4,8}     head_dim a multiple of 8: 16-byte loads
// attention_any_{f32,f16,bf16}_4            any head_dim to 256
//   A block of 4 warps has 1..8 query vectors (rows x heads of one kv head: the name's number) and one piece of their
//   positions, so that grouped heads read keys and values once. A warp takes whole blocks of the pool, a position a group of
//   lanes with 8 elements each; every group of lanes has its own maximum and sum until the end.
//   Bytes: keys and values seen, once a block. Operations: 4 head_dim a position and query.
//   Grid (sum over sequences of ceil(n_tokens * n_heads / n_kv_heads / vectors), n_kv_heads, n_pieces), block 128.
// attention_merge_{f32,f16,bf16}, which are one
//   Joins the pieces of a row. Needed for n_pieces > 1 alone. Grid (rows of all sequences, n_heads), block 128.
//   Scratch: f32 [rows, n_heads, n_pieces, head_dim] and, behind it, [.., n_pieces, 2] (maximum, sum).
//
// pool [n_blocks][2][n_kv_heads][32][head_dim], 16-byte aligned. rows [n_sequences][first, n_tokens, start, n_positions].
// window: causal with that many positions, 0 without a bound, -1 all positions. soft_cap 0: none. bias null: none.
#pragma once
#include "attention.cuh"

constexpr int WARPS = 4;
constexpr int MAX_HEAD_DIM = 256;

__device__ __forceinline__ void widen8(float (&v)[8], const uint4& a, const uint4& b, float) {
  v[0] = __uint_as_float(a.x); v[1] = __uint_as_float(a.y); v[2] = __uint_as_float(a.z); v[3] = __uint_as_float(a.w);
  v[4] = __uint_as_float(b.x); v[5] = __uint_as_float(b.y); v[6] = __uint_as_float(b.z); v[7] = __uint_as_float(b.w);
}
__device__ __forceinline__ void widen2(float* v, u32 a, __nv_bfloat16) {
  v[0] = __uint_as_float(a << 16); v[1] = __uint_as_float(a & 0xffff0000u);
}
__device__ __forceinline__ void widen2(float* v, u32 a, __half) {
  float2 f = __half22float2(*reinterpret_cast<const __half2*>(&a)); v[0] = f.x; v[1] = f.y;
}
template <class T> __device__ __forceinline__ void widen8(float (&v)[8], const uint4& a, const uint4&, T t) {
  widen2(v, a.x, t); widen2(v + 2, a.y, t); widen2(v + 4, a.z, t); widen2(v + 6, a.w, t);
}
__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

// 8 elements of a position as they are stored; of what is not to be seen, zeros.
template <class T, bool WHOLE> struct Eight {
  uint4 a, b;
  __device__ __forceinline__ void load(const T* p, bool seen, int) {
    a = b = make_uint4(0, 0, 0, 0);
    if (seen) { a = __ldg(reinterpret_cast<const uint4*>(p)); if (sizeof(T) == 4) b = __ldg(reinterpret_cast<const uint4*>(p) + 1); }
  }
  __device__ __forceinline__ void floats(float (&v)[8]) const { widen8(v, a, b, T()); }
};
template <class T> struct Eight<T, false> {
  float f[8];
  __device__ __forceinline__ void load(const T* p, bool seen, int n) {
#pragma unroll
    for (int i = 0; i < 8; i++) f[i] = seen && i < n ? widen(p[i]) : 0.f;
  }
  __device__ __forceinline__ void floats(float (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] = f[i];
  }
};

// One of the block's query vectors.
struct Query { int lo, hi, own, head; };

// Sums of NQ values over groups of `lanes` lanes (8, 16 or 32): lane r gets that of value r % NQ.
template <int NQ> __device__ __forceinline__ float sum_over(float (&d)[NQ], int lane, int lanes) {
#pragma unroll
  for (int o = 1; o < NQ; o *= 2) {
#pragma unroll
    for (int j = 0; j < NQ; j += 2 * o) {
      float mine = lane & o ? d[j + o] : d[j], other = lane & o ? d[j] : d[j + o];
      d[j] = mine + __shfl_xor_sync(0xffffffffu, other, o);
    }
  }
  float v = d[0];
#pragma unroll
  for (int o = NQ; o < 32; o *= 2) { float other = __shfl_xor_sync(0xffffffffu, v, o); v += o < lanes ? other : 0.f; }
  return v;
}

template <class T, int NQ, bool WHOLE>
__device__ __forceinline__ void attend(const float* __restrict__ q, const T* __restrict__ pool, const u32* __restrict__ rows,
    const u32* __restrict__ tables, const float* __restrict__ bias, Sinks sinks, float* __restrict__ out, float* __restrict__ pieces,
    const AttentionShape& s) {
  constexpr int STEPS = 4;
  struct __align__(16) Warp {                                    // scores of a block of the pool, later its weights; then the warp's results
    union {
      struct { float w[BLOCK_LEN][NQ], sum[NQ][32], top[NQ], old[NQ]; } at;
      float acc[NQ][MAX_HEAD_DIM];                 // of each group of lanes
    };
    float m[NQ], l[NQ];
  };
  __shared__ Warp warps[WARPS];
  __shared__ Query queries[NQ];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, kv_head = blockIdx.y, hd = s.head_dim;
  const int group = s.n_heads / s.n_kv_heads;
  Chunk c;
  if (!chunk_of(c, rows, s, group, NQ, blockIdx.x)) return;

  const int lanes = hd > 128 ? 32 : hd > 64 ? 16 : 8;            // of a position: 8 elements each
  const int at_once = 32 / lanes, sub = lane / lanes, e = lane % lanes * 8;
  const bool active = e < hd;
  Warp& mine = warps[warp];

  float qv[NQ][8], acc[NQ][8];
  int first = 0x7fffffff, end = 0;
#pragma unroll
  for (int j = 0; j < NQ; j++) {
    int i = c.vector + j;
    bool live = i < c.n_tokens * group;
    int row = live ? i / group : 0, head = kv_head * group + (live ? i % group : 0);
    Query k; seen_by(k.lo, k.hi, c, row, s.window, live); k.own = c.start + row; k.head = head;
    if (live) { first = min(first, k.lo); end = max(end, k.hi); }
    if (threadIdx.x == 0) queries[j] = k;
    if (lane == 0) mine.at.top[j] = -INF;
    mine.at.sum[j][lane] = 0.f;
    const float* x = q + (u64)(c.first + row) * s.row_width + head * hd + e;
#pragma unroll
    for (int d = 0; d < 8; d++) { qv[j][d] = live && e + d < hd ? x[d] * s.scale : 0.f; acc[j][d] = 0.f; }
  }
  __syncthreads();
  // The first piece has the sinks.
  if (sinks.at && blockIdx.z == 0 && threadIdx.x < NQ) {
    warps[0].at.top[threadIdx.x] = sinks.of(queries[threadIdx.x].head);
    warps[0].at.sum[threadIdx.x][0] = 1.f;
  }
  __syncwarp();
  const int n = (end + BLOCK_LEN - 1) / BLOCK_LEN - first / BLOCK_LEN, piece = (n + gridDim.z - 1) / gridDim.z;
  const int begin = first / BLOCK_LEN + blockIdx.z * piece, stop = min(begin + piece, first / BLOCK_LEN + n);

  // Keys and then values of a block, some positions at a time, which are loaded while those before are used.
  Eight<T, WHOLE> ahead[STEPS];
  const T* keys = nullptr;
  auto load = [&](const T* base, int b, int p0) {
#pragma unroll
    for (int u = 0; u < STEPS; u++) {
      const int p = p0 + u * at_once, at = b * BLOCK_LEN + p;
      ahead[u].load(base + p * hd, active && at >= first && at < end, hd - e);
    }
  };
  auto start = [&](int b) {
    if (b >= stop) return;
    const u32 place = tables[c.sequence * s.table_len + b % s.table_len];
    keys = pool + ((u64)place * 2 * s.n_kv_heads + kv_head) * BLOCK_LEN * hd + e;
    load(keys, b, sub);
  };
  start(begin + warp);
  for (int b = begin + warp; b < stop; b += WARPS) {
    const T* values = keys + (u64)s.n_kv_heads * BLOCK_LEN * hd;
#pragma unroll 1
    for (int p0 = sub; p0 < BLOCK_LEN; p0 += STEPS * at_once) {
      Eight<T, WHOLE> k[STEPS];
#pragma unroll
      for (int u = 0; u < STEPS; u++) k[u] = ahead[u];
      const bool last = p0 + STEPS * at_once >= BLOCK_LEN;
      load(last ? values : keys, b, last ? sub : p0 + STEPS * at_once);
#pragma unroll
      for (int u = 0; u < STEPS; u++) {
        float kf[8], d[NQ];
        k[u].floats(kf);
#pragma unroll
        for (int j = 0; j < NQ; j++) {
          d[j] = 0.f;
#pragma unroll
          for (int i = 0; i < 8; i++) d[j] = fmaf(qv[j][i], kf[i], d[j]);
        }
        float score = sum_over(d, lane, lanes);
        if (lane % lanes < NQ) mine.at.w[p0 + u * at_once][lane % NQ] = score;
      }
    }
    __syncwarp();
    const int at = b * BLOCK_LEN + lane;           // a position a lane
#pragma unroll 1
    for (int j = 0; j < NQ; j++) {
      const Query k = queries[j];
      float d = -INF, top = mine.at.top[j];
      if (at >= k.lo && at < k.hi) {
        d = mine.at.w[lane][j];
        if (s.soft_cap > 0.f) d = capped(d, s.soft_cap);
        if (bias) d += bias_of(bias, s, k.head, at - k.own);
      }
      float m = fmaxf(top, warp_max(d)), zero = m == -INF ? 0.f : m;
      float w = exp2_fast((d - zero) * LOG2E), old = exp2_fast((top - zero) * LOG2E);
      mine.at.w[lane][j] = w;
      mine.at.sum[j][lane] = mine.at.sum[j][lane] * old + w;
      __syncwarp();
      if (lane == 0) { mine.at.top[j] = m; mine.at.old[j] = old; }
    }
    __syncwarp();
#pragma unroll
    for (int j = 0; j < NQ; j++) {
      float old = mine.at.old[j];
#pragma unroll
      for (int i = 0; i < 8; i++) acc[j][i] *= old;
    }
#pragma unroll 1
    for (int p0 = sub; p0 < BLOCK_LEN; p0 += STEPS * at_once) {
      Eight<T, WHOLE> v[STEPS];
#pragma unroll
      for (int u = 0; u < STEPS; u++) v[u] = ahead[u];
      if (p0 + STEPS * at_once < BLOCK_LEN) load(values, b, p0 + STEPS * at_once);
      else start(b + WARPS);
#pragma unroll
      for (int u = 0; u < STEPS; u++) {
        float vf[8];
        v[u].floats(vf);
#pragma unroll
        for (int j = 0; j < NQ; j++) {
          float w = mine.at.w[p0 + u * at_once][j];
#pragma unroll
          for (int i = 0; i < 8; i++) acc[j][i] = fmaf(w, vf[i], acc[j][i]);
        }
      }
    }
    __syncwarp();
  }

#pragma unroll
  for (int j = 0; j < NQ; j++) {
    float l = warp_sum(mine.at.sum[j][lane]);
    if (lane == 0) { mine.m[j] = mine.at.top[j]; mine.l[j] = l; }
  }
  __syncwarp();
#pragma unroll
  for (int j = 0; j < NQ; j++)
#pragma unroll
    for (int i = 0; i < 8; i += 4)
      *reinterpret_cast<float4*>(&mine.acc[j][lane * 8 + i]) = make_float4(acc[j][i], acc[j][i + 1], acc[j][i + 2], acc[j][i + 3]);
  __syncthreads();
  const u64 n_vectors = (u64)s.n_rows * s.n_heads;
#pragma unroll 1
  for (int j = 0; j < NQ && c.vector + j < c.n_tokens * group; j++) {
    float m = -INF, l = 0.f, f[WARPS];
#pragma unroll
    for (int w = 0; w < WARPS; w++) m = fmaxf(m, warps[w].m[j]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      f[w] = exp2_fast((warps[w].m[j] - (m == -INF ? 0.f : m)) * LOG2E);
      l += f[w] * warps[w].l[j];
    }
    const int row = (c.vector + j) / group;
    const u64 vector = (u64)(c.first + row) * s.n_heads + queries[j].head;
    const u64 at = ((u64)(c.before + row) * s.n_heads + queries[j].head) * gridDim.z + blockIdx.z;
    for (int d = threadIdx.x; d < hd; d += WARPS * 32) {
      float a = 0.f;
#pragma unroll
      for (int w = 0; w < WARPS; w++)
#pragma unroll 1
        for (int x = d; x < MAX_HEAD_DIM; x += lanes * 8) a += f[w] * warps[w].acc[j][x];
      if (gridDim.z == 1) out[vector * hd + d] = a / l;
      else pieces[at * hd + d] = a;
    }
    if (gridDim.z > 1 && threadIdx.x == 0) { float* t = pieces + n_vectors * gridDim.z * hd + at * 2; t[0] = m; t[1] = l; }
  }
}

__device__ __forceinline__ void merge(const float* __restrict__ pieces, const u32* __restrict__ rows, float* __restrict__ out, int n_pieces,
    const AttentionShape& s) {
  Chunk c;
  if (!chunk_of(c, rows, s, 1, 1, blockIdx.x)) return;
  const u64 vector = (u64)blockIdx.x * s.n_heads + blockIdx.y;
  const float* t = pieces + (u64)s.n_rows * s.n_heads * n_pieces * s.head_dim + vector * n_pieces * 2;
  float m = -INF, l = 0.f;
  for (int i = 0; i < n_pieces; i++) m = fmaxf(m, t[2 * i]);
  float zero = m == -INF ? 0.f : m;
  for (int i = 0; i < n_pieces; i++) l += exp2_fast((t[2 * i] - zero) * LOG2E) * t[2 * i + 1];
  for (int d = threadIdx.x; d < s.head_dim; d += blockDim.x) {
    float a = 0.f;
    for (int i = 0; i < n_pieces; i++) a += exp2_fast((t[2 * i] - zero) * LOG2E) * pieces[(vector * n_pieces + i) * s.head_dim + d];
    out[((u64)(c.first + c.vector) * s.n_heads + blockIdx.y) * s.head_dim + d] = a / l;
  }
}

#define ROWS(name, T, NQ, WHOLE)                                                                                             \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, NQ == 8 || !WHOLE ? 2 : 3) name(const float* q, const void* pool, const u32* rows,          \
      const u32* tables, const float* bias, const u8* sinks, int sinks_dtype, float* out, float* pieces, AttentionShape shape) { \
    attend<T, NQ, WHOLE>(q, static_cast<const T*>(pool), rows, tables, bias, Sinks{sinks, sinks_dtype}, out, pieces, shape); \
  }
#define ROWS_OF(type, T)                                                                                                     \
  ROWS(attention_rows_##type##_1, T, 1, true) ROWS(attention_rows_##type##_4, T, 4, true)                                    \
  ROWS(attention_rows_##type##_8, T, 8, true)                                                                                \
  ROWS(attention_any_##type##_4, T, 4, false)                                                                                \
  KERNEL(attention_merge_##type)(const float* pieces, const u32* rows, float* out, int n_pieces, AttentionShape shape) {     \
    merge(pieces, rows, out, n_pieces, shape);                                                                               \
  }
