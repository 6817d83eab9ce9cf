// Keys and values into the blocks of a layer's pool, and blocks copied.
//
// A pool is [n_blocks][keys, values][n_kv_heads][32][head_dim] of f32, f16 or bf16, rounded to nearest even, or the same
// without values, which are then elements of keys: n_planes is 2 or 1. Position p of
// sequence s lies in block tables[s, p / 32 % table_len], a ring, at place p % 32 of each head. All that changes by
// token is read on the device: rows_index [n_sequences, first row | rows | position of the first | positions then], tables
// [n_sequences, table_len].
//
// kv_append_T: rows' elements first .. first + n_planes * n_kv_heads * head_dim (keys, then values) to their positions.
//   Grid (largest number of rows or less, ceil(n_planes * n_kv_heads * head_dim / 256), n_sequences): rows stride by the grid.
//   Block 256, an element a thread, no shared memory. Of rows that would come to the same place (more rows than the ring
//   has positions) the last is kept, as if they were written in order. A block beyond the pool is left alone.
//   Bytes: 4 read and 2 or 4 written an element.
// kv_copy_blocks: blocks pairs.from[i] to pairs.to[i]. Grid (ceil(n_words / 256 / 4) or less, n pairs), block 256; n_words
//   16-byte words of a block. No block is both read and written in one launch: the wrapper sees to it. Bytes: 2 a byte.
#include "prelude.cuh"

enum { BLOCK_LEN = 32 };

template <class T>
__device__ __forceinline__ T rounded(float x);
template <>
__device__ __forceinline__ float rounded<float>(float x) { return x; }
template <>
__device__ __forceinline__ __half rounded<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __forceinline__ __nv_bfloat16 rounded<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Rows of one sequence, and its block table.
struct Sequence {
  u32 first, n_rows, start;
  const u32* table;
  u32 table_len;

  __device__ __forceinline__ Sequence(const u32* rows_index, const u32* tables, u32 table_len, u32 s)
      : first(rows_index[4 * s]), n_rows(rows_index[4 * s + 1]), start(rows_index[4 * s + 2]),
        table(tables + (u64)s * table_len), table_len(table_len) {}

  // True of a row whose place no later row takes.
  __device__ __forceinline__ bool stays(u32 i) const { return (u64)i + (u64)table_len * BLOCK_LEN >= n_rows; }
};

template <class T>
struct Pool {
  T* elements;
  u32 n_blocks;
  int n_planes, n_kv_heads, head_dim;

  // Element `c` of the keys (which 0) or values (1) of a position.
  __device__ __forceinline__ void put(const Sequence& sequence, u32 i, int which, int c, float value) const {
    u32 position = sequence.start + i, block = sequence.table[position / BLOCK_LEN % sequence.table_len];
    if (block >= n_blocks) return;
    u64 head = ((u64)block * n_planes + which) * n_kv_heads + c / head_dim;
    elements[(head * BLOCK_LEN + position % BLOCK_LEN) * head_dim + c % head_dim] = rounded<T>(value);
  }
};

template <class T>
__device__ __forceinline__ void append(const float* kv, int row_width, int first, const u32* rows_index, const u32* tables,
                                       u32 table_len, Pool<T> pool) {
  int width = pool.n_kv_heads * pool.head_dim, c = blockIdx.y * 256 + threadIdx.x;
  if (c >= pool.n_planes * width) return;
  int which = c >= width;
  Sequence sequence(rows_index, tables, table_len, blockIdx.z);
  for (u32 i = blockIdx.x; i < sequence.n_rows; i += gridDim.x)
    if (sequence.stays(i))
      pool.put(sequence, i, which, c - which * width, kv[(u64)(sequence.first + i) * row_width + first + c]);
}

#define APPEND(name, T)                                                                                              \
  KERNEL(name)(const float* kv, int row_width, int first, const u32* rows_index, const u32* tables, u32 table_len,   \
               T* pool, u32 n_blocks, int n_planes, int n_kv_heads, int head_dim) {                                  \
    append(kv, row_width, first, rows_index, tables, table_len, Pool<T>{pool, n_blocks, n_planes, n_kv_heads, head_dim});\
  }

APPEND(kv_append_f32, float)
APPEND(kv_append_f16, __half)
APPEND(kv_append_bf16, __nv_bfloat16)

// As many pairs as go in one launch.
struct Pairs {
  u32 from[32], to[32];
};

KERNEL(kv_copy_blocks)(uint4* pool, u32 n_words, Pairs pairs) {
  const uint4* from = pool + (u64)pairs.from[blockIdx.y] * n_words;
  uint4* to = pool + (u64)pairs.to[blockIdx.y] * n_words;
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < n_words; i += gridDim.x * 256) to[i] = from[i];
}
