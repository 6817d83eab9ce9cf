// Where keys and values lie in a pool, for kernels that read them one by one.
//
// pool [n_blocks][n_planes][n_kv_heads][32][head_dim]: keys and values, or keys alone.
#pragma once
#include "general.cuh"

__device__ __forceinline__ u64 kv_at(const u32* table, int table_len, u32 position, int plane, int n_planes, int n_kv_heads,
                                     int head, int head_dim) {
  u64 block = table[position / 32 % table_len];
  return (((block * n_planes + plane) * n_kv_heads + head) * 32 + position % 32) * head_dim;
}

__device__ __forceinline__ float kv_of(const void* pool, int dtype, u64 at) {
  if (dtype == F32) return ((const float*)pool)[at];
  if (dtype == F16) return __half2float(((const __half*)pool)[at]);
  return __bfloat162float(((const __nv_bfloat16*)pool)[at]);
}
