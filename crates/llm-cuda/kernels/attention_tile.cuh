// Attention of many query rows on tensor cores, compute capability 8.0 and later. The formula is in attention_rows.cuh.
//
// attention_tile_{f16,bf16}_{64,128,256}_{2,3}   head_dim rounded up, and 16-bit parts of queries and weights: 2 of f16, 3 of bf16
//   A warp has 16 query vectors (rows x heads of one kv head), a block 64; for 256 two warps have the same, a block 32. Keys and
//   values of a block of the pool lie in shared memory, the next ones being brought while these are used. Queries and weights are
//   sums of 16-bit parts, keys and values are taken as they are, so that products are those of f32; f16 is scaled by powers of 2.
//   Bytes: keys and values seen once for a block's vectors. Operations: 4 n_parts head_dim a position and query.
//   Grid (sum over sequences of ceil(n_tokens * n_heads / n_kv_heads / vectors), n_kv_heads), block 128, shared
//   2 * 32 * (head_dim rounded up + 8) * 2 bytes, and for 128 and 256 n_parts * vectors * (head_dim rounded up + 8) * 2 more.
//   head_dim a multiple of 8.
#pragma once
#include "attention.cuh"

// 16 x 16 elements of rows of queries as a tile's operand: rows g and g + 8, columns c, c + 1, c + 8, c + 9.
struct Rows16 { const float *a, *b; float fa, fb; };

template <class T, int PARTS>
__device__ __forceinline__ void operand(u32 (&part)[PARTS][4], const Rows16& q, int c, int head_dim) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float* row = i % 2 ? q.b : q.a;
    const float f = i % 2 ? q.fb : q.fa;
    const int at = c + i / 2 * 8;
    float x = row && at < head_dim ? row[at] * f : 0.f, y = row && at + 1 < head_dim ? row[at + 1] * f : 0.f;
    split2<T, PARTS>(&part[0][i], 4, x, y, T());
  }
}

template <class T, int HD, int PARTS>
__device__ __forceinline__ void attend(const float* __restrict__ q, const T* __restrict__ pool, const u32* __restrict__ rows,
    const u32* __restrict__ tables, const float* __restrict__ bias, Sinks sinks, float* __restrict__ out, const AttentionShape& s) {
  constexpr bool HELD = HD <= 64;                        // queries in registers
  constexpr int SHARES = HD <= 128 ? 1 : 2;              // warps that have the same queries, each some columns of the values
  constexpr int THREADS = 128, VECTORS = 64 / SHARES, LINE = HD + 8, COLS = HD / SHARES;
  constexpr bool IS_F16 = PARTS == 2;
  constexpr float WHOLE = IS_F16 ? 16384.f : 1.f;        // the largest weight's parts
  DYN_SHARED(T, memory);
  T* queries = memory;                                   // [PARTS][VECTORS][LINE] where they are not held
  T* keys = HELD ? memory : memory + PARTS * VECTORS * LINE;
  T* values = keys + BLOCK_LEN * LINE;
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) / SHARES, column = (threadIdx.x >> 5) % SHARES * COLS;
  const int kv_head = blockIdx.y, hd = s.head_dim, group = s.n_heads / s.n_kv_heads;
  const int g = lane / 4, t2 = lane % 4 * 2;
  Chunk c;
  if (!chunk_of(c, rows, s, group, VECTORS, gridDim.x - 1 - blockIdx.x)) return;   // the longest first

  // This lane's two vectors.
  int lo[2], hi[2];
  float factor[2], back[2];
  Rows16 mine = {nullptr, nullptr, 0.f, 0.f};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int i = c.vector + warp * 16 + g + h * 8;
    const bool live = i < c.n_tokens * group;
    const int row = live ? i / group : 0;
    seen_by(lo[h], hi[h], c, row, s.window, live);
    const float* x = q + (u64)(c.first + row) * s.row_width + (kv_head * group + (live ? i % group : 0)) * hd;
    float most = 0.f;
    if (IS_F16 && live)
      for (int d = lane % 4; d < hd; d += 4) { float a = fabsf(x[d] * s.scale); most = fmaxf(most, a < INF ? a : 0.f); }
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    factor[h] = IS_F16 ? power_for(most) : 1.f;
    back[h] = 1.f / factor[h];
    (h ? mine.b : mine.a) = live ? x : nullptr;
    (h ? mine.fb : mine.fa) = s.scale * factor[h];
  }
  u32 held[HELD ? HD / 16 : 1][PARTS][4];
  if (HELD) {
#pragma unroll
    for (int k = 0; k < HD / 16; k++) operand<T, PARTS>(held[HELD ? k : 0], mine, k * 16 + t2, hd);
  } else {
    for (int k = column / 16; k < (column + COLS) / 16; k++) {
      operand<T, PARTS>(held[0], mine, k * 16 + t2, hd);
#pragma unroll
      for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int i = 0; i < 4; i++)
          *reinterpret_cast<u32*>(queries + ((p * VECTORS + warp * 16 + g + i % 2 * 8) * LINE + k * 16 + t2 + i / 2 * 8)) = held[0][p][i];
    }
    __syncthreads();
  }

  // Positions that any of the block's vectors sees.
  const int last_row = min((c.vector + VECTORS - 1) / group, c.n_tokens - 1);
  int first, end, unused;
  seen_by(first, unused, c, c.vector / group, s.window, true);
  seen_by(unused, end, c, last_row, s.window, true);
  // Columns behind the head's end stay zero.
  for (int i = threadIdx.x; i < 2 * BLOCK_LEN * (HD / 8); i += THREADS)
    if (i % (HD / 8) * 8 >= hd) *reinterpret_cast<uint4*>(keys + i / (HD / 8) * LINE + i % (HD / 8) * 8) = make_uint4(0, 0, 0, 0);
  auto fetch = [&](T* to, int b, int which) {
    if (b * BLOCK_LEN < end) {
      const u32 place = tables[c.sequence * s.table_len + b % s.table_len];
      const T* from = pool + (((u64)place * 2 + which) * s.n_kv_heads + kv_head) * BLOCK_LEN * hd;
#pragma unroll 2
      for (int k = 0; k < BLOCK_LEN * (HD / 8) / THREADS; k++) {
        const int i = threadIdx.x + k * THREADS;
        const int p = i / (HD / 8), e = i % (HD / 8) * 8, at = b * BLOCK_LEN + p;
        if (e < hd) cp_async16_of(to + p * LINE + e, from + p * hd + e, at >= first && at < end ? 16 : 0);
      }
    }
    cp_async_commit();
  };

  float acc[COLS / 8][4] = {}, top[2] = {-INF, -INF}, total[2] = {0.f, 0.f};
  if (sinks.at) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      top[h] = sinks.of(kv_head * group + (c.vector + warp * 16 + g + h * 8) % group);
      total[h] = lane % 4 ? 0.f : 1.f;
    }
  }
  int b = first / BLOCK_LEN;
  fetch(keys, b, 0);
  fetch(values, b, 1);
  for (; b * BLOCK_LEN < end; b++) {
    cp_async_wait<1>();
    __syncthreads();
    float w[4][4] = {};
#pragma unroll (HELD ? HD / 16 : 2)
    for (int k = 0; k < HD / 16; k++) {
      u32 kt[2][4];
#pragma unroll
      for (int n = 0; n < 2; n++) ldmatrix4(kt[n], keys + (n * 16 + (lane & 7) + (lane >> 4) * 8) * LINE + k * 16 + (lane >> 3 & 1) * 8);
#pragma unroll
      for (int p = 0; p < PARTS; p++) {
        u32 a[4];
        if (HELD) {
#pragma unroll
          for (int i = 0; i < 4; i++) a[i] = held[HELD ? k : 0][p][i];
        } else ldmatrix4(a, queries + (p * VECTORS + warp * 16 + (lane & 15)) * LINE + k * 16 + (lane >> 4) * 8);
#pragma unroll
        for (int n = 0; n < 4; n++) mma_m16n8k16(w[n], a, &kt[n / 2][n % 2 * 2], T());
      }
    }
    __syncthreads();
    fetch(keys, b + 1, 0);

    float m[2] = {top[0], top[1]};
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int h = i / 2, at = b * BLOCK_LEN + n * 8 + t2 + i % 2;
        float v = w[n][i] * back[h];
        if (s.soft_cap > 0.f) v = capped(v, s.soft_cap);
        const bool seen = at >= lo[h] && at < hi[h];
        if (bias && seen) {
          const int x = c.vector + warp * 16 + g + h * 8;
          v += bias_of(bias, s, kv_head * group + x % group, at - (c.start + x / group));
        }
        w[n][i] = seen ? v : -INF;
        m[h] = fmaxf(m[h], w[n][i]);
      }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      m[h] = fmaxf(m[h], __shfl_xor_sync(0xffffffffu, m[h], 1));
      m[h] = fmaxf(m[h], __shfl_xor_sync(0xffffffffu, m[h], 2));
      const float zero = m[h] == -INF ? 0.f : m[h], old = exp2_fast((top[h] - zero) * LOG2E);
      top[h] = m[h];
      total[h] *= old;
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) { float& v = w[n][h * 2 + i]; v = exp2_fast((v - zero) * LOG2E); total[h] += v; }
#pragma unroll
      for (int n = 0; n < COLS / 8; n++)                   // not fused with the sums below: that takes registers
#pragma unroll
        for (int i = 0; i < 2; i++) acc[n][h * 2 + i] = __fmul_rn(acc[n][h * 2 + i], old);
    }
    cp_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 2; k++) {
      u32 wp[PARTS][4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float* v = &w[k * 2 + i / 2][i % 2 * 2];
        split2<T, PARTS>(&wp[0][i], 4, v[0] * WHOLE, v[1] * WHOLE, T());
      }
#pragma unroll
      for (int n = 0; n < COLS / 16; n++) {
        float sum[2][4];
        u32 vt[4];
        ldmatrix4_transposed(vt, values + (k * 16 + (lane & 15)) * LINE + column + n * 16 + (lane >> 4) * 8);
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
          if (p == 0) { mma_m16n8k16_first(sum[0], wp[p], vt, T()); mma_m16n8k16_first(sum[1], wp[p], vt + 2, T()); }
          else { mma_m16n8k16(sum[0], wp[p], vt, T()); mma_m16n8k16(sum[1], wp[p], vt + 2, T()); }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
          acc[n * 2][i] = __fadd_rn(acc[n * 2][i], sum[0][i]);
          acc[n * 2 + 1][i] = __fadd_rn(acc[n * 2 + 1][i], sum[1][i]);
        }
      }
    }
    __syncthreads();
    fetch(values, b + 1, 1);
  }
  cp_async_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; h++) {
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 1);
    total[h] += __shfl_xor_sync(0xffffffffu, total[h], 2);
    const int i = c.vector + warp * 16 + g + h * 8;
    if (i >= c.n_tokens * group) continue;
    const float f = 1.f / (total[h] * WHOLE);
    float* to = out + ((u64)(c.first + i / group) * s.n_heads + kv_head * group + i % group) * hd;
#pragma unroll
    for (int n = 0; n < COLS / 8; n++) {
      const int at = column + n * 8 + t2;
      if (at < hd) *(float2*)(to + at) = make_float2(acc[n][h * 2] * f, acc[n][h * 2 + 1] * f);
    }
  }
}

#define TILE(type, T, HD, PARTS)                                                                                             \
  KERNEL_OF(128, attention_tile_##type##_##HD##_##PARTS)(const float* q, const void* pool,               \
      const u32* rows, const u32* tables, const float* bias, const u8* sinks, int sinks_dtype, float* out, AttentionShape shape) { \
    attend<T, HD, PARTS>(q, static_cast<const T*>(pool), rows, tables, bias, Sinks{sinks, sinks_dtype}, out, shape);         \
  }
