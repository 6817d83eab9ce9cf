// Codes of 4 and 8 bits with a scale for each group of a row's elements, as `llm-quant/src/grouped.rs` has them, in the order of columns.
#pragma once
#include "fp8.cuh"

// A group of `group` elements has a scale, and a zero where there are any. The scale of all is multiplied with, or divided by.
struct GroupedWeight {
  const u8 *codes, *scales, *zeros;
  const u8* global;
  int group, n_groups, scale_type, divides;
};

enum GroupCode { INT4, E2M1, INT8 };
enum { SCALE_E4M3 = 4 };  // beside those of fp8.cuh

template <int CODE> struct Groups {
  enum {
    ALIGN = CODE == INT8 ? 4 : 2, STEP = CODE == INT8 ? 128 : 256, CHUNK = 128, SUB = CODE == E2M1 ? 16 : 32, RUN = 32, LESS = 0,
    SHIFTED = CODE != E2M1, ADDS = CODE != E2M1, BUMP = CODE == INT8 ? 32 : 16,
  };
  enum { WORDS = 6 };
  typedef GroupedWeight Weight;
  static __device__ __forceinline__ GroupedWeight told(const u64* words) {
    return GroupedWeight{(const u8*)words[0], (const u8*)words[1], (const u8*)words[2], (const u8*)words[3], (int)words[4],
                         (int)(words[4] >> 32), (int)words[5], (int)(words[5] >> 32)};
  }
  static __device__ __forceinline__ GroupedWeight with(GroupedWeight w, const u8* codes) {
    w.codes = codes;
    return w;
  }
  static __device__ __forceinline__ const u8* elements_of(const GroupedWeight& w) { return w.codes; }
  static __device__ __forceinline__ GroupedWeight of(const Parts& parts, int p) {
    const u64 groups = (u64)FIELD(parts, p, nested_map), of_scales = (u64)FIELD(parts, p, nested_offset);  // numbers, not addresses
    return GroupedWeight{FIELD(parts, p, elements), (const u8*)FIELD(parts, p, scales), (const u8*)FIELD(parts, p, map),
                         (const u8*)FIELD(parts, p, nested_absmax), (int)groups, (int)(groups >> 32), (int)of_scales,
                         (int)(of_scales >> 32)};
  }
  GroupedWeight w;
  int cols;
  float groups_a_run;
  __device__ __forceinline__ Groups(const GroupedWeight& w, int cols)
      : w(w), cols(cols), groups_a_run(__fdividef((float)SUB, (float)w.group)) {}

  __device__ __forceinline__ float scale_of(int group) const {
    const float scale = w.scale_type == SCALE_E4M3 ? ::E4M3::of(w.scales[group]) : fp8_scale(w.scales, w.scale_type, group);
    if (!w.global) return scale;
    const float global = element_at(w.global, ELEMENT_F32, 0);
    return w.divides ? __fdiv_rn(scale, global) : __fmul_rn(scale, global);
  }
  __device__ __forceinline__ int zero_of(int group) const {
    if (!w.zeros) return CODE == INT4 ? 8 : 0;
    return CODE == INT8 ? (int)(i8)w.zeros[group] : (int)w.zeros[group];
  }
  // A code, in the low bits.
  __device__ __forceinline__ float value(u32 code, int zero, float scale) const {
    if (CODE == E2M1)  // an f16 that is 2^-14 of it
      return __fmul_rn(__half2float(__ushort_as_half((unsigned short)((code & 8) << 12 | (code & 7) << 9))) * 16384.f, scale);
    return __fmul_rn((float)((CODE == INT8 ? (int)(i8)code : (int)(code & 15)) - zero), scale);
  }
  // Read in bytes, rows and groups may have any number of columns, and what is behind the last is 0.
  template <int A> __device__ __forceinline__ float4 four(int row, int c) const {
    const u8* line = w.codes + (u64)row * (CODE == INT8 ? cols : (cols + 1) / 2);
    const int groups = row * w.n_groups;
    if (A == 1) {
      float v[4] = {};
#pragma unroll 1
      for (int i = 0; i < 4; i++) {
        const int at = c + i, group = groups + at / w.group;
        const u32 code = at < cols ? (CODE == INT8 ? line[at] : line[at / 2] >> (at & 1) * 4) : 0;
        const float of = at < cols ? value(code, zero_of(group), scale_of(group)) : 0.f;
        v[0] = v[1], v[1] = v[2], v[2] = v[3], v[3] = of;
      }
      return make_float4(v[0], v[1], v[2], v[3]);
    }
    const u32 codes = CODE == INT8 ? word_at<A>(line + c) : short_at<A>(line + c / 2);
    const int group = groups + c / w.group, zero = zero_of(group), bits = CODE == INT8 ? 8 : 4;
    const float scale = scale_of(group);
    return make_float4(value(codes, zero, scale), value(codes >> bits, zero, scale), value(codes >> 2 * bits, zero, scale),
                       value(codes >> 3 * bits, zero, scale));
  }

  // For tensor cores: groups have a multiple of SUB columns.
  __device__ __forceinline__ const u8* lines() const { return w.codes; }
  __device__ __forceinline__ int line_bytes() const { return bytes(cols); }
  // Of so many columns.
  __device__ __forceinline__ int bytes(int n) const { return CODE == INT8 ? n : (n + 1) / 2; }
  __device__ __forceinline__ float unit(int) const { return CODE == E2M1 ? 1.f : 16777216.f; }
  __device__ __forceinline__ float2 scale(const u8*, int row, int c, int) const {
    // A half is as far from a border as it can be.
    const int group = row * w.n_groups + (int)(((float)(c / SUB) + 0.5f) * groups_a_run);
    const float scale = scale_of(group);
    return make_float2(scale, CODE == E2M1 ? 0.f : -(float)(zero_of(group) + (CODE == INT8 ? 128 : 0)) * scale);
  }
  typedef const u8* Raw;
  __device__ __forceinline__ Raw raw(const u8* chunk, int, int) const { return chunk; }
  __device__ __forceinline__ void halves(Raw chunk, int c, int j, u32 (&p)[2]) const {
    if (CODE == INT8) {
      const u32 codes = *(const u32*)(chunk + j + c) ^ 0x80808080u;
      p[0] = codes & 0x00ff00ffu;
      p[1] = codes >> 8 & 0x00ff00ffu;
      return;
    }
    const u32 four = *(const unsigned short*)(chunk + j / 2 + c / 2);
    if (CODE == INT4) {
      const u32 apart = four | four << 8;
      p[0] = apart & 0x000f000fu;
      p[1] = apart >> 4 & 0x000f000fu;
      return;
    }
    const u32 at = four & 0x7777u, of = (four & 0x8888u) >> 1 | 0x3210u;
    const u32 bytes = __byte_perm(__byte_perm(0x3e3c3800u, 0x46444240u, at), __byte_perm(0xbebcb880u, 0xc6c4c2c0u, at), of);
    p[0] = bytes << 8 & 0xff00ff00u;
    p[1] = bytes & 0xff00ff00u;
  }
};
