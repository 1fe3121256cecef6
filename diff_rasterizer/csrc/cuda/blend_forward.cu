// Front-to-back blending, one block of 256 threads per tile, one thread per pixel (3D Gaussian Splatting, Kerbl et al.
// 2023, section 6), and the packing of what it reads.
#include "tile_layout.cuh"

using namespace gd;

// Writes one record per rank (position in depth order). Culled rows, whose count is zero, are left alone.
extern "C" __global__ void __launch_bounds__(256)
    pack_records(long long rows, const long long* __restrict__ order,  // [rows] row of each rank
                 const int* __restrict__ tile_counts,                  // [rows] tiles of each rank
                 const float* __restrict__ means2d, const float* __restrict__ conics,
                 const float* __restrict__ opacities, const float* __restrict__ colors,  // [rows, color_stride]
                 long long color_stride, int channel_begin, float4* __restrict__ records) {
    const long long rank = global_thread();
    if (rank >= rows || tile_counts[rank] == 0) return;
    const long long row = order[rank];
    const Splat s = make_splat(means2d + 2 * row, conics + 3 * row, opacities[row]);
    float all[4 * kRecordVectors] = {s.x, s.y, s.half_a, s.b, s.half_c, s.log2_opacity};
#pragma unroll
    for (int d = 0; d < kChannels; ++d) all[kSplatFloats + d] = colors[row * color_stride + channel_begin + d];
#pragma unroll
    for (int i = 0; i < kRecordVectors; ++i)
        records[rank * kRecordVectors + i] = make_float4(all[4 * i], all[4 * i + 1], all[4 * i + 2], all[4 * i + 3]);
}

extern "C" __global__ void __launch_bounds__(256) blend_forward(
    int width, int height, int tiles_x, int tiles_y,
    const int2* __restrict__ ranges,        // [images * tiles] begin and end in `instances`
    const int* __restrict__ instances,      // ranks, tile after tile, front to back
    const float4* __restrict__ records,     // [ranks, kRecordVectors]
    const float* __restrict__ backgrounds,  // [images, channel_stride] or null
    long long channel_stride, int channel_begin,
    float* __restrict__ renders,    // [images, H, W, channel_stride]
    float* __restrict__ alphas,     // [images, H, W] or null
    float* __restrict__ final_T,    // [images * tiles, 256] transmittance behind the last instance
    int* __restrict__ last,         // [images * tiles, 256] one past the last instance that is blended
    int* __restrict__ tile_end,     // [images * tiles] largest `last` of the tile
    int* __restrict__ bucket_tile,  // [buckets], -1 before; the next two are null when there will be no backward
    float* __restrict__ bucket_T,   // [buckets, 256] transmittance in front of the bucket's first instance, or null
    float* __restrict__ bucket_colors) {  // [buckets, kChannels, 256] what is blended before it
    __shared__ float4 batch[kBlock * kRecordVectors];
    __shared__ int warp_last[kBlock / kWarp];
    const int thread = int(threadIdx.x), tile = int(blockIdx.x);
    const TilePlace place = tile_place(tile, tiles_x, tiles_y);
    const int x = place.left + pixel_x(thread), y = place.top + pixel_y(thread);
    const bool inside = x < width && y < height;
    const float center_x = float(x) + 0.5f, center_y = float(y) + 0.5f;

    const int2 range = ranges[tile];
    const int count = range.y - range.x;
    const long long bucket = first_bucket(range.x, tile);
    float T = 1.0f, color[kChannels];
#pragma unroll
    for (int d = 0; d < kChannels; ++d) color[d] = 0.0f;
    int useful = 0;
    bool done = !inside;
    for (int start = 0; start < count; start += kBlock) {
        // Also keeps the batch until everybody has read it.
        if (__syncthreads_count(done) == kBlock) break;
        const int size = gd_min(kBlock, count - start);
        for (int i = thread; i < size * kRecordVectors; i += kBlock) {
            const int slot = i / kRecordVectors;
            const long long rank = instances[range.x + start + slot];
            batch[i] = records[rank * kRecordVectors + (i - slot * kRecordVectors)];
        }
        if (bucket_T && thread * kBucket < size) bucket_tile[bucket + start / kBucket + thread] = tile;
        __syncthreads();
        for (int k = 0; k < size && !done; ++k) {
            if (bucket_T && k % kBucket == 0) {
                const long long at = bucket + (start + k) / kBucket;
                bucket_T[at * kTilePixels + thread] = T;
#pragma unroll
                for (int d = 0; d < kChannels; ++d)
                    bucket_colors[(at * kChannels + d) * kTilePixels + thread] = color[d];
            }
            const float4* record = batch + k * kRecordVectors;
            const Splat splat = record_splat(record[0], record[1]);
            const float power = splat_power(splat, splat.x - center_x, splat.y - center_y);
            if (!splat_reaches(splat, power)) continue;
            const float alpha = splat_alpha(power), T_behind = transmittance_behind(T, alpha);
            if (T_behind <= kMinTransmittance) {
                done = true;
                break;
            }
            const float weight = alpha * T;
            float channels[kChannels];
            record_channels(record, channels);
#pragma unroll
            for (int d = 0; d < kChannels; ++d) color[d] = gd_fma(weight, channels[d], color[d]);
            T = T_behind;
            useful = start + k + 1;
        }
    }

    final_T[(long long)tile * kTilePixels + thread] = T;
    last[(long long)tile * kTilePixels + thread] = useful;
    const int largest = warp_max(useful);
    if (thread % kWarp == 0) warp_last[thread / kWarp] = largest;
    __syncthreads();
    if (thread == 0) {
        int end = 0;
        for (int w = 0; w < kBlock / kWarp; ++w) end = gd_max(end, warp_last[w]);
        tile_end[tile] = end;
    }
    if (!inside) return;
    const long long pixel = ((long long)place.image * height + y) * width + x;
    if (alphas) alphas[pixel] = 1.0f - T;
    const float* background = backgrounds ? backgrounds + place.image * channel_stride + channel_begin : nullptr;
    float* out = renders + pixel * channel_stride + channel_begin;
#pragma unroll
    for (int d = 0; d < kChannels; ++d) out[d] = background ? gd_fma(T, background[d], color[d]) : color[d];
}
