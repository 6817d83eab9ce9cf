// Choice of experts, lists of their rows, and rows sent to them and back. Nothing here is read by the host.
//
// A router's probabilities p are the softmax of a row of scores [n_tokens, n_experts], or each score's 1 / (1 + exp(-x)), or
// sqrt(ln(1 + exp(x))). An expert's rank is p, plus its element of correction where there is one; and minus infinity where its
// group is out, of n_groups equally large ones of which the n_active_groups are in that rank first, by their largest rank or by the
// sum of their two largest. A row goes to the n_active that rank first, the first among equals, or to those that are given
// [n_tokens, n_active] as numbers; their weights are scale * p, or these over eps + the sum of the chosen p, times its element of
// scales where there are such. With a tolerance (SparseMixer) p is the score itself, and the weight of a chosen p is scale / the sum
// of exp(q - p) over those q that no expert chosen before has, but for those with (p - q) / max(|q|, p) > tolerance. A row where a rank is not a number (one score is not, or of a softmax is infinite) goes to the first
// n_active, or to those that are given, with weights that are not numbers. Where rank is p alone it is the score that is compared.
//
//   routing_choose   chosen, weights [n_tokens, n_active], by falling probability. A row a warp: grid ceil(n_tokens / 8),
//                    block 256. Bytes 4 n_tokens n_experts; the scores are read n_active + 3 times, from L1 after the first.
//   routing_scale    x[t, c] /= 1 + exp(-(the largest of scores[t])), which is not a number where one of them is not. A row a block:
//                    grid n_tokens, block 256. Bytes 8 an element of x, 4 one of scores.
//   routing_lists    from chosen and weights, an expert a block (grid n_experts, block 256, shared 4 KB):
//                      starts [n_experts + 1]         begin of each expert's assignments; they end where the next begins
//                      rows, row_weights [n_chosen]   the row and the weight of each assignment, by expert, rows rising
//                      slots [n_tokens, n_active]     a row's assignments, experts rising
//                      tiles [capacity, 4]            (expert, first assignment, assignments, 0), at most tile_rows each
//                      n_tiles [1]
//                    Each block counts all assignments by itself: n_experts * n_chosen * 8 bytes from L2, no atomics on global
//                    memory, the same order in every run. n_chosen is n_tokens * n_active; capacity is
//                    min(n_experts, n_chosen) + n_chosen / tile_rows.
//   routing_few      both at once for at most 8 rows: each block chooses anew, which costs less than a launch. n_active at most 64.
//   routing_gather   out [i, c] = x[rows[starts[e] + i], c], for one expert e. Grid (n_tokens or less, ceil(width / 256)).
//   routing_scatter  x[rows[starts[e] + i], c] += row_weights * y[i, c], likewise.
//   routing_combine  out[t, c] += sum of row_weights[s] * y[s, c] over the slots s of row t, experts rising: all scatters of a
//                    layer in one launch, in the same order and so with the same bits. Grid (n_tokens, ceil(width / 256)).
// Bytes of the last four: 4 read and 4 written an element (scatter, combine: and 4 read).
//
// A kernel that computes with all experts of a layer at once (experts.cu) has a block for each tile that there may be:
//
//   if (blockIdx.y >= *n_tiles) return;
//   uint4 tile = tiles[blockIdx.y];      x the expert, y its first assignment, z assignments, tile_rows at most
//   row i of x is x + rows[tile.y + i] * cols for gate and up: the gather is part of the product; x + (tile.y + i) * cols for down,
//   whose input lies in the order of assignments, as do all results.
//
// One row with n_active experts has n_active tiles, so that no block finds nothing to do.
#include "prelude.cuh"
#include "stored.cuh"

enum { COUNTED = 1024, FEW = 8, FEW_ACTIVE = 64 };

enum Scoring { SOFTMAX, SIGMOID, PLAIN, SQRT_SOFTPLUS };
enum Weighting { PROBABILITY, NORMALISED, NEAR_TIES };

struct Routing {
  int n_experts, n_active, scoring, n_groups, n_active_groups, by_two, weighting;
  float eps, scale, tolerance;
};

// A vector with an element for each expert, or none.
struct OfExperts {
  const u8* of;
  int element;
};

__device__ __forceinline__ float warp_sum_f32(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

__device__ __forceinline__ float warp_max_f32(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// A row's probabilities and ranks, as a lane computes them.
struct Ranks {
  const Routing& op;
  OfExperts correction;
  const float* scores;
  float max, total;
  u32 open;  // a bit a group
  bool is_plain;
  __device__ __forceinline__ float probability(float score) const {
    if (op.scoring == PLAIN) return score;
    if (op.scoring == SQRT_SOFTPLUS) return sqrtf(fmaxf(score, 0.f) + log1pf(expf(-fabsf(score))));
    return op.scoring == SIGMOID ? 1.f / (1.f + expf(-score)) : expf(score - max) / total;
  }
  __device__ __forceinline__ float corrected(int i) const {
    float p = probability(scores[i]);
    return correction.of ? p + element_at(correction.of, correction.element, i) : p;
  }
  __device__ __forceinline__ float of(int i) const {
    if (is_plain) return scores[i];
    if (op.n_groups && !(open >> (i / (op.n_experts / op.n_groups)) & 1)) return -__int_as_float(0x7f800000);
    return corrected(i);
  }
};

// The groups that are open to a row, a bit each; a lane has the group of its number.
__device__ __forceinline__ u32 open_groups(const Routing& op, const Ranks& ranks) {
  int lane = threadIdx.x & 31, size = op.n_experts / op.n_groups;
  float first = -__int_as_float(0x7f800000), second = first;
  for (int i = lane * size; lane < op.n_groups && i < (lane + 1) * size; i++) {
    float rank = ranks.corrected(i);
    second = fmaxf(second, fminf(first, rank));
    first = fmaxf(first, rank);
  }
  float of_group = op.by_two ? first + second : first;
  int before = 0;
  for (int other = 0; other < op.n_groups; other++) {
    float of_other = __shfl_sync(0xffffffffu, of_group, other);
    before += of_other == of_group ? other < lane : of_other > of_group;
  }
  return __ballot_sync(0xffffffffu, lane < op.n_groups && before < op.n_active_groups);
}

// The share of an expert, chosen now, in the softmax over those that are left and nearly as good; by a whole warp.
__device__ __forceinline__ float share(const Routing& op, const Ranks& ranks, float rank, int expert) {
  float best = ranks.probability(ranks.scores[expert]), total = 0.f;
  for (int i = threadIdx.x & 31; i < op.n_experts; i += 32) {
    float other = ranks.of(i), p = ranks.probability(ranks.scores[i]);
    bool is_left = other < rank || (other == rank && i >= expert);
    // Of zeros alone the distance is not a number, and they are near.
    bool is_far = (best - p) / fmaxf(fabsf(p), best) > op.tolerance;
    if (is_left && !is_far) total += expf(p - best);
  }
  return 1.f / warp_sum_f32(total);
}

// The experts that rank first, and the sum of their probabilities; by a whole warp.
__device__ __forceinline__ float find_first(const Routing& op, const Ranks& ranks, u32* chosen, float* weights) {
  int lane = threadIdx.x & 31;
  // What comes after the last one chosen, by falling rank and rising number.
  float last = __int_as_float(0x7f800000), of_chosen = 0.f;
  int last_expert = -1;
  for (int k = 0; k < op.n_active; k++) {
    float best = 0.f;
    int best_expert = op.n_experts;
    for (int i = lane; i < op.n_experts; i += 32) {
      float rank = ranks.of(i);
      bool is_left = rank < last || (rank == last && i > last_expert);
      if (is_left && (best_expert == op.n_experts || rank > best)) {
        best = rank;
        best_expert = i;
      }
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) {
      float rank = __shfl_xor_sync(0xffffffffu, best, o);
      int expert = __shfl_xor_sync(0xffffffffu, best_expert, o);
      bool is_better = rank > best || (rank == best && expert < best_expert);
      if (expert != op.n_experts && (best_expert == op.n_experts || is_better)) {
        best = rank;
        best_expert = expert;
      }
    }
    last = best;
    last_expert = best_expert;
    float weight = ranks.probability(ranks.scores[best_expert]);
    of_chosen += weight;
    if (op.weighting == NEAR_TIES) weight = share(op, ranks, best, best_expert);
    if (lane == 0) {
      chosen[k] = best_expert;
      weights[k] = weight;
    }
  }
  return of_chosen;
}

// The experts that are given, likewise. A number that is none would be read behind the scores.
__device__ __forceinline__ float take(const Routing& op, const Ranks& ranks, const float* given, u32* chosen, float* weights) {
  float of_chosen = 0.f;
  for (int k = threadIdx.x & 31; k < op.n_active; k += 32) {
    int expert = min(max((int)given[k], 0), op.n_experts - 1);
    float weight = ranks.probability(ranks.scores[expert]);
    of_chosen += weight;
    chosen[k] = expert;
    weights[k] = weight;
  }
  return warp_sum_f32(of_chosen);
}

// By a whole warp, for one row.
__device__ __forceinline__ void choose(const Routing& op, OfExperts correction, OfExperts scales, const float* given,
                                       const float* scores, u32* chosen, float* weights) {
  int lane = threadIdx.x & 31;
  Ranks ranks{op, correction, scores, 0.f, 1.f, 0, !correction.of && !op.n_groups};
  if (op.scoring == SOFTMAX) {
    float max = __int_as_float(0xff800000);
    for (int i = lane; i < op.n_experts; i += 32) max = fmaxf(max, scores[i]);
    ranks.max = warp_max_f32(max);
    float total = 0.f;
    for (int i = lane; i < op.n_experts; i += 32) total += expf(scores[i] - ranks.max);
    ranks.total = warp_sum_f32(total);
  }
  bool is_number = true;
  for (int i = lane; i < op.n_experts; i += 32) {
    float rank = ranks.corrected(i);
    is_number = is_number && rank == rank;
  }
  if (!__all_sync(0xffffffffu, is_number)) {
    if (given) take(op, ranks, given, chosen, weights);
    for (int k = lane; k < op.n_active; k += 32) {
      if (!given) chosen[k] = k;
      weights[k] = __int_as_float(0x7fffffff);
    }
    __syncwarp();
    return;
  }
  if (op.n_groups) ranks.open = open_groups(op, ranks);
  float of_chosen = given ? take(op, ranks, given, chosen, weights) : find_first(op, ranks, chosen, weights);
  __syncwarp();
  float divisor = op.weighting == NORMALISED ? of_chosen + op.eps : 1.f;
  for (int k = lane; k < op.n_active; k += 32) {
    float weight = weights[k] / divisor * op.scale;
    weights[k] = scales.of ? weight * element_at(scales.of, scales.element, chosen[k]) : weight;
  }
  __syncwarp();
}

KERNEL(routing_scale)(const float* scores, int n_scores, float* x, int width) {
  __shared__ float of_warps[8];
  const float* row = scores + (u64)blockIdx.x * n_scores;
  // What is not a number is ignored by fmaxf, and so counted apart.
  float max = -__int_as_float(0x7f800000);
  bool is_number = true;
  for (int i = threadIdx.x; i < n_scores; i += 256) {
    max = fmaxf(max, row[i]);
    is_number = is_number && row[i] == row[i];
  }
  const float none = __int_as_float(0x7fffffff);
  max = warp_max_f32(max);
  is_number = __all_sync(0xffffffffu, is_number);
  if ((threadIdx.x & 31) == 0) of_warps[threadIdx.x >> 5] = is_number ? max : none;
  __syncthreads();
  is_number = true;
#pragma unroll
  for (int warp = 0; warp < 8; warp++) {
    max = fmaxf(max, of_warps[warp]);
    is_number = is_number && of_warps[warp] == of_warps[warp];
  }
  float factor = is_number ? 1.f / (1.f + expf(-max)) : none;
  for (int c = threadIdx.x; c < width; c += 256) x[(u64)blockIdx.x * width + c] *= factor;
}

KERNEL(routing_choose)(Routing op, const u8* correction, int element, const u8* scales, int scale_element,
                       const float* given, const float* scores, int n_tokens, u32* chosen, float* weights) {
  int row = blockIdx.x * 8 + (threadIdx.x >> 5);
  if (row >= n_tokens) return;
  choose(op, OfExperts{correction, element}, OfExperts{scales, scale_element}, given ? given + (u64)row * op.n_active : nullptr,
         scores + (u64)row * op.n_experts, chosen + (u64)row * op.n_active, weights + (u64)row * op.n_active);
}

__device__ __forceinline__ u32 sum_of_block(u32 v, u32 (&partial)[8]) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = v;
  __syncthreads();
  v = 0;
#pragma unroll
  for (int warp = 0; warp < 8; warp++) v += partial[warp];
  __syncthreads();
  return v;
}

struct Lists {
  u32 *starts, *rows;
  float* row_weights;
  u32* slots;
  uint4* tiles;
  u32* n_tiles;
  u32 tile_rows;
};

// By a block, for the expert of its number.
__device__ __forceinline__ void list(const u32* chosen, const float* weights, u32 n_tokens, u32 n_active, u32 n_experts,
                                     Lists lists) {
  __shared__ u32 counts[COUNTED];
  __shared__ u32 partial[8];
  u32 expert = blockIdx.x, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u32 before = 0, tiles_before = 0, count = 0;
  // Experts up to this one, so many at a time.
  for (u32 first = 0; first <= expert; first += COUNTED) {
    for (u32 i = threadIdx.x; i < COUNTED; i += 256) counts[i] = 0;
    __syncthreads();
    for (u32 i = threadIdx.x; i < n_tokens * n_active; i += 256)
      if (chosen[i] - first < COUNTED) atomicAdd(&counts[chosen[i] - first], 1u);
    __syncthreads();
    for (u32 i = threadIdx.x; i < COUNTED && first + i < expert; i += 256) {
      before += counts[i];
      tiles_before += (counts[i] + lists.tile_rows - 1) / lists.tile_rows;
    }
    if (expert - first < COUNTED) count = counts[expert - first];
    __syncthreads();
  }
  before = sum_of_block(before, partial);
  tiles_before = sum_of_block(tiles_before, partial);
  u32 n_tiles = (count + lists.tile_rows - 1) / lists.tile_rows;
  for (u32 i = threadIdx.x; i < n_tiles; i += 256) {
    u32 done = i * lists.tile_rows, left = count - done;
    lists.tiles[tiles_before + i] = make_uint4(expert, before + done, left < lists.tile_rows ? left : lists.tile_rows, 0);
  }
  if (threadIdx.x == 0) {
    lists.starts[expert] = before;
    if (expert == n_experts - 1) {
      lists.starts[n_experts] = before + count;
      *lists.n_tiles = tiles_before + n_tiles;
    }
  }
  // Rows in order, 256 at a time: a row goes to an expert once.
  for (u32 first = 0; first < n_tokens && count != 0; first += 256) {
    u32 row = first + threadIdx.x, at = n_active, rank = 0;
    for (u32 k = 0; row < n_tokens && k < n_active; k++) {
      u32 other = chosen[row * n_active + k];
      if (other == expert) at = k;
      rank += other < expert;
    }
    bool is_here = at != n_active;
    u32 here = __ballot_sync(0xffffffffu, is_here);
    if (lane == 0) partial[warp] = __popc(here);
    __syncthreads();
    u32 slot = before + __popc(here & ((1u << lane) - 1));
    u32 n_here = 0;
#pragma unroll
    for (u32 w = 0; w < 8; w++) {
      if (w < warp) slot += partial[w];
      n_here += partial[w];
    }
    __syncthreads();
    if (is_here) {
      lists.rows[slot] = row;
      lists.row_weights[slot] = weights[row * n_active + at];
      lists.slots[row * n_active + rank] = slot;
    }
    before += n_here;
  }
}

KERNEL(routing_lists)(const u32* chosen, const float* weights, u32 n_tokens, u32 n_active, u32 n_experts, u32* starts,
                      u32* rows, float* row_weights, u32* slots, uint4* tiles, u32* n_tiles, u32 tile_rows) {
  list(chosen, weights, n_tokens, n_active, n_experts, Lists{starts, rows, row_weights, slots, tiles, n_tiles, tile_rows});
}

KERNEL(routing_few)(Routing op, const u8* correction, int element, const u8* scales, int scale_element,
                    const float* given, const float* scores, u32 n_tokens, u32* starts, u32* rows, float* row_weights,
                    u32* slots, uint4* tiles, u32* n_tiles, u32 tile_rows) {
  __shared__ u32 chosen[FEW * FEW_ACTIVE];
  __shared__ float weights[FEW * FEW_ACTIVE];
  u32 row = threadIdx.x >> 5;
  if (row < n_tokens)
    choose(op, OfExperts{correction, element}, OfExperts{scales, scale_element}, given ? given + row * op.n_active : nullptr,
           scores + (u64)row * op.n_experts, chosen + row * op.n_active, weights + row * op.n_active);
  __syncthreads();
  list(chosen, weights, n_tokens, op.n_active, op.n_experts,
       Lists{starts, rows, row_weights, slots, tiles, n_tiles, tile_rows});
}

KERNEL(routing_gather)(const u32* starts, const u32* rows, u32 expert, const float* x, int width, float* out) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 start = starts[expert], n = starts[expert + 1] - start;
  for (u32 i = blockIdx.x; i < n; i += gridDim.x) out[(u64)i * width + c] = x[(u64)rows[start + i] * width + c];
}

KERNEL(routing_scatter)(const u32* starts, const u32* rows, const float* row_weights, u32 expert, const float* y, int width,
                        float* x) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  u32 start = starts[expert], n = starts[expert + 1] - start;
  for (u32 i = blockIdx.x; i < n; i += gridDim.x) {
    float* to = x + (u64)rows[start + i] * width + c;
    *to = fmaf(row_weights[start + i], y[(u64)i * width + c], *to);
  }
}

KERNEL(routing_combine)(const u32* slots, const float* row_weights, int n_active, const float* y, int width, float* out) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width) return;
  float* to = out + (u64)blockIdx.x * width + c;
  float sum = *to;
  for (int k = 0; k < n_active; k++) {
    u32 slot = slots[(u64)blockIdx.x * n_active + k];
    sum = fmaf(row_weights[slot], y[(u64)slot * width + c], sum);
  }
  *to = sum;
}
