// What all kernels share: launch sizes and warp-level helpers. No standard or CUDA header is included anywhere here,
// because NVRTC finds none; 64-bit integers are `long long`.
#pragma once

#include "../maths/config.h"

namespace gd {

constexpr int kBlock = 256;  // threads per block unless a kernel says otherwise
constexpr int kWarp = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

static __device__ __forceinline__ long long global_thread() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }

// Sum over the warp, valid in lane 0.
static __device__ __forceinline__ float warp_sum(float value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_down_sync(kFullWarp, value, offset);
    return value;
}

// Largest value of the warp, valid in lane 0.
static __device__ __forceinline__ int warp_max(int value) {
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
        value = gd_max(value, __shfl_down_sync(kFullWarp, value, offset));
    return value;
}

// Writes the sums over a block of kBlock threads of `count` values to out[count]. Contains a barrier: all threads call.
template <int count>
static __device__ __forceinline__ void block_sum(const float* values, float (*scratch)[count], float* out) {
    const int warp = int(threadIdx.x) / kWarp, lane = int(threadIdx.x) % kWarp;
#pragma unroll
    for (int i = 0; i < count; ++i) {
        const float sum = warp_sum(values[i]);
        if (lane == 0) scratch[warp][i] = sum;
    }
    __syncthreads();
    if (int(threadIdx.x) < count) {
        float sum = 0.0f;
        for (int w = 0; w < kBlock / kWarp; ++w) sum += scratch[w][threadIdx.x];
        out[threadIdx.x] = sum;
    }
    // The scratch may be written again at once.
    __syncthreads();
}

}  // namespace gd
