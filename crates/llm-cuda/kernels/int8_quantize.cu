// Activations of LLM.int8(), quantized for products.
//
//   int8_quantize       h = f16(x), at most 65504; absmax[m] = max |h| of no outlier; codes = round(h * (127 * (1 / absmax)))
//   int8_outliers       columns with an outlier in any row: their codes become 0, their bits are set
//
// |h| >= threshold is an outlier; a threshold of 0 means none. Outlier columns are bits, 32 a word: `int8_quantize` writes one
// row of words a row of x, and where there are several rows `int8_outliers` makes one of them, in the first. Nothing needs
// clearing, and the host need not know whether there are any.
//
// Bytes moved: x, a quarter of it of codes, and what is looked through once more comes from the caches. x and codes lie on borders
// of 16 bytes, and so do their rows: cols is a multiple of 16 (4 for weights that are quantized when they are used).
#include "int8.cuh"

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
