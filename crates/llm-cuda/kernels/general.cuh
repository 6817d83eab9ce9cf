// Elements of weights in every scheme, at any address.
#pragma once
#include "prelude.cuh"

enum Kind { F32 = 0, F16 = 1, BF16 = 2, INT8 = 3, FOUR_BIT = 4, FOUR_BIT_DOUBLE = 5, INT8_PER_USE = 6 };

// Parts at any address, in the order of the scheme.
struct Stored {
  const u8* elements;
  const u8* scales;
  const u8* map;
  const u8* nested_absmax;
  const u8* nested_map;
  const u8* nested_offset;
  int kind, rows, cols, block_size;
  int dtype, reserved;  // of elements that are quantized at each use
};

__device__ __forceinline__ float f32_of(const u8* at) {
  return __uint_as_float(at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24);
}

__device__ __forceinline__ float dense_of(const u8* elements, int dtype, u64 e) {
  if (dtype == F32) return f32_of(elements + 4 * e);
  u32 bits = elements[2 * e] | (u32)elements[2 * e + 1] << 8;
  if (dtype == BF16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half((unsigned short)bits));
}

__device__ __forceinline__ float value_of(const Stored& w, int r, int c) {
  u64 e = (u64)r * w.cols + c;
  if (w.kind <= BF16) return dense_of(w.elements, w.kind, e);
  if (w.kind == INT8_PER_USE) return dense_of(w.elements, w.dtype, e);
  if (w.kind == INT8) return __fmul_rn(__fmul_rn((float)(i8)w.elements[e], f32_of(w.scales + 4 * (u64)r)), 1.f / 127.f);
  u32 byte = w.elements[e / 2];
  u32 code = e & 1 ? byte & 15 : byte >> 4;
  u64 block = e / w.block_size;
  float scale;
  if (w.kind == FOUR_BIT) {
    scale = f32_of(w.scales + 4 * block);
  } else {
    float of_group = f32_of(w.nested_absmax + 4 * (block / 256));
    float of_code = f32_of(w.nested_map + 4 * w.scales[block]);
    scale = __fadd_rn(__fmul_rn(of_code, of_group), f32_of(w.nested_offset));
  }
  return __fmul_rn(f32_of(w.map + 4 * code), scale);
}
