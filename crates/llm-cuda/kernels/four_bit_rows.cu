// Products of few rows of activations with NF4 and FP4 weights in plain f32 arithmetic: for any card, and for one row.
//
//   out[m, first + r] (+)= sum_b absmax[r, b] sum_(k in b) map[code[r, k]] x[m, k] + bias[r]
//   absmax[i] = nested_map[q[i]] * nested_absmax[i / 256] + offset where scales are quantized themselves
//
// four_bit_rows_{1,4}[_double]   1 row of x and 4 of the weight a warp, or 4 and 2
//
// A lane takes 32 codes of a row, 16 bytes, which lie in one block; while it computes, the next 1024 columns are on their way. A byte
// of codes is looked up whole, as two f32 numbers in a table that is there 16 times. x lies in shared memory in the order in which
// lanes read it: the float4 j of lane l, of 1024 columns, is number 32 j + (l ^ j). Sums over a lane's 32 columns are multiplied by
// their scale. `split` warps of a block share the columns of their rows. Where x does not fit into shared memory, `slices` groups of
// blocks take a part of the columns each, and `four_bit_sum` adds up what they leave.
//
// Bytes moved: those of the weight once, x once a block. Operations: 1 / 2 lookup of 8 bytes, 1 FMA a row of x, and 3 / 2 others an element.
// Grid a multiple of `slices`, by ceil(n / M); block 256; shared: M 4096 ceil(slice_len / 1024) bytes. Codes lie on a border of 16
// bytes, scales on one of 4, x on one of 16; cols is a multiple of 32, slice_len one of 1024 where there are several; a part has R
// rows or more.
#include "product.cuh"

template <int R, int M, bool DOUBLE>
__device__ __forceinline__ void four_bit_rows(const Parts& parts, const Rows& rows, int split, int slices, int slice_len,
                                              float* __restrict__ pieces) {
  __shared__ float4 table[2048];
  __shared__ float nested_map[DOUBLE ? 256 : 1];
  __shared__ float partial[8][R * M];
  DYN_SHARED(float4, xs);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, share = warp % split, groups = 8 / split;
  const int slice = blockIdx.x % slices, first = slice * slice_len, cols = rows.cols, len = min(slice_len, cols - first);
  const int n_chunks = (len + 1023) >> 10, tile_step = gridDim.x / slices, m_first = blockIdx.y * M;
  const int n = min(count(rows) - m_first, M);
  if (n <= 0) return;
  // A block's rows are of one part.
  int n_tiles = 0;
#pragma unroll
  for (int p = 0; p < 4; p++)
    if (p < parts.n) n_tiles += (parts.part[p].rows + R * groups - 1) / (R * groups);

  // 1024 columns of R rows.
  struct Chunk {
    uint4 codes[R];
    float scale[R];  // or a nested scale, beside the code of the scale
    u32 code[DOUBLE ? R : 1];
  };
  int next_tile = blockIdx.x / slices, next_chunk = share, next_p = 0, next_row = 0;
  // The next tile of which the warp has rows and columns.
  auto enter = [&]() {
    for (; next_tile < n_tiles; next_tile += tile_step) {
      int tile = next_tile;
      next_p = part_of(parts, R * groups, tile);
      const int own = (tile * groups + warp / split) * R, n_rows = FIELD(parts, next_p, rows);
      next_row = min(own, n_rows - R);
      if (own < n_rows && share < n_chunks) return;
    }
  };
  auto fetch = [&](Chunk& to) {
    if (next_tile >= n_tiles) return;
    const int k = next_chunk * 1024 + lane * 32, log = FIELD(parts, next_p, block_log2);
    const bool is_there = k < len;
    const u64 start = (u64)next_row * cols + first + k;
#pragma unroll
    for (int r = 0; r < R; r++) {
      const u64 e = start + (u64)r * cols;
      to.codes[r] = is_there ? load_stream(FIELD(parts, next_p, elements) + (e >> 1)) : make_uint4(0, 0, 0, 0);
      const u32 block = (u32)(e >> log);
      if (DOUBLE) {
        to.code[r] = is_there ? __ldg((const u8*)FIELD(parts, next_p, scales) + block) : 0;
        to.scale[r] = is_there ? __ldg(FIELD(parts, next_p, nested_absmax) + (block >> 8)) : 0.f;
      } else {
        to.scale[r] = is_there ? __ldg(FIELD(parts, next_p, scales) + block) : 0.f;
      }
    }
    next_chunk += split;
    if (next_chunk >= n_chunks) {
      next_chunk = share;
      next_tile += tile_step;
      enter();
    }
  };
  Chunk chunk;
  enter();
  fetch(chunk);

  float offset = 0.f;
  auto make_tables = [&](int p) {
    const float* map = FIELD(parts, p, map);
    const float a = map[threadIdx.x >> 4], b = map[threadIdx.x & 15];
#pragma unroll
    for (int i = 0; i < 8; i++) table[threadIdx.x * 8 + ((i + threadIdx.x) & 7)] = make_float4(a, b, a, b);
    if (DOUBLE) {
      nested_map[threadIdx.x] = FIELD(parts, p, nested_map)[threadIdx.x];
      offset = *FIELD(parts, p, nested_offset);
    }
  };
  make_tables(0);
  const int x_len = n_chunks * 256;  // float4s of a row
#pragma unroll
  for (int m = 0; m < M; m++) {
    const float4* from = (const float4*)(rows.x + (u64)(m_first + min(m, n - 1)) * cols + first);
    for (int i0 = threadIdx.x; i0 < x_len; i0 += 4 * 256) {
      float4 v[4];
#pragma unroll
      for (int u = 0; u < 4; u++) {
        const int i = i0 + u * 256;
        v[u] = i * 4 < len ? from[i] : make_float4(0.f, 0.f, 0.f, 0.f);
      }
#pragma unroll
      for (int u = 0; u < 4; u++) {
        const int i = i0 + u * 256, j = i & 7, l = i >> 3 & 31;
        if (i < x_len) xs[m * x_len + (i & ~255) + j * 32 + (l ^ j)] = v[u];
      }
    }
  }
  __syncthreads();

  const u8* lookup = (const u8*)table + (lane & 15) * 8;
  int made_for = 0;
  for (int all = blockIdx.x / slices; all < n_tiles; all += tile_step) {
    int tile = all;
    const int p = part_of(parts, R * groups, tile), n_rows = FIELD(parts, p, rows);
    const int own = (tile * groups + warp / split) * R;  // the first row that no other warp has
    if (p != made_for) {
      __syncthreads();
      make_tables(p);
      made_for = p;
      __syncthreads();
    }
    float sum[R][M];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int m = 0; m < M; m++) sum[r][m] = 0.f;
    if (own < n_rows)
      for (int c = share; c < n_chunks; c += split) {
        Chunk now = chunk;
        fetch(chunk);
        float inner[R][M];
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int m = 0; m < M; m++) inner[r][m] = 0.f;
#pragma unroll
        for (int j = 0; j < 4; j++) {
          float4 a[M], b[M];
#pragma unroll
          for (int m = 0; m < M; m++) {
            const float4* x = xs + m * x_len + c * 256;
            a[m] = x[2 * j * 32 + (lane ^ (2 * j))];
            b[m] = x[(2 * j + 1) * 32 + (lane ^ (2 * j + 1))];
          }
#pragma unroll
          for (int r = 0; r < R; r++) {
            const u32 word = j == 0 ? now.codes[r].x : j == 1 ? now.codes[r].y : j == 2 ? now.codes[r].z : now.codes[r].w;
            float2 f[4];
#pragma unroll
            for (int i = 0; i < 4; i++) f[i] = *(const float2*)(lookup + __byte_perm(word, 0, 0x4440 | i) * 128);
#pragma unroll
            for (int m = 0; m < M; m++) {
              inner[r][m] = fmaf(f[0].x, a[m].x, inner[r][m]);
              inner[r][m] = fmaf(f[0].y, a[m].y, inner[r][m]);
              inner[r][m] = fmaf(f[1].x, a[m].z, inner[r][m]);
              inner[r][m] = fmaf(f[1].y, a[m].w, inner[r][m]);
              inner[r][m] = fmaf(f[2].x, b[m].x, inner[r][m]);
              inner[r][m] = fmaf(f[2].y, b[m].y, inner[r][m]);
              inner[r][m] = fmaf(f[3].x, b[m].z, inner[r][m]);
              inner[r][m] = fmaf(f[3].y, b[m].w, inner[r][m]);
            }
          }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
          float scale = now.scale[r];
          if (DOUBLE) scale = __fadd_rn(__fmul_rn(nested_map[now.code[r]], scale), offset);
#pragma unroll
          for (int m = 0; m < M; m++) sum[r][m] = fmaf(scale, inner[r][m], sum[r][m]);
        }
      }
    if (split > 1) __syncthreads();  // what is there has been read
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
      for (int m = 0; m < M; m++) {
        const float of_warp = warp_sum(sum[r][m]);
        if (lane == 0) partial[warp][r * M + m] = of_warp;
      }
    if (split > 1) __syncthreads();
    else __syncwarp();
    if (own < n_rows && share == 0)
      for (int i = lane; i < R * M; i += 32) {
        const int r = min(own, n_rows - R) + i / M, m = i % M;
        float sum_of_all = 0.f;
        for (int s = 0; s < split; s++) sum_of_all += partial[warp + s][i];
        if (r < own || m >= n) continue;
        if (slices > 1) pieces[((u64)slice * rows.n + m_first + m) * rows.width + FIELD(parts, p, first) + r] = sum_of_all;
        else put(parts, p, rows, m_first + m, r, sum_of_all);
      }
    if (split == 1) __syncwarp();
  }
}

#define FOUR_BIT_ROWS(name, R, M, DOUBLE)                                                      \
  extern "C" __global__ void __launch_bounds__(256, M == 1 ? 3 : 2) name                       \
      (const Parts parts, const Rows rows, int split, int slices, int slice_len, float* pieces) { \
    four_bit_rows<R, M, DOUBLE>(parts, rows, split, slices, slice_len, pieces);                \
  }
FOUR_BIT_ROWS(four_bit_rows_1, 4, 1, false)
FOUR_BIT_ROWS(four_bit_rows_4, 2, 4, false)
FOUR_BIT_ROWS(four_bit_rows_1_double, 4, 1, true)
FOUR_BIT_ROWS(four_bit_rows_4_double, 2, 4, true)
