// PTX of tensor cores, of asynchronous copies with fewer bytes than they have room for, and of 2^x; the rest is in prelude.cuh.
#pragma once
#include "prelude.cuh"

#define INF __int_as_float(0x7f800000)
constexpr float LOG2E = 1.4426950408889634f;

// 2^x to 2 ulp; 0 for -inf.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

// Four 8 x 8 matrices of 16-bit elements; lane l names 16 bytes: row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix4(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix4_transposed(u32 (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"((u32)__cvta_generic_to_shared(row))
               : "memory");
}

#if __CUDA_ARCH__ >= 800

// d += a b, and d = a b, for tiles 16 x 16 and 16 x 8, in f32.
#define MMA_M16N8K16(T, type)                                                                                                \
  __device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32* b, T) {                          \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                        \
  }                                                                                                                          \
  __device__ __forceinline__ void mma_m16n8k16_first(float (&d)[4], const u32 (&a)[4], const u32* b, T) {                    \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." type "." type ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};" \
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.f));                              \
  }
MMA_M16N8K16(__half, "f16")
MMA_M16N8K16(__nv_bfloat16, "bf16")

// Like cp_async16, with zeros after the first `n_bytes`.
__device__ __forceinline__ void cp_async16_of(void* dst, const void* src, int n_bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(dst)), "l"(src), "r"(n_bytes)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups but the newest N.
template <int N> __device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#else

// Before 8.0 there are products of f16 with 8 columns alone: two make one of 16.
__device__ __forceinline__ void mma_m16n8k8(float (&d)[4], u32 a0, u32 a1, u32 b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], const u32* b, __half) {
  mma_m16n8k8(d, a[0], a[1], b[0]);
  mma_m16n8k8(d, a[2], a[3], b[1]);
}

// And copies are done when they are asked for: 16 bytes, or none and zeros.
__device__ __forceinline__ void cp_async16_of(void* dst, const void* src, int n_bytes) {
  *(uint4*)dst = n_bytes ? *(const uint4*)src : make_uint4(0, 0, 0, 0);
}
__device__ __forceinline__ void cp_async_commit() {}
template <int N> __device__ __forceinline__ void cp_async_wait() {}

#endif

// Two numbers in 16 bits each, the first in the low half.
__device__ __forceinline__ u32 pack2(float a, float b, __half) {
  __half2 h = __floats2half2_rn(a, b);
  return *reinterpret_cast<u32*>(&h);
}
__device__ __forceinline__ u32 pack2(float a, float b, __nv_bfloat16) {
  __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<u32*>(&h);
}
__device__ __forceinline__ float2 unpack2(u32 p, __half) { return __half22float2(*reinterpret_cast<__half2*>(&p)); }
__device__ __forceinline__ float2 unpack2(u32 p, __nv_bfloat16) {
  return make_float2(__uint_as_float(p << 16), __uint_as_float(p & 0xffff0000u));
}

// Two numbers as sums of N 16-bit ones, the largest first: 8 bits of each for bf16, 11 for f16. Infinite ones stay so.
template <class T, int N> __device__ __forceinline__ void split2(u32* part, int stride, float a, float b, T t) {
#pragma unroll
  for (int p = 0; p < N; p++) {
    u32 packed = pack2(a, b, t);
    part[p * stride] = packed;
    float2 whole = unpack2(packed, t);
    a = fabsf(a) < INF ? a - whole.x : 0.f;
    b = fabsf(b) < INF ? b - whole.y : 0.f;
  }
}

// The power of 2 that brings a largest magnitude `m` to between 2^9 and 2^10; within what f32 can undo.
__device__ __forceinline__ float power_for(float m) {
  int e = (int)(__float_as_uint(m) >> 23) - 127;
  return m > 0.f ? __uint_as_float((u32)(min(max(9 - e, -100), 100) + 127) << 23) : 1.f;
}
