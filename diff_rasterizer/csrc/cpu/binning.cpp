#include "binning.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>
#include <utility>

#include "../maths/alpha.h"
#include "../maths/config.h"
#include "../maths/footprint.h"

namespace gd {

template <typename T>
Buffer<T>::Buffer(int64_t count) : count_(count) {
    data_ = static_cast<T*>(
        ::operator new(sizeof(T) * static_cast<size_t>(std::max<int64_t>(count, 1)), std::align_val_t(64)));
}
template <typename T>
Buffer<T>::~Buffer() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
}
template <typename T>
Buffer<T>& Buffer<T>::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(count_, other.count_);
    return *this;
}
template class Buffer<float>;
template class Buffer<int>;
template class Buffer<int64_t>;
template class Buffer<uint32_t>;
template class Buffer<uint64_t>;

namespace {

constexpr int kAhead = 12;  // rows between asking for memory and using it

struct Key {
    uint32_t depth, row;
};

// Bits that order like the float.
uint32_t sortable(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

bool is_drawn(const BinningInput& in, int64_t row) {
    if (in.radii[2 * row] <= 0 && in.radii[2 * row + 1] <= 0) return false;
    const float* conic = in.conics + 3 * row;
    const float opacity = in.opacities[row];
    // One row that is not finite would spread over its tiles.
    float check = in.means2d[2 * row] + in.means2d[2 * row + 1] + conic[0] + conic[1] + conic[2];
    for (int d = 0; d < in.channels; ++d) check += in.colors[row * in.color_stride + d];
    return gd_finite(check) && opacity >= kAlphaThreshold && gd_finite(opacity);
}

// Fills `keys` with the rows [begin, end) that are drawn, in order.
void collect_keys(const BinningInput& in, int64_t begin, int64_t end, int threads, std::vector<Key>& keys) {
    constexpr int64_t kShare = 16384;  // rows that are worth a thread
    const int64_t size = end - begin;
    const int parts = static_cast<int>(std::min<int64_t>(std::max(threads, 1), size / kShare + 1));
    const int64_t share = (size + parts - 1) / parts;
    std::vector<int64_t> counts(parts);
    keys.resize(size);
#pragma omp parallel for schedule(static, 1) num_threads(parts)
    for (int part = 0; part < parts; ++part) {
        Key* const first = keys.data() + part * share;
        Key* out = first;
        for (int64_t row = begin + part * share; row < std::min(end, begin + (part + 1) * share); ++row)
            if (is_drawn(in, row)) *out++ = {sortable(in.depths[row]), static_cast<uint32_t>(row)};
        counts[part] = out - first;
    }
    int64_t total = counts[0];
    for (int part = 1; part < parts; ++part) {
        std::copy_n(keys.begin() + part * share, counts[part], keys.begin() + total);
        total += counts[part];
    }
    keys.resize(total);
}

// Stable radix sort by depth, 11 bits at a time. In each pass a part counts and moves its own share of the keys; where
// it may write follows from the counts of all.
void sort_by_depth(std::vector<Key>& keys, std::vector<Key>& scratch, int threads) {
    constexpr int kBits = 11, kBuckets = 1 << kBits, kPasses = 3;
    constexpr size_t kShare = 8192;  // keys that are worth a thread
    const size_t size = keys.size();
    if (size < 256) {
        std::stable_sort(keys.begin(), keys.end(), [](const Key& a, const Key& b) { return a.depth < b.depth; });
        return;
    }
    scratch.resize(size);
    const int parts = static_cast<int>(std::min<size_t>(std::max(threads, 1), size / kShare + 1));
    const size_t share = (size + parts - 1) / parts;
    std::vector<uint32_t> counts(static_cast<size_t>(parts) * kBuckets);
    for (int pass = 0; pass < kPasses; ++pass) {
        const int shift = pass * kBits;
        auto bucket = [shift](const Key& key) { return (key.depth >> shift) & (kBuckets - 1); };
        std::fill(counts.begin(), counts.end(), 0);
#pragma omp parallel for schedule(static, 1) num_threads(parts)
        for (int part = 0; part < parts; ++part) {
            uint32_t* count = counts.data() + static_cast<size_t>(part) * kBuckets;
            for (size_t i = part * share; i < std::min(size, (part + 1) * share); ++i) ++count[bucket(keys[i])];
        }
        uint32_t sum = 0;
        for (int b = 0; b < kBuckets; ++b)
            for (int part = 0; part < parts; ++part)
                sum += std::exchange(counts[static_cast<size_t>(part) * kBuckets + b], sum);
#pragma omp parallel for schedule(static, 1) num_threads(parts)
        for (int part = 0; part < parts; ++part) {
            uint32_t* count = counts.data() + static_cast<size_t>(part) * kBuckets;
            for (size_t i = part * share; i < std::min(size, (part + 1) * share); ++i)
                scratch[count[bucket(keys[i])]++] = keys[i];
        }
        keys.swap(scratch);
    }
}

// Fills the record of a row and returns half the width of its footprint.
float fill_record(const BinningInput& in, uint32_t row, float* out) {
    Record r;
    const float* conic = in.conics + 3 * int64_t(row);
    r.x = in.means2d[2 * int64_t(row)], r.y = in.means2d[2 * int64_t(row) + 1];
    r.xx = -0.5f * kLog2E * conic[0], r.xy = -kLog2E * conic[1], r.yy = -0.5f * kLog2E * conic[2];
    r.opacity = in.opacities[row];
    r.top = log2f(r.opacity);
    float extent_x;
    const Footprint<float> f = footprint(conic[0], conic[1], conic[2], (r.top - kLog2AlphaThreshold) * kLn2, &extent_x);
    r.slope = f.slope, r.curve = f.curve, r.reach = f.reach, r.turn = f.turn, r.extent_y = f.extent_y;
    r.row = static_cast<int32_t>(row);
    memcpy(out, &r, sizeof(r));
    memcpy(out + kRecordHead, in.colors + row * in.color_stride, sizeof(float) * in.channels);
    return extent_x;
}

// Rows come in the order of depth, which is no order in memory.
void prefetch_row(const BinningInput& in, uint32_t row) {
    __builtin_prefetch(in.means2d + 2 * int64_t(row));
    __builtin_prefetch(in.conics + 3 * int64_t(row));
    __builtin_prefetch(in.opacities + row);
    __builtin_prefetch(in.colors + row * in.color_stride);
}

int tile_index(float pixel, int tiles) {
    return static_cast<int>(std::min(std::max(floorf(pixel / kTile), -1.0f), float(tiles)));
}

}  // namespace

Bins bin_gaussians(const BinningInput& in, int threads) {
    Bins bins;
    bins.tiles_x = (in.width + kTile - 1) / kTile;
    bins.tiles_y = (in.height + kTile - 1) / kTile;
    bins.record_stride = (kRecordHead + in.channels + 7) / 8 * 8;
    const int64_t tiles = int64_t(bins.tiles_x) * bins.tiles_y, all_tiles = tiles * in.n_images;

    // Depth sort, image by image: rows of an image are contiguous. `order` lists rows front to back.
    std::vector<Key> order, keys, scratch;
    std::vector<int64_t> image_begin(in.n_images + 1, 0);
    int64_t row = 0;
    for (int image = 0; image < in.n_images; ++image) {
        image_begin[image] = static_cast<int64_t>(order.size());
        const int64_t end = std::upper_bound(in.image_ids + row, in.image_ids + in.rows, image) - in.image_ids;
        collect_keys(in, row, end, threads, keys);
        row = end;
        sort_by_depth(keys, scratch, threads);
        order.insert(order.end(), keys.begin(), keys.end());
    }
    image_begin[in.n_images] = static_cast<int64_t>(order.size());
    bins.n_records = static_cast<int64_t>(order.size());
    bins.records = Buffer<float>(bins.n_records * bins.record_stride);
    bins.record_offsets = Buffer<int64_t>(bins.n_records + 1);

    // Each part lists the tiles of its share of the ranks, in order, and counts them per tile; the parts' counts then
    // become the places where each part writes. Ranks stay in order whatever the number of parts.
    const int parts = std::max(1, threads);
    std::vector<std::vector<uint32_t>> tiles_of(parts);
    std::vector<std::vector<uint32_t>> counts(parts);
    const int64_t share = (bins.n_records + parts - 1) / parts;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < parts; ++part) {
        std::vector<uint32_t>& list = tiles_of[part];
        counts[part].assign(all_tiles, 0);
        const int64_t begin = part * share, end = std::min(bins.n_records, begin + share);
        list.reserve(static_cast<size_t>(std::max<int64_t>(0, end - begin)) * 4);
        int image = 0;
        for (int64_t rank = begin; rank < end; ++rank) {
            while (rank >= image_begin[image + 1]) ++image;
            if (rank + kAhead < end) prefetch_row(in, order[rank + kAhead].row);
            float* slot = bins.records.data() + rank * bins.record_stride;
            const float extent_x = fill_record(in, order[rank].row, slot);
            const Record& r = *reinterpret_cast<const Record*>(slot);
            const Footprint<float> f = {r.slope, r.curve, r.reach, r.turn, r.extent_y};
            const size_t before = list.size();
            const int x0 = std::max(0, tile_index(ceilf(r.x - extent_x - 0.5f), bins.tiles_x));
            const int y0 = std::max(0, tile_index(ceilf(r.y - r.extent_y - 0.5f), bins.tiles_y));
            const int x1 = std::min(bins.tiles_x - 1, tile_index(r.x + extent_x - 0.5f, bins.tiles_x));
            const int y1 = std::min(bins.tiles_y - 1, tile_index(r.y + r.extent_y - 0.5f, bins.tiles_y));
            for (int y = y0; y <= y1; ++y) {
                // The footprint is convex: in a row of tiles it touches those between the ends of its span.
                float lo, hi;
                const float top = float(y * kTile) + 0.5f - r.y;
                footprint_span(f, top, top + (kTile - 1), 0.0f, &lo, &hi);
                const int first = std::max(x0, tile_index(ceilf(r.x + lo - 0.5f), bins.tiles_x));
                const int last = std::min(x1, tile_index(r.x + hi - 0.5f, bins.tiles_x));
                for (int x = first; x <= last; ++x) {
                    const uint32_t tile = static_cast<uint32_t>(image * tiles + y * bins.tiles_x + x);
                    list.push_back(tile);
                    ++counts[part][tile];
                }
            }
            // Counts for now; turned into offsets below.
            bins.record_offsets[rank] = static_cast<int64_t>(list.size() - before);
        }
        list.resize(list.size() + kAhead, 0);  // read ahead below, never used
    }
    bins.tile_offsets = Buffer<int64_t>(all_tiles + 1);
    int64_t total = 0;
    for (int64_t tile = 0; tile < all_tiles; ++tile) {
        bins.tile_offsets[tile] = total;
        for (int part = 0; part < parts; ++part) {
            const uint32_t count = counts[part][tile];
            counts[part][tile] = static_cast<uint32_t>(total);
            total += count;
        }
    }
    if (total >= (int64_t(1) << 31))
        throw std::length_error("more than 2^31 (Gaussian, tile) pairs; render fewer Gaussians or a smaller picture");
    bins.tile_offsets[all_tiles] = total;
    bins.n_instances = total;
    int64_t sum = 0;
    for (int64_t rank = 0; rank < bins.n_records; ++rank) sum += std::exchange(bins.record_offsets[rank], sum);
    bins.record_offsets[bins.n_records] = sum;

    bins.instances = Buffer<uint32_t>(total);
    bins.positions = Buffer<uint32_t>(total);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int part = 0; part < parts; ++part) {
        const int64_t begin = part * share, end = std::min(bins.n_records, begin + share);
        const uint32_t* tile = tiles_of[part].data();
        for (int64_t rank = begin; rank < end; ++rank) {
            for (int64_t i = bins.record_offsets[rank]; i < bins.record_offsets[rank + 1]; ++i) {
                __builtin_prefetch(bins.instances.data() + counts[part][tile[kAhead]], 1);
                const uint32_t at = counts[part][*tile++]++;
                bins.instances[at] = static_cast<uint32_t>(rank);
                bins.positions[i] = at;
            }
        }
    }
    return bins;
}

}  // namespace gd
