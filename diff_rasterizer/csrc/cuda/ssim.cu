// Structural similarity (Wang et al. 2004, eq. 13) with the 11-tap Gaussian window of sigma 1.5, data range 1, and the
// mean absolute error, in one pass over two pictures [I, H, W, C]; and the gradient. A block filters a 16x16 tile,
// first along rows, then along columns, channel after channel.
#include "device.cuh"

#ifndef GD_TARGET_BYTES
#define GD_TARGET_BYTES 0  // 1: the target holds 0..255 instead of 0..1
#endif

using namespace gd;

namespace {

#if GD_TARGET_BYTES
typedef unsigned char Target;
constexpr float kTargetScale = 1.0f / 255.0f;
#else
typedef float Target;
constexpr float kTargetScale = 1.0f;
#endif

constexpr int kSide = 16, kReach = 5, kTaps = 11, kPadded = kSide + 2 * kReach;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;

// exp(-k^2 / (2 * 1.5^2)), k = -5..5, normalised to sum 1.
__device__ __forceinline__ float window(int tap) {
    constexpr float kWindow[kTaps] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300554f, 0.26601172f,
                                      0.21300554f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};
    return kWindow[tap];
}

struct Place {
    int thread, column, row;  // of the thread in the tile
    int left, top;            // of the tile
    int x, y;                 // pixel
    long long image;
    bool inside;
};
__device__ __forceinline__ Place place_of_thread(int height, int width) {
    Place p;
    p.thread = int(threadIdx.x), p.column = p.thread % kSide, p.row = p.thread / kSide;
    const int across = (width + kSide - 1) / kSide, tiles = across * ((height + kSide - 1) / kSide);
    const int tile = int(blockIdx.x) % tiles;
    p.image = int(blockIdx.x) / tiles;
    p.left = tile % across * kSide, p.top = tile / across * kSide;
    p.x = p.left + p.column, p.y = p.top + p.row;
    p.inside = p.x < width && p.y < height;
    return p;
}

// Whether the SSIM map counts at a pixel: everywhere, or only where the window lies inside.
__device__ __forceinline__ bool counts(int x, int y, int height, int width, int valid) {
    return !valid || (x >= kReach && y >= kReach && x < width - kReach && y < height - kReach);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    ssim_forward(int images, int height, int width, int channels, int valid, const float* __restrict__ image,
                 const Target* __restrict__ target,
                 float* __restrict__ partials,  // [3, I, H, W, C] gradients by mean, variance, covariance; or null
                 float* __restrict__ sums) {    // [blocks, 2] of the SSIM map and of |image - target|
    __shared__ float picture[2][kPadded][kPadded];
    __shared__ float rows[5][kPadded][kSide];
    __shared__ float scratch[kBlock / kWarp][2];
    const Place p = place_of_thread(height, width);
    const long long plane = (long long)images * height * width * channels;
    float total[2] = {0.0f, 0.0f};
    for (int channel = 0; channel < channels; ++channel) {
        for (int i = p.thread; i < kPadded * kPadded; i += kBlock) {
            const int x = p.left + i % kPadded - kReach, y = p.top + i / kPadded - kReach;
            const bool inside = x >= 0 && y >= 0 && x < width && y < height;
            const long long at = ((p.image * height + y) * width + x) * channels + channel;
            picture[0][i / kPadded][i % kPadded] = inside ? image[at] : 0.0f;
            picture[1][i / kPadded][i % kPadded] = inside ? kTargetScale * float(target[at]) : 0.0f;
        }
        __syncthreads();
        for (int i = p.thread; i < kPadded * kSide; i += kBlock) {
            const int row = i / kSide, column = i % kSide;
            float m[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int t = 0; t < kTaps; ++t) {
                const float x = picture[0][row][column + t], y = picture[1][row][column + t];
                const float wx = window(t) * x, wy = window(t) * y;
                m[0] += wx, m[1] += wy, m[2] += wx * x, m[3] += wy * y, m[4] += wx * y;
            }
            for (int q = 0; q < 5; ++q) rows[q][row][column] = m[q];
        }
        __syncthreads();
        if (p.inside) {
            float m[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int t = 0; t < kTaps; ++t)
                for (int q = 0; q < 5; ++q) m[q] += window(t) * rows[q][p.row + t][p.column];
            const float mu_x = m[0], mu_y = m[1], var_x = m[2] - mu_x * mu_x, var_y = m[3] - mu_y * mu_y;
            const float A1 = 2.0f * mu_x * mu_y + kC1, A2 = 2.0f * (m[4] - mu_x * mu_y) + kC2;
            const float inv_b1 = 1.0f / (mu_x * mu_x + mu_y * mu_y + kC1), inv_b2 = 1.0f / (var_x + var_y + kC2);
            const float ssim = A1 * A2 * inv_b1 * inv_b2;
            const bool counted = counts(p.x, p.y, height, width, valid);
            if (counted) total[0] += ssim;
            const float difference =
                picture[0][p.row + kReach][p.column + kReach] - picture[1][p.row + kReach][p.column + kReach];
            total[1] += difference < 0.0f ? -difference : difference;
            if (partials) {
                const long long at = ((p.image * height + p.y) * width + p.x) * channels + channel;
                const float d_var = -ssim * inv_b2, d_cov = 2.0f * A1 * inv_b1 * inv_b2;
                // Variance and covariance contain the means: var = E[x^2] - mu_x^2, cov = E[xy] - mu_x mu_y.
                const float d_mu =
                    2.0f * (mu_y * A2 * inv_b1 * inv_b2 - mu_x * ssim * inv_b1) - 2.0f * mu_x * d_var - mu_y * d_cov;
                partials[at] = counted ? d_mu : 0.0f;
                partials[plane + at] = counted ? d_var : 0.0f;
                partials[2 * plane + at] = counted ? d_cov : 0.0f;
            }
        }
        __syncthreads();
    }
    block_sum<2>(total, scratch, sums + 2 * (long long)blockIdx.x);
}

extern "C" __global__ void __launch_bounds__(256)
    ssim_backward(int images, int height, int width, int channels, const float* __restrict__ image,
                  const Target* __restrict__ target, const float* __restrict__ partials,
                  const float* __restrict__ v_sums,  // [2] gradients of the two sums
                  float* __restrict__ v_image) {
    __shared__ float map[3][kPadded][kPadded];
    __shared__ float rows[3][kPadded][kSide];
    const Place p = place_of_thread(height, width);
    const long long plane = (long long)images * height * width * channels;
    for (int channel = 0; channel < channels; ++channel) {
        for (int i = p.thread; i < kPadded * kPadded; i += kBlock) {
            const int x = p.left + i % kPadded - kReach, y = p.top + i / kPadded - kReach;
            const bool inside = x >= 0 && y >= 0 && x < width && y < height;
            const long long at = ((p.image * height + y) * width + x) * channels + channel;
            for (int q = 0; q < 3; ++q) map[q][i / kPadded][i % kPadded] = inside ? partials[q * plane + at] : 0.0f;
        }
        __syncthreads();
        for (int i = p.thread; i < kPadded * kSide; i += kBlock) {
            const int row = i / kSide, column = i % kSide;
            for (int q = 0; q < 3; ++q) {
                float m = 0.0f;
#pragma unroll
                for (int t = 0; t < kTaps; ++t) m += window(t) * map[q][row][column + t];
                rows[q][row][column] = m;
            }
        }
        __syncthreads();
        if (p.inside) {
            float m[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int t = 0; t < kTaps; ++t)
                for (int q = 0; q < 3; ++q) m[q] += window(t) * rows[q][p.row + t][p.column];
            const long long at = ((p.image * height + p.y) * width + p.x) * channels + channel;
            const float x = image[at], y = kTargetScale * float(target[at]);
            const float sign = x > y ? 1.0f : x < y ? -1.0f : 0.0f;
            v_image[at] = v_sums[0] * (m[0] + 2.0f * x * m[1] + y * m[2]) + v_sums[1] * sign;
        }
    }
}
