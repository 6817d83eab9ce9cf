// Products of few rows of activations with NF4 and FP4 weights on tensor cores: see four_bit.cu and four_bit_half.cu.
#pragma once
#include "four_bit.cuh"

#if __CUDA_ARCH__ >= 800

// `M` is 4 or 8, and 8 for one part of x and of values; `LOG` 6 for blocks of 64 and more, 5 for those of 32.
template <int M, int PARTS, bool DOUBLE, int LOG>
__device__ __forceinline__ void four_bit(const Parts& parts, const Rows& rows, int teams, int slices, int slice_len,
                                         float* __restrict__ pieces) {
  constexpr int SUBS = 256 >> LOG;  // scales of a row in a stage
  constexpr int STAGE = ROWS_BYTES + 64 * SUBS * (DOUBLE ? 2 : 1);
  constexpr int NT = M * PARTS / 8, SUMS = M == 4 ? 2 : 4;  // products of as many columns; sums of a lane
  DYN_SHARED(u8, memory);
  __shared__ float unscale[8], largest_of[32];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n_warps = blockDim.x >> 5, g = lane >> 2, t = lane & 3;
  const int of_team = n_warps / teams, team = warp / of_team, member = warp % of_team;
  const int slice = blockIdx.x % slices, first = slice * slice_len, len = min(slice_len, rows.cols - first);
  const int padded = (len + 255) & ~255, n_stages = padded >> 8, stride = padded + 8, tile_step = gridDim.x / slices;
  const int m_first = blockIdx.y * M, n = min(count(rows) - m_first, M), cols = rows.cols;
  if (n <= 0) return;
  // Shared memory: table, map of scales, sums of two tiles, rings, x.
  uint4* table = (uint4*)memory;
  float* nested_map = (float*)(memory + TABLE_BYTES);
  float* sums = nested_map + (DOUBLE ? 256 : 0);
  u8* ring = (u8*)(sums + 2 * n_warps * 32 * SUMS) + warp * (RING * STAGE);
  __half* x = (__half*)((u8*)(sums + 2 * n_warps * 32 * SUMS) + n_warps * (RING * STAGE));

  auto last_block = [&](int p) { return (u32)(((u64)FIELD(parts, p, rows) * cols - 1) >> FIELD(parts, p, block_log2)); };
  // What is brought next: a tile, and a stage of it.
  int next_tile = blockIdx.x / slices, next_stage = member, next_p = 0, next_row = 0, slot = 0;
  // The next tile of which the warp has rows and columns.
  auto enter = [&]() {
    for (;; next_tile += tile_step) {
      int tile = next_tile;
      next_p = part_of(parts, 16 * teams, tile);
      if (next_p < 0) return;
      const int own = (tile * teams + team) * 16, n_rows = FIELD(parts, next_p, rows);
      next_row = min(own, n_rows - 16);
      if (own < n_rows && member < n_stages) return;
    }
  };
  auto bring = [&]() {
    if (next_p >= 0) {
      const u32 to = shared_at(ring) + slot * STAGE;
      const int k = next_stage * 256, log = FIELD(parts, next_p, block_log2);
      const u64 start = (u64)next_row * cols + first + k;
      const u8* elements = FIELD(parts, next_p, elements) + (start >> 1);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int r = i * 4 + (lane >> 3), n_bytes = k + (lane & 7) * 32 < len ? 16 : 0;
        const u8* from = elements + (n_bytes ? (u64)r * (cols >> 1) + (lane & 7) * 16 : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         to + r * 128 + (((lane & 7) ^ (r & 3) << 1) << 4)), "l"(from), "r"(n_bytes) : "memory");
      }
      const u64 e = start + (u64)(lane >> 1) * cols + (lane & 1) * 128;
      const u32 last = last_block(next_p);
#pragma unroll
      for (int i = 0; i < SUBS / 2; i++) {
        const u32 block = min((u32)((e + ((u64)i << LOG)) >> log), last);
        const u32 at = to + ROWS_BYTES + ((lane >> 1) * SUBS + (lane & 1) * (SUBS / 2) + i) * 4;
        const u8* scales = (const u8*)FIELD(parts, next_p, scales);
        if (DOUBLE) {
          cp_async4(at, scales + (block & ~3u), min(4u, last + 1 - (block & ~3u)));
          cp_async4(at + 64 * SUBS, FIELD(parts, next_p, nested_absmax) + (block >> 8), 4);
        } else {
          cp_async4(at, scales + 4 * (u64)block, k + (lane & 1) * 128 + (i << LOG) < len ? 4 : 0);
        }
      }
      slot = slot == RING - 1 ? 0 : slot + 1;
      next_stage += of_team;
      if (next_stage >= n_stages) {
        next_stage = member;
        next_tile += tile_step;
        enter();
      }
    }
    cp_async_commit();
  };
  enter();
#pragma unroll
  for (int i = 0; i < RING - 1; i++) bring();

  make_table<PARTS>(FIELD(parts, 0, map), table);
  float offset = 0.f;
  int made_for = 0;
  auto make_nested = [&](int p) {
    const float* from = FIELD(parts, p, nested_map);
    for (int i = threadIdx.x; i < 256; i += blockDim.x) nested_map[i] = from[i];
    offset = *FIELD(parts, p, nested_offset);
  };
  if (DOUBLE) make_nested(0);
  split_x<PARTS>(rows, m_first, n, first, len, padded, x, stride, M == 4 ? 1 : n, M == 4 ? 2 : 1, unscale, largest_of);

  const u32 lookup = shared_at(table) + (PARTS == 2 ? (lane & 15) * 8 : lane * 4);
  auto look = [&](u32 word, int byte) { return load_shared2(lookup + __byte_perm(word, 0, 0x4440 | byte) * 128); };
  auto look_half = [&](u32 word, int byte) { return load_shared(lookup + __byte_perm(word, 0, 0x4440 | byte) * 128); };
  int read = 0, parity = 0;
  for (int all = blockIdx.x / slices;; all += tile_step) {
    int tile = all;  // a block's rows are of one part
    const int p = part_of(parts, 16 * teams, tile), n_rows = FIELD(parts, p, rows);
    if (p < 0) break;
    const int own = (tile * teams + team) * 16, row = min(own, n_rows - 16);
    if (p != made_for) {  // parts may have tables of their own
      __syncthreads();
      make_table<PARTS>(FIELD(parts, p, map), table);
      if (DOUBLE) make_nested(p);
      made_for = p;
      __syncthreads();
    }
    float acc[SUMS] = {};
    for (int s = own < n_rows ? member : n_stages; s < n_stages; s += of_team) {
      cp_async_wait<RING - 2>();
      __syncwarp();
      bring();
      const u8* stage = ring + read * STAGE;
      read = read == RING - 1 ? 0 : read + 1;
      float* scales = (float*)(stage + ROWS_BYTES);
      if (DOUBLE) {
        const u64 e = (u64)(row + (lane >> 1)) * cols + first + s * 256 + (lane & 1) * 128;
        const int log = FIELD(parts, p, block_log2);
        const u32 last = last_block(p);
#pragma unroll
        for (int i = 0; i < SUBS / 2; i++) {
          const u32 block = min((u32)((e + ((u64)i << LOG)) >> log), last);
          const int at = (lane >> 1) * SUBS + (lane & 1) * (SUBS / 2) + i;
          const u32 code = __float_as_uint(scales[at]) >> (8 * (block & 3)) & 255;
          const float scale = __fadd_rn(__fmul_rn(nested_map[code], scales[at + 16 * SUBS]), offset);
          scales[at] = s * 256 + (lane & 1) * 128 + (i << LOG) < len ? scale : 0.f;
        }
        __syncwarp();
      }
      const __half* xs = x + s * 256;
#pragma unroll(M == 8 ? 1 : 2)
      for (int b = 0; b < 4; b++) {
        const u8* at = stage + g * 128;
        const int turn = (g & 3) << 1;
        uint2 words[2];  // 16 codes of rows g and g + 8
        if (LOG == 6) {
          const int in = ((2 * b + (t >> 1)) ^ turn) * 16 + (t & 1) * 8;
#pragma unroll
          for (int h = 0; h < 2; h++) words[h] = *(const uint2*)(at + h * 1024 + in);
        } else {
          const int one = ((2 * b) ^ turn) * 16 + t * 4, two = ((2 * b + 1) ^ turn) * 16 + t * 4;
#pragma unroll
          for (int h = 0; h < 2; h++)
            words[h] = make_uint2(*(const u32*)(at + h * 1024 + one), *(const u32*)(at + h * 1024 + two));
        }
        // x of the lane's 16 columns.
        uint4 v[NT][2];
#pragma unroll
        for (int i = 0; i < NT; i++) {
          v[i][0] = v[i][1] = make_uint4(0, 0, 0, 0);
          if (M == 4 ? g < 2 * n : g < n) {
            const __half* from = xs + (M == 4 ? g : i * n + g) * stride + b * 64;
            v[i][0] = *(const uint4*)(from + (LOG == 6 ? t * 16 : t * 8));
            v[i][1] = *(const uint4*)(from + (LOG == 6 ? t * 16 + 8 : 32 + t * 8));
          }
        }
        if (PARTS == 1) {
          // 16 rows of the weight, and a column for each row of x.
          float sum[4] = {};
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const u32 low = j < 2 ? words[0].x : words[0].y, high = j < 2 ? words[1].x : words[1].y;
            const int byte = (j & 1) * 2;
            const u32 a[4] = {look_half(low, byte), look_half(high, byte), look_half(low, byte + 1), look_half(high, byte + 1)};
            const uint4 q = v[0][j >> 1];
            mma(sum, a, j & 1 ? q.z : q.x, j & 1 ? q.w : q.y);
            if (j == 3 || (LOG == 5 && j == 1)) {
              const int sub = LOG == 6 ? b : 2 * b + (j >> 1);
#pragma unroll
              for (int i = 0; i < SUMS; i++) {
                acc[i] = fmaf(scales[(g + 8 * (i >> 1)) * SUBS + sub], sum[i], acc[i]);
                sum[i] = 0.f;
              }
            }
          }
          continue;
        }
        float sum[2][4] = {};
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
          for (int h = 0; h < 2; h++) {
            // Rows 0 to 7 of the product are the values of 8 rows, rows 8 to 15 what these leave over: as an entry has them.
            const u32 word = j < 2 ? words[h].x : words[h].y;
            const uint2 one = look(word, (j & 1) * 2), two = look(word, (j & 1) * 2 + 1);
            const u32 a[4] = {one.x, one.y, two.x, two.y};
#pragma unroll
            for (int i = 0; i < NT; i++) {
              const uint4 q = v[i][j >> 1];
              mma(sum[h], a, j & 1 ? q.z : q.x, j & 1 ? q.w : q.y);
            }
          }
          if (j == 3 || (LOG == 5 && j == 1)) {
            const int sub = LOG == 6 ? b : 2 * b + (j >> 1);
#pragma unroll
            for (int h = 0; h < 2; h++) {
              const float scale = scales[(g + 8 * h) * SUBS + sub];
              float(&c)[4] = sum[h];
              if (NT == 1) {
                acc[h] = fmaf(scale, fmaf(c[2] + c[3], 1.f / 2048.f, c[0] + c[1]), acc[h]);
              } else {
                acc[2 * h] = fmaf(scale, fmaf(c[2], 1.f / 2048.f, c[0]), acc[2 * h]);
                acc[2 * h + (NT - 1)] = fmaf(scale, fmaf(c[3], 1.f / 2048.f, c[1]), acc[2 * h + (NT - 1)]);
              }
              if (LOG == 5) c[0] = c[1] = c[2] = c[3] = 0.f;
            }
          }
        }
      }
    }
    // Sums of the warps; those of the tile before last have been read when all are here.
    float* mine = sums + parity * n_warps * 32 * SUMS;
#pragma unroll
    for (int i = 0; i < SUMS; i++) mine[(warp * SUMS + i) * 32 + lane] = acc[i];
    __syncthreads();
    for (int i = threadIdx.x % (32 * of_team); i < 16 * n; i += 32 * of_team) {
      const int r = i & 15, m = i >> 4;
      const int from = M == 4 ? (r >> 3) * 32 + (r & 7) * 4 + m : ((r >> 3) * 2 + (m & 1)) * 32 + (r & 7) * 4 + (m >> 1);
      float sum = 0.f;
      for (int w = team * of_team; w < (team + 1) * of_team; w++) sum += mine[w * 32 * SUMS + from];
      sum *= unscale[m];
      if (own >= n_rows || row + r < own) continue;
      if (slices > 1) pieces[((u64)slice * rows.n + m_first + m) * rows.width + FIELD(parts, p, first) + row + r] = sum;
      else put(parts, p, rows, m_first + m, row + r, sum);
    }
    parity ^= 1;
  }
  cp_async_wait<0>();
}

#define FOUR_BIT(name, M, PARTS, DOUBLE, LOG)                                                  \
  extern "C" __global__ void __launch_bounds__(LOG == 5 ? 256 : 512, 1) name                                    \
      (const Parts parts, const Rows rows, int teams, int slices, int slice_len, float* pieces) { \
    four_bit<M, PARTS, DOUBLE, LOG>(parts, rows, teams, slices, slice_len, pieces);            \
  }
#else
#define FOUR_BIT(name, M, PARTS, DOUBLE, LOG)                                                  \
  extern "C" __global__ void __launch_bounds__(LOG == 5 ? 256 : 512, 1) name                                    \
      (const Parts parts, const Rows rows, int teams, int slices, int slice_len, float* pieces) {}
#endif
