// Rows of sequences, and positions that they see: what the attention kernels share.
#pragma once
#include "general.cuh"
#include "mma.cuh"

constexpr int BLOCK_LEN = 32;   // positions of a block of the pool

struct AttentionShape {
  int n_sequences, n_rows;      // rows of the sequences that the launch takes
  int least, most;              // rows of a sequence that the launch takes
  int n_heads, n_kv_heads, head_dim, row_width, table_len, window;
  float scale, soft_cap;
  int bias_row, bias_zero;
};

// Some of a sequence's query vectors of one kv head: row i / group, head i % group, from `vector` on.
struct Chunk { int sequence, first, n_tokens, start, n_positions, before, vector; };   // `before`: rows of earlier sequences

__device__ __forceinline__ int sum_up_to(int n, int lane) {
#pragma unroll
  for (int o = 1; o < 32; o *= 2) { int below = __shfl_up_sync(0xffffffffu, n, o); n += lane >= o ? below : 0; }
  return n;
}

// The `index`-th chunk of `size` vectors among the rows of all sequences that the launch takes. Every warp finds it alone.
__device__ __forceinline__ bool chunk_of(Chunk& c, const u32* __restrict__ rows, const AttentionShape& s, int group, int size, int index) {
  const int lane = threadIdx.x & 31;
  int before = 0;
  for (int base = 0; base < s.n_sequences; base += 32) {
    int tokens = base + lane < s.n_sequences ? (int)rows[(base + lane) * 4 + 1] : 0;
    if (tokens < s.least || tokens > s.most) tokens = 0;
    const int n = (tokens * group + size - 1) / size, total = sum_up_to(n, lane), up_to = sum_up_to(tokens, lane);
    u32 past = __ballot_sync(0xffffffffu, total > index);
    if (past) {
      int l = __popc((past & -past) - 1);   // the lowest
      c.sequence = base + l;
      c.vector = (index - __shfl_sync(0xffffffffu, total - n, l)) * size;
      c.before = before + __shfl_sync(0xffffffffu, up_to - tokens, l);
      const u32* r = rows + c.sequence * 4;
      c.first = r[0]; c.n_tokens = r[1]; c.start = r[2]; c.n_positions = r[3];
      return true;
    }
    index -= __shfl_sync(0xffffffffu, total, 31);
    before += __shfl_sync(0xffffffffu, up_to, 31);
  }
  return false;
}

// Positions [lo, hi) that a row of the chunk's sequence sees; none if it is not there.
__device__ __forceinline__ void seen_by(int& lo, int& hi, const Chunk& c, int row, int window, bool live) {
  int own = c.start + row;
  hi = !live ? 0 : window < 0 ? c.n_positions : own + 1;
  lo = live && window > 0 ? max(own + 1 - window, 0) : 0;
}

// Scores of heads beside those of positions, at any address; null where there are none.
struct Sinks {
  const u8* at;
  int dtype;
  __device__ __forceinline__ float of(int head) const { return dense_of(at, dtype, head); }
};

// For a key so many positions after the query.
__device__ __forceinline__ float bias_of(const float* __restrict__ bias, const AttentionShape& s, int head, int distance) {
  return bias[(u64)head * s.bias_row + min(max(s.bias_zero + distance, 0), s.bias_row - 1)];
}

// cap tanh(x / cap), to a few ulp: by the odd series near zero, by exponentials elsewhere.
__device__ __forceinline__ float capped(float x, float cap) {
  const float y = x / cap, a = fabsf(y), b = y * y;
  float near = fmaf(b, 3.5921281e-3f, -8.8632355e-3f);
  near = fmaf(b, near, 2.1869489e-2f);
  near = fmaf(b, near, -5.3968254e-2f);
  near = fmaf(b, near, 1.3333334e-1f);
  near = fmaf(b, near, -3.3333334e-1f);
  near = fmaf(y * b, near, y);
  const float far = copysignf(1.f - 2.f / (exp2_fast(2.f * LOG2E * a) + 1.f), y);
  return cap * (a < 0.4f ? near : far);
}
