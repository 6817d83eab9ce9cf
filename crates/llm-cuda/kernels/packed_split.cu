// Rows of x as the kernels of packed.cuh for several rows take them: see packed_mma.cuh.
//
//   packed_split   parts [2][n][cols], sums [cols / run][n_padded], scale [n_padded]; n rows from row `skip` on
//
// Where `n_parts` is 1, sums are those of the first numbers. Of rows that are not there they are 0. Grid n_padded, n rounded up to 8; block 1024. cols is a multiple of 32, x on a border of 16.
// Bytes: 4 an element read, and 4 written, with 4 for a run.
// only: 75
#include "mma.cuh"

KERNEL_OF(1024, packed_split)(const float* x, const u32* bounds, int n, int skip, int cols, int run, int n_parts, u8* parts, float* sums, float* scale) {
  __shared__ float most[32];
  const int row = blockIdx.x, n_padded = gridDim.x, there = bounds ? min((int)(bounds[1] - bounds[0]) - skip, n) : n;
  if (row >= there) {
    for (int i = threadIdx.x; i < cols / run; i += 1024) sums[(u64)i * n_padded + row] = 0.f;
    if (threadIdx.x == 0) scale[row] = 0.f;
    return;
  }
  x += (u64)row * cols;
  float m = 0.f;
  for (int c = threadIdx.x * 4; c < cols; c += 4096) {
    const float4 v = *(const float4*)(x + c);
    m = fmaxf(fmaxf(m, fmaxf(fabsf(v.x), fabsf(v.y))), fmaxf(fabsf(v.z), fabsf(v.w)));
  }
  m = warp_max(m);
  if ((threadIdx.x & 31) == 0) most[threadIdx.x >> 5] = m;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 32; w++) m = fmaxf(m, most[w]);
  const float factor = power_for(m);
  if (threadIdx.x == 0) scale[row] = 1.f / factor;
  u8* to = parts + (u64)row * cols * 2;
  // Lanes of a run are all there, or none is.
  for (int first = 0; first < cols; first += 4096) {
    const int c = first + threadIdx.x * 4;
    const float4 v = c < cols ? *(const float4*)(x + c) : make_float4(0.f, 0.f, 0.f, 0.f);
    const float a[4] = {v.x * factor, v.y * factor, v.z * factor, v.w * factor};
    u32 p[4];
    split2<__half, 2>(p, 2, a[0], a[2], __half());
    split2<__half, 2>(p + 1, 2, a[1], a[3], __half());
    // Of what is multiplied with codes, from which the sum is taken off: the same errors.
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float2 both = unpack2(p[i], __half());
      if (i < 2 || n_parts > 1) sum += both.x + both.y;
    }
    for (int o = 1; o < run / 4; o *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (c >= cols) continue;
    *(uint2*)(to + c * 2) = make_uint2(p[0], p[1]);
    *(uint2*)(to + (u64)n * cols * 2 + c * 2) = make_uint2(p[2], p[3]);
    if (c % run == 0) sums[(u64)(c / run) * n_padded + row] = sum;
  }
}
