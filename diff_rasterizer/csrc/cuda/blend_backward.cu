// Gradient of blending, parallel over Gaussians (Taming 3DGS, Mallick et al. 2024, section 4.2): a warp takes a bucket
// of a tile's instances, 32 at a time, a lane one Gaussian. Pixels stream through the lanes: in each step a lane hands
// its pixel's transmittance and remaining sum to the next lane, so a Gaussian's gradient stays in the registers of one
// lane and is added to memory once. In a bucket of more than 32, what leaves the last lane enters the first one again.
#include "tile_layout.cuh"

#ifndef GD_ABSGRAD
#define GD_ABSGRAD 0  // also sum absolute values of the gradient of means2d
#endif

using namespace gd;

namespace {

constexpr int kWarps = 4;  // per block
constexpr int kRing = 2 * kWarp;
constexpr int kKept = kBucket > kWarp ? kTilePixels : 1;  // pixels whose state waits for the next 32 instances

// Pixels on their way through the lanes: at most the current and the previous 32 are in use.
struct Ring {
    float v[kChannels][kRing];  // dL/dcolour
    float x[kRing], y[kRing];   // centre
    float T[kRing];             // in front of these 32 instances
    float later[kRing];         // sum over them and all behind, see splat_backward
    int last[kRing];
    float T_after[kKept], later_after[kKept];  // behind them
    unsigned char pixels[kTilePixels];         // those that any of them may reach
};

}  // namespace

extern "C" __global__ void __launch_bounds__(128)
    blend_backward(long long buckets, int width, int height, int tiles_x, int tiles_y, const int2* __restrict__ ranges,
                   const int* __restrict__ instances, const float4* __restrict__ records,
                   const long long* __restrict__ order,  // [ranks] row of each rank
                   long long channel_stride, int channel_begin,
                   const float* __restrict__ renders,    // what the forward pass returned, background included
                   const float* __restrict__ v_renders,  // [images, H, W, channel_stride]
                   const float* __restrict__ v_alphas,   // [images, H, W] or null
                   const float* __restrict__ final_T, const int* __restrict__ last, const int* __restrict__ tile_end,
                   const int* __restrict__ bucket_tile, const float* __restrict__ bucket_T,
                   const float* __restrict__ bucket_colors, float* __restrict__ v_means2d,
                   float* __restrict__ v_means2d_abs, float* __restrict__ v_conics,
                   float* __restrict__ v_colors,  // [rows, channel_stride]
                   float* __restrict__ v_opacities) {
    __shared__ Ring rings[kWarps];
    const int lane = int(threadIdx.x) % kWarp;
    Ring& ring = rings[threadIdx.x / kWarp];
    const long long bucket = (long long)blockIdx.x * kWarps + threadIdx.x / kWarp;
    // Whole warps leave here, and there is no barrier of the block below.
    if (bucket >= buckets) return;
    const int tile = bucket_tile[bucket];
    if (tile < 0) return;
    const int2 range = ranges[tile];
    const int begin = int(bucket - first_bucket(range.x, tile)) * kBucket, end = tile_end[tile];
    if (begin >= end) return;

    const TilePlace place = tile_place(tile, tiles_x, tiles_y);
    const long long tile_pixels = (long long)tile * kTilePixels;
    for (int first = begin; first < gd_min(end, begin + kBucket); first += kWarp) {
        const int index = first + lane;
        Splat splat = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
        float channels[kChannels], v_channels[kChannels];
        long long rank = 0;
#pragma unroll
        for (int d = 0; d < kChannels; ++d) channels[d] = v_channels[d] = 0.0f;
        if (index < end) {
            rank = instances[range.x + index];
            const float4* record = records + rank * kRecordVectors;
            splat = record_splat(record[0], record[1]);
            record_channels(record, channels);
        }

        int active = 0;
        for (int base = 0; base < kTilePixels; base += kWarp) {
            const bool reached = last[tile_pixels + base + lane] > first;
            const unsigned mask = __ballot_sync(kFullWarp, reached);
            if (reached) ring.pixels[active + __popc(mask & ((1u << lane) - 1u))] = (unsigned char)(base + lane);
            active += __popc(mask);
        }

        SplatGradient gradient = zero_splat_gradient();
        bool touched = false;
        float T = 0.0f, later = 0.0f;
        for (int base = 0; base < active + kWarp - 1; base += kWarp) {
            // The list at first; then the half of the ring that all lanes have left.
            __syncwarp();
            if (base + lane < active) {
                const int slot = (base + lane) % kRing, pixel = ring.pixels[base + lane];
                const int x = place.left + pixel_x(pixel), y = place.top + pixel_y(pixel);
                const long long at = ((long long)place.image * height + y) * width + x;
                const float* out = renders + at * channel_stride + channel_begin;
                const float* v_out = v_renders + at * channel_stride + channel_begin;
                float rest = v_alphas ? -final_T[tile_pixels + pixel] * v_alphas[at] : 0.0f;
#pragma unroll
                for (int d = 0; d < kChannels; ++d) {
                    const float v = v_out[d];
                    ring.v[d][slot] = v;
                    if (first > begin) continue;
                    const float before = bucket_colors[(bucket * kChannels + d) * kTilePixels + pixel];
                    rest = gd_fma(out[d] - before, v, rest);
                }
                ring.x[slot] = float(x) + 0.5f, ring.y[slot] = float(y) + 0.5f;
                ring.last[slot] = last[tile_pixels + pixel];
                if (first == begin) {
                    ring.T[slot] = bucket_T[bucket * kTilePixels + pixel];
                    ring.later[slot] = rest;
                } else {
                    ring.T[slot] = ring.T_after[pixel % kKept];
                    ring.later[slot] = ring.later_after[pixel % kKept];
                }
            }
            __syncwarp();
            const int steps = gd_min(kWarp, active + kWarp - 1 - base);
            for (int step = 0; step < steps; ++step) {
                T = __shfl_up_sync(kFullWarp, T, 1);
                later = __shfl_up_sync(kFullWarp, later, 1);
                const int at = base + step - lane;
                if (at < 0 || at >= active) continue;
                const int slot = at % kRing;
                if (lane == 0) T = ring.T[slot], later = ring.later[slot];
                if (index < end && index < ring.last[slot]) {
                    const float dx = splat.x - ring.x[slot], dy = splat.y - ring.y[slot];
                    const float power = splat_power(splat, dx, dy);
                    if (splat_reaches(splat, power)) {
                        const float alpha = splat_alpha(power), weight = alpha * T;
                        float dot = 0.0f;
#pragma unroll
                        for (int d = 0; d < kChannels; ++d) {
                            const float v = ring.v[d][slot];
                            dot = gd_fma(channels[d], v, dot);
                            v_channels[d] = gd_fma(weight, v, v_channels[d]);
                        }
                        later = gd_fma(-weight, dot, later);
                        splat_backward<GD_ABSGRAD != 0>(splat, dx, dy, power, alpha, T, dot, later, &gradient);
                        T = transmittance_behind(T, alpha);
                        touched = true;
                    }
                }
                if (kBucket > kWarp && lane == kWarp - 1) {
                    const int pixel = ring.pixels[at];
                    ring.T_after[pixel % kKept] = T, ring.later_after[pixel % kKept] = later;
                }
            }
        }

        if (touched) {
            const long long row = order[rank];
            float v_mean[2], v_conic[3], v_opacity;
            finish_splat_gradient(splat, gradient, v_mean, v_conic, &v_opacity);
            for (int i = 0; i < 2; ++i) atomicAdd(v_means2d + 2 * row + i, v_mean[i]);
            for (int i = 0; i < 3; ++i) atomicAdd(v_conics + 3 * row + i, v_conic[i]);
            atomicAdd(v_opacities + row, v_opacity);
#pragma unroll
            for (int d = 0; d < kChannels; ++d)
                atomicAdd(v_colors + row * channel_stride + channel_begin + d, v_channels[d]);
            if (GD_ABSGRAD) {
                atomicAdd(v_means2d_abs + 2 * row, gradient.abs_x);
                atomicAdd(v_means2d_abs + 2 * row + 1, gradient.abs_y);
            }
        }
        // The next 32 instances write a new list and read what the last lane kept.
        if (kBucket > kWarp) __syncwarp();
    }
}
