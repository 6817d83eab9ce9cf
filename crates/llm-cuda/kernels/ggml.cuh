// GGML's blocks: elements in the order and to the bit of `llm-quant/src/ggml.rs`, where their fields are.
//
// T::four<A>(block, c) has elements c to c + 3 of a block of T::LEN elements in T::BYTES bytes, c a multiple of 4. Fields are read A
// bytes at once; T::ALIGN is the most that every block's allow where the first lies on a border of 16.
#pragma once
#include "prelude.cuh"

// A word at an address that is a multiple of A.
template <int A> __device__ __forceinline__ u32 word_at(const u8* p) {
  if (A >= 4) return __ldg((const u32*)p);
  if (A == 2) return __ldg((const unsigned short*)p) | (u32)__ldg((const unsigned short*)p + 1) << 16;
  return __ldg(p) | (u32)__ldg(p + 1) << 8 | (u32)__ldg(p + 2) << 16 | (u32)__ldg(p + 3) << 24;
}
template <int A> __device__ __forceinline__ u32 short_at(const u8* p) {
  return A >= 2 ? __ldg((const unsigned short*)p) : __ldg(p) | (u32)__ldg(p + 1) << 8;
}
template <int A> __device__ __forceinline__ float half_at(const u8* p) {
  return __half2float(__ushort_as_half((unsigned short)short_at<A>(p)));
}

// Byte i of a word, less `less`, as a number: without a conversion, which takes eight times as long as a sum.
__device__ __forceinline__ float byte_of(u32 word, int i, float less) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 | i)) - (8388608.f + less);
}
// Four of them times a scale.
__device__ __forceinline__ float4 scaled(float scale, u32 word, float less) {
  return make_float4(__fmul_rn(scale, byte_of(word, 0, less)), __fmul_rn(scale, byte_of(word, 1, less)),
                     __fmul_rn(scale, byte_of(word, 2, less)), __fmul_rn(scale, byte_of(word, 3, less)));
}
// And with something added.
__device__ __forceinline__ float4 shifted(float scale, u32 word, float added) {
  const float4 v = scaled(scale, word, 0.f);
  return make_float4(__fadd_rn(v.x, added), __fadd_rn(v.y, added), __fadd_rn(v.z, added), __fadd_rn(v.w, added));
}
// Bits 0 to 3 as bytes.
__device__ __forceinline__ u32 spread(u32 bits) { return (bits & 15) * 0x00204081u & 0x01010101u; }
// Nibbles of 4 bytes: the low or the high ones.
__device__ __forceinline__ u32 nibbles(u32 word, bool high) { return word >> (high ? 4 : 0) & 0x0f0f0f0fu; }

struct Q4_0 {
  enum { LEN = 32, BYTES = 18, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    return scaled(half_at<A>(b), nibbles(word_at<A>(b + 2 + (c & 15)), c & 16), 8.f);
  }
};
struct Q4_1 {
  enum { LEN = 32, BYTES = 20, ALIGN = 4 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    return shifted(half_at<A>(b), nibbles(word_at<A>(b + 4 + (c & 15)), c & 16), half_at<A>(b + 2));
  }
};
struct Q5_0 {
  enum { LEN = 32, BYTES = 22, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 codes = nibbles(word_at<A>(b + 6 + (c & 15)), c & 16) | spread(word_at<A>(b + 2) >> c) << 4;
    return scaled(half_at<A>(b), codes, 16.f);
  }
};
struct Q5_1 {
  enum { LEN = 32, BYTES = 24, ALIGN = 4 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 codes = nibbles(word_at<A>(b + 8 + (c & 15)), c & 16) | spread(word_at<A>(b + 4) >> c) << 4;
    return shifted(half_at<A>(b), codes, half_at<A>(b + 2));
  }
};
struct Q8_0 {
  enum { LEN = 32, BYTES = 34, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    return scaled(half_at<A>(b), word_at<A>(b + 2 + c) ^ 0x80808080u, 128.f);
  }
};

// Where 2-bit codes of 4 elements lie among 64 bytes: those of 128 elements in each 32 bytes, of 32 elements in each pair of bits.
template <int A> __device__ __forceinline__ u32 pairs_at(const u8* codes, int c) {
  return word_at<A>(codes + (c >> 7) * 32 + (c & 31)) >> (c >> 4 & 6) & 0x03030303u;
}
struct Q2_K {
  enum { LEN = 256, BYTES = 84, ALIGN = 4 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 scale = __ldg(b + (c >> 4));
    const float min = __fmul_rn(half_at<A>(b + 82), (float)(scale >> 4));
    return shifted(__fmul_rn(half_at<A>(b + 80), (float)(scale & 15)), pairs_at<A>(b + 16, c), -min);
  }
};
struct Q3_K {
  enum { LEN = 256, BYTES = 110, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const int i = c >> 4;
    const u32 low = __ldg(b + 96 + (i & 7)) >> (i >> 3) * 4 & 15, high = __ldg(b + 104 + (i & 3)) >> (i >> 2) * 2 & 3;
    const float scale = __fmul_rn(half_at<A>(b + 108), (float)((int)(low | high << 4) - 32));
    return scaled(scale, pairs_at<A>(b + 32, c) | (word_at<A>(b + (c & 31)) >> (c >> 5) & 0x01010101u) << 2, 4.f);
  }
};
// Scale and minimum of sub-block i of 8, each in 6 bits.
__device__ __forceinline__ uint2 scale_and_min(const u8* packed, int i) {
  if (i < 4) return make_uint2(__ldg(packed + i) & 63, __ldg(packed + i + 4) & 63);
  const u32 both = __ldg(packed + i + 4);
  return make_uint2((both & 15) | __ldg(packed + i - 4) >> 6 << 4, both >> 4 | __ldg(packed + i) >> 6 << 4);
}
struct Q4_K {
  enum { LEN = 256, BYTES = 144, ALIGN = 16 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const uint2 of = scale_and_min(b + 4, c >> 5);
    const u32 codes = nibbles(word_at<A>(b + 16 + (c >> 6) * 32 + (c & 31)), c & 32);
    return shifted(__fmul_rn(half_at<A>(b), (float)of.x), codes, -__fmul_rn(half_at<A>(b + 2), (float)of.y));
  }
};
struct Q5_K {
  enum { LEN = 256, BYTES = 176, ALIGN = 16 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const uint2 of = scale_and_min(b + 4, c >> 5);
    const u32 fifth = word_at<A>(b + 16 + (c & 31)) >> (c >> 5) & 0x01010101u;
    const u32 codes = nibbles(word_at<A>(b + 48 + (c >> 6) * 32 + (c & 31)), c & 32) | fifth << 4;
    return shifted(__fmul_rn(half_at<A>(b), (float)of.x), codes, -__fmul_rn(half_at<A>(b + 2), (float)of.y));
  }
};
struct Q6_K {
  enum { LEN = 256, BYTES = 210, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 low = nibbles(word_at<A>(b + (c >> 7) * 64 + (c & 63)), c & 64);
    const u32 high = word_at<A>(b + 128 + (c >> 7) * 32 + (c & 31)) >> (c >> 4 & 6) & 0x03030303u;
    return scaled(__fmul_rn(half_at<A>(b + 208), (float)(i8)__ldg(b + 192 + (c >> 4))), low | high << 4, 32.f);
  }
};

// Values of four nibbles that a table of 16 signed bytes has, plus 128.
__device__ __forceinline__ u32 looked_up(u32 codes, u32 t0, u32 t1, u32 t2, u32 t3) {
  u32 at = codes & 0x07070707u;
  at = (at | at >> 4) & 0x00ff00ffu;
  at = (at | at >> 8) & 0xffffu;
  const u32 is_high = (codes >> 3 & 0x01010101u) * 255;
  return ((__byte_perm(t0, t1, at) & ~is_high) | (__byte_perm(t2, t3, at) & is_high)) ^ 0x80808080u;
}
__device__ __forceinline__ float4 non_linear(float scale, u32 codes) {
  return scaled(scale, looked_up(codes, 0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u), 128.f);
}
// Twice the numbers of E2M1.
__device__ __forceinline__ float4 e2m1(float scale, u32 codes) {
  return scaled(scale, looked_up(codes, 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu), 128.f);
}
struct IQ4_NL {
  enum { LEN = 32, BYTES = 18, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    return non_linear(half_at<A>(b), nibbles(word_at<A>(b + 2 + (c & 15)), c & 16));
  }
};
struct IQ4_XS {
  enum { LEN = 256, BYTES = 136, ALIGN = 8 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const int i = c >> 5;
    const u32 low = __ldg(b + 4 + (i >> 1)) >> (i & 1) * 4 & 15, high = short_at<A>(b + 2) >> 2 * i & 3;
    const float scale = __fmul_rn(half_at<A>(b), (float)((int)(low | high << 4) - 32));
    return non_linear(scale, nibbles(word_at<A>(b + 8 + i * 16 + (c & 15)), c & 16));
  }
};
struct MXFP4 {
  enum { LEN = 32, BYTES = 17, ALIGN = 1 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 exponent = __ldg(b);
    const float half = __uint_as_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
    return e2m1(half, nibbles(word_at<A>(b + 1 + (c & 15)), c & 16));
  }
};
struct NVFP4 {
  enum { LEN = 64, BYTES = 36, ALIGN = 4 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const u32 code = __ldg(b + (c >> 4)), exponent = code >> 3 & 15, mantissa = code & 7;
    const float normal = __uint_as_float((exponent + 120) << 23 | mantissa << 20), small = (float)mantissa * (1.f / 512.f);
    const float scale = code == 0x7f ? 0.f : exponent ? normal : small;
    return e2m1(scale * 0.5f, nibbles(word_at<A>(b + 4 + (c >> 4) * 8 + (c & 7)), c & 8));
  }
};
struct TQ1_0 {
  enum { LEN = 256, BYTES = 54, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const int digit = c < 160 ? c >> 5 : c < 240 ? (c - 160) >> 4 : (c - 240) >> 2;
    const u32 word = word_at<A>(b + (c < 160 ? c & 31 : c < 240 ? 32 + (c & 15) : 48));
    const u32 power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
    u32 codes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) codes |= ((word >> 8 * i & 255) * power & 255) * 3 >> 8 << 8 * i;
    return scaled(half_at<A>(b + 52), codes, 1.f);
  }
};
struct TQ2_0 {
  enum { LEN = 256, BYTES = 66, ALIGN = 2 };
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    return scaled(half_at<A>(b + 64), pairs_at<A>(b, c), 1.f);
  }
};
