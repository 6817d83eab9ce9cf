// Names that every kernel uses, and the one place for PTX within CUDA C++.
//
// Compiled by NVRTC 12.0 with nothing but its headers. Not `__dp4a`: it is left an unresolved name, which only ptxas notices.
#pragma once
#include <cuda_fp16.h>
#include <cuda_bf16.h>

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned int u32;
typedef int i32;
typedef unsigned long long u64;

// A kernel with up to 256 threads a block, and one with up to `threads`.
#define KERNEL(name) extern "C" __global__ void name
#define KERNEL_OF(threads, name) extern "C" __global__ void __launch_bounds__(threads) name

// Shared memory whose size the launch gives.
#define DYN_SHARED(T, v)                                     \
  extern __shared__ __align__(16) unsigned char v##_raw_[]; \
  T* v = reinterpret_cast<T*>(v##_raw_)

// c and the products of four pairs of signed bytes.
__device__ __forceinline__ i32 dp4a(i32 a, i32 b, i32 c) {
  i32 d;
  asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// d += a b for tiles 16 x 32 and 32 x 8 of signed bytes; compute capability 8.0 and later.
__device__ __forceinline__ void mma_m16n8k32_s8(i32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)d;
  (void)a;
  (void)b;
  __trap();
#endif
}

// 16 bytes from global to shared memory: while the kernel goes on from compute capability 8.0 on, at once before.
__device__ __forceinline__ void cp_async16(void* dst, const void* src) {
#if __CUDA_ARCH__ >= 800
  u32 s = (u32)__cvta_generic_to_shared(dst);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(s), "l"(src));
#else
  *(uint4*)dst = *(const uint4*)src;
#endif
}

// The same of 16 bytes whose sector another copy of the block takes the rest of: it stays in the first cache until then.
__device__ __forceinline__ void cp_async16_half_sector(void* dst, const void* src) {
#if __CUDA_ARCH__ >= 800
  u32 s = (u32)__cvta_generic_to_shared(dst);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(s), "l"(src));
#else
  *(uint4*)dst = *(const uint4*)src;
#endif
}

__device__ __forceinline__ void cp_async_wait_all() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n cp.async.wait_group 0;" ::: "memory");
#endif
}
