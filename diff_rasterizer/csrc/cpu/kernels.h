// What the CPU backend's kernels take, and the table of them that exists once per instruction set.
//
// Arrays are contiguous, float32, row-major. E is the number of rows (Gaussian, image) handed to blending, N Gaussians,
// C cameras, B scenes; image i = b * C + c.
#pragma once

#include <stdint.h>

namespace gd {

constexpr int kTile = 16;  // pixels on a tile's side
constexpr int kTilePixels = kTile * kTile;
constexpr int kMaxChannels = 32;  // blended in one pass
constexpr int kChunk = 2048;      // Gaussians per work item; partial sums per chunk keep results repeatable

struct ProjectArgs {
    int64_t B, C, N;
    const float* means;      // [B, N, 3]
    const float* quats;      // [B, N, 4] or null (then covars)
    const float* scales;     // [B, N, 3] or null
    const float* covars;     // [B, N, 6] upper triangles, or null
    const float* opacities;  // [B, N] or null
    const float* viewmats;   // [B, C, 4, 4]
    const float* Ks;         // [B, C, 3, 3]
    int width, height, camera_model;
    float eps2d, near_plane, far_plane, radius_clip;
    bool compensate;
    // Out of the forward pass, into the backward pass.
    int* radii;            // [B, C, N, 2]
    float* means2d;        // [B, C, N, 2]
    float* depths;         // [B, C, N]
    float* conics;         // [B, C, N, 3]
    float* compensations;  // [B, C, N] or null
    // Backward only.
    const float* v_means2d;
    const float* v_depths;
    const float* v_conics;
    const float* v_compensations;  // or null
    float* v_means;                // [B, N, 3]
    float* v_quats;                // or null
    float* v_scales;               // or null
    float* v_covars;               // [B, N, 6] or null
    float* v_viewmats;             // [B, chunks, C, 12] partial sums, rows of [R | t]
};

struct ColorArgs {
    int64_t B, C, N;
    int K, degree;
    bool per_camera;      // coeffs are [B, C, N, K, 3] instead of [B, N, K, 3]
    const float* means;   // [B, N, 3]
    const float* campos;  // [B, C, 3]
    const float* coeffs;
    const int* radii;  // [B, C, N, 2] or null
    float* colors;     // [B, C, N, 3]
    // Backward only.
    const float* v_colors;
    float* v_coeffs;
    float* v_means;   // [B, N, 3]
    float* v_campos;  // [B, chunks, C, 3] partial sums
};

// One visible row, in depth order; `channels` floats of colour follow. Records are padded to a multiple of 8 floats.
struct Record {
    float x, y;                                 // mean, pixels
    float xx, xy, yy, top;                      // of alpha_exponent
    float slope, curve, reach, turn, extent_y;  // of the footprint
    float opacity;
    int32_t row;  // in the caller's arrays
};
constexpr int kRecordHead = sizeof(Record) / sizeof(float);

// Pixels inside a tile are stored in blocks of kLanes pixels, 4 wide, column after column of blocks: block
// bx * (blocks in a column) + by, lane y * 4 + x.
struct BlendArgs {
    int n_images, width, height, tiles_x, tiles_y, channels;
    const float* records;
    int record_stride;            // floats
    const uint32_t* instances;    // ranks (record indices), tile after tile, front to back
    const int64_t* tile_offsets;  // [images * tiles + 1]
    const float* backgrounds;     // [images, channels] or null
    float* renders;               // [images, H, W, channels]
    float* alphas;                // [images, H, W]
    // Out of the forward pass, into the backward pass.
    float* final_T;       // [images * tiles, 256] transmittance behind the last Gaussian, block layout
    int* stop;            // [images * tiles, 256] instances from this one on do not reach the pixel
    int* tile_end;        // [images * tiles] instances from this one on reach no pixel
    uint64_t* blocks;     // [instances] blocks that an instance may reach, block b as bit b
    int64_t* tile_pairs;  // [images * tiles] contributing (Gaussian, pixel) pairs, or null: not counted
    // Backward only.
    const float* v_renders;
    const float* v_alphas;
    bool absgrad;
    float* v_instances;  // [instances, grad_stride]
    int grad_stride;     // 6 + 2 (absgrad) + channels
    // Reduction over each Gaussian's instances.
    int64_t n_records;
    const int64_t* record_offsets;  // [records + 1] into positions
    const uint32_t* positions;      // where each instance of a record stands in `instances`
    float* v_means2d;
    float* v_means2d_abs;  // or null
    float* v_conics;
    float* v_opacities;
    float* v_colors;
};

struct SsimArgs {
    int64_t images;  // leading dimensions flattened
    int height, width, channels;
    const float* image;        // [images, H, W, channels]
    const float* target;       // same, or null
    const uint8_t* target_u8;  // same in 0..255, or null
    bool valid;                // only pixels whose window lies inside the picture
    double* ssim_rows;         // [images, H] sums of the SSIM map
    double* l1_rows;           // [images, H] sums of |image - target|
    float* partials;           // [images, 3, H, padded row] or null when no gradient is wanted
    // Backward only.
    float v_ssim, v_l1;  // gradients with respect to the sums
    float* v_image;
};

struct AdamArgs {
    int64_t count;
    float* param;
    const float* grad;
    float* exp_avg;
    float* exp_avg_sq;
    float beta1, beta2, step_size, inv_sqrt_correction2, eps;
};

struct Kernels {
    const char* name;
    int lanes;
    void (*project_forward)(const ProjectArgs&, int threads);
    void (*project_backward)(const ProjectArgs&, int threads);
    void (*colors_forward)(const ColorArgs&, int threads);
    void (*colors_backward)(const ColorArgs&, int threads);
    void (*blend_forward)(const BlendArgs&, int threads);
    void (*blend_backward)(const BlendArgs&, int threads);
    void (*ssim_forward)(const SsimArgs&, int threads);
    void (*ssim_backward)(const SsimArgs&, int threads);
    void (*squared_error)(const SsimArgs&, int threads);
    void (*adam)(const AdamArgs&, int threads);
};

const Kernels* generic_kernels();
const Kernels* avx2_kernels();    // null where not compiled in
const Kernels* avx512_kernels();  // null where not compiled in

// Floats of a padded row of the SSIM kernels: 5 pixels of zeros on each side, rounded up to whole packs.
inline int64_t ssim_padded_row(int width, int channels) { return (int64_t(width + 10) * channels + 15) / 16 * 16 + 16; }

}  // namespace gd
