// Normalisations of rows and of heads, and heads brought into order.
//
//   rms    out = x / sqrt(mean(x^2) + eps) * (gain_offset + gain) + bias
//   layer  out = (x - m) / sqrt(mean((x - m)^2) + eps) * (gain_offset + gain) + bias,   m = mean(x)
//
// Sums in f32, a tree over the block; the variance in a second pass over what is in registers, so that a mean far from
// zero costs no digits. gain and bias [width], bias null where there is none: *_f32, *_f16, *_bf16 both of that type and
// aligned to it; *_any of a type each and at any address.
//
// norm_rms_*, norm_layer_*: a row of x [n_tokens, width] a block, into out [n_tokens, width] (which may be x).
//   Grid n_tokens, block: whole warps, width / 8 threads or more, up to 1024; shared 128 bytes. A thread keeps 8 elements,
//   and fetches their vectors before it sums; of rows longer than 8192 it reads the rest again.
//   Bytes: 8 * n_tokens * width and the vectors, from L2 after the first block; about 8 operations an element.
// norm_heads_*: heads first .. first + n_heads of rows [n_tokens, row_width], in place, a warp each.
//   Grid (n_tokens, ceil(n_heads / 8)), block 256. Heads up to 256 elements stay in registers.
// unit_heads: the same heads over sqrt(mean(x^2) + eps), grid and block alike.
// ungroup: groups in rows of grouped [n_tokens, row_width], from column first on, each part of all groups side by side in out
//   [n_tokens, out_width].
//   Grid (n_tokens, ceil(width / 256)), block 256; 8 bytes an element.
#include "reduce.cuh"
#include "stored.cuh"

// Vectors whose elements are of one type and aligned to it.
template <class T>
struct Same {
  const T *gain, *bias;
  enum { KEPT = 8 };
  __device__ __forceinline__ float gain_at(int i) const { return widened(gain[i]); }
  __device__ __forceinline__ float bias_at(int i) const { return bias ? widened(bias[i]) : 0.f; }
};
// Of any types, at any address; less is kept, for each load is a choice.
struct Any {
  const u8 *gain, *bias;
  int gain_element, bias_element;
  enum { KEPT = 1 };
  __device__ __forceinline__ float gain_at(int i) const { return element_at(gain, gain_element, i); }
  __device__ __forceinline__ float bias_at(int i) const { return bias ? element_at(bias, bias_element, i) : 0.f; }
};

// Of a norm without a gain.
struct NoVectors {
  enum { KEPT = 8 };
  __device__ __forceinline__ float gain_at(int) const { return 0.f; }
  __device__ __forceinline__ float bias_at(int) const { return 0.f; }
};

struct Rms { enum { HAS_MEAN = 0 }; };
struct Layer { enum { HAS_MEAN = 1 }; };

// Threads that share a row: a block, or a warp.
struct Block {
  float (&partial)[32];
  __device__ __forceinline__ int first() const { return threadIdx.x; }
  __device__ __forceinline__ int n() const { return blockDim.x; }
  __device__ __forceinline__ float sum(float v) const { return sum_of_block(v, partial); }
};
struct Warp {
  __device__ __forceinline__ int first() const { return threadIdx.x & 31; }
  __device__ __forceinline__ int n() const { return 32; }
  __device__ __forceinline__ float sum(float v) const { return sum_of_warp(v); }
};

template <class Norm, class Threads, class Vectors>
__device__ __forceinline__ void normalise(Threads threads, const float* x, int width, float eps, float gain_offset,
                                          Vectors vectors, float* out) {
  enum { KEPT = Vectors::KEPT };
  float kept[KEPT], gain[KEPT], bias[KEPT];
  int first = threads.first(), n = threads.n(), rest = first + KEPT * n;
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    int i = first + k * n;
    bool is_here = i < width;
    kept[k] = is_here ? x[i] : 0.f;
    gain[k] = is_here ? vectors.gain_at(i) : 0.f;
    bias[k] = is_here ? vectors.bias_at(i) : 0.f;
  }
  float mean = 0.f;
  if (Norm::HAS_MEAN) {
    float sum = 0.f;
#pragma unroll
    for (int k = 0; k < KEPT; k++) sum += kept[k];
#pragma unroll 2
    for (int i = rest; i < width; i += n) sum += x[i];
    mean = threads.sum(sum) / (float)width;
  }
  float squares = 0.f;
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    float d = kept[k] - mean;
    if (first + k * n < width) squares = fmaf(d, d, squares);
  }
#pragma unroll 2
  for (int i = rest; i < width; i += n) {
    float d = x[i] - mean;
    squares = fmaf(d, d, squares);
  }
  float scale = 1.f / sqrtf(threads.sum(squares) / (float)width + eps);
#pragma unroll
  for (int k = 0; k < KEPT; k++) {
    int i = first + k * n;
    if (i < width) out[i] = fmaf((kept[k] - mean) * scale, gain_offset + gain[k], bias[k]);
  }
#pragma unroll 1
  for (int i = rest; i < width; i += n)
    out[i] = fmaf((x[i] - mean) * scale, gain_offset + vectors.gain_at(i), vectors.bias_at(i));
}

template <class Norm, class Vectors>
__device__ __forceinline__ void norm(const float* x, int width, float eps, float gain_offset, Vectors vectors, float* out) {
  __shared__ float partial[32];
  u64 row = (u64)blockIdx.x * width;
  normalise<Norm>(Block{partial}, x + row, width, eps, gain_offset, vectors, out + row);
}

template <class Norm, class Vectors>
__device__ __forceinline__ void norm_heads(float* x, int row_width, int first, int n_heads, int head_dim, float eps,
                                           float gain_offset, Vectors vectors) {
  int head = blockIdx.y * 8 + (threadIdx.x >> 5);
  if (head >= n_heads) return;
  float* at = x + (u64)blockIdx.x * row_width + (u64)(first + head) * head_dim;
  normalise<Norm>(Warp{}, at, head_dim, eps, gain_offset, vectors, at);
}

#define NORM(name, Norm, T)                                                                                          \
  KERNEL_OF(1024, norm_##name)(const float* x, int width, float eps, float gain_offset, const T* gain, const T* bias, \
                               float* out) {                                                                         \
    norm<Norm>(x, width, eps, gain_offset, Same<T>{gain, bias}, out);                                                \
  }                                                                                                                  \
  KERNEL(norm_heads_##name)(float* x, int row_width, int first, int n_heads, int head_dim, float eps,                \
                            float gain_offset, const T* gain, const T* bias) {                                       \
    norm_heads<Norm>(x, row_width, first, n_heads, head_dim, eps, gain_offset, Same<T>{gain, bias});                 \
  }
#define NORM_ANY(name, Norm)                                                                                         \
  KERNEL_OF(1024, norm_##name##_any)(const float* x, int width, float eps, float gain_offset, const u8* gain,         \
                                     const u8* bias, int gain_element, int bias_element, float* out) {               \
    norm<Norm>(x, width, eps, gain_offset, Any{gain, bias, gain_element, bias_element}, out);                        \
  }                                                                                                                  \
  KERNEL(norm_heads_##name##_any)(float* x, int row_width, int first, int n_heads, int head_dim, float eps,          \
                                  float gain_offset, const u8* gain, const u8* bias, int gain_element,               \
                                  int bias_element) {                                                                \
    norm_heads<Norm>(x, row_width, first, n_heads, head_dim, eps, gain_offset,                                       \
                     Any{gain, bias, gain_element, bias_element});                                                   \
  }

NORM(rms_f32, Rms, float)
NORM(rms_f16, Rms, __half)
NORM(rms_bf16, Rms, __nv_bfloat16)
NORM_ANY(rms, Rms)
NORM(layer_f32, Layer, float)
NORM(layer_f16, Layer, __half)
NORM(layer_bf16, Layer, __nv_bfloat16)
NORM_ANY(layer, Layer)

KERNEL(unit_heads)(float* x, int row_width, int first, int n_heads, int head_dim, float eps) {
  norm_heads<Rms>(x, row_width, first, n_heads, head_dim, eps, 1.f, NoVectors{});
}

// Up to four parts of a group: elements, and where the first group's goes.
struct Parts {
  int width[4], to[4];
};

KERNEL(ungroup)(const float* grouped, int row_width, int first, int group_width, int width, Parts parts, int out_width,
                float* out) {
  int i = blockIdx.y * 256 + threadIdx.x;
  if (i >= width) return;
  int group = i / group_width, at = i % group_width;
  u64 row = blockIdx.x;
  float v = grouped[row * row_width + first + i];
#pragma unroll
  for (int part = 0; part < 4; part++) {
    int n = parts.width[part];
    if (at >= 0 && at < n) out[row * out_width + parts.to[part] + group * n + at] = v;
    at -= n;
  }
}
