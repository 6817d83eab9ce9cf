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
// rows or more, and fewer than 2^32 bytes of codes.
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
  // The first tile from `all` on of which the warp has rows and columns: its part, and the first row to read; -1 for none.
  auto find = [&](int all, int& row) {
    for (;; all += tile_step) {
      int tile = all;
      const int p = part_of(parts, R * groups, tile);
      if (p < 0 || share >= n_chunks) return -1;
      const int own = (tile * groups + warp / split) * R, n_rows = FIELD(parts, p, rows);
      row = min(own, n_rows - R);
      if (own < n_rows) return p;
    }
  };
  // A lane's codes of 1024 columns of R rows.
  auto byte_of = [&](int row, int k) { return (u32)row * (cols >> 1) + ((first + k) >> 1); };
  uint4 chunk[R];
  auto fetch = [&](int p, int row, int c) {
    const u32 at = byte_of(row, min(c * 1024 + lane * 32, len - 32));  // x is zero where there are no columns
#pragma unroll
    for (int r = 0; r < R; r++) chunk[r] = load_stream(FIELD(parts, p, elements) + (at + (u32)r * (cols >> 1)));
  };
  {
    int row;
    const int p = find(blockIdx.x / slices, row);
    if (p >= 0) fetch(p, row, share);
  }

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
  for (int all = blockIdx.x / slices;; all += tile_step) {
    int tile = all;  // a block's rows are of one part
    const int p = part_of(parts, R * groups, tile), n_rows = FIELD(parts, p, rows);
    if (p < 0) break;
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
        // Scales are wanted when the codes have been multiplied, and the next codes after that.
        float scale[R];
        u32 code[DOUBLE ? R : 1];
        {
          const u32 at = byte_of(min(own, n_rows - R), min(c * 1024 + lane * 32, len - 32));
          const float* scales = FIELD(parts, p, scales);
          const int log = FIELD(parts, p, block_log2) - 1;
#pragma unroll
          for (int r = 0; r < R; r++) {
            const u32 block = (at + (u32)r * (cols >> 1)) >> log;
            if (DOUBLE) code[DOUBLE ? r : 0] = __ldg((const u8*)scales + block);
            scale[r] = __ldg(DOUBLE ? FIELD(parts, p, nested_absmax) + (block >> 8) : scales + block);
          }
        }
        uint4 now[R];
#pragma unroll
        for (int r = 0; r < R; r++) now[r] = chunk[r];
        if (c + split < n_chunks) {
          fetch(p, min(own, n_rows - R), c + split);
        } else {
          int row;
          const int next = find(all + tile_step, row);
          if (next >= 0) fetch(next, row, share);
        }
        float inner[R][M];
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
          for (int m = 0; m < M; m++) inner[r][m] = 0.f;
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float4 a[M], b[M];
#pragma unroll
          for (int m = 0; m < M; m++) {
            const float4* x = xs + m * x_len + c * 256 + half * 128;
            const int l = lane ^ (4 * half);
            a[m] = x[2 * j * 32 + (l ^ (2 * j))];
            b[m] = x[(2 * j + 1) * 32 + (l ^ (2 * j + 1))];
          }
#pragma unroll
          for (int r = 0; r < R; r++) {
            const u32 word = j == 0 ? now[r].x : now[r].y;
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
        for (int r = 0; r < R; r++) now[r].x = now[r].z, now[r].y = now[r].w;
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
          if (DOUBLE) scale[r] = __fadd_rn(__fmul_rn(nested_map[code[DOUBLE ? r : 0]], scale[r]), offset);
#pragma unroll
          for (int m = 0; m < M; m++) sum[r][m] = fmaf(scale[r], inner[r][m], sum[r][m]);
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
  extern "C" __global__ void __launch_bounds__(256, M == 1 ? 3 : 1) name                       \
      (const Parts parts, const Rows rows, int split, int slices, int slice_len, float* pieces) { \
    four_bit_rows<R, M, DOUBLE>(parts, rows, split, slices, slice_len, pieces);                \
  }
FOUR_BIT_ROWS(four_bit_rows_1, 4, 1, false)
FOUR_BIT_ROWS(four_bit_rows_4, 2, 4, false)
FOUR_BIT_ROWS(four_bit_rows_1_double, 4, 1, true)
FOUR_BIT_ROWS(four_bit_rows_4_double, 2, 4, true)
