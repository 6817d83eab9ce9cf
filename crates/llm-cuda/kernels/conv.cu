// Causal convolutions of each channel for itself over the positions of sequences, and their states.
//
//   sum[t, c] = bias[c] + sum_k taps[c, k] in[t - (kernel - 1) + k, c]
//
// for the rows of each sequence, in[t] of rows before them being state[slot, .] [kernel - 1, n_channels], or 0 for a sequence
// that starts at position 0; afterwards the slot has the last kernel - 1 of in. taps [n_channels, kernel] and bias of a type
// each and at any address, bias null where there is none. A thread has a channel, and the taps go through shared memory.
// rows_index [n_sequences, first row | rows | position of the first | positions then], slots [n_sequences].
//
//   conv_columns_{4,8}  in = columns first .. first + n_channels of rows, out = sum
//   conv_silu_{4,8}     the same, out = silu(sum)
//   conv_gated_{4,8}    rows [B | C | x], in = B x, out = C sum
//   conv_keep_columns, conv_keep_gated  the state alone
//   slot_copy           n elements of a slot to another's
//
// conv_*_4: kernel up to 4, conv_*_8: up to 8. Grid (ceil(n_channels / 128), ceil(most rows / 16), n_sequences), block 128; with
// one row of blocks they leave the state, with more conv_keep_* follows: grid (ceil(n_channels / 128), n_sequences).
// Bytes: 8 a row and channel, 16 where gated, and kernel - 1 rows again of 16 in the second to last row of blocks.
#include "activation.cuh"
#include "stored.cuh"

enum { CHANNELS = 128, ROWS = 16 };

struct Columns {
  static __device__ __forceinline__ float in(const float* row, int first, int, int c) { return row[first + c]; }
  static __device__ __forceinline__ float out(float sum, const float*, int, int) { return sum; }
};
struct ColumnsSilu : Columns {
  static __device__ __forceinline__ float out(float sum, const float*, int, int) { return Silu::of(sum); }
};
struct Gated {
  static __device__ __forceinline__ float in(const float* row, int, int n, int c) { return row[c] * row[2 * n + c]; }
  static __device__ __forceinline__ float out(float sum, const float* row, int n, int c) { return row[n + c] * sum; }
};

// Rows of one sequence, and what came before them.
struct Sequence {
  u32 first, n_rows, start;
  float* state;

  __device__ __forceinline__ Sequence(const u32* rows_index, const u32* slots, float* states, int kernel, int n, u32 s)
      : first(rows_index[4 * s]), n_rows(rows_index[4 * s + 1]), start(rows_index[4 * s + 2]),
        state(states + (u64)slots[s] * (kernel - 1) * n) {}

  // What is convolved of row i, which may lie up to kernel - 1 before the first.
  template <class Rows>
  __device__ __forceinline__ float in(const float* x, int row_width, int column, int kernel, int n, int c, int i) const {
    if (i >= 0) return Rows::in(x + (u64)(first + i) * row_width, column, n, c);
    return start ? state[(u64)(kernel - 1 + i) * n + c] : 0.f;
  }
};

template <class Rows, int KERNEL>
__device__ __forceinline__ void conv(const u8* taps, int taps_element, const u8* bias, int bias_element, int kernel,
                                     const float* x, int row_width, int column, const u32* rows_index, const u32* slots,
                                     float* states, float* out, int n) {
  __shared__ float of_block[CHANNELS * KERNEL];
  int block = blockIdx.x * CHANNELS, c = block + threadIdx.x;
  int n_taps = min(CHANNELS, n - block) * kernel;
  for (int i = threadIdx.x; i < n_taps; i += CHANNELS) of_block[i] = element_at(taps, taps_element, (u64)block * kernel + i);
  __syncthreads();
  Sequence sequence(rows_index, slots, states, kernel, n, blockIdx.z);
  int begin = blockIdx.y * ROWS, end = min(begin + ROWS, (int)sequence.n_rows);
  if (c >= n || begin >= end) return;
  // The last of KERNEL are the kernel's.
  int absent = KERNEL - kernel;
  float window[KERNEL], tap[KERNEL], b = bias ? element_at(bias, bias_element, c) : 0.f;
#pragma unroll
  for (int k = 0; k < KERNEL; k++) {
    tap[k] = k < absent ? 0.f : of_block[threadIdx.x * kernel + k - absent];
    window[k] = k <= absent
                    ? 0.f
                    : sequence.in<Rows>(x, row_width, column, kernel, n, c, begin - KERNEL + k);
  }
  for (int i = begin; i < end; i++) {
    const float* row = x + (u64)(sequence.first + i) * row_width;
    float sum = b;
#pragma unroll
    for (int k = 0; k < KERNEL; k++) {
      window[k] = k + 1 < KERNEL ? window[k + 1] : Rows::in(row, column, n, c);
      if (k >= absent) sum = fmaf(tap[k], window[k], sum);
    }
    out[(u64)(sequence.first + i) * n + c] = Rows::out(sum, row, n, c);
  }
  if (gridDim.y > 1) return;
#pragma unroll
  for (int k = 1; k < KERNEL; k++)
    if (k > absent) sequence.state[(u64)(k - absent - 1) * n + c] = window[k];
}

template <class Rows>
__device__ __forceinline__ void keep(int kernel, const float* x, int row_width, int column, const u32* rows_index,
                                     const u32* slots, float* states, int n) {
  int c = blockIdx.x * CHANNELS + threadIdx.x;
  if (c >= n) return;
  Sequence sequence(rows_index, slots, states, kernel, n, blockIdx.y);
  // In order: of fewer rows than the state has, some move up in it.
  for (int k = 0; k < kernel - 1; k++)
    sequence.state[(u64)k * n + c] =
        sequence.in<Rows>(x, row_width, column, kernel, n, c, (int)sequence.n_rows - (kernel - 1) + k);
}

#define CONV_OF(name, Rows, n_taps)                                                                                     \
  KERNEL_OF(CHANNELS, name)(const u8* taps, int taps_element, const u8* bias, int bias_element, int kernel,             \
                            const float* x, int row_width, int column, const u32* rows_index, const u32* slots,         \
                            float* states, float* out, int n) {                                                         \
    conv<Rows, n_taps>(taps, taps_element, bias, bias_element, kernel, x, row_width, column, rows_index, slots, states, \
                       out, n);                                                                                         \
  }
#define CONV(name, Rows)        \
  CONV_OF(name##_4, Rows, 4)    \
  CONV_OF(name##_8, Rows, 8)
#define KEEP(name, Rows)                                                                                             \
  KERNEL_OF(CHANNELS, name)(int kernel, const float* x, int row_width, int column, const u32* rows_index,            \
                            const u32* slots, float* states, int n) {                                                \
    keep<Rows>(kernel, x, row_width, column, rows_index, slots, states, n);                                          \
  }

CONV(conv_columns, Columns)
CONV(conv_silu, ColumnsSilu)
CONV(conv_gated, Gated)
KEEP(conv_keep_columns, Columns)
KEEP(conv_keep_gated, Gated)

KERNEL(slot_copy)(float* states, u32 n, u32 from, u32 to) {
  const float* source = states + (u64)from * n;
  float* copy = states + (u64)to * n;
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) copy[i] = source[i];
}
