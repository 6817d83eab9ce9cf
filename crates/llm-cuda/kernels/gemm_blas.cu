// What products by cuBLAS need beside it: weights of 4-bit codes as bf16 numbers, and results that get back their scale.
//
// blas_weight  values map[code] * scale as sums of two bf16 numbers, to 16 bits: n elements from `first` on, both multiples of 8.
//   parts [2][n]. Bytes: 0.5 read and 4 written an element, and the scales. Grid ceil(n / 2048), block 256. Codes 4-byte aligned.
// blas_join    out[t, out_col + r] (+)= scale[t] * sum_p pieces[p, t, r] + bias[r], in the order of the pieces.
//   pieces [n_pieces][n_tokens][rows]. Grid ceil(n_tokens * rows / 256), block 256.
#include "gemm_four_bit.cuh"

KERNEL_OF(256, blas_weight)(FourBit weight, u64 first, int n, __nv_bfloat16* __restrict__ parts) {
  __shared__ float map[16], nested_map[256];
  if (threadIdx.x < 16) map[threadIdx.x] = weight.map[threadIdx.x];
  if (weight.nested) nested_map[threadIdx.x] = weight.nested_map[threadIdx.x];
  __syncthreads();
  const u32 i = (blockIdx.x * 256 + threadIdx.x) * 8;
  if (i >= (u32)n) return;
  const u64 at = first + i, block = at >> weight.block_log2;
  float scale;
  if (weight.nested)
    scale = __fadd_rn(__fmul_rn(nested_map[static_cast<const u8*>(weight.absmax)[block]], weight.nested_absmax[block >> 8]), *weight.offset);
  else scale = static_cast<const float*>(weight.absmax)[block];
  const u32 codes = *reinterpret_cast<const u32*>(weight.codes + at / 2);
  u32 big[4], small[4];
#pragma unroll
  for (int b = 0; b < 4; b++) {
    const u32 byte = codes >> (8 * b);
    u32 part[2];
    split2<__nv_bfloat16, 2>(part, 1, map[byte >> 4 & 15] * scale, map[byte & 15] * scale, __nv_bfloat16());
    big[b] = part[0];
    small[b] = part[1];
  }
  *reinterpret_cast<uint4*>(parts + i) = make_uint4(big[0], big[1], big[2], big[3]);
  *reinterpret_cast<uint4*>(parts + (u64)n + i) = make_uint4(small[0], small[1], small[2], small[3]);
}

KERNEL_OF(256, blas_join)(const float* __restrict__ pieces, const float* __restrict__ scale, const void* __restrict__ bias,
    float* __restrict__ out, int n_pieces, GemmShape s) {
  const u32 n = s.n_tokens * s.rows, i = blockIdx.x * 256 + threadIdx.x;
  if (i >= n) return;
  float v = 0.f;
  for (int p = 0; p < n_pieces; p++) v += pieces[(u64)p * n + i];
  store(s, out, nullptr, bias, i / s.rows, i % s.rows, scale ? v * scale[i / s.rows] : v);
}
