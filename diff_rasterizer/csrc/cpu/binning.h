// From rows in any order to tiles of depth-sorted instances: one depth sort, then one stable counting sort by tile.
#pragma once

#include <stdint.h>

#include <vector>

#include "kernels.h"

namespace gd {

struct BinningInput {
    int64_t rows;
    int n_images, width, height, channels;
    const int* radii;        // [E, 2]; a row is skipped when neither is positive
    const int* image_ids;    // [E], non-decreasing
    const float* means2d;    // [E, 2]
    const float* conics;     // [E, 3]
    const float* opacities;  // [E]
    const float* depths;     // [E]
    const float* colors;     // [E, channels], row stride color_stride
    int64_t color_stride;
};

// 64-byte aligned, uninitialised array of plain data.
template <typename T>
class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(int64_t count);
    ~Buffer();
    Buffer(Buffer&& other) noexcept : data_(other.data_), count_(other.count_) {
        other.data_ = nullptr, other.count_ = 0;
    }
    Buffer& operator=(Buffer&& other) noexcept;
    T* data() const { return data_; }
    int64_t size() const { return count_; }
    T& operator[](int64_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    int64_t count_ = 0;
};

struct Bins {
    int tiles_x = 0, tiles_y = 0, record_stride = 0;
    int64_t n_records = 0, n_instances = 0;
    Buffer<float> records;           // [n_records, record_stride], per image front to back
    Buffer<uint32_t> instances;      // [n_instances]
    Buffer<int64_t> tile_offsets;    // [images * tiles + 1]
    Buffer<int64_t> record_offsets;  // [n_records + 1]
    Buffer<uint32_t> positions;      // [n_instances]
};

// Throws std::length_error when there are 2^31 instances or more.
Bins bin_gaussians(const BinningInput& input, int threads);

}  // namespace gd
