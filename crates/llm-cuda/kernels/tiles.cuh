// Tiles of x and of a weight in shared memory, brought while others are multiplied: from compute capability 8.0 on by copies that
// nothing waits for.
//
// A block has WM x WN warps, each with MT x NT tiles of 16 tokens and 8 rows. A stage holds 64 bytes of each line, whose 16-byte
// pieces lie in an order by line so that neither copies nor ldmatrix meet twice in a bank.
#pragma once
#include "gemm.cuh"

constexpr int STAGE_BYTES = 64;   // of a line
constexpr int STAGES = 3;

template <int MT_, int NT_, int WM_, int WN_> struct Warps {
  static constexpr int MT = MT_, NT = NT_, WM = WM_, WN = WN_, THREADS = 32 * WM * WN, TOKENS = 16 * MT * WM, ROWS = 8 * NT * WN;
};

// The piece of 16 bytes of a line of a stage.
__device__ __forceinline__ u8* piece(u8* stage, int line, int i) { return stage + line * STAGE_BYTES + ((i ^ (line >> 1 & 3)) << 4); }

// N lines of `n_bytes` that are `stride` bytes apart, from byte `at` on; the last line for those behind it, zeros behind their ends.
template <int N, int THREADS> __device__ __forceinline__ void bring(u8* stage, const u8* __restrict__ lines, u64 stride, int n_lines,
    int n_bytes, int at) {
#pragma unroll
  for (int k = 0; k < (N * 4 + THREADS - 1) / THREADS; k++) {
    const int x = threadIdx.x + k * THREADS;
    if (N * 4 % THREADS != 0 && x >= N * 4) break;
    int line = x / 4, i = x % 4, left = n_bytes - at - i * 16;
    cp_async16_of(piece(stage, line, i), lines + min(line, n_lines - 1) * stride + (left > 0 ? at + i * 16 : 0), min(max(left, 0), 16));
  }
}

// The 16 x 32 bytes of a tile of x, `half` of a stage.
__device__ __forceinline__ void tile_of_x(u32 (&a)[4], u8* stage, int line, int half, int lane) {
  ldmatrix4(a, piece(stage, line + (lane & 15), half * 2 + (lane >> 4)));
}
// The same of 16 rows of a weight: two tiles of 8.
__device__ __forceinline__ void tiles_of_rows(u32 (&b)[4], u8* stage, int line, int half, int lane) {
  ldmatrix4(b, piece(stage, line + (lane & 7) + (lane >> 4) * 8, half * 2 + (lane >> 3 & 1)));
}

// Multiplies `n` stages: `fetch` has one brought, `multiply` takes one, and `settle` then finishes the one that was fetched last.
template <class Fetch, class Settle, class Multiply>
__device__ __forceinline__ void stages(int n, int stage_size, u8* memory, Fetch fetch, Settle settle, Multiply multiply) {
#pragma unroll
  for (int i = 0; i < STAGES - 1; i++) {
    if (i < n) { fetch(memory + i * stage_size, i); settle(memory + i * stage_size); }
    cp_async_commit();
  }
  int taken = 0, filled = STAGES - 1;
#pragma unroll 1
  for (int i = 0; i < n; i++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    if (i + STAGES - 1 < n) fetch(memory + filled * stage_size, i + STAGES - 1);
    cp_async_commit();
    multiply(memory + taken * stage_size, i);
    if (i + STAGES - 1 < n) settle(memory + filled * stage_size);
    taken = taken + 1 == STAGES ? 0 : taken + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }
  cp_async_wait<0>();
}

// Stages of this block of those that share columns.
__device__ __forceinline__ void share(int& begin, int& end, int n) {
  int each = (n + gridDim.z - 1) / gridDim.z;
  begin = min((int)blockIdx.z * each, n);
  end = min(begin + each, n);
}

// The tiles of a warp leave: to `piece` where blocks share the columns, else with their bias to out.
template <class W, class Acc> __device__ __forceinline__ void store_tiles(const GemmShape& s, float* __restrict__ out,
    float* __restrict__ pieces, const void* __restrict__ bias, int n_tokens, int t, int r, int lane, Acc& acc, int piece) {
  const bool whole = gridDim.z == 1, add = whole && s.add;
  float* to = whole ? out + s.out_col : pieces + (u64)piece * s.n_tokens * s.rows;
  const int width = whole ? s.out_width : s.rows;
  // Two columns at once, where all lie on a border of eight bytes.
  const bool pairs = width % 2 == 0 && (u64)to % 8 == 0;
  r += lane % 4 * 2;
  float b[W::NT][2];
#pragma unroll
  for (int n = 0; n < W::NT; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) b[n][i] = whole && r + n * 8 + i < s.rows ? bias_at(bias, s.bias_dtype, r + n * 8 + i) : 0.f;
#pragma unroll
  for (int m = 0; m < W::MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int token = t + m * 16 + h * 8 + lane / 4;
      if (token >= n_tokens) continue;
      float* line = to + (u64)token * width + r;
#pragma unroll
      for (int n = 0; n < W::NT; n++) {
        float *at = line + n * 8, *v = &acc[m][n][h * 2];
        if (pairs && r + n * 8 + 1 < s.rows) {
          const float2 old = add ? *(const float2*)at : make_float2(0.f, 0.f);
          *(float2*)at = whole ? make_float2(v[0] + (b[n][0] + old.x), v[1] + (b[n][1] + old.y)) : make_float2(v[0], v[1]);
          continue;
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
          if (r + n * 8 + i < s.rows) at[i] = whole ? v[i] + (b[n][i] + (add ? at[i] : 0.f)) : v[i];
      }
    }
}

// Each token's sums times a factor.
template <class W, class Acc, class Scale> __device__ __forceinline__ void scale_tiles(int n_tokens, int t, int lane, Acc& acc, Scale scale) {
#pragma unroll
  for (int m = 0; m < W::MT; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float f = scale(min(t + m * 16 + h * 8 + lane / 4, n_tokens - 1));
#pragma unroll
      for (int n = 0; n < W::NT; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) acc[m][n][h * 2 + i] *= f;
    }
}
