// Rows of tables: embeddings, learned positions, rows of activations.
//
//   embed_*      out[i, c] = value(ids[i], c) * scale
//   positions_*  x[i, c]  += value(ids[i], c)
//   gather_rows  out[i, c] = x[rows[i], c]
//
// value(r, c), with e = r * width + c the element's number in the table:
//   dense              elements[e]                                       f32, f16 or bf16
//   int8               codes[e] * scb[r] * (1 / 127)
//   four_bit           map[code e] * absmax[e / block]                   NF4, FP4: the map is the table's own
//   four_bit_double    map[code e] * (nested_map[absmax[e / block]] * nested_absmax[e / block / 256] + offset)
// Each product and sum is rounded by itself, so that results are the reference's, bit for bit. A weight that is quantized
// at each use rests dense. A row beyond the table, which no caller asks for, reads as not a number.
//
// Bytes: 4 * n * width written (positions: and read), n * width elements read as stored; a product or two an element.
// Grid (n, ceil(width / 256)), block 256, no shared memory but 64 bytes for the values of codes.
// four_bit: two columns a thread, grid (n, ceil(width / 512)), width even, out at 8 bytes; *_odd: one, for any width.
#include "stored.cuh"

struct Write {
  static __device__ __forceinline__ float next(float, float value, float scale) { return __fmul_rn(value, scale); }
  enum { READS = 0 };
};
struct Add {
  static __device__ __forceinline__ float next(float x, float value, float) { return __fadd_rn(x, value); }
  enum { READS = 1 };
};

template <class Use>
__device__ __forceinline__ void put(float* out, float value, float scale) {
  *out = Use::next(Use::READS ? *out : 0.f, value, scale);
}

template <class Use>
__device__ __forceinline__ void dense(const u8* elements, int element, const u32* ids, u32 n_rows, int width, float scale,
                                      float* out) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 id = ids[blockIdx.x];
  float value = id < n_rows ? element_at(elements, element, (u64)id * width + c) : nanf("");
  put<Use>(out + (u64)blockIdx.x * width + c, value, scale);
}

template <class Use>
__device__ __forceinline__ void int8(const i8* codes, const u8* scb, const u32* ids, u32 n_rows, int width, float scale,
                                     float* out) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 id = ids[blockIdx.x];
  float value = nanf("");
  if (id < n_rows) {
    float code = (float)codes[(u64)id * width + c];
    value = __fmul_rn(__fmul_rn(code, f32_at(scb + 4 * (u64)id)), 1.f / 127.f);
  }
  put<Use>(out + (u64)blockIdx.x * width + c, value, scale);
}

// Scales of 4-bit blocks, as they are stored.
struct Plain {
  const u8* absmax;
  __device__ __forceinline__ float scale(u64 block) const { return f32_at(absmax + 4 * block); }
};
struct Double {
  const u8 *absmax, *nested_absmax, *nested_map, *offset;
  __device__ __forceinline__ float scale(u64 block) const {
    float value = f32_at(nested_map + 4 * absmax[block]);
    return __fadd_rn(__fmul_rn(value, f32_at(nested_absmax + 4 * (block >> 8))), f32_at(offset));
  }
};

// The values of codes, in shared memory.
__device__ __forceinline__ void stage_map(const u8* map, float* staged) {
  if (threadIdx.x < 16) staged[threadIdx.x] = f32_at(map + 4 * threadIdx.x);
  __syncthreads();
}

template <class Use, class Scales>
__device__ __forceinline__ void four_bit(const u8* codes, Scales scales, const u8* map, int block_log2, const u32* ids,
                                         u32 n_rows, int width, float scale, float* out) {
  __shared__ float values[16];
  stage_map(map, values);
  int c = blockIdx.y * 512 + 2 * threadIdx.x;
  if (c >= width) return;
  u32 id = ids[blockIdx.x];
  float2 value = make_float2(nanf(""), nanf(""));
  if (id < n_rows) {
    u64 e = (u64)id * width + c;
    u32 pair = codes[e >> 1];
    float absmax = scales.scale(e >> block_log2);
    value = make_float2(__fmul_rn(values[pair >> 4], absmax), __fmul_rn(values[pair & 15], absmax));
  }
  float2* to = (float2*)(out + (u64)blockIdx.x * width + c);
  float2 x = Use::READS ? *to : make_float2(0.f, 0.f);
  *to = make_float2(Use::next(x.x, value.x, scale), Use::next(x.y, value.y, scale));
}

template <class Use, class Scales>
__device__ __forceinline__ void four_bit_odd(const u8* codes, Scales scales, const u8* map, int block_log2, const u32* ids,
                                             u32 n_rows, int width, float scale, float* out) {
  __shared__ float values[16];
  stage_map(map, values);
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 id = ids[blockIdx.x];
  float value = nanf("");
  if (id < n_rows) {
    u64 e = (u64)id * width + c;
    u32 pair = codes[e >> 1];
    value = __fmul_rn(values[e & 1 ? pair & 15 : pair >> 4], scales.scale(e >> block_log2));
  }
  put<Use>(out + (u64)blockIdx.x * width + c, value, scale);
}

#define DENSE(name, Use)                                                                                             \
  KERNEL(name)(const u8* elements, int element, const u32* ids, u32 n_rows, int width, float scale, float* out) {    \
    dense<Use>(elements, element, ids, n_rows, width, scale, out);                                                   \
  }
#define INT8(name, Use)                                                                                              \
  KERNEL(name)(const i8* codes, const u8* scb, const u32* ids, u32 n_rows, int width, float scale, float* out) {     \
    int8<Use>(codes, scb, ids, n_rows, width, scale, out);                                                           \
  }
#define FOUR_BIT(name, body, Use)                                                                                    \
  KERNEL(name)(const u8* codes, const u8* absmax, const u8* map, int block_log2, const u32* ids, u32 n_rows,         \
               int width, float scale, float* out) {                                                                 \
    body<Use>(codes, Plain{absmax}, map, block_log2, ids, n_rows, width, scale, out);                                \
  }
#define FOUR_BIT_DOUBLE(name, body, Use)                                                                             \
  KERNEL(name)(const u8* codes, const u8* absmax, const u8* map, const u8* nested_absmax, const u8* nested_map,      \
               const u8* offset, int block_log2, const u32* ids, u32 n_rows, int width, float scale, float* out) {   \
    body<Use>(codes, Double{absmax, nested_absmax, nested_map, offset}, map, block_log2, ids, n_rows, width, scale,  \
              out);                                                                                                  \
  }

DENSE(embed_dense, Write)
DENSE(positions_dense, Add)
INT8(embed_int8, Write)
INT8(positions_int8, Add)
FOUR_BIT(embed_four_bit, four_bit, Write)
FOUR_BIT(positions_four_bit, four_bit, Add)
FOUR_BIT(embed_four_bit_odd, four_bit_odd, Write)
FOUR_BIT(positions_four_bit_odd, four_bit_odd, Add)
FOUR_BIT_DOUBLE(embed_four_bit_double, four_bit, Write)
FOUR_BIT_DOUBLE(positions_four_bit_double, four_bit, Add)
FOUR_BIT_DOUBLE(embed_four_bit_double_odd, four_bit_odd, Write)
FOUR_BIT_DOUBLE(positions_four_bit_double_odd, four_bit_odd, Add)

KERNEL(gather_rows)(const float* x, u32 n_rows, const u32* rows, int width, float* out) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 row = rows[blockIdx.x];
  out[(u64)blockIdx.x * width + c] = row < n_rows ? x[(u64)row * width + c] : nanf("");
}
