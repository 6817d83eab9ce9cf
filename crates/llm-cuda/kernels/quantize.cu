// Encoding and decoding of whole weights: NF4, FP4, double-quantized scales, LLM.int8() rows.
//
//   four_bit_encode_*     code[e] = number of thresholds below x[e] * (1 / absmax[e / block]), two a byte, high nibble first
//   four_bit_decode_*     y[e] = map[code[e]] * absmax[e / block]
//   four_bit_double_*     absmax[b] = nested_map[codes[b]] * nested_absmax[b / 256] + offset
//   int8_encode_*         code[r, c] = round(f16(x[r, c]) * (127 * (1 / absmax[r]))), ties to even
//   int8_decode_*         y[r, c] = code[r, c] * absmax[r] / 127
//
// Divisions and products are rounded as IEEE has them, so that bytes are those that a processor writes. Each element is
// moved once, except that an encoder reads it twice, the second time from a cache: 4-bit encoding of f16 moves 2 + 0.5 +
// 4 / block bytes an element and takes about 20 operations; int8 moves 2 + 1. Blocks of 256 threads; no dynamic shared memory.
// Encoders take elements at multiples of their own size, and write codes at any address.
#include "prelude.cuh"

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float x, float* to) { *to = x; }
__device__ __forceinline__ void narrow(float x, __half* to) { *to = __float2half_rn(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16_rn(x); }

// By their bits, of which NaN has the most.
__device__ __forceinline__ u32 magnitude(float x) { return __float_as_uint(x) & 0x7fffffffu; }

// The reciprocal of a block's largest magnitude; of a block of zeros nothing but zero codes is asked.
__device__ __forceinline__ float reciprocal(u32 largest) { return largest == 0 ? 0.f : __fdiv_rn(1.f, __uint_as_float(largest)); }

__device__ __forceinline__ u32 nf4_code(float x) {
  return (x > -0.8480964f) + (x > -0.6106329f) + (x > -0.45999527f) + (x > -0.33967942f) + (x > -0.2346074f) +
         (x > -0.13791174f) + (x > -0.045525018f) + (x > 0.03979015f) + (x > 0.12025525f) + (x > 0.20352125f) +
         (x > 0.29201376f) + (x > 0.38931254f) + (x > 0.50166345f) + (x > 0.6427869f) + (x > 0.86147845f);
}

// Codes in order of value are 11 10 13 12 15 14 9 0 8 1 6 7 4 5 2 3.
__device__ __forceinline__ u32 fp4_code(float x) {
  u32 n = (x > -0.8333334f) + (x > -0.5833334f) + (x > -0.4166667f) + (x > -0.2916667f) + (x > -0.20833334f) +
          (x > -0.0859375f) + (x > -0.0026041667f) + (x > 0.f) + (x > 0.0026041667f) + (x > 0.0859375f) + (x > 0.20833334f) +
          (x > 0.2916667f) + (x > 0.4166667f) + (x > 0.5833334f) + (x > 0.8333334f);
  u32 codes = n < 8 ? 0x09efcdabu : 0x32547618u;
  return (codes >> (4 * (n & 7))) & 15;
}

__device__ __forceinline__ u32 four_bit_code(float scaled, int is_fp4) {
  return is_fp4 ? fp4_code(scaled) : nf4_code(scaled);
}

// Eight elements a thread; a block of up to 256 elements is a group of lanes, a longer one a warp. Grid: any number of blocks;
// warps take 256 elements or one block, whichever is more, at a time.
template <class T>
__device__ __forceinline__ void four_bit_encode(const T* __restrict__ elements, u64 n, int block_size, int is_fp4,
                                                u8* __restrict__ packed, float* __restrict__ absmax) {
  const int lane = threadIdx.x & 31;
  const int group = min(block_size, 256) / 8;  // lanes
  const u64 span = max(block_size, 256);
  const u64 warp = (blockIdx.x * (u64)blockDim.x + threadIdx.x) >> 5, n_warps = ((u64)gridDim.x * blockDim.x) >> 5;
  for (u64 start = warp * span; start < n; start += n_warps * span) {
    u32 largest = 0;
    for (u64 at = start + lane * 8; at < start + span; at += 256) {
#pragma unroll
      for (int i = 0; i < 8; i++)
        if (at + i < n) largest = max(largest, magnitude(wide(elements[at + i])));
    }
    for (int o = 1; o < group; o <<= 1) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, o));
    const float factor = reciprocal(largest);
    const u64 block = (start + lane * 8) / block_size;
    if (lane % group == 0 && start + lane * 8 < n) absmax[block] = __uint_as_float(largest);
    for (u64 at = start + lane * 8; at < start + span; at += 256) {
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        if (at + i >= n) break;
        u32 high = four_bit_code(__fmul_rn(wide(elements[at + i]), factor), is_fp4);
        float second = at + i + 1 < n ? __fmul_rn(wide(elements[at + i + 1]), factor) : 0.f;
        packed[(at + i) / 2] = high << 4 | four_bit_code(second, is_fp4);
      }
    }
  }
}
KERNEL(four_bit_encode_f32)(const float* x, u64 n, int block_size, int is_fp4, u8* packed, float* absmax) {
  four_bit_encode(x, n, block_size, is_fp4, packed, absmax);
}
KERNEL(four_bit_encode_f16)(const __half* x, u64 n, int block_size, int is_fp4, u8* packed, float* absmax) {
  four_bit_encode(x, n, block_size, is_fp4, packed, absmax);
}
KERNEL(four_bit_encode_bf16)(const __nv_bfloat16* x, u64 n, int block_size, int is_fp4, u8* packed, float* absmax) {
  four_bit_encode(x, n, block_size, is_fp4, packed, absmax);
}

// The mean of `n` scales, summed in f64 in an order of threads; one block of 256.
KERNEL(four_bit_double_offset)(const float* __restrict__ scales, u64 n, float* __restrict__ offset) {
  __shared__ double sums[256];
  double sum = 0;
  for (u64 i = threadIdx.x; i < n; i += 256) sum += (double)scales[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) *offset = (float)(sums[0] / (double)(n ? n : 1));
}

// Scales less the offset, to the nearest of 256 values, the lower one in the middle; a block of threads a group of 256. `map` is
// in order of value.
KERNEL(four_bit_double_encode)(const float* __restrict__ scales, u64 n, const float* __restrict__ map,
                               const float* __restrict__ offset, u8* __restrict__ codes, float* __restrict__ absmax) {
  __shared__ float midpoints[256];
  __shared__ u32 partial[8];
  const u64 i = blockIdx.x * (u64)256 + threadIdx.x;
  if (threadIdx.x < 255) midpoints[threadIdx.x] = __fmul_rn(__fadd_rn(map[threadIdx.x], map[threadIdx.x + 1]), 0.5f);
  const float x = i < n ? __fsub_rn(scales[i], *offset) : 0.f;
  u32 largest = magnitude(x);
#pragma unroll
  for (int o = 16; o; o >>= 1) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 8; w++) largest = max(largest, partial[w]);
  if (threadIdx.x == 0) absmax[blockIdx.x] = __uint_as_float(largest);
  if (i >= n) return;
  const float scaled = __fmul_rn(x, reciprocal(largest));
  int below = 0;  // midpoints below it
#pragma unroll
  for (int step = 128; step; step >>= 1)
    if (scaled > midpoints[below + step - 1]) below += step;
  codes[i] = (u8)below;
}

KERNEL(four_bit_double_decode)(const u8* __restrict__ codes, u64 n, const float* __restrict__ nested_absmax,
                               const float* __restrict__ nested_map, const float* __restrict__ offset,
                               float* __restrict__ absmax) {
  for (u64 i = blockIdx.x * (u64)blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x)
    absmax[i] = __fadd_rn(__fmul_rn(nested_map[codes[i]], nested_absmax[i >> 8]), *offset);
}

// Elements `first` and on, two a thread: `first` is even.
template <class T>
__device__ __forceinline__ void four_bit_decode(const u8* __restrict__ packed, const float* __restrict__ map,
                                                const float* __restrict__ absmax, u64 first, u64 n, int block_size,
                                                T* __restrict__ y) {
  __shared__ float values[16];
  if (threadIdx.x < 16) values[threadIdx.x] = map[threadIdx.x];
  __syncthreads();
  for (u64 i = 2 * (blockIdx.x * (u64)blockDim.x + threadIdx.x); i < n; i += 2 * (u64)gridDim.x * blockDim.x) {
    const u32 byte = packed[(first + i) / 2];
    const float scale = absmax[(first + i) / block_size];
    narrow(__fmul_rn(values[byte >> 4], scale), y + i);
    if (i + 1 < n) narrow(__fmul_rn(values[byte & 15], scale), y + i + 1);
  }
}
KERNEL(four_bit_decode_f32)(const u8* packed, const float* map, const float* absmax, u64 first, u64 n, int block_size, float* y) {
  four_bit_decode(packed, map, absmax, first, n, block_size, y);
}
KERNEL(four_bit_decode_f16)(const u8* packed, const float* map, const float* absmax, u64 first, u64 n, int block_size, __half* y) {
  four_bit_decode(packed, map, absmax, first, n, block_size, y);
}
KERNEL(four_bit_decode_bf16)
(const u8* packed, const float* map, const float* absmax, u64 first, u64 n, int block_size, __nv_bfloat16* y) {
  four_bit_decode(packed, map, absmax, first, n, block_size, y);
}

// A block of threads a row.
template <class T>
__device__ __forceinline__ void int8_encode(const T* __restrict__ x, int cols, i8* __restrict__ codes,
                                            float* __restrict__ absmax) {
  __shared__ u32 partial[8];
  x += (u64)blockIdx.x * cols;
  codes += (u64)blockIdx.x * cols;
  u32 largest = 0;
  for (int c = threadIdx.x; c < cols; c += 256)
    largest = max(largest, magnitude(__half2float(__float2half_rn(wide(x[c])))));
#pragma unroll
  for (int o = 16; o; o >>= 1) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, o));
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < 8; w++) largest = max(largest, partial[w]);
  if (threadIdx.x == 0) absmax[blockIdx.x] = __uint_as_float(largest);
  const float factor = __fmul_rn(127.f, reciprocal(largest));
  for (int c = threadIdx.x; c < cols; c += 256)
    codes[c] = (i8)__float2int_rn(__fmul_rn(__half2float(__float2half_rn(wide(x[c]))), factor));
}
KERNEL(int8_encode_f32)(const float* x, int cols, i8* codes, float* absmax) { int8_encode(x, cols, codes, absmax); }
KERNEL(int8_encode_f16)(const __half* x, int cols, i8* codes, float* absmax) { int8_encode(x, cols, codes, absmax); }
KERNEL(int8_encode_bf16)(const __nv_bfloat16* x, int cols, i8* codes, float* absmax) { int8_encode(x, cols, codes, absmax); }

// A block of threads a row.
template <class T>
__device__ __forceinline__ void int8_decode(const i8* __restrict__ codes, const float* __restrict__ absmax, int cols,
                                            T* __restrict__ y) {
  codes += (u64)blockIdx.x * cols;
  y += (u64)blockIdx.x * cols;
  const float scale = absmax[blockIdx.x];
  for (int c = threadIdx.x; c < cols; c += 256) narrow(__fmul_rn(__fmul_rn((float)codes[c], scale), 1.f / 127.f), y + c);
}
KERNEL(int8_decode_f32)(const i8* codes, const float* absmax, int cols, float* y) { int8_decode(codes, absmax, cols, y); }
KERNEL(int8_decode_f16)(const i8* codes, const float* absmax, int cols, __half* y) { int8_decode(codes, absmax, cols, y); }
KERNEL(int8_decode_bf16)(const i8* codes, const float* absmax, int cols, __nv_bfloat16* y) { int8_decode(codes, absmax, cols, y); }
