// Products of few rows of activations with weights that are not quantized.
//
//   out[m, first + r] (+)= sum_k w[r, k] x[m, k] + bias[r]        w f32, f16 or bf16; x, sums and out f32
//
// A warp takes R rows of the weight and reads 16 bytes of each a lane, U times before it computes; x comes out of the first
// cache. `split` warps of a block share the columns of a row among them, where there are too few rows to fill the card. Weights
// are read once for M rows of x; more rows are further blocks, which find the weights in the second cache at best.
//
// Bytes moved: those of the weight, and 4 cols a row of x from the second cache for each block. Operations: one FMA an element
// and row of x, and one to widen 16 bits.
// Grid (ceil(tiles / (8 / split)), ceil(n / M)), block 256, no dynamic shared memory. Elements lie on a border of 16 bytes, and
// so do all rows: cols is a multiple of 4 (f32) or 8. Each part has R rows or more; n * cols is below 2^30.
#include "product.cuh"

template <class T>
struct Wide;  // the elements of 16 bytes as f32
template <>
struct Wide<float> {
  static constexpr int N = 4;
  static __device__ __forceinline__ void of(uint4 v, float* f) {
    f[0] = __uint_as_float(v.x), f[1] = __uint_as_float(v.y), f[2] = __uint_as_float(v.z), f[3] = __uint_as_float(v.w);
  }
};
template <>
struct Wide<__nv_bfloat16> {
  static constexpr int N = 8;
  static __device__ __forceinline__ void of(uint4 v, float* f) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      f[2 * i] = __uint_as_float(words[i] << 16);
      f[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};
template <>
struct Wide<__half> {
  static constexpr int N = 8;
  static __device__ __forceinline__ void of(uint4 v, float* f) {
    const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 pair = __half22float2(*(const __half2*)&words[i]);
      f[2 * i] = pair.x;
      f[2 * i + 1] = pair.y;
    }
  }
};

template <class T, int R, int U, int M>
__device__ __forceinline__ void dense(const Parts& parts, const Rows& rows, int split) {
  constexpr int N = Wide<T>::N;
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
    const T* w = (const T*)FIELD(parts, p, elements) + (u64)row * cols;
    const float* x = rows.x + (u64)m_first * cols;
    const int step = 32 * N * split;
    auto multiply = [&](const uint4 (&v)[R], int k) {
      float f[R][N];
#pragma unroll
      for (int r = 0; r < R; r++) Wide<T>::of(v[r], f[r]);
#pragma unroll
      for (int i = 0; i < N; i += 4)
#pragma unroll
        for (int m = 0; m < M; m++) {
          const float4 a = __ldg((const float4*)(x + (u32)(min(m, n - 1) * cols + k + i)));
#pragma unroll
          for (int r = 0; r < R; r++) {
            sum[r][m] = fmaf(f[r][i], a.x, sum[r][m]);
            sum[r][m] = fmaf(f[r][i + 1], a.y, sum[r][m]);
            sum[r][m] = fmaf(f[r][i + 2], a.z, sum[r][m]);
            sum[r][m] = fmaf(f[r][i + 3], a.w, sum[r][m]);
          }
        }
    };
    int k = (share * 32 + lane) * N;
    for (; k + (U - 1) * step < cols; k += U * step) {
      uint4 v[U][R];
#pragma unroll
      for (int u = 0; u < U; u++)
#pragma unroll
        for (int r = 0; r < R; r++) v[u][r] = load_stream(w + (u64)r * cols + k + u * step);
#pragma unroll
      for (int u = 0; u < U; u++) multiply(v[u], k + u * step);
    }
    if (U > 1)
#pragma unroll 1
      for (; k < cols; k += step) {
        uint4 v[R];
#pragma unroll
        for (int r = 0; r < R; r++) v[r] = load_stream(w + (u64)r * cols + k);
        multiply(v, k);
      }
  }
#pragma unroll
  for (int r = 0; r < R; r++)
#pragma unroll
    for (int m = 0; m < M; m++) {
      float all = warp_sum(sum[r][m]);
      if (lane == 0) partial[warp][r * M + m] = all;
    }
  if (split > 1) __syncthreads();
  else __syncwarp();
  if (p < 0 || share) return;
  for (int i = lane; i < R * M; i += 32) {
    const int r = row + i / M, m = i % M;
    float all = 0.f;
    for (int s = 0; s < split; s++) all += partial[warp + s][i];
    if (r >= first && m < n) put(parts, p, rows, m_first + m, r, all);
  }
}

// Blocks on a multiprocessor, for which registers are kept few enough.
#if __CUDA_ARCH__ >= 800
#define BLOCKS(M) (M == 8 ? 2 : M == 4 ? 3 : M == 2 ? 4 : 6)
#else
#define BLOCKS(M) (M == 8 ? 2 : M == 4 ? 3 : 4)
#endif

#define DENSE(name, T, R, U, M) \
  extern "C" __global__ void __launch_bounds__(256, BLOCKS(M)) name(const Parts parts, const Rows rows, int split) { dense<T, R, U, M>(parts, rows, split); }
DENSE(dense_f32_1, float, 1, 4, 1)
DENSE(dense_f32_2, float, 2, 2, 2)
DENSE(dense_f32_4, float, 4, 1, 4)
DENSE(dense_f32_8, float, 4, 1, 8)
DENSE(dense_f16_1, __half, 1, 4, 1)
DENSE(dense_f16_2, __half, 2, 2, 2)
DENSE(dense_f16_4, __half, 4, 1, 4)
DENSE(dense_f16_8, __half, 4, 1, 8)
DENSE(dense_bf16_1, __nv_bfloat16, 1, 4, 1)
DENSE(dense_bf16_2, __nv_bfloat16, 2, 2, 2)
DENSE(dense_bf16_4, __nv_bfloat16, 4, 1, 4)
DENSE(dense_bf16_8, __nv_bfloat16, 4, 1, 8)
