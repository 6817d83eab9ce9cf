// What products of few rows of activations with NF4 and FP4 weights on tensor cores share: the table of code pairs, and activations
// as 16-bit numbers. See four_bit.cu.
#pragma once
#include "product.cuh"

#if __CUDA_ARCH__ >= 800

constexpr int TABLE_BYTES = 32768, RING = 2, ROWS_BYTES = 2048;

__device__ __forceinline__ u32 shared_at(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ uint2 load_shared2(u32 at) {
  uint2 v;
  asm("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
  return v;
}
__device__ __forceinline__ u32 load_shared(u32 at) {
  u32 v;
  asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
  return v;
}
__device__ __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// 4 bytes, or fewer and zeros.
__device__ __forceinline__ void cp_async4(u32 to, const void* from, int n_bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(n_bytes) : "memory");
}

// Entries: both values of a byte as f16, and for 2 parts 2^11 times what that leaves over; each 16 times, or 32.
template <int PARTS> __device__ __forceinline__ void make_table(const float* __restrict__ map, uint4* table) {
  for (int e = threadIdx.x; e < 256; e += blockDim.x) {
    const float a = map[e >> 4], b = map[e & 15];
    const u32 whole = pack2(a, b, __half());
    if (PARTS == 1) {
#pragma unroll
      for (int i = 0; i < 8; i++) table[e * 8 + ((i + e) & 7)] = make_uint4(whole, whole, whole, whole);
      continue;
    }
    const float2 got = unpack2(whole, __half());
    const u32 rest = pack2((a - got.x) * 2048.f, (b - got.y) * 2048.f, __half());
#pragma unroll
    for (int i = 0; i < 8; i++) table[e * 8 + ((i + e) & 7)] = make_uint4(whole, rest, whole, rest);
  }
}

// Columns `first` to `first + len` of rows of x, each row scaled so that its largest magnitude is near 2^14, as one f16 number or two.
// Row `part * part_rows + m * m_rows` of `to`, of `stride` numbers, has part 0 or 1 of row m; zeros from len to `padded`. Warps share
// the rows, and a thread keeps 56 numbers: padded is at most 1792 times the warps of a row.
template <int PARTS> __device__ __forceinline__ void split_x(const Rows& rows, int m_first, int n, int first, int len, int padded, __half* to, int stride,
                                        int part_rows, int m_rows, float* unscale, float* largest_of) {
  const int warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5, each = max(n_warps / (n == 1 ? 1 : n == 2 ? 2 : n <= 4 ? 4 : 8), 1);
  for (int base = 0; base < n; base += n_warps / each) {
    const int m = base + warp / each, i0 = (warp % each) * 32 + (threadIdx.x & 31), step = each * 32;
    const bool is_row = m < n;
    const float4* from = (const float4*)(rows.x + (u64)(m_first + min(m, n - 1)) * rows.cols + first);
    float4 kept[14];
    float largest = 0.f;
#pragma unroll
    for (int j = 0; j < 14; j++) {
      const int i = i0 + j * step;
      kept[j] = is_row && i * 4 < len ? from[i] : make_float4(0.f, 0.f, 0.f, 0.f);
    }
#pragma unroll
    for (int j = 0; j < 14; j++)
      largest = fmaxf(fmaxf(largest, fmaxf(fabsf(kept[j].x), fabsf(kept[j].y))), fmaxf(fabsf(kept[j].z), fabsf(kept[j].w)));
    largest = warp_max(largest);
    if ((threadIdx.x & 31) == 0) largest_of[warp] = largest;
    __syncthreads();
    for (int w = warp / each * each; w < warp / each * each + each; w++) largest = fmaxf(largest, largest_of[w]);
    const int e = max((int)(__float_as_uint(largest) >> 23 & 255) - 127, -110);
    const float up = __uint_as_float((u32)(127 + 14 - min(e, 127)) << 23);
    if (is_row && i0 == 0) unscale[m] = __uint_as_float((u32)(127 - 14 + min(e, 127)) << 23);
    __half* big = to + m * m_rows * stride;
    __half* small = big + part_rows * stride;
#pragma unroll
    for (int j = 0; j < 14; j++) {
      const int i = i0 + j * step;
      if (!is_row || i * 4 >= padded) break;
      u32 parts[4];
      split2<__half, 2>(parts, 2, kept[j].x * up, kept[j].y * up, __half());
      split2<__half, 2>(parts + 1, 2, kept[j].z * up, kept[j].w * up, __half());
      *(uint2*)(big + i * 4) = make_uint2(parts[0], parts[1]);
      if (PARTS == 2) *(uint2*)(small + i * 4) = make_uint2(parts[2], parts[3]);
    }
    __syncthreads();
  }
}

#endif
