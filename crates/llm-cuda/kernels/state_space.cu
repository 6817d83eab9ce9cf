// State spaces (Mamba-2).
//
//   state_space   for each position: S = fading S + step x (x) b, out = S c + skip x, with
//                 step = clamp(softplus(delta + offset)), fading = exp(-exp(rate) step)
//
// state_space_*: rows of S, one for each element of a head's x, are independent. A block has 32 rows of a head of a sequence, four
//   threads a row (16, and eight, of state_space_256), which have every fourth (eighth) four columns of it in registers: up to 64,
//   128 or 256, of which those beyond state_dim are zero.
//   b and c of 16 positions, the elements of x and the steps are brought to shared memory; then the rows go through them without a
//   barrier. rows [n_sequences, 4]: first row, rows, position of the first, and a number more. slots [n_sequences], each another.
//   Grid (ceil(head_dim / 32 or 16), n_heads, n_sequences), block 128. Reads and writes S once: 8 head_dim state_dim bytes a head,
//   and each block b and c of its group. Operations: 5 head_dim state_dim a position.
#include "states.cuh"

// Sizes of a state space, and the column of the first head's step. `aligned`: rows of S are whole vectors of four.
struct SpaceSizes {
  int n_heads, head_dim, state_dim, n_groups;
  int steps, steps_width, n_slots, aligned;
  float least, most;
};

// A row's columns, `SHARES * N`, over as many threads.
template <int N, int SHARES>
__device__ __forceinline__ void space(const float* x, const float* steps, const u32* rows, const u32* slots, Vector rate,
                                      Vector offset, Vector skip, float* state, float* out, SpaceSizes sizes) {
  enum { COLUMNS = SHARES * N, STRIDE = 4 * SHARES, ROWS = THREADS / SHARES };
  __shared__ __align__(16) float writes[POSITIONS][COLUMNS], reads[POSITIONS][COLUMNS];
  __shared__ float values[POSITIONS][ROWS], taken[POSITIONS], fadings[POSITIONS];
  int head = blockIdx.y, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int share = threadIdx.x % SHARES, here = threadIdx.x / SHARES, first_row = blockIdx.x * ROWS;
  const u32* of = rows + 4 * blockIdx.z;
  int first = of[0], n_tokens = of[1];
  u32 slot = slots[blockIdx.z];
  if (slot >= (u32)sizes.n_slots || n_tokens == 0) return;
  bool is_here = first_row + here < sizes.head_dim;
  int out_width = sizes.n_heads * sizes.head_dim, by_width = sizes.n_groups * sizes.state_dim;
  int row_width = out_width + 2 * by_width, group = head / (sizes.n_heads / sizes.n_groups);
  u64 element = (u64)head * sizes.head_dim + first_row;
  float* stored = state + ((u64)slot * out_width + element + here) * sizes.state_dim;
  float s[N];
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    int column = i * SHARES + 4 * share;
    float4 v = make_float4(0.f, 0.f, 0.f, 0.f);
    if (of[2] != 0 && is_here && column < sizes.state_dim) {
      if (sizes.aligned) {
        v = *(const float4*)(stored + column);
      } else {
        v.x = stored[column];
        if (column + 1 < sizes.state_dim) v.y = stored[column + 1];
        if (column + 2 < sizes.state_dim) v.z = stored[column + 2];
        if (column + 3 < sizes.state_dim) v.w = stored[column + 3];
      }
    }
    s[i] = v.x, s[i + 1] = v.y, s[i + 2] = v.z, s[i + 3] = v.w;
  }
  float speed = -expf(rate.at(head)), shift = offset.at(head), beside = skip.at(head);
#pragma unroll 1
  for (int begin = 0; begin < n_tokens; begin += POSITIONS) {
    int n = min((int)POSITIONS, n_tokens - begin);
    __syncthreads();
#pragma unroll 1
    for (int p = warp; p < n; p += 4) {
      u64 row = first + begin + p;
      const float* of_row = x + row * row_width;
      const float* by = of_row + out_width + group * sizes.state_dim;
#pragma unroll 1
      for (int i = lane; i < COLUMNS; i += 32) {
        bool is_in = i < sizes.state_dim;
        writes[p][i] = is_in ? by[i] : 0.f;
        reads[p][i] = is_in ? by[by_width + i] : 0.f;
      }
      if (lane < ROWS) values[p][lane] = first_row + lane < sizes.head_dim ? of_row[element + lane] : 0.f;
      if (lane == 0) {
        float step = softplus(steps[row * sizes.steps_width + sizes.steps + head] + shift);
        // What is not a number stays so.
        step = step < sizes.least ? sizes.least : step > sizes.most ? sizes.most : step;
        taken[p] = step;
        fadings[p] = expf(speed * step);
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int p = 0; p < n; p++) {
      float value = values[p][here], added = taken[p] * value, fading = fadings[p], read = 0.f;
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        float4 b = *(const float4*)&writes[p][SHARES * i + 4 * share], c = *(const float4*)&reads[p][SHARES * i + 4 * share];
        s[i] = fmaf(added, b.x, fading * s[i]);
        s[i + 1] = fmaf(added, b.y, fading * s[i + 1]);
        s[i + 2] = fmaf(added, b.z, fading * s[i + 2]);
        s[i + 3] = fmaf(added, b.w, fading * s[i + 3]);
        read = fmaf(c.x, s[i], fmaf(c.y, s[i + 1], fmaf(c.z, s[i + 2], fmaf(c.w, s[i + 3], read))));
      }
      read = sum_of_shares<SHARES>(read);
      u64 row = first + begin + p;
      if (is_here && share == 0) out[row * out_width + element + here] = fmaf(beside, value, read);
    }
  }
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    int column = i * SHARES + 4 * share;
    if (is_here && column < sizes.state_dim) {
      if (sizes.aligned) {
        *(float4*)(stored + column) = make_float4(s[i], s[i + 1], s[i + 2], s[i + 3]);
      } else {
        stored[column] = s[i];
        if (column + 1 < sizes.state_dim) stored[column + 1] = s[i + 1];
        if (column + 2 < sizes.state_dim) stored[column + 2] = s[i + 2];
        if (column + 3 < sizes.state_dim) stored[column + 3] = s[i + 3];
      }
    }
  }
}

#define SPACE(n, shares, name)                                                                                                  \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) state_space_##name(                                                  \
      const float* x, const float* steps, const u32* rows, const u32* slots, const u8* rate, int rate_element,                  \
      const u8* offset, int offset_element, const u8* skip, int skip_element, float* state, float* out, SpaceSizes sizes) {     \
    space<n, shares>(x, steps, rows, slots, Vector{rate, rate_element}, Vector{offset, offset_element},                         \
                     Vector{skip, skip_element}, state, out, sizes);                                                            \
  }

SPACE(16, 4, 64)
SPACE(32, 4, 128)
SPACE(32, 8, 256)
