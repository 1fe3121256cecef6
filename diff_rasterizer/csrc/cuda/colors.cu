// Colours from spherical harmonics as each camera sees them, and the gradient.
#include "../maths/view_color.h"
#include "device.cuh"

#ifndef GD_SH_DEGREE
#define GD_SH_DEGREE 3
#endif

using namespace gd;

extern "C" __global__ void __launch_bounds__(256)
    colors_forward(int B, int C, int N, int coeffs_count, int per_camera, const float* __restrict__ means,
                   const float* __restrict__ campos,
                   const float* __restrict__ coeffs,  // [B, N, coeffs_count, 3], per camera [B, C, N, coeffs_count, 3]
                   const int2* __restrict__ radii,    // [B, C, N] or null
                   float* __restrict__ colors) {
    const long long out = global_thread();
    if (out >= (long long)B * C * N) return;
    const long long image = out / N, row = image / C * N + out % N;
    float color[3] = {0.0f, 0.0f, 0.0f};
    if (!radii || (radii[out].x > 0 && radii[out].y > 0))
        view_color(GD_SH_DEGREE, means + 3 * row, campos + 3 * image,
                   coeffs + 3 * coeffs_count * (per_camera ? out : row), color);
    for (int i = 0; i < 3; ++i) colors[3 * out + i] = color[i];
}

// One thread per Gaussian walks the cameras. Where a row was not seen its colour is 0, which passes no gradient.
extern "C" __global__ void __launch_bounds__(256)
    colors_backward(int C, int N, int coeffs_count, int per_camera, const float* __restrict__ means,
                    const float* __restrict__ campos, const float* __restrict__ coeffs,
                    const float* __restrict__ colors, const float* __restrict__ v_colors,
                    float* __restrict__ v_coeffs,  // zeros
                    float* __restrict__ v_means,
                    float* __restrict__ v_campos) {  // [B, blocks, C, 3] or null
    __shared__ float scratch[kBlock / kWarp][3];
    const int blocks = (N + kBlock - 1) / kBlock, b = int(blockIdx.x) / blocks;
    const int n = int(blockIdx.x) % blocks * kBlock + int(threadIdx.x);
    const long long row = (long long)b * N + n;
    float v_mean[3] = {0.0f, 0.0f, 0.0f};
    for (int c = 0; c < C; ++c) {
        const long long image = (long long)b * C + c, out = image * N + n;
        float v_center[3] = {0.0f, 0.0f, 0.0f};
        if (n < N) {
            const long long at = 3 * coeffs_count * (per_camera ? out : row);
            view_color_backward(GD_SH_DEGREE, means + 3 * row, campos + 3 * image, coeffs + at, colors + 3 * out,
                                v_colors + 3 * out, v_coeffs + at, v_mean, v_center);
        }
        if (v_campos) block_sum<3>(v_center, scratch, v_campos + 3 * ((long long)blockIdx.x * C + c));
    }
    if (n < N)
        for (int i = 0; i < 3; ++i) v_means[3 * row + i] = v_mean[i];
}
