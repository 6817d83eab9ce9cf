// Products of many rows of quantized activations with LLM.int8() weights on tensor cores, compute capability 8.0 and later.
//
//   out[t, out_col + r] (+)= (sum_c a[t, c] w[r, c]) (absmax[t] scb[r]) 6.200124e-5 + sum_(outlier columns c) x[t, c] w[r, c] scb[r] / 127 + bias[r]
//
// gemm_int8_{128,64,32}  the number is tokens of a block
//   Activations' codes are zero in outlier columns, which are bits on the device; x has them as they are.
//   Bytes: activations' codes once for 128 rows, weights once for a block's tokens. Operations: 2 n_tokens rows cols, exact in i32.
//   Grid (ceil(rows / 128), ceil(n_tokens / tokens), n_pieces), block 256, shared 3 * 64 * (tokens + 128) bytes.
//   cols a multiple of 16, both codes 16-byte aligned. Pieces are integers, and one more of the outlier columns (gemm_join_int8).
// needs: 80
#include "int8_tile.cuh"
#include "tiles.cuh"

template <class W> __device__ __forceinline__ void int8(const Int8& p, const void* __restrict__ bias, float* __restrict__ out, float* __restrict__ pieces,
    const GemmShape& s) {
  DYN_SHARED(u8, memory);
  constexpr int X = W::TOKENS * STAGE_BYTES;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t0 = blockIdx.y * W::TOKENS, r0 = blockIdx.x * W::ROWS;
  const int t = warp % W::WM * W::MT * 16, r = warp / W::WM * W::NT * 8, n_tokens = count(s);
  if (t0 >= n_tokens) return;
  const u8 *x = p.codes + (u64)t0 * s.cols, *w = p.weight + (u64)r0 * s.cols;
  i32 sum[W::MT][W::NT][4] = {};
  int begin, end;
  share(begin, end, (s.cols + STAGE_BYTES - 1) / STAGE_BYTES);
  stages(end - begin, X + W::ROWS * STAGE_BYTES, memory,
    [&](u8* stage, int i) {
      bring<W::TOKENS, W::THREADS>(stage, x, s.cols, n_tokens - t0, s.cols, (begin + i) * STAGE_BYTES);
      bring<W::ROWS, W::THREADS>(stage + X, w, s.cols, s.rows - r0, s.cols, (begin + i) * STAGE_BYTES);
    },
    [](u8*) {},
    [&](u8* stage, int) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 b[W::NT / 2][4];
#pragma unroll
        for (int n = 0; n < W::NT / 2; n++) tiles_of_rows(b[n], stage + X, r + n * 16, half, lane);
#pragma unroll
        for (int m = 0; m < W::MT; m++) {
          u32 a[4];
          tile_of_x(a, stage, t + m * 16, half, lane);
#pragma unroll
          for (int n = 0; n < W::NT; n++) {
            const u32 c[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
            mma_m16n8k32_s8(sum[m][n], a, c);
          }
        }
      }
    });
  float acc[W::MT * 2][W::NT * 2], tiles[W::MT][W::NT][4];
  auto token = [&](int i) { return t + i / 2 * 16 + i % 2 * 8 + lane / 4; };
  auto row = [&](int j) { return r + j / 2 * 8 + lane % 4 * 2 + j % 2; };
  const bool whole = gridDim.z == 1;
#pragma unroll
  for (int i = 0; i < W::MT * 2; i++) {
    const float a = p.absmax[min(t0 + token(i), n_tokens - 1)];
#pragma unroll
    for (int j = 0; j < W::NT * 2; j++) {
      const i32 v = sum[i / 2][j / 2][i % 2 * 2 + j % 2];
      tiles[i / 2][j / 2][i % 2 * 2 + j % 2] = __int_as_float(v);
      acc[i][j] = whole ? int8_product(v, a, p.scb[min(r0 + row(j), s.rows - 1)]) : 0.f;
    }
  }
  if (!whole) store_tiles<W>(s, out, pieces, bias, n_tokens, t0 + t, r0 + r, lane, tiles, blockIdx.z);
  if (blockIdx.z > 0) return;
  add_outliers<W::MT * 2, W::NT * 2, W::TOKENS, W::ROWS>(acc, p, s, reinterpret_cast<float*>(memory), n_tokens, t0, r0, token, row);
#pragma unroll
  for (int i = 0; i < W::MT * 2; i++)
#pragma unroll
    for (int j = 0; j < W::NT * 2; j++) tiles[i / 2][j / 2][i % 2 * 2 + j % 2] = acc[i][j];
  store_tiles<W>(s, out, pieces, bias, n_tokens, t0 + t, r0 + r, lane, tiles, gridDim.z);
}
#define INT8(TOKENS, ...)                                                                                                    \
  extern "C" __global__ void __launch_bounds__(256, TOKENS < 128 ? 2 : 1) gemm_int8_##TOKENS(                                        \
      Int8 p, const void* bias, float* out, float* pieces, GemmShape shape) {                                                \
    int8<Warps<__VA_ARGS__>>(p, bias, out, pieces, shape);                                                                   \
  }
INT8(128, 4, 4, 2, 4)
INT8(64, 2, 4, 2, 4)
INT8(32, 2, 2, 1, 8)
