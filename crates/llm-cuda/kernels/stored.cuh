// Elements of stored weights, read at any address.
//
// Parts of a weight that lies in a staging place follow each other without padding, so a part may begin at any byte. The
// small operations read single elements; whether one is aligned is asked of its address, the same for a whole launch.
#pragma once
#include "prelude.cuh"

// Element types of dense parts, as the wrappers number them.
enum Element { ELEMENT_F32 = 0, ELEMENT_F16 = 1, ELEMENT_BF16 = 2 };

__device__ __forceinline__ u32 u16_at(const u8* at) {
  if (((u64)at & 1) == 0) return *(const unsigned short*)at;
  return at[0] | (u32)at[1] << 8;
}

__device__ __forceinline__ float f32_at(const u8* at) {
  if (((u64)at & 3) == 0) return *(const float*)at;
  return __uint_as_float(at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24);
}

// Element `i` of a dense part.
__device__ __forceinline__ float element_at(const u8* part, int element, u64 i) {
  if (element == ELEMENT_F32) return f32_at(part + 4 * i);
  u32 bits = u16_at(part + 2 * i);
  if (element == ELEMENT_BF16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half((unsigned short)bits));
}

__device__ __forceinline__ float widened(float x) { return x; }
__device__ __forceinline__ float widened(__half x) { return __half2float(x); }
__device__ __forceinline__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
