// xIELU, an activation with learned numbers.
//
//   activate_xielu   x = above x^2 + beta x where x > 0, and x = below (exp(min(x, eps)) - 1 - x) + beta x elsewhere, with
//                    above = softplus(alpha_p), below = beta + softplus(alpha_n)
//   What is not a number stays so. The numbers are vectors of one element. n elements, one a thread at a time. Grid
//   ceil(n / 256) or less (the loop strides by the grid), block 256. Bytes 8 n.
#include "states.cuh"

KERNEL(activate_xielu)(const u8* alpha_p, int alpha_p_element, const u8* alpha_n, int alpha_n_element, const u8* beta,
                       int beta_element, const u8* eps, int eps_element, float* x, u32 n) {
  float slope = element_at(beta, beta_element, 0), most = element_at(eps, eps_element, 0);
  float above = softplus(element_at(alpha_p, alpha_p_element, 0));
  float below = slope + softplus(element_at(alpha_n, alpha_n_element, 0));
  for (u32 i = blockIdx.x * 256 + threadIdx.x; i < n; i += gridDim.x * 256) {
    float v = x[i];
    // Of a number that is none fminf makes one, but its distance from v is none.
    x[i] = v > 0.f ? fmaf(above, v, slope) * v : fmaf(below, expm1f(fminf(v, most)) - v, slope * v);
  }
}
