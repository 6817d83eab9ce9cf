// Products of few rows of activations by LLM.int8().
//
//   int8_rows_*         out[m, first + r] (+)= sum_k w[r, k] codes[m, k] * (absmax[m] * scb[r]) * 6.200124e-5
//                                              + sum_outliers x[m, k] w[r, k] * scb[r] / 127 + bias[r]
//   int8_tiles_8        the same, on tensor cores
//   int8_per_use_*      the same, w[r, k] = round(f16(v[r, k]) * (127 * (1 / scb[r]))) made of elements v that stay as they are
//
// Integer sums are exact. Outliers are f32: a lane looks for them among the columns whose codes it has at hand.
// Bytes moved: those of the weight, and cols a row of x from the caches. 16 elements a load and lane.
// Elements, codes (int8_quantize.cu) and x lie on borders of 16 bytes, and so do rows of weights and codes: cols is a multiple of 16.
#include "int8.cuh"

// R rows of the weight a warp, read U times before they are multiplied; `split` warps share the columns.
// Grid (ceil(tiles / (8 / split)), ceil(n / M)), block 256.
template <int R, int U, int M>
__device__ __forceinline__ void int8_rows(const Parts& parts, const Rows& rows, const Codes& q, int split) {
  __shared__ i32 partial[8][R * M];
  __shared__ float partial_beside[8][R * M];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split, cols = rows.cols;
  const int m_first = blockIdx.y * M, n = min(count(rows) - m_first, M);
  if (n <= 0) return;
  int first, row;
  const int p = tile_of_warp<R>(parts, split, first, row);
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
    if (r < first || m >= n) continue;
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
  int first, row;
  const int p = tile_of_warp<16>(parts, split, first, row);
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
        const u32 low_a[4] = {v[u].x, high[u].x, v[u].y, high[u].y}, high_a[4] = {v[u].z, high[u].z, v[u].w, high[u].w};
        const u32 low_b[2] = {b.x, b.y}, high_b[2] = {b.z, b.w};
        mma_m16n8k32_s8(sum, low_a, low_b);
        mma_m16n8k32_s8(sum, high_a, high_b);
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
    if (r < first || m >= n) continue;
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
