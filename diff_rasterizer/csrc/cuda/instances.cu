// From rows in any order to tiles of depth-sorted instances. Between these kernels torch sorts: all rows by depth,
// then, stably, all instances by tile, so that each tile's instances end up front to back.
#include "../maths/tiles.h"
#include "device.cuh"

#ifndef GD_KEY_BITS
#define GD_KEY_BITS 32  // 16 where images times tiles fit: half the sorting work
#endif

using namespace gd;

namespace {

#if GD_KEY_BITS == 16
typedef short Key;
constexpr int kKeyOffset = -32768;  // torch sorts signed integers on every device, unsigned ones not
#else
typedef int Key;
constexpr int kKeyOffset = 0;
#endif

constexpr int kSequentialTiles = 8;  // more candidates than this are shared by the warp

// Calls visit(position, owner's lane, tile in the image) for each tile that the lane's Gaussian touches, with position
// counted from `position`, and returns how many there are. A Gaussian with few candidates is walked by its own lane;
// those with many are taken by the whole warp, one after the other. All lanes call; `lane_valid` is false for those
// without a Gaussian.
template <typename Visit>
__device__ int for_each_tile(bool lane_valid, const TileSplat& splat, int tiles_x, int tiles_y, int position,
                             const Visit& visit) {
    const int lane = int(threadIdx.x) % kWarp;
    TileRect rect = {0, 0, 0, 0};
    if (lane_valid) rect = tile_rect(splat, tiles_x, tiles_y);
    const int area = tile_rect_area(rect);
    int count = 0;
    if (area <= kSequentialTiles) {
        for (int y = rect.y0; y < rect.y1; ++y)
            for (int x = rect.x0; x < rect.x1; ++x)
                if (touches_tile(splat, x, y)) visit(position + count++, lane, y * tiles_x + x);
    }
    unsigned large = __ballot_sync(kFullWarp, area > kSequentialTiles);
    while (large) {
        const int owner = __ffs(int(large)) - 1;
        large &= large - 1;
        TileSplat s;
        s.x = __shfl_sync(kFullWarp, splat.x, owner), s.y = __shfl_sync(kFullWarp, splat.y, owner);
        s.half_a = __shfl_sync(kFullWarp, splat.half_a, owner), s.b = __shfl_sync(kFullWarp, splat.b, owner);
        s.half_c = __shfl_sync(kFullWarp, splat.half_c, owner), s.limit = __shfl_sync(kFullWarp, splat.limit, owner);
        const int x0 = __shfl_sync(kFullWarp, rect.x0, owner), y0 = __shfl_sync(kFullWarp, rect.y0, owner);
        const int across = __shfl_sync(kFullWarp, rect.x1, owner) - x0;
        const int candidates = __shfl_sync(kFullWarp, area, owner);
        const int from = __shfl_sync(kFullWarp, position, owner);
        int found = 0;
        for (int base = 0; base < candidates; base += kWarp) {
            const int t = base + lane, x = x0 + t % across, y = y0 + t / across;
            const bool touched = t < candidates && touches_tile(s, x, y);
            const unsigned mask = __ballot_sync(kFullWarp, touched);
            if (touched) visit(from + found + __popc(mask & ((1u << lane) - 1u)), owner, y * tiles_x + x);
            found += __popc(mask);
        }
        if (lane == owner) count = found;
    }
    return count;
}

struct CountOnly {
    __device__ void operator()(int, int, int) const {}
};

struct WriteInstance {
    int first_rank;          // of the warp
    const int* first_tiles;  // [32] first tile of the image of each lane's Gaussian
    Key* keys;
    int* ranks;
    __device__ void operator()(int position, int owner, int tile) const {
        keys[position] = Key(first_tiles[owner] + tile + kKeyOffset);
        ranks[position] = first_rank + owner;
    }
};

__device__ __forceinline__ TileSplat row_splat(const float* means2d, const float* conics, const float* opacities,
                                               long long row) {
    return make_tile_splat(means2d + 2 * row, conics + 3 * row, opacities[row]);
}

}  // namespace

// The depth of each row, infinite for rows that are not drawn: radius 0, too faint, or anything not finite.
extern "C" __global__ void __launch_bounds__(256)
    depth_keys(long long rows, int channels, const int2* __restrict__ radii, const float* __restrict__ means2d,
               const float* __restrict__ conics, const float* __restrict__ opacities, const float* __restrict__ depths,
               const float* __restrict__ colors, float* __restrict__ keys) {
    const long long row = global_thread();
    if (row >= rows) return;
    const int2 radius = radii[row];
    const float opacity = opacities[row], depth = depths[row];
    bool drawn = radius.x > 0 && radius.y > 0 && opacity >= kAlphaThreshold && gd_finite(opacity) && gd_finite(depth);
    if (drawn) {
        drawn = gd_finite(means2d[2 * row]) && gd_finite(means2d[2 * row + 1]);
        for (int i = 0; i < 3; ++i) drawn = drawn && gd_finite(conics[3 * row + i]);
        for (int d = 0; d < channels; ++d) drawn = drawn && gd_finite(colors[row * channels + d]);
    }
    keys[row] = drawn ? depth : __int_as_float(0x7f800000);
}

// How many tiles each rank (row in depth order) touches.
extern "C" __global__ void __launch_bounds__(256)
    count_tiles(long long rows, int tiles_x, int tiles_y, const float* __restrict__ sorted_keys,
                const long long* __restrict__ order, const float* __restrict__ means2d,
                const float* __restrict__ conics, const float* __restrict__ opacities, int* __restrict__ counts) {
    const long long rank = global_thread();
    const bool valid = rank < rows && gd_finite(sorted_keys[rank]);
    TileSplat splat = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    if (valid) splat = row_splat(means2d, conics, opacities, order[rank]);
    const int count = for_each_tile(valid, splat, tiles_x, tiles_y, 0, CountOnly{});
    if (rank < rows) counts[rank] = count;
}

// Writes the instances of each rank behind those of the ranks before it: `ends` is the running sum of the counts.
extern "C" __global__ void __launch_bounds__(256)
    write_instances(long long rows, int tiles_x, int tiles_y, const int* __restrict__ counts,
                    const long long* __restrict__ ends, const long long* __restrict__ order,
                    const int* __restrict__ image_ids, const float* __restrict__ means2d,
                    const float* __restrict__ conics, const float* __restrict__ opacities, Key* __restrict__ keys,
                    int* __restrict__ ranks) {
    __shared__ int first_tiles[kBlock];
    const long long rank = global_thread();
    const bool valid = rank < rows && counts[rank] > 0;
    TileSplat splat = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    int position = 0, first_tile = 0;
    if (valid) {
        const long long row = order[rank];
        splat = row_splat(means2d, conics, opacities, row);
        position = int(ends[rank]) - counts[rank];
        first_tile = image_ids[row] * tiles_x * tiles_y;
    }
    first_tiles[threadIdx.x] = first_tile;
    __syncwarp();
    const int warp_begin = int(threadIdx.x) / kWarp * kWarp;
    const WriteInstance write = {int(rank) - int(threadIdx.x) + warp_begin, first_tiles + warp_begin, keys, ranks};
    for_each_tile(valid, splat, tiles_x, tiles_y, position, write);
}

// Puts the ranks into the order of the sorted keys and notes where each tile begins and ends. `ranges` starts as zeros.
extern "C" __global__ void __launch_bounds__(256)
    tile_ranges(long long count, const Key* __restrict__ sorted_keys, const long long* __restrict__ key_order,
                const int* __restrict__ ranks, int* __restrict__ instances, int2* __restrict__ ranges) {
    const long long i = global_thread();
    if (i >= count) return;
    instances[i] = ranks[key_order[i]];
    const int tile = int(sorted_keys[i]) - kKeyOffset;
    if (i == 0 || int(sorted_keys[i - 1]) - kKeyOffset != tile) ranges[tile].x = int(i);
    if (i == count - 1 || int(sorted_keys[i + 1]) - kKeyOffset != tile) ranges[tile].y = int(i + 1);
}
