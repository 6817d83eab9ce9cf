// Clamped gates.
//
//   gate_clamped   out[t, c] = g / (1 + exp(-alpha g)) (u + added),  g = min(gate, limit),  u = max(-limit, min(up, limit))
//                  of rows [gate | up] of gate_up [n_tokens, 2 width], or, with pairs, of rows where both alternate.
//   What is not a number stays so. Of rows that a router chose, bounds has the begin and the end, else it is null.
//   A column a thread, grid (n_tokens, ceil(width / 256)), block 256. Bytes 12 an element of out.
#include "gates.cuh"

KERNEL(gate_clamped)(const float* gate_up, const u32* bounds, float* out, int width, ClampedGate gate, int pairs) {
  int c = blockIdx.y * 256 + threadIdx.x;
  if (c >= width || (bounds && blockIdx.x >= bounds[1] - bounds[0])) return;
  const float* row = gate_up + (u64)blockIdx.x * 2 * width;
  float g = row[pairs ? 2 * c : c], u = row[pairs ? 2 * c + 1 : width + c];
  out[(u64)blockIdx.x * width + c] = gate.of(g, u);
}
