// GGML's blocks: elements in the order and to the bit of `llm-quant/src/ggml.rs`, where their fields are.
//
// An element is scale * (code - LESS), or scale * code + added where the format is SHIFTED. T::codes<A>(block, c, j) has the
// codes of elements c + j to c + j + 3 of a block of T::LEN elements in T::BYTES bytes, as bytes, c a multiple of 16 and j of 4 below
// 16; T::scale<A>(block, i) what those of run i of T::SUB elements are multiplied with, and what is added. Fields are read A bytes at once; T::ALIGN is the most that
// every block's allow where the first lies on a border of 16.
//
// T::halves<A>(block, c, j, pairs) has the same four for tensor cores: f16 numbers of the first and the third, and of the
// second and the fourth, which times T::unit(i) are code (and of E2M1 code - LESS, so that NONE is to be taken off). A small integer is an f16 as it is,
// 2^-24 times as large. Where T::BUMP is given, halves of the next T::RUN columns are those of so many bytes further on.
#pragma once
#include "prelude.cuh"

// A word at an address that is a multiple of A; of 0, where whole words around it may be read.
template <int A> __device__ __forceinline__ u32 word_at(const u8* p) {
  if (A >= 4) return *(const u32*)p;
  if (A == 2) return *(const unsigned short*)p | (u32)((const unsigned short*)p)[1] << 16;
  if (A == 0) {
    const u32 off = (u32)(u64)p & 3;
    return __funnelshift_r(*(const u32*)(p - off), *(const u32*)(p + (-off & 3)), off << 3);
  }
  return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24;
}
template <int A> __device__ __forceinline__ u32 short_at(const u8* p) {
  return A >= 2 ? *(const unsigned short*)p : p[0] | (u32)p[1] << 8;
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

// What formats of codes have alike.
template <class T> struct Coded {
  enum { SHIFTED = 0, ADDS = 1, BUMP = 0 };
  static __device__ __forceinline__ float unit(int) { return 16777216.f; }
  template <int A> static __device__ __forceinline__ void halves(const u8* b, int c, int j, u32 (&p)[2]) {
    const u32 codes = T::template codes<A>(b, c, j);
    p[0] = codes & 0x00ff00ffu;
    p[1] = codes >> 8 & 0x00ff00ffu;
  }
  // What is brought for a run of columns, and the halves of 16 of them.
  struct Raw {
    const u8* b;
    int c;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int c, int) { return Raw{b, c}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int j, u32 (&p)[2]) {
    T::template halves<A>(raw.b, raw.c + at, j, p);
  }
  template <int A> static __device__ __forceinline__ float4 four(const u8* b, int c) {
    const float2 scale = T::template scale<A>(b, c / T::SUB);
    const u32 codes = T::template codes<A>(b, c & ~15, c & 15);
    return T::SHIFTED ? shifted(scale.x, codes, scale.y) : scaled(scale.x, codes, (float)T::LESS);
  }
};
#define CODES template <int A> static __device__ __forceinline__ u32 codes(const u8* b, int c, int j)
#define SCALE template <int A> static __device__ __forceinline__ float2 scale(const u8* b, int i)

struct Q4_0 : Coded<Q4_0> {
  enum { LEN = 32, BYTES = 18, ALIGN = 2, SUB = 32, RUN = 32, LESS = 8 };
  SCALE { return make_float2(half_at<A>(b), 0.f); }
  CODES { return nibbles(word_at<A>(b + j + 2), c & 16); }
  // Both halves of a block's bytes from one look at them.
  struct Raw {
    u32 word;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int, int j) { return Raw{word_at<A>(b + j + 2)}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    p[0] = raw.word >> (at & 16 ? 4 : 0) & 0x000f000fu;
    p[1] = raw.word >> (at & 16 ? 12 : 8) & 0x000f000fu;
  }
};
struct Q4_1 : Coded<Q4_1> {
  enum { LEN = 32, BYTES = 20, ALIGN = 4, SUB = 32, RUN = 32, LESS = 0, SHIFTED = 1 };
  SCALE { return make_float2(half_at<A>(b), half_at<A>(b + 2)); }
  CODES { return nibbles(word_at<A>(b + j + 4), c & 16); }
  // Both halves of a block's bytes from one look at them.
  struct Raw {
    u32 word;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int, int j) { return Raw{word_at<A>(b + j + 4)}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    p[0] = raw.word >> (at & 16 ? 4 : 0) & 0x000f000fu;
    p[1] = raw.word >> (at & 16 ? 12 : 8) & 0x000f000fu;
  }
};
struct Q5_0 : Coded<Q5_0> {
  enum { LEN = 32, BYTES = 22, ALIGN = 2, SUB = 32, RUN = 32, LESS = 16 };
  SCALE { return make_float2(half_at<A>(b), 0.f); }
  CODES { return nibbles(word_at<A>(b + j + 6), c & 16) | spread(word_at<A>(b + 2) >> (c + j)) << 4; }
};
struct Q5_1 : Coded<Q5_1> {
  enum { LEN = 32, BYTES = 24, ALIGN = 4, SUB = 32, RUN = 32, LESS = 0, SHIFTED = 1 };
  SCALE { return make_float2(half_at<A>(b), half_at<A>(b + 2)); }
  CODES { return nibbles(word_at<A>(b + j + 8), c & 16) | spread(word_at<A>(b + 4) >> (c + j)) << 4; }
};
struct Q8_0 : Coded<Q8_0> {
  enum { LEN = 32, BYTES = 34, ALIGN = 2, SUB = 32, RUN = 32, LESS = 128 };
  SCALE { return make_float2(half_at<A>(b), 0.f); }
  CODES { return word_at<A>(b + j + 2 + c) ^ 0x80808080u; }
};

// Where 2-bit codes of 4 elements lie among 64 bytes: those of 128 elements in each 32 bytes, of 32 elements in each pair of bits.
template <int A> __device__ __forceinline__ u32 pairs_at(const u8* codes, int c) {
  return word_at<A>(codes + (c >> 7) * 32 + (c & 31)) >> (c >> 4 & 6) & 0x03030303u;
}
struct Q2_K : Coded<Q2_K> {
  enum { LEN = 256, BYTES = 84, ALIGN = 4, SUB = 16, RUN = 64, LESS = 0, SHIFTED = 1 };
  SCALE {
    const u32 both = b[i];
    return make_float2(__fmul_rn(half_at<A>(b + 80), (float)(both & 15)), -__fmul_rn(half_at<A>(b + 82), (float)(both >> 4)));
  }
  CODES { return pairs_at<A>(b + j + 16, c); }
};
struct Q3_K : Coded<Q3_K> {
  enum { LEN = 256, BYTES = 110, ALIGN = 2, SUB = 16, RUN = 64, LESS = 4 };
  SCALE {
    const u32 low = b[96 + (i & 7)] >> (i >> 3) * 4 & 15, high = b[104 + (i & 3)] >> (i >> 2) * 2 & 3;
    return make_float2(__fmul_rn(half_at<A>(b + 108), (float)((int)(low | high << 4) - 32)), 0.f);
  }
  CODES { return pairs_at<A>(b + j + 32, c) | (word_at<A>(b + j + (c & 31)) >> (c >> 5) & 0x01010101u) << 2; }
};
// Scale and minimum of sub-block i of 8, each in 6 bits, of a block that begins with what they are multiplied with.
template <int A> __device__ __forceinline__ float2 scale_and_min(const u8* b, int i) {
  const u32 w0 = word_at<A>(b + 4), w1 = word_at<A>(b + 8), w2 = word_at<A>(b + 12);
  const u32 scales = i < 4 ? w0 & 0x3f3f3f3fu : (w2 & 0x0f0f0f0fu) | (w0 >> 2 & 0x30303030u);
  const u32 mins = i < 4 ? w1 & 0x3f3f3f3fu : (w2 >> 4 & 0x0f0f0f0fu) | (w1 >> 2 & 0x30303030u);
  const u32 at = 8 * (i & 3);
  return make_float2(__fmul_rn(half_at<A>(b), byte_of(scales >> at, 0, 0.f)), -__fmul_rn(half_at<A>(b + 2), byte_of(mins >> at, 0, 0.f)));
}
struct Q4_K : Coded<Q4_K> {
  enum { LEN = 256, BYTES = 144, ALIGN = 16, SUB = 32, RUN = 64, LESS = 0, SHIFTED = 1, BUMP = 32 };
  SCALE { return scale_and_min<A>(b, i); }
  CODES { return nibbles(word_at<A>(b + j + 16 + (c >> 6) * 32 + (c & 31)), c & 32); }
  // Codes of high halves of bytes stay there.
  static __device__ __forceinline__ float unit(int i) { return i & 1 ? 1048576.f : 16777216.f; }
  template <int A> static __device__ __forceinline__ void halves(const u8* b, int c, int j, u32 (&p)[2]) {
    const u32 word = word_at<A>(b + j + 16 + (c >> 6) * 32 + (c & 31)), mask = c & 32 ? 0x00f000f0u : 0x000f000fu;
    p[0] = word & mask;
    p[1] = word >> 8 & mask;
  }
};
struct Q5_K : Coded<Q5_K> {
  enum { LEN = 256, BYTES = 176, ALIGN = 16, SUB = 32, RUN = 64, LESS = 0, SHIFTED = 1 };
  SCALE { return scale_and_min<A>(b, i); }
  CODES {
    const u32 fifth = word_at<A>(b + j + 16 + (c & 31)) >> (c >> 5) & 0x01010101u;
    return nibbles(word_at<A>(b + j + 48 + (c >> 6) * 32 + (c & 31)), c & 32) | fifth << 4;
  }
};
struct Q6_K : Coded<Q6_K> {
  enum { LEN = 256, BYTES = 210, ALIGN = 2, SUB = 16, RUN = 128, LESS = 32 };
  SCALE { return make_float2(__fmul_rn(half_at<A>(b + 208), (float)(i8)b[192 + i]), 0.f); }
  CODES {
    const u32 low = nibbles(word_at<A>(b + j + (c >> 7) * 64 + (c & 63)), c & 64);
    return low | (word_at<A>(b + j + 128 + (c >> 7) * 32 + (c & 31)) >> (c >> 4 & 6) & 0x03030303u) << 4;
  }
  struct Raw {
    u32 low[4], high[2];
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int c, int j) {
    const u8 *low = b + j + (c >> 1), *high = b + j + 128 + (c >> 2);
    Raw raw;
#pragma unroll
    for (int i = 0; i < 4; i++) raw.low[i] = word_at<A>(low + 16 * i);
#pragma unroll
    for (int i = 0; i < 2; i++) raw.high[i] = word_at<A>(high + 16 * i);
    return raw;
  }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    const u32 low = nibbles(raw.low[at >> 4 & 3], at & 64), shift = at >> 4 & 6, high = raw.high[at >> 4 & 1];
    const u32 codes = low | (shift >= 4 ? high >> (shift - 4) : high << (4 - shift)) & 0x30303030u;
    p[0] = codes & 0x00ff00ffu;
    p[1] = codes >> 8 & 0x00ff00ffu;
  }
};

// Bytes of a table of 16 that nibbles of a word name: those of the low halves of its bytes, and of the high ones.
__device__ __forceinline__ uint2 looked_up(u32 codes, u32 t0, u32 t1, u32 t2, u32 t3) {
  const u32 at = codes & 0x77777777u, of = (codes & 0x88888888u) >> 1 | 0x32103210u;
  const u32 one = __byte_perm(__byte_perm(t0, t1, at), __byte_perm(t2, t3, at), of);
  const u32 two = __byte_perm(__byte_perm(t0, t1, at >> 16), __byte_perm(t2, t3, at >> 16), of >> 16);
  return make_uint2(__byte_perm(one, two, 0x6420), __byte_perm(one, two, 0x7531));
}
__device__ __forceinline__ uint2 non_linear(u32 word) { return looked_up(word, 0x3f2d1801u, 0x766a5d4fu, 0xa6998d81u, 0xf1d9c5b5u); }
__device__ __forceinline__ u32 non_linear(u32 word, bool high) {
  const uint2 both = non_linear(word);
  return high ? both.y : both.x;
}
// Twice the numbers of E2M1, and 12; and the upper halves of f16's that they are.
__device__ __forceinline__ u32 e2m1_codes(u32 word, bool high) {
  const uint2 both = looked_up(word, 0x0f0e0d0cu, 0x18141210u, 0x090a0b0cu, 0x00040608u);
  return high ? both.y : both.x;
}
__device__ __forceinline__ uint2 e2m1_uppers(u32 word) { return looked_up(word, 0x3e3c3800u, 0x46444240u, 0xbebcb880u, 0xc6c4c2c0u); }
__device__ __forceinline__ void e2m1_halves(u32 word, bool high, u32 (&p)[2]) {
  const uint2 both = e2m1_uppers(word);
  const u32 bytes = high ? both.y : both.x;
  p[0] = bytes << 8 & 0xff00ff00u;
  p[1] = bytes & 0xff00ff00u;
}
struct IQ4_NL : Coded<IQ4_NL> {
  enum { LEN = 32, BYTES = 18, ALIGN = 2, SUB = 32, RUN = 32, LESS = 128 };
  SCALE { return make_float2(half_at<A>(b), 0.f); }
  CODES { return non_linear(word_at<A>(b + j + 2), c & 16); }
  struct Raw {
    uint2 both;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int, int j) { return Raw{non_linear(word_at<A>(b + j + 2))}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    const u32 bytes = at & 16 ? raw.both.y : raw.both.x;
    p[0] = bytes & 0x00ff00ffu;
    p[1] = bytes >> 8 & 0x00ff00ffu;
  }
};
struct IQ4_XS : Coded<IQ4_XS> {
  enum { LEN = 256, BYTES = 136, ALIGN = 8, SUB = 32, RUN = 32, LESS = 128, BUMP = 16 };
  SCALE {
    const u32 low = b[4 + (i >> 1)] >> (i & 1) * 4 & 15, high = short_at<A>(b + 2) >> 2 * i & 3;
    return make_float2(__fmul_rn(half_at<A>(b), (float)((int)(low | high << 4) - 32)), 0.f);
  }
  CODES { return non_linear(word_at<A>(b + j + 8 + (c >> 5) * 16), c & 16); }
  struct Raw {
    uint2 both;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int, int j) { return Raw{non_linear(word_at<A>(b + j + 8))}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    const u32 bytes = at & 16 ? raw.both.y : raw.both.x;
    p[0] = bytes & 0x00ff00ffu;
    p[1] = bytes >> 8 & 0x00ff00ffu;
  }
};
// Codes are numbers of E2M1: twice as large, and 12 more, but for tensor cores, to which they are what they are.
template <class T> struct OfE2M1 : Coded<T> {
  enum { LESS = 12, ADDS = 0 };
  static __device__ __forceinline__ float unit(int) { return 2.f; }
  template <int A> static __device__ __forceinline__ u32 codes(const u8* b, int c, int j) {
    bool high;
    const u32 word = T::template word<A>(b, c, j, high);
    return e2m1_codes(word, high);
  }
  template <int A> static __device__ __forceinline__ void halves(const u8* b, int c, int j, u32 (&p)[2]) {
    bool high;
    const u32 word = T::template word<A>(b, c, j, high);
    e2m1_halves(word, high, p);
  }
};
struct MXFP4 : OfE2M1<MXFP4> {
  enum { LEN = 32, BYTES = 17, ALIGN = 1, SUB = 32, RUN = 32 };
  SCALE {
    const u32 exponent = b[0];
    return make_float2(__uint_as_float(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23), 0.f);
  }
  template <int A> static __device__ __forceinline__ u32 word(const u8* b, int c, int j, bool& high) {
    high = c & 16;
    return word_at<A>(b + j + 1);
  }
  struct Raw {
    uint2 both;
  };
  template <int A> static __device__ __forceinline__ Raw raw(const u8* b, int, int j) { return Raw{e2m1_uppers(word_at<A>(b + j + 1))}; }
  template <int A> static __device__ __forceinline__ void of(const Raw& raw, int at, int, u32 (&p)[2]) {
    const u32 bytes = at & 16 ? raw.both.y : raw.both.x;
    p[0] = bytes << 8 & 0xff00ff00u;
    p[1] = bytes & 0xff00ff00u;
  }
};
struct NVFP4 : OfE2M1<NVFP4> {
  enum { LEN = 64, BYTES = 36, ALIGN = 4, SUB = 16, RUN = 64 };
  SCALE {
    const u32 code = b[i], exponent = code >> 3 & 15, mantissa = code & 7;
    const float normal = __uint_as_float((exponent + 120) << 23 | mantissa << 20), small = (float)mantissa * (1.f / 512.f);
    return make_float2((code == 0x7f ? 0.f : exponent ? normal : small) * 0.5f, 0.f);
  }
  template <int A> static __device__ __forceinline__ u32 word(const u8* b, int c, int j, bool& high) {
    high = j & 8;
    return word_at<A>(b + (j & 4) + 4 + (c >> 4) * 8);
  }
};
struct TQ1_0 : Coded<TQ1_0> {
  enum { LEN = 256, BYTES = 54, ALIGN = 2, SUB = 32, RUN = 32, LESS = 1 };
  SCALE { return make_float2(half_at<A>(b + 52), 0.f); }
  CODES {
    const int digit = c < 160 ? c >> 5 : c < 240 ? (c - 160) >> 4 : j >> 2;
    const u32 word = word_at<A>(b + (c < 160 ? (c & 31) + j : c < 240 ? 32 + j : 48));
    const u32 power = digit == 0 ? 1 : digit == 1 ? 3 : digit == 2 ? 9 : digit == 3 ? 27 : 81;
    u32 codes = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) codes |= ((word >> 8 * i & 255) * power & 255) * 3 >> 8 << 8 * i;
    return codes;
  }
};
struct TQ2_0 : Coded<TQ2_0> {
  enum { LEN = 256, BYTES = 66, ALIGN = 2, SUB = 32, RUN = 64, LESS = 1 };
  SCALE { return make_float2(half_at<A>(b + 64), 0.f); }
  CODES { return pairs_at<A>(b + j, c); }
};
