// One planted fault a kernel.
typedef unsigned int u32;

extern "C" __global__ void missing_barrier(const float* x, float* y) {
  __shared__ float s[64];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[63 - t];
}

extern "C" __global__ void missing_warp_barrier(const float* x, float* y) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = x[t];
  y[t] = s[31 - t];
}

// Reads what is overwritten in the next round, with no barrier at the round's end.
extern "C" __global__ void missing_second_barrier(const float* x, float* y, int rounds) {
  __shared__ float s[64];
  int t = threadIdx.x;
  float sum = 0.f;
  for (int r = 0; r < rounds; r++) {
    s[t] = x[t] + r;
    __syncthreads();
    sum += s[(t + 33) % 64];
  }
  y[t] = sum;
}

extern "C" __global__ void race_of_writes(float* y) {
  __shared__ float s[1];
  s[0] = threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[0];
}

extern "C" __global__ void divergent_barrier(float* y, int limit) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = t;
  if (t < limit) { __syncthreads(); y[t] = s[0]; } else { y[t] = 1.f; __syncthreads(); }
}

extern "C" __global__ void lanes_left_out(u32* y) {
  int t = threadIdx.x;
  if (t < 16) y[t] = __shfl_sync(0xffffffffu, t, 3);
  __syncwarp();
  y[t] += 1;
}

extern "C" __global__ void over_read(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = x[i];
}

extern "C" __global__ void misaligned(const float* x, float* y) {
  const float4 v = *reinterpret_cast<const float4*>(x + 1);
  y[0] = v.x + v.y + v.z + v.w;
}

extern "C" __global__ void unwritten_shared(float* y) {
  __shared__ float s[64];
  int t = threadIdx.x;
  if (t < 32) s[t] = t;
  __syncthreads();
  y[t] = s[t];
}

extern "C" __global__ void shared_over_read(float* y, int n) {
  __shared__ float s[32];
  int t = threadIdx.x;
  s[t] = t;
  __syncthreads();
  y[t] = s[t + n];
}

extern "C" __global__ void trapped(int n) {
  if (n == 7) __trap();
}

// Waits for the older of two groups of copies, and reads what the newer brings.
extern "C" __global__ void copy_not_waited(const float4* x, float4* y) {
  __shared__ float4 s[64];
  int t = threadIdx.x;
#if __CUDA_ARCH__ >= 800
  u32 to = (u32)__cvta_generic_to_shared(&s[t]);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n cp.async.commit_group;" :: "r"(to), "l"(x + t));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n cp.async.commit_group;" :: "r"(to + 512), "l"(x + t + 32));
  asm volatile("cp.async.wait_group 1;" ::: "memory");
#endif
  y[t] = s[t];
  y[t + 32] = s[t + 32];
}

// Loads through the read-only cache what the kernel itself has stored, as __restrict__ allows the compiler to.
extern "C" __global__ void stale_read(float* y, int n) {
  int t = threadIdx.x;
  y[t] = t;
  __syncthreads();
  y[t + n] = __ldg(y + (t + 1) % 32);
}
