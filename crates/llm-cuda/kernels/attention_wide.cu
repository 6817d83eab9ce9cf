// Attention of heads of any size, in f32: for those that the tiled kernels do not take, to values that are elements of
// keys, to entries beside positions, and for positions in chunks, which cost those kernels registers.
//
//   attention_wide     as in attention.cu. A head of a row a block of 256 threads, grid (rows of a sequence at most, sequences,
//                      heads). 256 positions at a time: a thread scores one of them, then sums up elements d, d + 256, … of
//                      their values; earlier sums shrink by the new maximum.
//   attention_entries  the same, and after positions entries, in the same softmax. Both cost registers, which the other has not.
//   Bytes: the keys and values that a row sees, once a head. Shared memory 2 KB, and 16 more where some are selected.
//
// pool [n_blocks][n_planes][n_kv_heads][32][head_dim]: keys and values, or keys alone, whose first value_dim elements are the
// values. window: positions that are seen, 0 for all before, -n for those of the position's chunk of n; full: all of n_positions.
// selected [_, row_words]: bits of those of them that a row sees, null where it sees all. Of entries, which lie in a pool alike, a row
// sees those of the (position + 1) / rate runs that have ended, or those of them that are selected.
#include "kv.cuh"
#include "reduce.cuh"

#define STRETCH 8192

// By all 256 threads; `shared` is theirs again when it returns.
template <bool MAX> __device__ __forceinline__ float over_block(float v, float (&shared)[256]) {
  shared[threadIdx.x] = v;
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (threadIdx.x < half) {
      float a = shared[threadIdx.x], b = shared[threadIdx.x + half];
      shared[threadIdx.x] = MAX ? fmaxf(a, b) : a + b;
    }
    __syncthreads();
  }
  v = shared[0];
  __syncthreads();
  return v;
}

// Positions, from a word's first on, whose bits are set in so many words; how many there are. By all 256 threads, a word each at most.
__device__ __forceinline__ int places_of(const u32* bits, int n_words, unsigned short* places) {
  __shared__ u32 of_warps[8];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u32 word = threadIdx.x < n_words ? bits[threadIdx.x] : 0, before = sum_up_to_lane(__popc(word));
  if (lane == 31) of_warps[warp] = before;
  __syncthreads();
  u32 n = 0, at = before - __popc(word);
  for (int i = 0; i < 8; i++) {
    if (i == warp) at += n;
    n += of_warps[i];
  }
  for (; word; word &= word - 1) places[at++] = 32 * threadIdx.x + __ffs(word) - 1;
  __syncthreads();
  return n;
}

// Entries beside positions.
struct Beside {
  const void* pool;
  const u32* tables;
  const u32* selected;
  int dtype, table_len, rate, row_words;
};

#define PARAMETERS                                                                                                            \
  const float *q, const u32 *rows, const u32 *tables, int table_len, const void *pool, int dtype, int n_heads, int n_kv_heads, \
      int head_dim, int value_dim, int n_planes, int row_width, float scale, float cap, int window, int full, const float *bias, \
      int bias_row, int bias_zero, const u8 *sinks, int sinks_dtype, const u32 *selected, int row_words
#define ARGUMENTS                                                                                                              \
  q, rows, tables, table_len, pool, dtype, n_heads, n_kv_heads, head_dim, value_dim, n_planes, row_width, scale, cap, window, \
      full, bias, bias_row, bias_zero, sinks, sinks_dtype, selected, row_words

template <bool HAS_ENTRIES>
__device__ __forceinline__ void attend(PARAMETERS, const Beside& beside, float* out) {
  __shared__ float weights[256];
  __shared__ float shared[256];
  DYN_SHARED(unsigned short, places);
  const u32* own = rows + blockIdx.y * 4;
  if (blockIdx.x >= own[1]) return;
  const u32* table = tables + (u64)blockIdx.y * table_len;
  int head = blockIdx.z, kv_head = head / (n_heads / n_kv_heads);
  int position = own[2] + blockIdx.x, begin = 0, end = full ? own[3] : position + 1;
  if (!full && window > 0 && position + 1 > window) begin = position + 1 - window;
  if (!full && window < 0) begin = position - position % -window;
  u64 row = own[0] + blockIdx.x;
  q += row * row_width + (u64)head * head_dim;
  if (selected) selected += row * row_words;
  out += (row * n_heads + head) * value_dim;
  float most = __int_as_float(0xff800000), total = 0.f;
  if (sinks) { most = dense_of(sinks, sinks_dtype, head); total = 1.f; }
  bool is_first = true;
#pragma unroll 1
  for (int are_entries = 0; are_entries < (HAS_ENTRIES ? 2 : 1); are_entries++) {
    if (are_entries) {
      pool = beside.pool;
      dtype = beside.dtype;
      table_len = beside.table_len;
      table = beside.tables + (u64)blockIdx.y * table_len;
      selected = beside.selected ? beside.selected + row * beside.row_words : nullptr;
      begin = 0;
      end = (position + 1) / beside.rate;
    }
    // All at once, or of those that are selected what is in so many.
    for (int first = begin; first < end; first += selected ? STRETCH : end - begin) {
      int n = selected ? places_of(selected + first / 32, (min(end - first, STRETCH) + 31) / 32, places) : end - begin;
      for (int at = 0; at < n; at += 256) {
        int i = at + threadIdx.x, some = min(n - at, 256);
        float s = __int_as_float(0xff800000);
        if (i < n) {
          int p = first + (selected ? places[i] : i);
          u64 key = kv_at(table, table_len, p, 0, n_planes, n_kv_heads, kv_head, head_dim);
          s = 0.f;
          for (int d = 0; d < head_dim; d++) s = fmaf(q[d], kv_of(pool, dtype, key + d), s);
          s *= scale;
          if (cap > 0.f) s = cap * tanhf(s / cap);
          if (bias && !are_entries) s += bias[(u64)head * bias_row + min(max(bias_zero + p - position, 0), bias_row - 1)];
        }
        float next = fmaxf(most, over_block<true>(s, shared));
        float shrink = is_first && !sinks ? 0.f : expf(most - next), weight = i < n ? expf(s - next) : 0.f;
        weights[threadIdx.x] = weight;
        total = total * shrink + over_block<false>(weight, shared);
        most = next;
        for (int d = threadIdx.x; d < value_dim; d += 256) {
          float sum = is_first ? 0.f : out[d] * shrink;
          for (int j = 0; j < some; j++) {
            int p = first + (selected ? places[at + j] : at + j);
            u64 value = kv_at(table, table_len, p, n_planes - 1, n_planes, n_kv_heads, kv_head, head_dim);
            sum = fmaf(weights[j], kv_of(pool, dtype, value + d), sum);
          }
          out[d] = sum;
        }
        is_first = false;
        __syncthreads();
      }
    }
  }
  for (int d = threadIdx.x; d < value_dim; d += 256) out[d] /= total;
}

KERNEL(attention_wide)(PARAMETERS, float* out) { attend<false>(ARGUMENTS, Beside{}, out); }
KERNEL(attention_entries)(PARAMETERS, Beside beside, float* out) { attend<true>(ARGUMENTS, beside, out); }
