// How pixels and instances are laid out for blending: shared by its forward and backward pass.
#pragma once

#include "../maths/splat.h"
#include "../maths/tiles.h"
#include "device.cuh"

#ifndef GD_CHANNELS
#define GD_CHANNELS 3  // channels blended in one pass, 1 to 32
#endif
#ifndef GD_BUCKET
#define GD_BUCKET 32  // instances between two stored states of the pixels, a multiple of 32: memory against parallelism
#endif

namespace gd {

constexpr int kTilePixels = kTileSize * kTileSize;
constexpr int kBucket = GD_BUCKET;
constexpr int kChannels = GD_CHANNELS;
// A record: six floats of the splat, then the channels, padded to whole float4.
constexpr int kRecordVectors = (kSplatFloats + kChannels + 3) / 4;

// Pixel `index` of a tile: a warp's 32 pixels form an 8x4 block, which more often agree on what to skip than a row
// does.
static __device__ __forceinline__ int pixel_x(int index) { return (index & 7) + ((index >> 2) & 8); }
static __device__ __forceinline__ int pixel_y(int index) { return ((index >> 3) & 3) + ((index >> 6) << 2); }

// Buckets of a tile are numbered from here. No scan over the tiles is needed: rounding down all instances before the
// tile, plus one per tile for the partial bucket at its end, leaves room for every tile's buckets.
static __device__ __forceinline__ long long first_bucket(int begin, int tile) {
    return (long long)(begin / kBucket) + tile;
}

struct TilePlace {
    int image, left, top;
};
static __device__ __forceinline__ TilePlace tile_place(int tile, int tiles_x, int tiles_y) {
    const int in_image = tile % (tiles_x * tiles_y);
    return {tile / (tiles_x * tiles_y), in_image % tiles_x * kTileSize, in_image / tiles_x * kTileSize};
}

// A record as registers: `head` is needed to decide, the channels only where the pixel is reached.
static __device__ __forceinline__ Splat record_splat(const float4& a, const float4& b) {
    return {a.x, a.y, a.z, a.w, b.x, b.y};
}
static __device__ __forceinline__ void record_channels(const float4* record, float channels[kChannels]) {
    float all[4 * kRecordVectors];
#pragma unroll
    for (int i = 1; i < kRecordVectors; ++i) {
        const float4 v = record[i];
        all[4 * i] = v.x, all[4 * i + 1] = v.y, all[4 * i + 2] = v.z, all[4 * i + 3] = v.w;
    }
#pragma unroll
    for (int d = 0; d < kChannels; ++d) channels[d] = all[kSplatFloats + d];
}

}  // namespace gd
