// Products of 16 rows of a weight in a format of published files with rows of x, by a warp on tensor cores.
//
// A warp takes S::STEP columns at a time. It brings what 16 rows have there to shared memory in whole sectors, and the next while it
// multiplies; decodes each scale once; and gives codes to the tensor cores as f16 numbers, which they are without an error, with x
// in two f16 numbers, whose sum has 22 bits. Sums of S::SUB columns are multiplied with the scale in f32. What is added to elements,
// or taken off codes, is multiplied with sums of x. A lane has, of rows lane / 4 and 8 more, 4 columns of 16: x lies so that it has
// the first and the third of four beside each other.
//
// A source S of elements is given by what ggml.cuh says of formats, and
//   ALIGN, STEP, CHUNK        border of each step of a row; its columns, no more than 256, and its bytes
//   RUN, BUMP                 columns that the loop over those of a step is unrolled for, which each row has a multiple of; and bytes
//                             from the halves of a run to those of the next, where these lie alike
//   lines(), line_bytes()     the first row, and bytes from row to row
//   scale(chunk, row, c, i), unit(i), raw(chunk, c, j), halves(raw, at, j, p)   of run i of the step, which begins with column c of the
//                             row; what is brought of RUN columns of a step, from c on; the halves of 16 of them, from `at` on
#pragma once
#include "product.cuh"

// x of several rows: two f16 numbers each [2][n][cols], brought to magnitudes up to 2^10; sums of S::SUB columns
// [cols / SUB][n_padded]; and what takes the magnitudes back. The second numbers are left out where `n_parts` is 1.
struct SplitX {
  const u8* parts;
  const float *sums, *scale;
  int n, n_padded, n_parts, reserved;
};

constexpr int MOST_TILES = 4;

// Memory of a warp: for one row of x, for several, and for those of an expert.
enum Use { FOR_ONE, FOR_MANY, FOR_EXPERT };
template <class S, Use USE> struct Staged {
  static constexpr bool ONE = USE == FOR_ONE;
  enum { PIECES = (32 - S::ALIGN + S::CHUNK + 31) / 32 * 2, LINE = (PIECES + 1) * 16, SUBS = S::STEP / S::SUB, SHIFTS = 16 * (SUBS + 1) };
  __align__(16) u8 lines[16 * LINE];
  float scales[S::SHIFTED ? 2 : 1][16][SUBS + 1];
  __align__(8) unsigned short x[ONE ? 2 * S::STEP : 4];
  float sums[ONE ? SUBS : 1];
  float acc[ONE ? 16 * MOST_TILES : USE == FOR_EXPERT ? 256 : 1];
};
template <class S, Use USE> struct Team {
  // Those that bring most at once take more registers.
  static constexpr bool IS_LARGE = USE == FOR_EXPERT || USE == FOR_MANY && (S::CHUNK > 150 || S::SUB == 16);
  enum { WARPS = !IS_LARGE && sizeof(Staged<S, USE>) * 8 <= 48 * 1024 ? 8 : 4 };
  // Blocks that a multiprocessor has at once.
  enum { BUSY = (USE == FOR_EXPERT && S::CHUNK > 200 ? 8 : IS_LARGE ? 12 : 16) / WARPS };
};

// The 16 rows from `row0` on, of which `left` are there.
template <class S> struct Lines {
  const u8* base;  // on a border of 32
  int first, stride, left, lo, hi;
  bool is_edge;    // sectors have bytes before the first row or behind the last
  __device__ __forceinline__ Lines(const S& w, int row0, int rows) : left(rows - row0) {
    stride = w.line_bytes();
    const u64 at = (u64)w.lines() + (u64)row0 * stride;
    first = (int)(at & 31);
    base = (const u8*)(at - first);
    lo = row0 ? 0 : first;
    hi = left >= 32 ? 0x7fffffff : first + left * stride;
    is_edge = lo > 0 || left <= 16 && (hi & 31) != 0;
  }
  // Where a row's part of a step begins.
  __device__ __forceinline__ int at(int r, int step) const { return first + min(r, left - 1) * stride + step * S::CHUNK; }
  // Piece i of a step: with the other half of its sector.
  template <class M> __device__ __forceinline__ bool piece(int i, int step, int& from) const {
    const int start = at(i / M::PIECES, step);
    from = (start & ~31) + i % M::PIECES * 16;
    return (from & ~31) < start + min((int)S::CHUNK, stride - step * S::CHUNK);
  }
  template <class M> __device__ __forceinline__ void fetch(uint4 (&raw)[M::PIECES / 2], int step) const {
    if (is_edge) return;
#pragma unroll
    for (int t = 0; t < M::PIECES / 2; t++) {
      int from;
      if (piece<M>((threadIdx.x & 31) + 32 * t, step, from)) raw[t] = load_stream(base + from);
    }
  }
  template <class M> __device__ __forceinline__ void keep(M& staged, const uint4 (&raw)[M::PIECES / 2], int step) const {
    const int lane = threadIdx.x & 31;
    if (!is_edge) {
#pragma unroll
      for (int t = 0; t < M::PIECES / 2; t++) {
        const int i = lane + 32 * t;
        *(uint4*)(staged.lines + (i + i / M::PIECES) * 16) = raw[t];
      }
      return;
    }
#pragma unroll 1
    for (int i = lane; i < 16 * M::PIECES; i += 32) {
      int from;
      if (!piece<M>(i, step, from)) continue;
      u8* to = staged.lines + (i + i / M::PIECES) * 16 - from;
      if (from >= lo && from + 16 <= hi) *(uint4*)(to + from) = *(const uint4*)(base + from);
      else
#pragma unroll 1
        for (int k = from; k < from + 16; k++) to[k] = k >= lo && k < hi ? base[k] : 0;
    }
  }
  template <class M> __device__ __forceinline__ const u8* chunk(const M& staged, int r, int step) const {
    return staged.lines + r * M::LINE + (at(r, step) & 31);
  }
  // Scales of a step, times a factor: two lanes a row.
  template <class M> __device__ __forceinline__ void scales(const S& w, M& staged, int row0, int step, int n_subs, float factor) const {
    const int r = (threadIdx.x & 31) >> 1, row = row0 + min(r, left - 1);
    const u8* of = chunk(staged, r, step);
#pragma unroll
    for (int t = 0; t < M::SUBS / 2; t++) {
      const int sub = 2 * t + (threadIdx.x & 1);
      if (sub >= n_subs) break;
      const float2 v = w.scale(of, row, step * S::STEP + sub * S::SUB, sub);
      staged.scales[0][r][sub] = v.x * (factor * w.unit(sub));
      if (S::SHIFTED) staged.scales[S::SHIFTED][r][sub] = v.y * factor;
    }
  }
};

// What a run of columns adds to a sum.
template <class S> __device__ __forceinline__ float added(float sum, float products, float of_x, float scale, float shift) {
  if (S::SHIFTED) return fmaf(scale, products, fmaf(shift, of_x, sum));
  if (S::ADDS) return fmaf(scale, fmaf(-(float)S::LESS / 16777216.f, of_x, products), sum);
  return fmaf(scale, products, sum);
}

// One row of x: its first and second f16 numbers are two columns of a tensor product. Of `n_tiles` tiles of 16 rows from row0 on
// staged.acc has the sums.
template <class S>
__device__ __forceinline__ void multiply_one(const S& w, const float* x, int cols, int row0, int rows, int n_tiles, int begin, int by,
                                             Staged<S, FOR_ONE>& staged) {
  typedef Staged<S, FOR_ONE> M;
  enum { FOURS = S::STEP / 128 };
  const int lane = threadIdx.x & 31, g = lane >> 2, j = (lane & 3) * 4, n_steps = (cols + S::STEP - 1) / S::STEP;
  n_tiles = min(n_tiles, (rows - row0 + 15) / 16);
  for (int i = lane; i < 16 * MOST_TILES; i += 32) staged.acc[i] = 0.f;
  uint4 raw[M::PIECES / 2] = {};
  float4 v[FOURS];
  auto fetch_x = [&](int step) {
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
      const int c = step * S::STEP + i * 128 + lane * 4;
      v[i] = c < cols ? __ldg((const float4*)(x + c)) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
  };
  Lines<S> lines(w, row0, rows);
  if (begin < n_steps) {
    lines.template fetch<M>(raw, begin);
    fetch_x(begin);
  }
  float factor = 1.f;
#pragma unroll 1
  for (int step = begin, tile = 0; step < n_steps;) {
    lines.keep(staged, raw, step);
    if (tile == 0) {
      float most = 0.f;
#pragma unroll
      for (int i = 0; i < FOURS; i++)
        most = fmaxf(fmaxf(fmaxf(most, fabsf(v[i].x)), fmaxf(fabsf(v[i].y), fabsf(v[i].z))), fabsf(v[i].w));
      factor = power_for(warp_max(most));
#pragma unroll
      for (int i = 0; i < FOURS; i++) {
        const float a[4] = {v[i].x * factor, v[i].y * factor, v[i].z * factor, v[i].w * factor};
        const u32 p = pack2(a[0], a[2], __half()), q = pack2(a[1], a[3], __half());
        const float2 p2 = unpack2(p, __half()), q2 = unpack2(q, __half());
        const int c = i * 128 + lane * 4;
        *(uint2*)(staged.x + c) = make_uint2(p, q);
        *(uint2*)(staged.x + S::STEP + c) = make_uint2(pack2(a[0] - p2.x, a[2] - p2.y, __half()), pack2(a[1] - q2.x, a[3] - q2.y, __half()));
        if (S::ADDS) {
          float sum = (a[0] + a[1]) + (a[2] + a[3]);
#pragma unroll
          for (int o = 1; o < S::SUB / 4; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
          if (lane % (S::SUB / 4) == 0) staged.sums[c / S::SUB] = sum;
        }
      }
      fetch_x(step + by);
    }
    __syncwarp();
    const int n_cols = min((int)S::STEP, cols - step * S::STEP), here = tile, now = step;
    lines.scales(w, staged, row0 + 16 * here, now, n_cols / S::SUB, 1.f / factor);
    const u8 *one = lines.chunk(staged, g, now), *other = lines.chunk(staged, g + 8, now);
    tile = tile + 1 == n_tiles ? 0 : tile + 1;
    step = tile == 0 ? step + by : step;
    if (n_tiles > 1) lines = Lines<S>(w, row0 + 16 * tile, rows);
    if (step < n_steps) lines.template fetch<M>(raw, step);
    __syncwarp();
    const unsigned short* of_x = staged.x + (g & 1) * S::STEP + j;
    const float *scales = staged.scales[0][g], *sums = staged.sums;
    float acc[2] = {};
#pragma unroll 1
    for (u32 first = 0; first < (u32)n_cols; first += S::RUN) {
      const typename S::Raw raw_one = w.raw(one, S::BUMP ? 0 : (int)first, j), raw_other = w.raw(other, S::BUMP ? 0 : (int)first, j);
#pragma unroll
      for (int u = 0; u < S::RUN / S::SUB; u++) {
        float d[4] = {};
#pragma unroll
        for (int k = 0; k < S::SUB; k += 16) {
          const int at = u * S::SUB + k;
          u32 p[2], q[2];
          w.halves(raw_one, at, j, p);
          w.halves(raw_other, at, j, q);
          const uint2 b = *(const uint2*)(of_x + at);
          const u32 a[4] = {p[0], q[0], p[1], q[1]}, bs[2] = {b.x, b.y};
          mma_m16n8k16(d, a, bs, __half());
        }
        const float sum = S::ADDS ? sums[u] : 0.f;
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float shift = S::SHIFTED ? scales[M::SHIFTS + 8 * h * (M::SUBS + 1) + u] : 0.f;
          acc[h] = added<S>(acc[h], d[2 * h] + d[2 * h + 1], sum, scales[8 * h * (M::SUBS + 1) + u], shift);
        }
      }
      one += S::BUMP, other += S::BUMP, of_x += S::RUN, scales += S::RUN / S::SUB, sums += S::RUN / S::SUB;
    }
    if (j == 0) staged.acc[16 * here + g] += acc[0], staged.acc[16 * here + g + 8] += acc[1];
    __syncwarp();
  }
}

// Up to 8 NT rows of x, of which row `at[t]` is the one of lane / 4 in tile t. acc has rows g and g + 8, for rows 2 j and 2 j + 1 of
// each tile, whose sums lie from row `first` on.
// FOR_EXPERT: they are those of rows `at` of lanes 8 j and 8 j + 4.
template <class S, int NT, Use USE>
__device__ __forceinline__ void multiply_many(const S& w, const SplitX& x, const int (&at)[NT], int first, int n, int cols, int row0,
                                              int rows, int begin, int end, int by, Staged<S, USE>& staged, float (&acc)[NT][4]) {
  typedef Staged<S, USE> M;
  constexpr bool GATHERED = USE == FOR_EXPERT;
  const int lane = threadIdx.x & 31, g = lane >> 2, j = (lane & 3) * 4;
  const Lines<S> lines(w, row0, rows);
  const u8* of_x[NT];
#pragma unroll
  for (int t = 0; t < NT; t++) of_x[t] = x.parts + ((u64)at[t] * cols + j) * 2;
  const u64 part = (u64)x.n * cols * 2;
  int of_sums[2] = {};
  if (GATHERED) of_sums[0] = __shfl_sync(0xffffffffu, at[0], 2 * j), of_sums[1] = __shfl_sync(0xffffffffu, at[0], 2 * j + 4);
  uint4 raw[M::PIECES / 2] = {};
  if (begin < end) lines.template fetch<M>(raw, begin);
#pragma unroll 1
  for (int step = begin; step < end; step += by) {
    lines.keep(staged, raw, step);
    __syncwarp();
    const int n_cols = min((int)S::STEP, cols - step * S::STEP);
    lines.scales(w, staged, row0, step, n_cols / S::SUB, 1.f);
    if (step + by < end) lines.template fetch<M>(raw, step + by);
    __syncwarp();
    const u8 *one = lines.chunk(staged, g, step), *other = lines.chunk(staged, g + 8, step);
    const float *scales = staged.scales[0][g], *sums = x.sums + (u64)step * M::SUBS * x.n_padded;
#pragma unroll 1
    for (u32 first_c = 0; first_c < (u32)n_cols; first_c += S::RUN) {
      const typename S::Raw raw_one = w.raw(one, S::BUMP ? 0 : (int)first_c, j), raw_other = w.raw(other, S::BUMP ? 0 : (int)first_c, j);
#pragma unroll
      for (int u = 0; u < S::RUN / S::SUB; u++) {
        float d[NT][4] = {};
#pragma unroll
        for (int k = 0; k < S::SUB; k += 16) {
          u32 p[2], q[2];
          w.halves(raw_one, u * S::SUB + k, j, p);
          w.halves(raw_other, u * S::SUB + k, j, q);
          const u32 a[4] = {p[0], q[0], p[1], q[1]};
#pragma unroll
          for (int t = 0; t < NT; t++) {
            if (t > 0 && t * 8 >= n) break;
            const u8* from = of_x[t] + (step * S::STEP + (int)first_c) * 2 + (u * S::SUB + k) * 2;
            const uint2 b = __ldg((const uint2*)from);
            const u32 bs[2] = {b.x, b.y};
            mma_m16n8k16(d[t], a, bs, __half());
            if (x.n_parts > 1) {
              const uint2 b = __ldg((const uint2*)(from + part));
              const u32 bs[2] = {b.x, b.y};
              mma_m16n8k16(d[t], a, bs, __half());
            }
          }
        }
#pragma unroll
        for (int t = 0; t < NT; t++) {
          if (t > 0 && t * 8 >= n) break;
          float2 sum = make_float2(0.f, 0.f);
          if (S::ADDS && GATHERED) sum = make_float2(sums[of_sums[0]], sums[of_sums[1]]);
          else if (S::ADDS) sum = __ldg((const float2*)(sums + first + t * 8 + j / 2));
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int at = 8 * (i >> 1) * (M::SUBS + 1) + u;
            acc[t][i] = added<S>(acc[t][i], d[t][i], i & 1 ? sum.y : sum.x, scales[at], S::SHIFTED ? scales[M::SHIFTS + at] : 0.f);
          }
        }
        sums += x.n_padded;
      }
      one += S::BUMP, other += S::BUMP, scales += S::RUN / S::SUB;
    }
    __syncwarp();
  }
}
