// Products with weights in every scheme, of every shape and at every address: a thread an element of the result.
//
//   general_linear        out[t, first + r] (+)= sum_c x[t, c] w[r, c] + bias[r]
//   general_int8_*        the same by LLM.int8(): see below
//
// w[r, c], with e = r * cols + c:
//   dense              elements[e]                                       f32, f16 or bf16
//   int8               codes[e] * scb[r] * (1 / 127)
//   four_bit           map[code e] * absmax[e / block]
//   four_bit_double    map[code e] * (nested_map[absmax[e / block]] * nested_absmax[e / block / 256] + offset)
//
// LLM.int8(): activations are rounded to f16; a column in which one reaches the threshold is an outlier for all rows, is
// left out of the integer product, and takes the activations as they are times the weights widened.
//   general_int8_outliers   outliers[c]; grid ceil(cols / 256), block 256
//   general_int8_quantize   codes [n, cols], absmax [n]; grid n, block 256
//   general_int8_linear     grid (ceil(rows / 256), n), block 256
//
// n rows of x; where `bounds` is given there are bounds[1] - bounds[0], at most n. Grid (ceil(rows / 256), n), block 256, no
// shared memory but for sums. They are for what the fast kernels do not take: each element of a weight is read once a row of x.
#include "general.cuh"

__device__ __forceinline__ u32 rows_of(const u32* bounds, u32 n) { return bounds ? min(bounds[1] - bounds[0], n) : n; }

__device__ __forceinline__ void put(float* out, float sum, const Stored& bias, int r, int adds) {
  if (bias.elements) sum += value_of(bias, 0, r);
  *out = adds ? *out + sum : sum;
}

KERNEL(general_linear)(Stored w, Stored bias, const float* x, const u32* bounds, int n, int adds, float* out, int out_width,
                       int first) {
  int r = blockIdx.x * 256 + threadIdx.x;
  if (r >= w.rows || blockIdx.y >= rows_of(bounds, n)) return;
  x += (u64)blockIdx.y * w.cols;
  float sum = 0.f, carried = 0.f;
  // Two sums of 64 columns at a time: the error grows with the root of their number.
  for (int c = 0; c < w.cols; c++) {
    carried = fmaf(x[c], value_of(w, r, c), carried);
    if ((c & 63) == 63) {
      sum += carried;
      carried = 0.f;
    }
  }
  put(out + (u64)blockIdx.y * out_width + first + r, sum + carried, bias, r, adds);
}

__device__ __forceinline__ float through_f16(float a) {
  a = __half2float(__float2half_rn(a));
  return a > 65504.f ? 65504.f : a < -65504.f ? -65504.f : a;
}

// The larger of two magnitudes, of which NaN is the largest.
__device__ __forceinline__ float larger(float a, float b) {
  return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b)));
}

// The reciprocal is rounded before it is multiplied.
__device__ __forceinline__ float code_factor(float absmax) {
  return absmax == 0.f ? 0.f : __fmul_rn(127.f, __fdiv_rn(1.f, absmax));
}

__device__ __forceinline__ i8 code_of(float a, float factor) {
  float code = rintf(__fmul_rn(a, factor));
  return code != code ? 0 : (i8)(int)fminf(fmaxf(code, -128.f), 127.f);
}

KERNEL(general_int8_outliers)(const float* x, const u32* bounds, int n, int cols, float threshold, u8* outliers) {
  int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= cols) return;
  bool is_outlier = false;
  u32 rows = rows_of(bounds, n);
  for (u32 t = 0; t < rows; t++) is_outlier |= threshold > 0.f && fabsf(through_f16(x[(u64)t * cols + c])) >= threshold;
  outliers[c] = is_outlier;
}

KERNEL(general_int8_quantize)(const float* x, const u32* bounds, int n, int cols, float threshold, const u8* outliers,
                              i8* codes, float* absmax) {
  __shared__ float largest[256];
  if (blockIdx.x >= rows_of(bounds, n)) return;
  x += (u64)blockIdx.x * cols;
  codes += (u64)blockIdx.x * cols;
  float most = 0.f;
  for (int c = threadIdx.x; c < cols; c += 256) {
    float a = fabsf(through_f16(x[c]));
    if (!(threshold > 0.f && a >= threshold)) most = larger(most, a);
  }
  largest[threadIdx.x] = most;
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (threadIdx.x < half) largest[threadIdx.x] = larger(largest[threadIdx.x], largest[threadIdx.x + half]);
    __syncthreads();
  }
  float factor = code_factor(largest[0]);
  for (int c = threadIdx.x; c < cols; c += 256) codes[c] = outliers[c] ? 0 : code_of(through_f16(x[c]), factor);
  if (threadIdx.x == 0) absmax[blockIdx.x] = largest[0];
}

KERNEL(general_int8_linear)(Stored w, Stored bias, const float* x, const i8* codes, const float* absmax, const u8* outliers,
                            const u32* bounds, int n, int adds, float* out, int out_width, int first) {
  int r = blockIdx.x * 256 + threadIdx.x;
  if (r >= w.rows || blockIdx.y >= rows_of(bounds, n)) return;
  x += (u64)blockIdx.y * w.cols;
  codes += (u64)blockIdx.y * w.cols;
  float scale, factor = 0.f;
  if (w.kind == INT8) {
    scale = f32_of(w.scales + 4 * (u64)r);
  } else {
    scale = 0.f;
    for (int c = 0; c < w.cols; c++) {
      float a = fabsf(__half2float(__float2half_rn(value_of(w, r, c))));
      scale = larger(scale, a);
    }
    factor = code_factor(scale);
  }
  i32 sum = 0;
  float beside = 0.f;
  for (int c = 0; c < w.cols; c++) {
    i32 code = w.kind == INT8 ? (i8)w.elements[(u64)r * w.cols + c]
                              : code_of(__half2float(__float2half_rn(value_of(w, r, c))), factor);
    sum += code * codes[c];
    if (outliers[c]) {
      float wide = w.kind == INT8 ? __fmul_rn(__fmul_rn((float)code, scale), 1.f / 127.f) : value_of(w, r, c);
      beside = fmaf(x[c], wide, beside);
    }
  }
  float product = __fmul_rn(__fmul_rn((float)sum, __fmul_rn(absmax[blockIdx.y], scale)), 6.200124e-5f);
  put(out + (u64)blockIdx.y * out_width + first + r, product + beside, bias, r, adds);
}
