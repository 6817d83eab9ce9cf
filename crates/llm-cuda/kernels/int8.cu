// Products of few rows of activations by LLM.int8().
//
//   int8_quantize       h = f16(x), at most 65504; absmax[m] = max |h| of no outlier; codes = round(h * (127 * (1 / absmax)))
//   int8_outliers       columns with an outlier in any row: their codes become 0, their bits are set
//   int8_rows_*         out[m, first + r] (+)= sum_k w[r, k] codes[m, k] * (absmax[m] * scb[r]) * 6.200124e-5
//                                              + sum_outliers x[m, k] w[r, k] * scb[r] / 127 + bias[r]
//   int8_per_use_*      the same, w[r, k] = round(f16(v[r, k]) * (127 * (1 / scb[r]))) made of elements v that stay as they are
//
// |h| >= threshold is an outlier; a threshold of 0 means none. Outlier columns are bits, 32 a word: `int8_quantize` writes one
// row of words a row of x, and where there are several rows `int8_outliers` makes one of them, in the first. Nothing needs
// clearing, and the host need not know whether there are any.
//
// Integer sums are exact. Outliers are f32: a lane looks for them among the columns whose codes it has at hand.
// Bytes moved: those of the weight, and cols a row of x from the caches. 16 elements a load and lane.
// Elements, codes and x lie on borders of 16 bytes, and so do rows of weights and codes: cols is a multiple of 16.
#include "product.cuh"

__device__ __forceinline__ float through_f16(float a) {
  a = __half2float(__float2half_rn(a));
  return a > 65504.f ? 65504.f : a < -65504.f ? -65504.f : a;  // and NaN
}

// The reciprocal is rounded before it is multiplied.
__device__ __forceinline__ float code_factor(u32 absmax) {
  return absmax == 0 ? 0.f : __fmul_rn(127.f, __fdiv_rn(1.f, __uint_as_float(absmax)));
}

__device__ __forceinline__ i32 code_of(float a, float factor) { return __float2int_rn(__fmul_rn(a, factor)); }

// The number of the last bit that is set.
__device__ __forceinline__ int last_bit(u32 bits) { return 31 - __clz(bits); }

__device__ __forceinline__ u32 block_max(u32 v, u32 (&partial)[32]) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  v = (threadIdx.x & 31) < (blockDim.x >> 5) ? partial[threadIdx.x & 31] : 0;
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// A block 4096 columns of a row, of which it looks for the largest magnitude in all. Grid (ceil(cols / 4096), n), block 1024.
KERNEL_OF(1024, int8_quantize)
(const float* __restrict__ x, const u32* bounds, int n, int cols, float threshold, i8* __restrict__ codes,
 float* __restrict__ absmax, u32* __restrict__ outliers) {
  __shared__ u32 partial[32];
  const int row = blockIdx.y, n_vectors = cols / 4, n_words = (cols + 31) / 32, own = blockIdx.x * 1024 + threadIdx.x;
  if (bounds && row >= (int)(bounds[1] - bounds[0])) return;
  const float4* from = (const float4*)(x + (u64)row * cols);
  const float limit = threshold > 0.f ? threshold : 1e30f;
  u32 largest = 0;
  auto look = [&](float a) {
    a = fabsf(through_f16(a));
    if (!(a >= limit)) largest = max(largest, __float_as_uint(a));
  };
  for (int first = threadIdx.x; first < n_vectors; first += 4096) {
    float4 v[4];
#pragma unroll
    for (int u = 0; u < 4; u++)
      v[u] = first + u * 1024 < n_vectors ? from[first + u * 1024] : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
    for (int u = 0; u < 4; u++) look(v[u].x), look(v[u].y), look(v[u].z), look(v[u].w);
  }
  largest = block_max(largest, partial);
  if (own == 0) absmax[row] = __uint_as_float(largest);
  const float factor = code_factor(largest);
  const float4 v = own < n_vectors ? from[own] : make_float4(0.f, 0.f, 0.f, 0.f);
  const float f[4] = {v.x, v.y, v.z, v.w};
  u32 word = 0, bits = 0;
#pragma unroll
  for (int e = 0; e < 4; e++) {
    const float a = through_f16(f[e]);
    const bool is_outlier = fabsf(a) >= limit;
    if (!is_outlier) word |= ((u32)code_of(a, factor) & 255u) << (8 * e);
    bits |= (u32)is_outlier << (4 * (own & 7) + e);
  }
#pragma unroll
  for (int o = 4; o; o >>= 1) bits |= __shfl_xor_sync(0xffffffffu, bits, o);
  if (own >= n_vectors) return;
  ((u32*)(codes + (u64)row * cols))[own] = word;
  if ((own & 7) == 0) outliers[(u64)row * n_words + (own >> 3)] = bits;
}

// A thread a word of 32 columns. Grid ceil(words / 256), block 256.
KERNEL(int8_outliers)(const u32* bounds, int n, int cols, i8* __restrict__ codes, u32* __restrict__ outliers) {
  const int n_words = (cols + 31) / 32, w = blockIdx.x * 256 + threadIdx.x;
  if (bounds) n = min((int)(bounds[1] - bounds[0]), n);
  if (w >= n_words || n <= 0) return;
  u32 all = 0;
  for (int m = 0; m < n; m++) all |= outliers[(u64)m * n_words + w];
  outliers[w] = all;
  for (u32 left = all; left; left &= ~(1u << last_bit(left)))
    for (int m = 0; m < n; m++) codes[(u64)m * cols + w * 32 + last_bit(left)] = 0;
}

// Activations as `int8_quantize` leaves them.
struct Codes {
  const i8* codes;
  const float* absmax;
  const u32* outliers;
};

// Bits of the outliers among 16 columns from `k` on.
__device__ __forceinline__ u32 outlier_bits(const Codes& q, int k) { return __ldg(q.outliers + (k >> 5)) >> (k & 16) & 0xffffu; }

// One of 16 codes.
__device__ __forceinline__ float code_at(const uint4& codes, int c) {
  const u32 word = c < 8 ? (c < 4 ? codes.x : codes.y) : (c < 12 ? codes.z : codes.w);
  return (float)(i8)(word >> (8 * (c & 3)));
}

// What the integer sum and the sum over outlier columns come to.
__device__ __forceinline__ float result(i32 sum, float beside, float absmax, float scale) {
  float product = __fmul_rn(__fmul_rn((float)sum, __fmul_rn(absmax, scale)), 6.200124e-5f);
  return product + __fmul_rn(__fmul_rn(beside, scale), 1.f / 127.f);
}

// R rows of the weight a warp, read U times before they are multiplied; `split` warps share the columns.
// Grid (ceil(tiles / (8 / split)), ceil(n / M)), block 256.
template <int R, int U, int M>
__device__ __forceinline__ void int8_rows(const Parts& parts, const Rows& rows, const Codes& q, int split) {
  __shared__ i32 partial[8][R * M];
  __shared__ float partial_beside[8][R * M];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split;
  const int m_first = blockIdx.y * M, n = min(count(rows) - m_first, M), cols = rows.cols;
  if (n <= 0) return;
  int tile = blockIdx.x * (8 / split) + warp / split;
  const int p = part_of(parts, R, tile);
  const int row = p < 0 ? 0 : min(tile * R, FIELD(parts, p, rows) - R);
  i32 sum[R][M];
  float beside[R][M];
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) sum[r][m] = 0, beside[r][m] = 0.f;
  if (p >= 0) {
    const i8* w = (const i8*)FIELD(parts, p, elements) + (u64)row * cols;
    const i8* a = q.codes + (u64)m_first * cols;
    const int step = 512 * split;
    const float* x = rows.x + (u64)m_first * cols;
    auto multiply = [&](const uint4 (&v)[R], int k) {
#pragma unroll
      for (int m = 0; m < M; m++) {
        const uint4 b = __ldg((const uint4*)(a + (u32)(min(m, n - 1) * cols + k)));
#pragma unroll
        for (int r = 0; r < R; r++) {
          sum[r][m] = dp4a(v[r].x, b.x, sum[r][m]);
          sum[r][m] = dp4a(v[r].y, b.y, sum[r][m]);
          sum[r][m] = dp4a(v[r].z, b.z, sum[r][m]);
          sum[r][m] = dp4a(v[r].w, b.w, sum[r][m]);
        }
      }
    };
    // Outliers among the columns of two loads.
    auto add_outliers = [&](const uint4 (&v)[R], const uint4 (&other)[R], int k, int other_k, u32 left) {
      for (; left; left &= ~(1u << last_bit(left))) {
        const int c = last_bit(left) & 15;
        const bool is_other = left >> 16;
#pragma unroll
        for (int m = 0; m < M; m++) {
          const float wide = x[(u32)(min(m, n - 1) * cols + (is_other ? other_k : k) + c)];
#pragma unroll
          for (int r = 0; r < R; r++)
            beside[r][m] = fmaf(wide, is_other ? code_at(other[r], c) : code_at(v[r], c), beside[r][m]);
        }
      }
    };
    int k = (share * 32 + lane) * 16;
    for (; k + (U - 1) * step < cols; k += U * step) {
      uint4 v[U][R];
#pragma unroll
      for (int u = 0; u < U; u++)
#pragma unroll
        for (int r = 0; r < R; r++) v[u][r] = load_stream(w + (u64)r * cols + k + u * step);
#pragma unroll
      for (int u = 0; u < U; u++) multiply(v[u], k + u * step);
#pragma unroll
      for (int u = 0; u < U; u += 2) {
        const int other = u + 1 < U ? u + 1 : u, other_k = k + other * step;
        const u32 bits = outlier_bits(q, k + u * step) | (other > u ? outlier_bits(q, other_k) << 16 : 0);
        add_outliers(v[u], v[other], k + u * step, other_k, bits);
      }
    }
    if (U > 1)
#pragma unroll 1
      for (; k < cols; k += step) {
        uint4 v[R];
#pragma unroll
        for (int r = 0; r < R; r++) v[r] = load_stream(w + (u64)r * cols + k);
        multiply(v, k);
        add_outliers(v, v, k, k, outlier_bits(q, k));
      }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
      const i32 all = warp_sum(sum[r][m]);
      const float all_beside = warp_sum(beside[r][m]);
      if (lane == 0) partial[warp][r * M + m] = all, partial_beside[warp][r * M + m] = all_beside;
    }
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || share) return;
  for (int i = lane; i < R * M; i += 32) {
    const int r = row + i / M, m = i % M;
    i32 all = 0;
    float all_beside = 0.f;
    for (int s = 0; s < split; s++) all += partial[warp + s][i], all_beside += partial_beside[warp + s][i];
    if (r < tile * R || m >= n) continue;
    put(parts, p, rows, m_first + m, r, result(all, all_beside, q.absmax[m_first + m], FIELD(parts, p, scales)[r]));
  }
}

#if __CUDA_ARCH__ >= 800
#define BLOCKS(M) (M >= 4 ? 2 : 4)
#else
#define BLOCKS(M) (M >= 4 ? 2 : 4)
#endif
#define INT8_ROWS(name, R, U, M)                                    \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS(M)) name \
      (const Parts parts, const Rows rows, const Codes codes, int split) { int8_rows<R, U, M>(parts, rows, codes, split); }
INT8_ROWS(int8_rows_1, 1, 4, 1)
INT8_ROWS(int8_rows_2, 2, 2, 2)
INT8_ROWS(int8_rows_4, 4, 1, 4)
INT8_ROWS(int8_rows_8, 4, 1, 8)

// Up to 8 rows of x by tensor cores: 16 rows of the weight a warp, a lane's 16 bytes of two rows as they lie in the products of
// 32 columns, whose order is of no matter; `split` warps share the columns. From compute capability 8.0 on.
// Grid (ceil(tiles / (8 / split)), ceil(n / 8)), block 256.
extern "C" __global__ void __launch_bounds__(256, 2) int8_tiles_8
    (const Parts parts, const Rows rows, const Codes q, int split) {
#if __CUDA_ARCH__ >= 800
  constexpr int U = 4;
  __shared__ i32 partial[8][32][4];
  __shared__ float partial_beside[8][32][4];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split, g = lane >> 2, t = lane & 3;
  const int m_first = blockIdx.y * 8, n = min(count(rows) - m_first, 8), cols = rows.cols;
  if (n <= 0) return;
  int tile = blockIdx.x * (8 / split) + warp / split;
  const int p = part_of(parts, 16, tile);
  const int row = p < 0 ? 0 : min(tile * 16, FIELD(parts, p, rows) - 16);
  i32 sum[4] = {0, 0, 0, 0};
  float of_lane[2][8] = {};  // outliers among a lane's columns, of both rows
  if (p >= 0) {
    const i8* w = (const i8*)FIELD(parts, p, elements) + (u64)(row + g) * cols;
    const i8* a = q.codes + (u64)(m_first + g) * cols;
    const float* x = rows.x + (u64)m_first * cols;
    const uint4 none = make_uint4(0, 0, 0, 0);
    for (int k = share * 64 * U + t * 16; k - t * 16 < cols; k += split * 64 * U) {
      uint4 v[U], high[U];
#pragma unroll
      for (int u = 0; u < U; u++) {
        const bool is_there = k + u * 64 < cols;
        v[u] = is_there ? load_stream(w + k + u * 64) : none;
        high[u] = is_there ? load_stream(w + 8 * (u64)cols + k + u * 64) : none;
      }
#pragma unroll
      for (int u = 0; u < U; u++) {
        const uint4 b = g < n && k + u * 64 < cols ? __ldg((const uint4*)(a + k + u * 64)) : none;
        const u32 first[4] = {v[u].x, high[u].x, v[u].y, high[u].y}, second[4] = {v[u].z, high[u].z, v[u].w, high[u].w};
        const u32 first_b[2] = {b.x, b.y}, second_b[2] = {b.z, b.w};
        mma_m16n8k32_s8(sum, first, first_b);
        mma_m16n8k32_s8(sum, second, second_b);
        for (u32 left = k + u * 64 < cols ? outlier_bits(q, k + u * 64) : 0; left; left &= ~(1u << last_bit(left))) {
          const int c = last_bit(left);
          const float low = code_at(v[u], c), up = code_at(high[u], c);
#pragma unroll
          for (int m = 0; m < 8; m++) {
            if (m >= n) break;
            const float wide = x[(u64)m * cols + k + u * 64 + c];
            of_lane[0][m] = fmaf(wide, low, of_lane[0][m]);
            of_lane[1][m] = fmaf(wide, up, of_lane[1][m]);
          }
        }
      }
    }
  }
  // Of the four lanes of a row, each takes the rows of x that its sums are of.
  float beside[4];
#pragma unroll
  for (int h = 0; h < 2; h++)
#pragma unroll
    for (int m = 0; m < 8; m++) {
      float all = of_lane[h][m];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      if (m >> 1 == t) beside[2 * h + (m & 1)] = all;
    }
#pragma unroll
  for (int i = 0; i < 4; i++) partial[warp][lane][i] = sum[i], partial_beside[warp][lane][i] = beside[i];
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || share) return;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int r = row + g + (i & 2) * 4, m = 2 * t + (i & 1);
    i32 all = 0;
    float all_beside = 0.f;
    for (int s = 0; s < split; s++) all += partial[warp + s][lane][i], all_beside += partial_beside[warp + s][lane][i];
    if (r < tile * 16 || m >= n) continue;
    put(parts, p, rows, m_first + m, r, result(all, all_beside, q.absmax[m_first + m], FIELD(parts, p, scales)[r]));
  }
#endif
}

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }

// A block a row of a weight that stays in `T`: its largest magnitude, then its codes, which go no further. At any number of
// columns. Grid (rows, ceil(n / 8)), block 256.
template <class T>
__device__ __forceinline__ void int8_per_use(const Parts& parts, const Rows& rows, const Codes& q) {
  __shared__ u32 largest_of[32];
  __shared__ i32 partial[8][8];
  __shared__ float partial_beside[8][8];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int m_first = blockIdx.y * 8, n = min(count(rows) - m_first, 8), cols = rows.cols;
  int row = blockIdx.x;
  const int p = part_of(parts, 1, row);
  if (n <= 0 || p < 0) return;
  const T* w = (const T*)FIELD(parts, p, elements) + (u64)row * cols;
  u32 largest = 0;
  for (int k = threadIdx.x; k < cols; k += 256)
    largest = max(largest, __float_as_uint(fabsf(__half2float(__float2half_rn(wide(w[k]))))));
  largest = block_max(largest, largest_of);
  const float factor = code_factor(largest);
  const i8* a = q.codes + (u64)m_first * cols;
  const float* x = rows.x + (u64)m_first * cols;
  i32 sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  float beside[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
  for (int k = threadIdx.x; k < cols; k += 256) {
    const float v = wide(w[k]);
    const i32 code = (i8)code_of(__half2float(__float2half_rn(v)), factor);
    const bool is_outlier = q.outliers[k >> 5] >> (k & 31) & 1;
#pragma unroll
    for (int m = 0; m < 8; m++) {
      if (m >= n) break;
      sum[m] += code * a[(u64)m * cols + k];
      if (is_outlier) beside[m] = fmaf(x[(u64)m * cols + k], v, beside[m]);
    }
  }
#pragma unroll
  for (int m = 0; m < 8; m++) {
    const i32 all = warp_sum(sum[m]);
    const float all_beside = warp_sum(beside[m]);
    if (lane == 0) partial[warp][m] = all, partial_beside[warp][m] = all_beside;
  }
  __syncthreads();
  const int m = threadIdx.x;
  if (m >= n) return;
  i32 all = 0;
  float all_beside = 0.f;
  for (int s = 0; s < 8; s++) all += partial[s][m], all_beside += partial_beside[s][m];
  const float product = result(all, 0.f, q.absmax[m_first + m], __uint_as_float(largest));
  put(parts, p, rows, m_first + m, row, product + all_beside);
}
KERNEL_OF(256, int8_per_use_f32)(const Parts parts, const Rows rows, const Codes q) { int8_per_use<float>(parts, rows, q); }
KERNEL_OF(256, int8_per_use_f16)(const Parts parts, const Rows rows, const Codes q) { int8_per_use<__half>(parts, rows, q); }
KERNEL_OF(256, int8_per_use_bf16)
(const Parts parts, const Rows rows, const Codes q) { int8_per_use<__nv_bfloat16>(parts, rows, q); }
