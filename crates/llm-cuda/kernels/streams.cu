// Streams of a residual, side by side in each row, and what belongs to models that have some.
//
//   mix_streams    s[t, o] = own s[t, o] + sum_i c[t, o, i] s[t, i] + d[t, o] y[t], in place
//   sum_streams    out[t] = factor sum_i w[t, i] s[t, i]
//   match_streams  s[t, o] *= sqrt(mean(s[t, 0]^2) / max(mean(s[t, o]^2), floor)), o > 0
//   cut_off        x[t, c] = max(0, x[t, c] - (m + deviations * sqrt(mean((x[t] - m)^2)))), c < width, m = mean(x[t])
//   tanh_of        x = tanh(x)
//   scale_columns  x[t, c] *= by[c]
//   weigh_streams  weights [read n | made n | matrix n n] of rows of products a, in place, or [read n] alone:
//                    a' = scale a / sqrt(mean(s[t]^2) + norm_eps) + base,  read = sigmoid(a') + eps,  made = 2 sigmoid(a');
//                    the matrix [from, to] is softmax(a') over `to` plus eps, brought to sums of one over `from`, then n_rounds - 1
//                    times over `to` and over `from`, eps being added to each sum; it is written with rows [to, from].
//
// Coefficients lie in rows of row_width: c from column `mixed` on, d is offset and what lies from column `column` on, for streams
// from `first` on; w from `column` on. A negative column: c and what d adds are zero, w is one. Up to 8 streams.
//
// mix_streams, sum_streams: a column of all streams a thread, grid (n_tokens, ceil(width / 256)), block 256. Bytes 8 n_streams * width
//   and 4 * width a row, coefficients from L1 after the first warp.
// match_streams, cut_off: a row a block, grid n_tokens, block 256; shared 128 bytes. Each reads what it has read again, from L2.
// weigh_streams: a row a block, grid n_tokens, block up to 1024; a warp makes the weights, a lane two elements of the matrix. Bytes: the
//   streams, and 8 a weight.
// tanh_of: n elements, one a thread, grid ceil(n / 256), block 256. scale_columns: as mix_streams.
#include "reduce.cuh"
#include "stored.cuh"

enum { MOST = 8 };

KERNEL(mix_streams)(const float* coefficients, int row_width, const float* y, float* s, int n, int width, float own, int mixed,
                    int first, float offset, int column) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u64 token = blockIdx.x;
  const float* row = coefficients + token * row_width;
  float* at = s + token * n * width + c;
  float before[MOST];
#pragma unroll
  for (int i = 0; i < MOST; i++) before[i] = i < n ? at[(u64)i * width] : 0.f;
  float beside = y ? y[token * width + c] : 0.f;
#pragma unroll 1
  for (int o = 0; o < n; o++) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
      if (i < n) {
        float of = (mixed >= 0 ? row[mixed + o * n + i] : 0.f) + (i == o ? own : 0.f);
        sum = fmaf(of, before[i], sum);
      }
    }
    float share = y && o >= first ? offset + (column >= 0 ? row[column + o] : 0.f) : 0.f;
    // What is not added is none of it, whatever it is.
    if (share != 0.f) sum = fmaf(share, beside, sum);
    at[(u64)o * width] = sum;
  }
}

KERNEL(sum_streams)(const float* coefficients, int row_width, const float* s, float* out, int n, int width, float factor,
                    int column) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u64 token = blockIdx.x;
  const float* at = s + token * n * width + c;
  float sum = 0.f;
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    float of = factor * (column >= 0 ? coefficients[token * row_width + column + i] : 1.f);
    sum = fmaf(of, at[(u64)i * width], sum);
  }
  out[token * width + c] = sum;
}

__device__ __forceinline__ float root_mean_square(const float* x, int width, float floor, float (&partial)[32]) {
  float squares = 0.f;
  for (int i = threadIdx.x; i < width; i += 256) squares = fmaf(x[i], x[i], squares);
  return sqrtf(fmaxf(sum_of_block(squares, partial) / (float)width, floor));
}

KERNEL(match_streams)(float* s, int n, int width, float floor) {
  __shared__ float partial[32];
  float* row = s + (u64)blockIdx.x * n * width;
  float target = root_mean_square(row, width, 0.f, partial);
#pragma unroll 1
  for (int o = 1; o < n; o++) {
    float* stream = row + (u64)o * width;
    float factor = target / root_mean_square(stream, width, floor, partial);
    for (int i = threadIdx.x; i < width; i += 256) stream[i] *= factor;
  }
}

KERNEL(cut_off)(float* x, int width, int row_width, float deviations) {
  __shared__ float partial[32];
  float* row = x + (u64)blockIdx.x * row_width;
  float sum = 0.f;
  for (int i = threadIdx.x; i < width; i += 256) sum += row[i];
  float mean = sum_of_block(sum, partial) / (float)width;
  float rest = 0.f, squares = 0.f;
  for (int i = threadIdx.x; i < width; i += 256) {
    float d = row[i] - mean;
    rest += d;
    squares = fmaf(d, d, squares);
  }
  // What the rounded mean left.
  rest = sum_of_block(rest, partial) / (float)width;
  float variance = fmaxf(sum_of_block(squares, partial) / (float)width - rest * rest, 0.f);
  float above = rest + deviations * sqrtf(variance);
  for (int i = threadIdx.x; i < width; i += 256) row[i] = fmaxf(0.f, row[i] - mean - above);
}

KERNEL(tanh_of)(float* x, u32 n) {
  u32 i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) x[i] = tanhf(x[i]);
}

KERNEL(scale_columns)(const u8* by, int element, float* x, int width) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c < width) x[(u64)blockIdx.x * width + c] *= element_at(by, element, c);
}

struct Weighing {
  int n, row_width, n_weights, n_rounds;
  float norm_eps, eps;
};

// Columns of a matrix, or its rows, brought to sums of one, by a warp.
__device__ __forceinline__ void normalise(float* matrix, int n, bool over_from, float eps) {
  float own[2];
#pragma unroll
  for (int k = 0; k < 2; k++) {
    int i = (threadIdx.x & 31) + 32 * k;
    if (i >= n * n) break;
    int first = over_from ? i % n : i / n * n, step = over_from ? n : 1;
    float total = 0.f;
    for (int j = 0; j < n; j++) total += matrix[first + j * step];
    own[k] = matrix[i] / (total + eps);
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < 2; k++) {
    int i = (threadIdx.x & 31) + 32 * k;
    if (i < n * n) matrix[i] = own[k];
  }
  __syncwarp();
}

KERNEL_OF(1024, weigh_streams)(Weighing op, const u8* scale, int scale_element, const u8* base, int base_element, const float* s,
                               float* weights) {
  __shared__ float partial[32];
  __shared__ float matrix[MOST * MOST];
  const float* row = s + (u64)blockIdx.x * op.row_width;
  float squares = 0.f;
  for (int i = threadIdx.x; i < op.row_width; i += blockDim.x) squares = fmaf(row[i], row[i], squares);
  float mean = sum_of_block(squares, partial) / (float)op.row_width;
  if (threadIdx.x >= 32) return;
  float factor = 1.f / sqrtf(mean + op.norm_eps);
  int n = op.n;
  weights += (u64)blockIdx.x * op.n_weights;
  for (int i = threadIdx.x; i < op.n_weights; i += 32) {
    float by = element_at(scale, scale_element, min(i / n, 2)) * factor;
    float a = fmaf(weights[i], by, element_at(base, base_element, i));
    if (i >= 2 * n) {
      matrix[i - 2 * n] = a;
      continue;
    }
    float sigmoid = 1.f / (1.f + expf(-a));
    weights[i] = i < n ? sigmoid + op.eps : 2.f * sigmoid;
  }
  if (op.n_weights == n) return;
  __syncwarp();
  float own[2];
#pragma unroll
  for (int k = 0; k < 2; k++) {
    int i = threadIdx.x + 32 * k;
    if (i >= n * n) break;
    float most = -__int_as_float(0x7f800000), total = 0.f;
    for (int j = 0; j < n; j++) most = fmaxf(most, matrix[i / n * n + j]);
    for (int j = 0; j < n; j++) total += expf(matrix[i / n * n + j] - most);
    own[k] = expf(matrix[i] - most) / total + op.eps;
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < 2; k++) {
    int i = threadIdx.x + 32 * k;
    if (i < n * n) matrix[i] = own[k];
  }
  __syncwarp();
  normalise(matrix, n, true, op.eps);
  for (int round = 1; round < op.n_rounds; round++) {
    normalise(matrix, n, false, op.eps);
    normalise(matrix, n, true, op.eps);
  }
#pragma unroll
  for (int k = 0; k < 2; k++) {
    int i = threadIdx.x + 32 * k;
    if (i < n * n) weights[2 * n + i] = matrix[i % n * n + i / n];
  }
}
