// 8-bit floating-point numbers with scales for blocks of them, as `llm-quant/src/fp8.rs` has them.
#pragma once
#include "ggml.cuh"
#include "packed.cuh"
#include "stored.cuh"

// The numbers of a word. Those of E5M2 are the upper halves of f16's; those of E4M3 lie so that f16's are 2^-8 of them.
struct E4M3 {
  static __device__ __forceinline__ float unit() { return 256.f; }
  static __device__ __forceinline__ u32 halves(u32 upper) {
    return (upper & 0x80008000u) | (upper >> 1 & 0x3f803f80u);
  }
  // What was NaN is.
  static __device__ __forceinline__ void mark(u32 word, u32 (&p)[2]) {
    if ((((word & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u) == 0) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
      if ((word >> 8 * i & 127) == 127) p[i & 1] |= 0x7e00u << 8 * (i & 2);
  }
  static __device__ __forceinline__ float of(u32 code) {
    const float value = __half2float(__ushort_as_half((unsigned short)((code & 128) << 8 | (code & 127) << 7))) * 256.f;
    return (code & 127) == 127 ? nanf("") : value;
  }
};
struct E5M2 {
  static __device__ __forceinline__ float unit() { return 1.f; }
  static __device__ __forceinline__ u32 halves(u32 upper) { return upper; }
  static __device__ __forceinline__ void mark(u32, u32 (&)[2]) {}
  static __device__ __forceinline__ float of(u32 code) { return __half2float(__ushort_as_half((unsigned short)(code << 8))); }
};

enum { SCALE_E8M0 = 3 };  // beside the types of elements

__device__ __forceinline__ float fp8_scale(const u8* scales, int type, int i) {
  if (type != SCALE_E8M0) return element_at(scales, type, i);
  const u32 exponent = scales[i];
  return exponent == 255 ? nanf("") : __uint_as_float(exponent == 0 ? 0x00400000u : exponent << 23);
}

// Read in words, rows and blocks have a multiple of 4 columns; read in bytes they may have any number, and what is behind the last
// column is 0.
template <class T> struct Fp8 : OfPacked {
  enum { ALIGN = 4, STEP = 128, CHUNK = 128, SUB = 32, RUN = 32, LESS = 0, SHIFTED = 0, ADDS = 0, BUMP = 32 };
  Packed w;
  int cols;
  float blocks_a_run;
  __device__ __forceinline__ Fp8(const Packed& w, int cols) : w(w), cols(cols), blocks_a_run(__fdividef((float)SUB, (float)w.width)) {}
  template <int A> __device__ __forceinline__ float4 four(int row, int c) const {
    const u8* at = w.elements + (u64)row * cols + c;
    const int line = row / w.height * w.n_scales;
    if (A == 1) {
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        v[i] = c + i < cols ? __fmul_rn(T::of(at[i]), fp8_scale(w.scales, w.scale_type, line + (c + i) / w.width)) : 0.f;
      return make_float4(v[0], v[1], v[2], v[3]);
    }
    const u32 word = word_at<A>(at);
    const float scale = fp8_scale(w.scales, w.scale_type, line + c / w.width);
    return make_float4(__fmul_rn(T::of(word & 255), scale), __fmul_rn(T::of(word >> 8 & 255), scale),
                       __fmul_rn(T::of(word >> 16 & 255), scale), __fmul_rn(T::of(word >> 24), scale));
  }

  // For tensor cores: blocks have a multiple of SUB columns.
  __device__ __forceinline__ const u8* lines() const { return w.elements; }
  __device__ __forceinline__ int line_bytes() const { return cols; }
  __device__ __forceinline__ int bytes(int n) const { return n; }
  __device__ __forceinline__ float unit(int) const { return T::unit(); }
  __device__ __forceinline__ float2 scale(const u8*, int row, int c, int) const {
    const int block = row / w.height * w.n_scales + (int)(((float)(c / SUB) + 0.5f) * blocks_a_run);
    return make_float2(fp8_scale(w.scales, w.scale_type, block), 0.f);
  }
  typedef const u8* Raw;
  __device__ __forceinline__ Raw raw(const u8* chunk, int, int) const { return chunk; }
  __device__ __forceinline__ void halves(Raw chunk, int c, int j, u32 (&p)[2]) const {
    const u32 word = *(const u32*)(chunk + j + c);
    p[0] = T::halves(word << 8 & 0xff00ff00u);
    p[1] = T::halves(word & 0xff00ff00u);
    T::mark(word, p);
  }
};
