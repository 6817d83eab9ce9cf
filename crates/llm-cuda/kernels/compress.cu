// Runs of positions compressed to entries.
//
//   compress   out[e, d] = sum over places of w feature,  w the softmax over places of gate + bias[place in its run]
//              of the positions of run `start + e` of a sequence, and, where runs overlap, of those of the run before, which have
//              features, gates and biases of their own: the first `width` of a position, those for its own run behind them.
//   32 columns of an entry a block, a warp an eighth of the places: grid (entries of a sequence at most, ceil(width / 32), sequences),
//   block 256, shared 3 KB. Bytes: a position's features once and its gates twice, for each run that has them; 4 an element of out.
//
// pool [n_blocks][features, gates][32][series width] of f32, f16 or bf16; entries [sequences, first row of out | rows | first run | runs
// then], and tables [sequences, table_len] of the positions' blocks.
#include "kv.cuh"
#include "stored.cuh"

enum { WARPS = 8 };

struct Compression {
  int rate, width, overlaps;
};

// Where a place in an entry's softmax is: its position, its place in the run, and the first column of its series.
struct Place {
  u32 position;
  int place, series;
  __device__ __forceinline__ Place(const Compression& op, u32 entry, int i) {
    bool has_before = op.overlaps && entry > 0;
    position = (has_before ? entry - 1 : entry) * op.rate + i;
    place = i % op.rate;
    series = op.overlaps && !(has_before && i < op.rate) ? op.width : 0;
  }
};

KERNEL(compress)(Compression op, const u8* bias, int element, const u32* entries, const u32* tables, int table_len, const void* pool,
                 int dtype, float* out) {
  __shared__ float maxima[WARPS][32], totals[WARPS][32], sums[WARPS][32];
  const u32* own = entries + blockIdx.z * 4;
  if (blockIdx.x >= own[1]) return;
  const u32* table = tables + (u64)blockIdx.z * table_len;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d = blockIdx.y * 32 + lane;
  int features = (op.overlaps ? 2 : 1) * op.width;
  u32 entry = own[2] + blockIdx.x;
  int n = op.overlaps && entry > 0 ? 2 * op.rate : op.rate;
  float most = __int_as_float(0xff800000), total = 0.f, sum = 0.f;
  if (d < op.width) {
    auto gate = [&](const Place& at) {
      u64 gates = kv_at(table, table_len, at.position, 1, 2, 1, 0, features);
      int c = at.series + d;
      return kv_of(pool, dtype, gates + c) + element_at(bias, element, (u64)at.place * features + c);
    };
    for (int i = warp; i < n; i += WARPS) most = fmaxf(most, gate(Place(op, entry, i)));
    for (int i = warp; i < n; i += WARPS) {
      Place at(op, entry, i);
      float weight = expf(gate(at) - most);
      total += weight;
      sum = fmaf(weight, kv_of(pool, dtype, kv_at(table, table_len, at.position, 0, 2, 1, 0, features) + at.series + d), sum);
    }
  }
  maxima[warp][lane] = most;
  totals[warp][lane] = total;
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || d >= op.width) return;
  for (int i = 1; i < WARPS; i++) most = fmaxf(most, maxima[i][lane]);
  total = sum = 0.f;
  // A warp that had no place has sums of zero, and a factor that may be none.
  for (int i = 0; i < min(n, WARPS); i++) {
    float factor = expf(maxima[i][lane] - most);
    total = fmaf(totals[i][lane], factor, total);
    sum = fmaf(sums[i][lane], factor, sum);
  }
  out[(u64)(own[0] + blockIdx.x) * op.width + d] = sum / total;
}
