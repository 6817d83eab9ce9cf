// The experts of a layer at once: products of the rows that a router chose with the weights of their experts.
//
//   experts_up_S    gated[a, r] = A(sum_k x[rows[a], k] gate_e[r, k]) * sum_k x[rows[a], k] up_e[r, k]
//   experts_down_S  delta[a, r] = sum_k gated[a, k] down_e[r, k]
//
// for each assignment a of each expert e, by the lists of routing.cu; routing_combine then adds them to their rows. With the
// router that is five launches a layer, whatever the number of experts, and nothing that the host has to know.
//
// S: f32, f16, bf16, four_bit, four_bit_double (NF4 and FP4, blocks of 32 and more). Elements as in general.cuh. Weights are
// told by address, so many experts as fit into the arguments of a launch, from `first_expert` on: of each the words of
// a weight, gate's and up's or down's, in the order of its parts. Where gate and up are one matrix, up begins at row `up_row`.
//
// A block has a tile of up to 8 assignments and 16 rows of out (down: 32), a warp 2 rows of gate and 2 of up (down: 4 rows); a
// lane has 8 columns (f32: 4) of each row at a time, so that a warp reads 128 bytes of codes or 512 of elements. Sums in f32, over
// the lanes at the end. Weights come from memory once a tile, and from L1 again for each two assignments after the first.
// Grid (ceil(rows of out / 16) or, down, / 32, tiles that there may be), block 256. Shared 4 KB. cols is a multiple of 8 (f32:
// 4), elements on a border of 16 bytes (4-bit: 4), scales and values on one of 4.
// Bytes: the weights of the experts that were chosen, x and out; 2 operations an element and row.
#include "experts.cuh"
#include "stored.cuh"

// Elements of a dense weight: of a row 8 at a time, or 4 of 32 bits.
template <class T>
struct Dense {
  enum { PARTS = 1, LEN = sizeof(T) == 4 ? 4 : 8 };
  struct Raw {
    uint4 bits;
  };
  const T* elements;
  __device__ __forceinline__ Dense(const Words& words, u32 first, int, float*) : elements((const T*)words.at[first]) {}
  __device__ __forceinline__ Raw load(u64 e) const { return Raw{*(const uint4*)(elements + e)}; }
  __device__ __forceinline__ float4 four(const Raw& raw, int c) const {
    const T* of = (const T*)&raw.bits + c;
    return make_float4(widened(of[0]), widened(of[1]), widened(of[2]), widened(of[3]));
  }
};

// 4-bit codes; the values of codes lie in shared memory once a lane, so that none waits for another's.
template <bool DOUBLE>
struct FourBit {
  enum { PARTS = DOUBLE ? 6 : 3, LEN = 8 };
  struct Raw {
    u32 codes;
    float scale;
  };
  const u8 *codes, *absmax;
  const float *nested_absmax, *nested_map;
  float offset;
  int block_log2;
  const float* values;
  __device__ __forceinline__ FourBit(const Words& words, u32 first, int block_log2, float* staged)
      : codes((const u8*)words.at[first]), absmax((const u8*)words.at[first + 1]), block_log2(block_log2),
        values(staged + (threadIdx.x & 31)) {
    const float* map = (const float*)words.at[first + 2];
    for (int i = threadIdx.x; i < 512; i += 256) staged[i] = map[i >> 5];
    if (DOUBLE) {
      nested_absmax = (const float*)words.at[first + 3];
      nested_map = (const float*)words.at[first + 4];
      offset = *(const float*)words.at[first + 5];
    }
  }
  __device__ __forceinline__ Raw load(u64 e) const {
    u64 block = e >> block_log2;
    float scale;
    if (DOUBLE)
      scale = __fadd_rn(__fmul_rn(nested_map[absmax[block]], nested_absmax[block >> 8]), offset);
    else
      scale = ((const float*)absmax)[block];
    return Raw{*(const u32*)(codes + (e >> 1)), scale};
  }
  __device__ __forceinline__ float4 four(const Raw& raw, int c) const {
    u32 pairs = raw.codes >> (4 * c);
    return make_float4(values[(pairs >> 4 & 15) * 32] * raw.scale, values[(pairs & 15) * 32] * raw.scale,
                       values[(pairs >> 12 & 15) * 32] * raw.scale, values[(pairs >> 8 & 15) * 32] * raw.scale);
  }
};

// Rows `row` of the weights of `of` times rows of x, N of them; sums[j][i] of row j of the weights and row i of x.
template <int N, class S>
__device__ __forceinline__ void products(const S* const (&of)[4], const int (&row)[4], const float* const (&x)[N], int cols,
                                         float (&sums)[4][N]) {
  const int LEN = S::LEN;
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < N; i++) sums[j][i] = 0.f;
  u64 first[4];
#pragma unroll
  for (int j = 0; j < 4; j++) first[j] = (u64)row[j] * cols;
#pragma unroll(N == 1 ? 2 : 1)
  for (int k = (threadIdx.x & 31) * LEN; k < cols; k += 32 * LEN) {
    typename S::Raw raw[4];
#pragma unroll
    for (int j = 0; j < 4; j++) raw[j] = of[j]->load(first[j] + k);
#pragma unroll
    for (int c = 0; c < LEN; c += 4) {
      float4 a[N];
#pragma unroll
      for (int i = 0; i < N; i++) a[i] = *(const float4*)(x[i] + k + c);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float4 w = of[j]->four(raw[j], c);
#pragma unroll
        for (int i = 0; i < N; i++)
          sums[j][i] = fmaf(w.w, a[i].w, fmaf(w.z, a[i].z, fmaf(w.y, a[i].y, fmaf(w.x, a[i].x, sums[j][i]))));
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
#pragma unroll
    for (int i = 0; i < N; i++) sums[j][i] = sum_of_warp(sums[j][i]);
}

template <int N, class S, class From>
__device__ __forceinline__ void some(const S* const (&of)[4], const int (&row)[4], From from, const float* x, Shape shape,
                                     uint4 tile, u32 first, int activation, float* out, int r) {
  const float* rows_of_x[N];
#pragma unroll
  for (int i = 0; i < N; i++) {
    u32 assignment = first + i < tile.z ? first + i : first;
    rows_of_x[i] = x + from.of(tile.y + assignment) * shape.cols;
  }
  float sums[4][N];
  products<N>(of, row, rows_of_x, shape.cols, sums);
  leave<N>(sums, shape, tile, first, activation, out, r);
}

template <class S, class From>
__device__ __forceinline__ void tile_of(const S* const (&of)[4], const int (&row)[4], From from, const float* x, Shape shape,
                                        uint4 tile, int activation, float* out, int r) {
  if (tile.z == 1) return some<1>(of, row, from, x, shape, tile, 0, activation, out, r);
  for (u32 first = 0; first < tile.z; first += 2) some<2>(of, row, from, x, shape, tile, first, activation, out, r);
}

template <class S>
__device__ __forceinline__ void up(const Words& words, Shape shape, const uint4* tiles, const u32* n_tiles, const u32* rows,
                                   const float* x, int activation, float* gated) {
  __shared__ float staged[2][512];
  uint4 tile;
  if (!find(tiles, n_tiles, shape, tile)) return;
  const S gate(words, tile.x * 2 * S::PARTS, shape.block_log2, staged[0]);
  const S up(words, (tile.x * 2 + 1) * S::PARTS, shape.block_log2, staged[1]);
  __syncthreads();
  int r = blockIdx.x * 16 + (threadIdx.x >> 5) * 2, last = shape.rows - 1;
  if (r > last) return;
  int next = r < last ? r + 1 : last;
  tile_of(
      {&gate, &gate, &up, &up}, {r, next, shape.up_row + r, shape.up_row + next}, Gathered{rows}, x, shape, tile, activation,
      gated, r);
}

template <class S>
__device__ __forceinline__ void down(const Words& words, Shape shape, const uint4* tiles, const u32* n_tiles,
                                     const float* gated, float* delta) {
  __shared__ float staged[512];
  uint4 tile;
  if (!find(tiles, n_tiles, shape, tile)) return;
  const S down(words, tile.x * S::PARTS, shape.block_log2, staged);
  __syncthreads();
  int r = blockIdx.x * 32 + (threadIdx.x >> 5) * 4, last = shape.rows - 1;
  if (r > last) return;
  tile_of(
      {&down, &down, &down, &down}, {r, min(r + 1, last), min(r + 2, last), min(r + 3, last)}, Assigned(), gated, shape,
      tile, -1, delta, r);
}

#define EXPERTS(name, S)                                                                                                \
  BUSY_KERNEL(experts_up_##name)(Words words, Shape shape, const uint4* tiles, const u32* n_tiles, const u32* rows,          \
                            const float* x, int activation, float* gated) {                                             \
    up<S>(words, shape, tiles, n_tiles, rows, x, activation, gated);                                                    \
  }                                                                                                                     \
  BUSY_KERNEL(experts_down_##name)(Words words, Shape shape, const uint4* tiles, const u32* n_tiles, const float* gated,     \
                              float* delta) {                                                                           \
    down<S>(words, shape, tiles, n_tiles, gated, delta);                                                                \
  }

EXPERTS(f32, Dense<float>)
EXPERTS(f16, Dense<__half>)
EXPERTS(bf16, Dense<__nv_bfloat16>)
EXPERTS(four_bit, FourBit<false>)
EXPERTS(four_bit_double, FourBit<true>)
