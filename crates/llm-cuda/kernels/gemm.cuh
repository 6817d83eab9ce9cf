// What products with many rows share: their shape, and how a result leaves a block.
#pragma once
#include "mma.cuh"

struct GemmShape {
  const u32* bounds;            // two numbers that lie as far apart as there are tokens, those skipped among them; or null
  int n_tokens, rows, cols;     // x [n_tokens, cols], weight [rows, cols]
  int out_width, out_col;       // elements of a row of out, and the first of this weight's
  int add;                      // to what out has
  int bias_dtype;               // 0 f32, 1 f16, 2 bf16
  int x_width;                  // elements of a row of the parts of x: cols, rounded up to 32
  int skip;                     // tokens before the first
};

__device__ __forceinline__ int count(const GemmShape& s) {
  return s.bounds ? min((int)(s.bounds[1] - s.bounds[0]) - s.skip, s.n_tokens) : s.n_tokens;
}

__device__ __forceinline__ float bias_at(const void* bias, int dtype, int row) {
  if (!bias) return 0.f;
  if (dtype == 0) return static_cast<const float*>(bias)[row];
  if (dtype == 1) return __half2float(static_cast<const __half*>(bias)[row]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(bias)[row]);
}

// A sum leaves: to `pieces` where blocks share the columns, else with its bias to out.
__device__ __forceinline__ void store(const GemmShape& s, float* __restrict__ out, float* __restrict__ pieces,
    const void* __restrict__ bias, int token, int row, float v) {
  if (gridDim.z > 1) { pieces[((u64)blockIdx.z * s.n_tokens + token) * s.rows + row] = v; return; }
  float* to = out + (u64)token * s.out_width + s.out_col + row;
  v += bias_at(bias, s.bias_dtype, row);
  *to = s.add ? *to + v : v;
}

// Four sums of a token leave at once, where their place lies on a border of 16 bytes; of rows that are not there, none.
__device__ __forceinline__ void store4(const GemmShape& s, float* __restrict__ out, float* __restrict__ pieces,
    const void* __restrict__ bias, int token, int row, const float (&v)[4]) {
  const bool whole = gridDim.z == 1;
  float* to = whole ? out + (u64)token * s.out_width + s.out_col + row : pieces + ((u64)blockIdx.z * s.n_tokens + token) * s.rows + row;
  if ((u64)to % 16 != 0 || row + 4 > s.rows) {
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (row + j < s.rows) store(s, out, pieces, bias, token, row + j, v[j]);
    return;
  }
  float4 all = make_float4(v[0], v[1], v[2], v[3]);
  if (whole) {
    all.x += bias_at(bias, s.bias_dtype, row);
    all.y += bias_at(bias, s.bias_dtype, row + 1);
    all.z += bias_at(bias, s.bias_dtype, row + 2);
    all.w += bias_at(bias, s.bias_dtype, row + 3);
    if (s.add) {
      const float4 old = *(const float4*)to;
      all = make_float4(old.x + all.x, old.y + all.y, old.z + all.z, old.w + all.w);
    }
  }
  *(float4*)to = all;
}
