// Kernels for the emulator's own tests: right ones, and ones with one planted fault each.
typedef unsigned int u32;

extern "C" __global__ void add_one(float* x, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) x[i] += 1.f;
}

extern "C" __global__ void scale(const float* x, float* y, int n, float by) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * by;
}

// Sum of a block's values, by a tree in shared memory.
extern "C" __global__ void block_sum(const float* x, float* y) {
  __shared__ float s[256];
  int t = threadIdx.x;
  s[t] = x[blockIdx.x * 256 + t];
  __syncthreads();
  for (int half = 128; half; half >>= 1) {
    if (t < half) s[t] += s[t + half];
    __syncthreads();
  }
  if (t == 0) y[blockIdx.x] = s[0];
}

// Sum of all values, by atomic additions; counts the threads that took part.
extern "C" __global__ void atomic_sum(const u32* x, u32* sum, u32* threads, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) { atomicAdd(sum, x[i]); atomicAdd(threads, 1u); }
}

// Threads go three different ways and meet again.
extern "C" __global__ void ways(const int* x, int* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], steps = 0;
  while (v > 1) { v = v % 2 ? 3 * v + 1 : v / 2; steps++; }
  y[i] = steps;
}

// A function that is called, and a call in it.
__device__ __noinline__ float twice(float v, int n) { return n > 3 ? v * 2.f : v + 1.f; }
__device__ __noinline__ float four_times(float v, int n) { float w = twice(v, n); return n % 2 ? w : twice(w, n); }

extern "C" __global__ void calls(const float* x, float* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = four_times(x[i], i);
}

// Leaves the number of the block that comes last.
extern "C" __global__ void last_block(float* y) {
  if (threadIdx.x == 0) y[0] = blockIdx.x;
}
