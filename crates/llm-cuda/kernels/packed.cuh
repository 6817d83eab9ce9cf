// Products and rows of weights in the formats of published files, which rest as they were stored: the kernels of one format.
//
//   packed_rows_{1,8}_F   out[m, first + r] (+)= sum_k w[r, k] x[m, k] + bias[r]    for 1 or up to 8 rows of x
//   packed_any_F          the same for weights at any address, of any number of rows, and of columns where these are no blocks
//   packed_tile_F         the same for many rows of x, by tiles of 64 x 64: gemm_tile.cuh
//   packed_parts_F        w from a row on, as sums of two bf16 numbers, for products by cuBLAS
//   packed_embed_F        out[i, c] = w[ids[i], c] * scale, or added to what out has; at any address
//
// Elements are decoded as they are multiplied, to the bit of what llm-quant decodes, and products and sums are f32. A lane takes 4
// neighbouring columns, so that x is read in whole lines, and codes and scales of neighbours come out of the first cache.
// Bytes moved: those of the weight once for 8 rows of x, or for 64. Operations: one FMA an element and row of x, and 6 to 12 to decode it.
// rows, any: grid (ceil(tiles / (8 / split)), ceil(n / M)), block 256, a tile being 4 rows of the weight (any: 1). Elements lie on a
// border of what the format allows (any: of a byte), x on one of 16; cols is a multiple of the format's block, and (but for any) of 4.
// parts: n elements, parts [2][n]; grid ceil(n / 1024), block 256. Bytes: the weight's, and 4 an element written.
// embed: grid (n, ceil(width / 1024)), block 256.
#pragma once
#include "gemm_tile.cuh"
#include "product.cuh"
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
  static __device__ __forceinline__ Packed of(const Parts& parts, int p) { return packed_of(parts, p); }
};

// Rows of blocks.
template <class T> struct Blocks : OfPacked {
  enum { ALIGN = T::ALIGN };
  const u8* elements;
  int n_blocks;  // of a row
  __device__ __forceinline__ Blocks(const Packed& w, int cols) : elements(w.elements), n_blocks(cols / T::LEN) {}
  template <int A> __device__ __forceinline__ float4 four(int row, int c) const {
    return T::template four<A>(elements + ((u64)row * n_blocks + c / T::LEN) * T::BYTES, c % T::LEN);
  }
};

template <class S, int A, int R, int M, bool ANY>
__device__ __forceinline__ void packed_rows(const Parts& parts, const Rows& rows, int split) {
  __shared__ float partial[8][R * M];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split, cols = rows.cols;
  const int m_first = blockIdx.y * M, n = min(count(rows) - m_first, M);
  if (n <= 0) return;
  int first, row;
  const int p = tile_of_warp<R>(parts, split, first, row);
  float sum[R][M];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) sum[r][m] = 0.f;
  if (p >= 0) {
    const S w(S::of(parts, p), cols);
    const float* x = rows.x + (u64)m_first * cols;
    for (int k = (share * 32 + lane) * 4; k < cols; k += 128 * split) {
      float4 v[R];
#pragma unroll
      for (int r = 0; r < R; r++) v[r] = w.template four<A>(row + r, k);
#pragma unroll
      for (int m = 0; m < M; m++) {
        if (m >= n) break;
        const float* from = x + (u32)(m * cols + k);
        const float4 a = ANY ? make_float4(from[0], k + 1 < cols ? from[1] : 0.f, k + 2 < cols ? from[2] : 0.f,
                                           k + 3 < cols ? from[3] : 0.f)
                             : __ldg((const float4*)from);
#pragma unroll
        for (int r = 0; r < R; r++)
          sum[r][m] = fmaf(v[r].w, a.w, fmaf(v[r].z, a.z, fmaf(v[r].y, a.y, fmaf(v[r].x, a.x, sum[r][m]))));
      }
    }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
      const float all = warp_sum(sum[r][m]);
      if (lane == 0) partial[warp][r * M + m] = all;
    }
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || share) return;
  for (int i = lane; i < R * M; i += 32) {
    const int r = row + i / M, m = i % M;
    float all = 0.f;
    for (int s = 0; s < split; s++) all += partial[warp + s][i];
    if (r < first || m >= n) continue;
    if (!ANY) {
      put(parts, p, rows, m_first + m, r, all);
      continue;
    }
    const u8* bias = (const u8*)FIELD(parts, p, bias);
    if (bias) all += element_at(bias, FIELD(parts, p, bias_type), r);
    float* to = rows.out + (u64)(m_first + m) * rows.width + FIELD(parts, p, first) + r;
    *to = rows.adds ? *to + all : all;
  }
}

template <class S>
__device__ __forceinline__ void packed_embed(const typename S::Weight& w, const u32* ids, u32 n_rows, int width, float scale, int adds, float* out) {
  const int c = (blockIdx.y * 256 + threadIdx.x) * 4;
  if (c >= width) return;
  const u32 id = ids[blockIdx.x];
  const float nan = nanf("");
  const float4 v = id < n_rows ? S(w, width).template four<1>(id, c) : make_float4(nan, nan, nan, nan);
  const float of[4] = {v.x, v.y, v.z, v.w};
  float* to = out + (u64)blockIdx.x * width + c;
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (c + i < width) to[i] = adds ? __fadd_rn(to[i], of[i]) : __fmul_rn(of[i], scale);
}

template <class S>
__device__ __forceinline__ void packed_parts(const typename S::Weight& weight, int cols, int first_row, int n, __nv_bfloat16* parts) {
  const int i = (blockIdx.x * 256 + threadIdx.x) * 4;
  if (i >= n) return;
  const float4 v = S(weight, cols).template four<S::ALIGN>(first_row + i / cols, i % cols);
  u32 p[4];
  split2<__nv_bfloat16, 2>(p, 2, v.x, v.y, __nv_bfloat16());
  split2<__nv_bfloat16, 2>(p + 1, 2, v.z, v.w, __nv_bfloat16());
  *(uint2*)(parts + i) = make_uint2(p[0], p[1]);
  *(uint2*)(parts + n + i) = make_uint2(p[2], p[3]);
}

#define PACKED(F, S)                                                                                                         \
  extern "C" __global__ void __launch_bounds__(256, 3) packed_rows_1_##F(const Parts parts, const Rows rows, int split) {    \
    packed_rows<S, S::ALIGN, 4, 1, false>(parts, rows, split);                                                                      \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 2) packed_rows_8_##F(const Parts parts, const Rows rows, int split) {    \
    packed_rows<S, S::ALIGN, 4, 8, false>(parts, rows, split);                                                                      \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 2) packed_any_##F(const Parts parts, const Rows rows, int split) {       \
    packed_rows<S, 1, 1, 8, true>(parts, rows, split);                                                                             \
  }                                                                                                                          \
  extern "C" __global__ void __launch_bounds__(256, 2) packed_tile_##F                                                       \
  (const float* x, S::Weight weight, const void* bias, float* out, float* pieces, GemmShape shape) {                            \
    const S w(weight, shape.cols);                                                                                           \
    tile(                                                                                                                    \
        x,                                                                                                                   \
        [&](int row, int c, int end, float(&wv)[4]) {                                                                        \
          const float4 v = c < end ? w.template four<S::ALIGN>(row, c) : make_float4(0.f, 0.f, 0.f, 0.f);                    \
          wv[0] = v.x, wv[1] = v.y, wv[2] = v.z, wv[3] = v.w;                                                                \
        },                                                                                                                   \
        bias, out, pieces, shape);                                                                                           \
  }                                                                                                                          \
  KERNEL_OF(256, packed_parts_##F)                                                                                           \
  (S::Weight weight, int cols, int first_row, int n, __nv_bfloat16* parts) {                                                    \
    packed_parts<S>(weight, cols, first_row, n, parts);                                                                      \
  }                                                                                                                          \
  KERNEL_OF(256, packed_embed_##F)                                                                                           \
  (S::Weight weight, const u32* ids, u32 n_rows, int width, float scale, int adds, float* out) {                                \
    packed_embed<S>(weight, ids, n_rows, width, scale, adds, out);                                                           \
  }
