// Products and rows of weights in the formats of published files, which rest as they were stored: the kernels of one format.
//
//   packed_rows_{1,8}_F   out[m, first + r] (+)= sum_k w[r, k] x[m, k] + bias[r]    for 1 or up to 8 rows of x: packed_mma.cuh
//   packed_tile_F         the same for many rows of x, 32 a block
//   packed_any_F          the same for weights at any address, and of any number of columns
//   packed_parts_F        w from a row on, as sums of two bf16 numbers, for products by cuBLAS
//   packed_experts_F      out[a, r] = A(sum_k x[rows[a], k] gate_e[r, k]) * sum_k x[rows[a], k] up_e[r, k], or without `up` and A and
//                         with rows of x that lie by assignment the sums alone, for each assignment a of each expert e: experts.cu
//   packed_embed_F        out[i, c] = w[ids[i], c] * scale, or added to what out has; at any address
//
// Sums are f32; what embed, parts and any decode is to the bit what llm-quant decodes.
// Bytes moved: those of the weight once for 8 rows of x, or for 32, and x. Operations: 3 to 8 instructions of the inner loop an element,
// for 1 row as for 8, and 3 to bring it and its share of x and scales.
// rows: grid (ceil(tiles / (warps / split)), ceil(n / M)), a block of as many threads as the kernel allows; a tile is 16 rows of the
// weight. Elements lie on a border of what the format allows, x on one of 16; cols is a multiple of RUN.
// any: grid (ceil(rows / (8 / split)), ceil(n / 8)), block 256.
// tile: grid (ceil(rows / (16 warps)), ceil(n / 32), pieces), as many threads as the kernel allows.
// experts: weights are told by WORDS words each; grid (ceil(rows / (16 warps / split)), tiles of up to 8 assignments), as many threads.
// parts: n elements, parts [2][n]; grid ceil(n / 1024), block 256. Bytes: the weight's, and 4 an element written.
// embed: grid (n, ceil(width / 1024)), block 256.
#pragma once
#include "experts.cuh"
#include "gemm.cuh"
#include "packed_mma.cuh"
#include "stored.cuh"

// A weight for tiles and tables; of a block of scales, where there are any: its rows, its columns, and scales of a line of blocks.
struct Packed {
  const u8* elements;
  const u8* scales;
  int height, width, n_scales, scale_type;
};

__device__ __forceinline__ Packed packed_of(const Parts& parts, int p) {
  const u64 block = (u64)FIELD(parts, p, map), of_scales = (u64)FIELD(parts, p, nested_absmax);  // numbers, not addresses
  return Packed{FIELD(parts, p, elements), (const u8*)FIELD(parts, p, scales), (int)block, (int)(block >> 32), (int)of_scales,
                (int)(of_scales >> 32)};
}

// What sources of elements are told.
struct OfPacked {
  typedef Packed Weight;
  enum { WORDS = 4 };
  static __device__ __forceinline__ Packed of(const Parts& parts, int p) { return packed_of(parts, p); }
  static __device__ __forceinline__ Packed told(const u64* words) {
    return Packed{(const u8*)words[0], (const u8*)words[1], (int)words[2], (int)(words[2] >> 32), (int)words[3], (int)(words[3] >> 32)};
  }
  static __device__ __forceinline__ Packed with(Packed w, const u8* elements) {
    w.elements = elements;
    return w;
  }
  static __device__ __forceinline__ const u8* elements_of(const Packed& w) { return w.elements; }
};

constexpr int TILE_TOKENS = 32;

// Rows of blocks.
template <class T> struct Blocks : OfPacked {
  enum {
    ALIGN = T::ALIGN, SUB = T::SUB, RUN = T::RUN, LESS = T::LESS, SHIFTED = T::SHIFTED, ADDS = T::ADDS,
    STEP = T::BYTES * 256 / T::LEN > 220 ? 128 : 256, CHUNK = STEP / T::LEN * T::BYTES,
    WORD = T::ALIGN == 1 ? 0 : T::ALIGN,  // in shared memory
    BUMP = T::LEN == T::RUN ? T::BYTES : T::BUMP,
    WORDS = 1,
  };
  static __device__ __forceinline__ Packed told(const u64* words) { return Packed{(const u8*)words[0]}; }
  const u8* elements;
  int n_blocks;  // of a row
  __device__ __forceinline__ Blocks(const Packed& w, int cols) : elements(w.elements), n_blocks(cols / T::LEN) {}
  template <int A> __device__ __forceinline__ float4 four(int row, int c) const {
    return T::template four<A>(elements + ((u64)row * n_blocks + c / T::LEN) * T::BYTES, c % T::LEN);
  }
  __device__ __forceinline__ const u8* lines() const { return elements; }
  __device__ __forceinline__ int line_bytes() const { return n_blocks * T::BYTES; }
  // Of so many columns.
  __device__ __forceinline__ int bytes(int n) const { return n / T::LEN * T::BYTES; }
  __device__ __forceinline__ float2 scale(const u8* chunk, int, int, int i) const {
    return T::template scale<WORD>(chunk + (u32)i * SUB / T::LEN * T::BYTES, (int)((u32)i % (T::LEN / SUB)));
  }
  __device__ __forceinline__ float unit(int i) const { return T::unit(i); }
  typedef typename T::Raw Raw;
  __device__ __forceinline__ Raw raw(const u8* chunk, int c, int j) const {
    return T::template raw<WORD>(chunk + (u32)c / T::LEN * T::BYTES, (int)((u32)c % T::LEN), j);
  }
  __device__ __forceinline__ void halves(const Raw& raw, int at, int j, u32 (&p)[2]) const { T::template of<WORD>(raw, at, j, p); }
};

// The tile of rows that a warp takes with those that share its columns: the weight that it is of, and its first row.
template <int WARPS> __device__ __forceinline__ int tile_of_team(const Parts& parts, int split, int height, int& row0) {
  int tile = blockIdx.x * (WARPS / split) + (threadIdx.x >> 5) / split;
  const int p = part_of(parts, height, tile);
  row0 = tile * height;
  return p;
}

// Sums of warps that share columns leave: of M rows of x, in order of rows of the weight.
template <int M>
__device__ __forceinline__ void leave_team(const Parts& parts, const Rows& rows, int p, int row0, int split, int height, int m_first, int n,
                                           float* mine, int stride) {
  const int lane = threadIdx.x & 31;
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || (threadIdx.x >> 5) % split) return;
  const int left = FIELD(parts, p, rows) - row0;
  for (int i = lane; i < height * M; i += 32) {
    // Neighbours in a row of out are written by neighbours.
    const int m = M == 1 ? 0 : i / 16, r = M == 1 ? i : i % 16;
    float all = 0.f;
    for (int s = 0; s < split; s++) all += mine[s * stride + i];
    if (r >= left || m >= n) continue;
    const u8* bias = (const u8*)FIELD(parts, p, bias);
    if (bias) all += element_at(bias, FIELD(parts, p, bias_type), row0 + r);
    float* to = rows.out + (u64)(m_first + m) * rows.width + FIELD(parts, p, first) + row0 + r;
    *to = rows.adds ? *to + all : all;
  }
}

template <class S> __device__ __forceinline__ void packed_one(const Parts& parts, const Rows& rows, int split, int n_tiles) {
  typedef Staged<S, FOR_ONE> M;
  constexpr int WARPS = Team<S, FOR_ONE>::WARPS;
  __shared__ M staged[WARPS];
  const int warp = threadIdx.x >> 5;
  if (count(rows) <= 0) return;
  int row0;
  const int p = tile_of_team<WARPS>(parts, split, 16 * n_tiles, row0);
  if (p >= 0) {
    const S w(S::of(parts, p), rows.cols);
    multiply_one(w, rows.x, rows.cols, row0, FIELD(parts, p, rows), n_tiles, warp % split, split, staged[warp]);
  }
  leave_team<1>(parts, rows, p, row0, split, 16 * n_tiles, 0, 1, staged[warp].acc, sizeof(M) / 4);
}

template <class S> __device__ __forceinline__ void packed_eight(const Parts& parts, const Rows& rows, const SplitX& x, int split) {
  typedef Staged<S, FOR_MANY> M;
  constexpr int WARPS = Team<S, FOR_MANY>::WARPS;
  __shared__ M staged[WARPS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, m_first = blockIdx.y * 8, n = min(count(rows) - m_first, 8);
  if (n <= 0) return;
  int row0;
  const int p = tile_of_team<WARPS>(parts, split, 16, row0), at[1] = {m_first + min(lane / 4, n - 1)};
  float acc[1][4] = {};
  if (p >= 0) {
    const S w(S::of(parts, p), rows.cols);
    multiply_many<S, 1, FOR_MANY>(w, x, at, m_first, n, rows.cols, row0, FIELD(parts, p, rows), warp % split,
                        (rows.cols + S::STEP - 1) / S::STEP, split, staged[warp], acc);
  }
  float* mine = (float*)staged[warp].lines;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int m = lane % 4 * 2 + (i & 1);
    mine[m * 16 + lane / 4 + (i >> 1) * 8] = acc[0][i] * x.scale[m_first + m];
  }
  leave_team<8>(parts, rows, p, row0, split, 16, m_first, n, mine, sizeof(M) / 4);
}

template <class S>
__device__ __forceinline__ void packed_tile(const SplitX& x, const typename S::Weight& weight, const void* bias, float* out,
                                            float* pieces, const GemmShape& s) {
  constexpr int WARPS = Team<S, FOR_MANY>::WARPS, NT = TILE_TOKENS / 8;
  __shared__ Staged<S, FOR_MANY> staged[WARPS];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t0 = blockIdx.y * TILE_TOKENS, n_tokens = count(s);
  const int row0 = (blockIdx.x * WARPS + warp) * 16, n = min(n_tokens - t0, TILE_TOKENS);
  if (n <= 0 || row0 >= s.rows) return;
  const S w(weight, s.cols);
  const int n_steps = (s.cols + S::STEP - 1) / S::STEP, each = (n_steps + gridDim.z - 1) / gridDim.z;
  const int begin = min((int)blockIdx.z * each, n_steps), end = min(begin + each, n_steps);
  int at[NT];
#pragma unroll
  for (int t = 0; t < NT; t++) at[t] = t0 + min(t * 8 + lane / 4, n - 1);
  float acc[NT][4] = {};
  multiply_many<S, NT, FOR_MANY>(w, x, at, t0, n, s.cols, row0, s.rows, begin, end, 1, staged[warp], acc);
  // A lane has two tokens of rows that lie 8 apart: through shared memory, 16 rows of a token are written together.
  float* mine = (float*)staged[warp].lines;
#pragma unroll
  for (int t = 0; t < NT; t += 2) {
    if (t * 8 >= n) break;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int m = lane % 4 * 2 + (i & 1) + (i >> 2) * 8;
      if (m < n - t * 8) mine[m * 17 + lane / 4 + (i >> 1 & 1) * 8] = acc[t + (i >> 2)][i & 3] * x.scale[t0 + t * 8 + m];
    }
    __syncwarp();
    const int r = lane % 16;
#pragma unroll 1
    for (int m = lane / 16; m < min(n - t * 8, 16); m += 2)
      if (row0 + r < s.rows) store(s, out, pieces, bias, t0 + t * 8 + m, row0 + r, mine[m * 17 + r]);
    __syncwarp();
  }
}

template <class S>
__device__ __forceinline__ void packed_experts(const Words& words, const Shape& shape, const uint4* tiles, const u32* n_tiles,
                                               const u32* assigned, const SplitX& x, int activation, int split, float* out) {
  typedef Staged<S, FOR_EXPERT> M;
  constexpr int WARPS = Team<S, FOR_EXPERT>::WARPS;
  __shared__ M staged[WARPS];
  uint4 tile;
  if (!find(tiles, n_tiles, shape, tile)) return;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = tile.z, n_matrices = activation < 0 ? 1 : 2;
  const int row0 = (blockIdx.x * (WARPS / split) + warp / split) * 16;
  const u32 assignment = tile.y + min(lane / 4, n - 1);
  const int at[1] = {(int)(assigned ? assigned[assignment] : assignment)};
  // Sums of both, [2][8][16].
  float* mine = staged[warp].acc;
  if (row0 < shape.rows)
#pragma unroll 1
    for (int i = 0; i < n_matrices; i++) {
      const S w(S::told(words.at + (tile.x * n_matrices + i) * S::WORDS), shape.cols);
      const int first = i ? shape.up_row : 0;
      float acc[1][4] = {};
      multiply_many<S, 1, FOR_EXPERT>(w, x, at, 0, n, shape.cols, first + row0, first + shape.rows, warp % split,
                                (shape.cols + S::STEP - 1) / S::STEP, split, staged[warp], acc);
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const int m = lane % 4 * 2 + (k & 1);
        mine[i * 128 + m * 16 + lane / 4 + (k >> 1) * 8] = acc[0][k] * x.scale[__shfl_sync(0xffffffffu, at[0], m * 4)];
      }
    }
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (warp % split) return;
  for (int i = lane; i < 16 * n; i += 32) {
    float one = 0.f, other = 0.f;
    for (int s = 0; s < split; s++) {
      const float* of = mine + s * (sizeof(M) / 4);
      one += of[i];
      if (n_matrices == 2) other += of[128 + i];
    }
    if (n_matrices == 2) one = activated(activation, one) * other;
    if (row0 + i % 16 < shape.rows) out[(u64)(tile.y + i / 16) * shape.rows + row0 + i % 16] = one;
  }
}

// Any rows and columns, at any address: a warp, or several, a row of the weight.
template <class S> __device__ __forceinline__ void packed_any(const Parts& parts, const Rows& rows, int split) {
  __shared__ float partial[8][8];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split, cols = rows.cols;
  const int m_first = blockIdx.y * 8, n = min(count(rows) - m_first, 8);
  if (n <= 0) return;
  int first, row;
  const int p = tile_of_warp<1>(parts, split, first, row);
  float sum[8] = {};
  if (p >= 0) {
    const S w(S::of(parts, p), cols);
    const float* x = rows.x + (u64)m_first * cols;
    for (int k = (share * 32 + lane) * 4; k < cols; k += 128 * split) {
      const float4 v = w.template four<1>(row, k);
#pragma unroll
      for (int m = 0; m < 8; m++) {
        if (m >= n) break;
        const float* a = x + (u32)(m * cols + k);
        sum[m] = fmaf(v.x, a[0], sum[m]);
        if (k + 1 < cols) sum[m] = fmaf(v.y, a[1], sum[m]);
        if (k + 2 < cols) sum[m] = fmaf(v.z, a[2], sum[m]);
        if (k + 3 < cols) sum[m] = fmaf(v.w, a[3], sum[m]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 8; m++) {
    const float all = warp_sum(sum[m]);
    if (lane == 0) partial[warp][m] = all;
  }
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || share || lane >= n) return;
  float all = 0.f;
  for (int s = 0; s < split; s++) all += partial[warp + s][lane];
  const u8* bias = (const u8*)FIELD(parts, p, bias);
  if (bias) all += element_at(bias, FIELD(parts, p, bias_type), row);
  float* to = rows.out + (u64)(m_first + lane) * rows.width + FIELD(parts, p, first) + row;
  *to = rows.adds ? *to + all : all;
}

// Bytes in shared memory, brought by a block, so many at once as their address and number allow.
constexpr int MOST_BYTES = 1024 / 32 * 34;
typedef u8 Bytes[MOST_BYTES + 16];
template <class T> __device__ __forceinline__ void copy(u8* to, const u8* from, int n) {
#pragma unroll 1
  for (int i = threadIdx.x * sizeof(T); i < n; i += 256 * sizeof(T)) *(T*)(to + i) = *(const T*)(from + i);
}
__device__ __forceinline__ const u8* brought(Bytes& memory, const u8* from, int n) {
  const int border = (int)((u64)from | n);
  u8* to = memory + ((u64)from & 15);
  if (border % 16 == 0) copy<uint4>(to, from, n);
  else if (border % 4 == 0) copy<u32>(to, from, n);
  else if (border % 2 == 0) copy<unsigned short>(to, from, n);
  else copy<u8>(to, from, n);
  __syncthreads();
  return to;
}

template <class S>
__device__ __forceinline__ void packed_embed(const typename S::Weight& w, const u32* ids, u32 n_rows, int width, float scale, int adds, float* out) {
  __shared__ __align__(16) Bytes memory;
  const int first = blockIdx.y * 1024, c = first + threadIdx.x * 4;
  const u32 id = ids[blockIdx.x];
  const S table(w, width);
  float of[4];
#pragma unroll
  for (int i = 0; i < 4; i++) of[i] = nanf("");
  if (id < n_rows) {
    const u64 at = (u64)id * table.line_bytes() + table.bytes(first);
    const u8* here = brought(memory, S::elements_of(w) + at, table.bytes(min(width - first, 1024)));
    const float4 v = c < width ? S(S::with(w, here - at), width).template four<1>(id, c) : make_float4(0.f, 0.f, 0.f, 0.f);
    of[0] = v.x, of[1] = v.y, of[2] = v.z, of[3] = v.w;
  }
  if (c >= width) return;
  float* to = out + (u64)blockIdx.x * width + c;
  if (width % 4 == 0 && (u64)to % 16 == 0) {
    float4 v = adds ? *(const float4*)to : make_float4(0.f, 0.f, 0.f, 0.f);
    v.x = adds ? __fadd_rn(v.x, of[0]) : __fmul_rn(of[0], scale), v.y = adds ? __fadd_rn(v.y, of[1]) : __fmul_rn(of[1], scale);
    v.z = adds ? __fadd_rn(v.z, of[2]) : __fmul_rn(of[2], scale), v.w = adds ? __fadd_rn(v.w, of[3]) : __fmul_rn(of[3], scale);
    *(float4*)to = v;
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (c + i < width) to[i] = adds ? __fadd_rn(to[i], of[i]) : __fmul_rn(of[i], scale);
}

template <class S>
__device__ __forceinline__ void packed_parts(const typename S::Weight& weight, int cols, int first_row, int n, __nv_bfloat16* parts) {
  __shared__ __align__(16) Bytes memory;
  const int first = blockIdx.x * 1024, i = first + threadIdx.x * 4;
  const S whole(weight, cols);
  const u64 at = (u64)first_row * whole.line_bytes() + whole.bytes(first);
  const u8* here = brought(memory, S::elements_of(weight) + at, whole.bytes(min(n - first, 1024)));
  if (i >= n) return;
  const float4 v = S(S::with(weight, here - at), cols).template four<S::ALIGN>(first_row + i / cols, i % cols);
  u32 p[4];
  split2<__nv_bfloat16, 2>(p, 2, v.x, v.y, __nv_bfloat16());
  split2<__nv_bfloat16, 2>(p + 1, 2, v.z, v.w, __nv_bfloat16());
  *(uint2*)(parts + i) = make_uint2(p[0], p[1]);
  *(uint2*)(parts + n + i) = make_uint2(p[2], p[3]);
}

#define TEAM(S, USE) __launch_bounds__(32 * Team<S, USE>::WARPS, Team<S, USE>::BUSY)
#define PACKED(F, S)                                                                                                         \
  extern "C" __global__ void TEAM(S, FOR_ONE) packed_rows_1_##F(const Parts parts, const Rows rows, int split, int n_tiles) {   \
    packed_one<S>(parts, rows, split, n_tiles);                                                                              \
  }                                                                                                                          \
  extern "C" __global__ void TEAM(S, FOR_MANY) packed_rows_8_##F(const Parts parts, const Rows rows, SplitX x, int split) {     \
    packed_eight<S>(parts, rows, x, split);                                                                                  \
  }                                                                                                                          \
  KERNEL_OF(256, packed_any_##F)(const Parts parts, const Rows rows, int split) { packed_any<S>(parts, rows, split); }       \
  extern "C" __global__ void __launch_bounds__(32 * Team<S, FOR_MANY>::WARPS, 1) packed_tile_##F                                \
  (SplitX x, S::Weight weight, const void* bias, float* out, float* pieces, GemmShape shape) {                               \
    packed_tile<S>(x, weight, bias, out, pieces, shape);                                                                     \
  }                                                                                                                          \
  extern "C" __global__ void TEAM(S, FOR_EXPERT) packed_experts_##F                                                               \
  (Words words, Shape shape, const uint4* tiles, const u32* n_tiles, const u32* rows, SplitX x, int activation, int split, float* out) { \
    packed_experts<S>(words, shape, tiles, n_tiles, rows, x, activation, split, out);                                        \
  }                                                                                                                          \
  KERNEL_OF(256, packed_parts_##F)                                                                                           \
  (S::Weight weight, int cols, int first_row, int n, __nv_bfloat16* parts) {                                                    \
    packed_parts<S>(weight, cols, first_row, n, parts);                                                                      \
  }                                                                                                                          \
  KERNEL_OF(256, packed_embed_##F)                                                                                           \
  (S::Weight weight, const u32* ids, u32 n_rows, int width, float scale, int adds, float* out) {                                \
    packed_embed<S>(weight, ids, n_rows, width, scale, adds, out);                                                           \
  }
