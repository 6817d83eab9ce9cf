// Selection of the positions that rows attend to, by heads of their own that share keys.
//
//   score[p] = sum over heads of weight_scale weights[h] max(0, scale q[h] . key[p]),  p up to the row's own position, or
//   among the first (position + 1) / rate where a key stands for so many positions
//
//   select_scores  scores of rows that have more than n_selected positions. 128 positions a block, 64 heads at a time: a warp
//                  has 8 of them, a thread 4 positions; keys and queries come 16 elements at a time. Grid (ceil(most positions
//                  / 128), rows, sequences), block 256. Bytes: a key for each 64 heads, and the queries for each block.
//   select_bits    bits [_, row_words] of the n_selected positions that score highest, the first among equals; of all where
//                  there are no more. The last score that is taken is found byte by byte, by a count of the scores that have
//                  each: four counts of all scores, whatever they are. A row a block of 1024 threads, grid (rows, sequences).
//                  Bytes: 20 a position, of which L2 has most, and 4 more where some of the scores that equal the last are left.
//
// q [_, n_heads, head_dim], weights [_, n_heads]; rows [sequences, first row | rows | position of the first | positions then] and
// tables [sequences, table_len] as in attention.cu; rows are those of each sequence from `skip` on. scores [sequences, rows, stride]
// as the grid has them. A product that is no number is zero, a score that is none below all others.
#include "kv.cuh"
#include "reduce.cuh"

#define POSITIONS 128
#define HEADS 64
#define ELEMENTS 16

KERNEL_OF(256, select_scores)(const float* q, const float* weights, const u32* rows, const u32* tables, int table_len, const void* pool,
                              int dtype, int n_heads, int head_dim, float scale, float weight_scale, int rate, int n_selected, int skip,
                              float* scores, int stride) {
  // Rows are whole float4s, and those of elements that follow each other begin at other banks.
  __shared__ __align__(16) float keys[ELEMENTS][POSITIONS + 4];
  __shared__ __align__(16) float queries[ELEMENTS][HEADS + 4];
  const u32* own = rows + blockIdx.z * 4;
  u32 row = skip + blockIdx.y;
  if (row >= own[1]) return;
  int n = (own[2] + row + 1) / rate, first = blockIdx.x * POSITIONS;
  if (n <= n_selected || first >= n) return;
  q += (u64)(own[0] + row) * n_heads * head_dim;
  weights += (u64)(own[0] + row) * n_heads;
  const u32* table = tables + (u64)blockIdx.z * table_len;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sums[4] = {0.f, 0.f, 0.f, 0.f};
  for (int h = 0; h < n_heads; h += HEADS) {
    int of_warp = h + 8 * warp;
    float products[8][4] = {};
    for (int d = 0; d < head_dim; d += ELEMENTS) {
      __syncthreads();
      // 16 elements of two rows a warp; the last position's key behind it, zeros behind the last head and element.
      for (int i = threadIdx.x; i < ELEMENTS * POSITIONS; i += 256) {
        int e = i % ELEMENTS, p = i / ELEMENTS;
        u64 at = kv_at(table, table_len, min(first + p, n - 1), 0, 1, 1, 0, head_dim);
        keys[e][p] = d + e < head_dim ? kv_of(pool, dtype, at + d + e) : 0.f;
      }
      for (int i = threadIdx.x; i < ELEMENTS * HEADS; i += 256) {
        int e = i % ELEMENTS, head = i / ELEMENTS;
        queries[e][head] = d + e < head_dim && h + head < n_heads ? q[(u64)(h + head) * head_dim + d + e] : 0.f;
      }
      __syncthreads();
      if (of_warp >= n_heads) continue;
#pragma unroll
      for (int e = 0; e < ELEMENTS; e++) {
        float4 k = *(const float4*)&keys[e][4 * lane];
        float4 a = *(const float4*)&queries[e][8 * warp], b = *(const float4*)&queries[e][8 * warp + 4];
        float of_heads[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}, of_keys[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
          for (int j = 0; j < 4; j++) products[i][j] = fmaf(of_heads[i], of_keys[j], products[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (of_warp + i >= n_heads) break;
      float weight = weights[of_warp + i] * weight_scale;
#pragma unroll
      for (int j = 0; j < 4; j++) sums[j] = fmaf(fmaxf(products[i][j] * scale, 0.f), weight, sums[j]);
    }
  }
  // Sums of warps, in their order.
  __syncthreads();
  *(float4*)&keys[warp][4 * lane] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  __syncthreads();
  int p = threadIdx.x;
  if (p >= POSITIONS || first + p >= n) return;
  float score = 0.f;
  for (int i = 0; i < 8; i++) score += keys[i][p];
  scores[((u64)blockIdx.z * gridDim.y + blockIdx.y) * stride + first + p] = score;
}

// Whole numbers in the order of scores.
__device__ __forceinline__ u32 order_of(float score) {
  if (score != score) return 0;
  u32 bits = __float_as_uint(score + 0.f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

KERNEL_OF(1024, select_bits)(const u32* rows, int rate, int n_selected, int skip, const float* scores, int stride, u32* bits, int row_words) {
  __shared__ u32 counts[256];
  __shared__ u32 of_warps[32];
  __shared__ u32 digit, rest, n_of_last;
  const u32* own = rows + blockIdx.y * 4;
  u32 row = skip + blockIdx.x;
  if (row >= own[1]) return;
  int n = (own[2] + row + 1) / rate, n_words = (n + 31) / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  bits += (u64)(own[0] + row) * row_words;
  if (n <= n_selected) {
    for (int w = threadIdx.x; w < n_words; w += 1024) bits[w] = n - 32 * w < 32 ? (1u << (n - 32 * w)) - 1 : 0xffffffffu;
    return;
  }
  scores += ((u64)blockIdx.y * gridDim.x + blockIdx.x) * stride;
  u32 least = 0, known = 0, n_equal = n_selected;
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) counts[threadIdx.x] = 0;
    __syncthreads();
    for (int first = 32 * warp; first < n; first += 1024) {
      int p = first + lane;
      u32 order = p < n ? order_of(scores[p]) : 0, of = order >> shift & 255;
      bool is_counted = p < n && (order & known) == least;
      // Most scores have one of a few first bytes: a warp adds up those that are alike.
      u32 alike = __match_any_sync(0xffffffffu, is_counted ? of : 256u);
      if (is_counted && lane == __ffs(alike) - 1) atomicAdd(&counts[of], (u32)__popc(alike));
    }
    __syncthreads();
    if (warp == 0) {
      // A lane has eight bytes, the first lane the largest; of all that are no smaller `upto` scores.
      u32 sum = 0;
      for (int i = 0; i < 8; i++) sum += counts[255 - 8 * lane - i];
      u32 upto = sum_up_to_lane(sum), before = upto - sum;
      if (before < n_equal && n_equal <= upto) {
        u32 of = 255 - 8 * lane, left = n_equal - before;
        while (counts[of] < left) left -= counts[of--];
        digit = of;
        rest = left;
        n_of_last = counts[of];
      }
    }
    __syncthreads();
    least |= digit << shift;
    known |= 255u << shift;
    n_equal = rest;
  }
  // Each warp has words that follow each other.
  int each = (n_words + 31) / 32, begin = min(warp * each, n_words), end = min(begin + each, n_words);
  u32 before = 0;
  if (n_equal < n_of_last) {
    for (int w = begin; w < end; w++) {
      int p = 32 * w + lane;
      before += __popc(__ballot_sync(0xffffffffu, p < n && order_of(scores[p]) == least));
    }
    if (lane == 0) of_warps[warp] = before;
    __syncthreads();
    u32 upto = sum_up_to_lane(of_warps[lane]);
    before = __shfl_sync(0xffffffffu, upto, warp) - before;
  }
  for (int w = begin; w < end; w++) {
    int p = 32 * w + lane;
    u32 order = p < n ? order_of(scores[p]) : 0;
    u32 equal = __ballot_sync(0xffffffffu, p < n && order == least);
    u32 nth = before + __popc(equal & ((1u << lane) - 1));
    bool is_taken = p < n && (order > least || (order == least && nth < n_equal));
    u32 word = __ballot_sync(0xffffffffu, is_taken);
    if (lane == 0) bits[w] = word;
    before += __popc(equal);
  }
}
