// Projection of every Gaussian to every camera, and its gradient; with GD_SH_DEGREE also their colours, in the same
// launch. Image i = b * C + c; rows of outputs are [B, C, N].
#include "../maths/covariance.h"
#include "../maths/projection.h"
#include "../maths/scalar.h"
#include "../maths/view_color.h"
#include "device.cuh"

#ifndef GD_SH_DEGREE
#define GD_SH_DEGREE -1  // degree of the colours, -1: projection only
#endif
#ifndef GD_ACTIVATIONS
#define GD_ACTIVATIONS 0  // 1: scales are logarithms and opacities logits, activated here
#endif

using namespace gd;

namespace {

// The cameras and Gaussians, as every kernel here takes them.
struct Input {
    const float *means, *quats, *scales, *covars, *opacities;
};

// World covariance of Gaussian `row` of [B * N] and the scales it is made of; false when there is none.
__device__ bool world_covariance(const Input& in, long long row, float scale[3], float cov[6]) {
    if (in.covars) {
        for (int k = 0; k < 6; ++k) cov[k] = in.covars[6 * row + k];
        return true;
    }
    for (int k = 0; k < 3; ++k) scale[k] = GD_ACTIVATIONS ? gd_exp(in.scales[3 * row + k]) : in.scales[3 * row + k];
    return covariance(in.quats + 4 * row, scale, cov);
}

// Opacity of a row; -1 when it is unknown. A NaN stays one.
__device__ float row_opacity(const Input& in, long long row) {
    if (!in.opacities) return -1.0f;
    return GD_ACTIVATIONS ? 1.0f / (1.0f + gd_exp(-in.opacities[row])) : in.opacities[row];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    project_gaussians(int B, int C, int N, const float* __restrict__ means, const float* __restrict__ quats,
                      const float* __restrict__ scales, const float* __restrict__ covars,  // [B, N, 6], or null
                      const float* __restrict__ opacities,                                 // [B, N], or null
                      const float* __restrict__ viewmats, const float* __restrict__ Ks, int width, int height,
                      int camera_model, float eps2d, float near_plane, float far_plane, float radius_clip,
                      int compensate, int* __restrict__ radii, float* __restrict__ means2d, float* __restrict__ depths,
                      float* __restrict__ conics,
                      float* __restrict__ compensations,   // or null
                      float* __restrict__ seen_opacities,  // [B, C, N] activated, compensated; or null
                      const float* __restrict__ campos,    // [B, C, 3]; this and the next two only with GD_SH_DEGREE
                      const float* __restrict__ coeffs, int coeffs_count,  // [B, N, coeffs_count, 3]
                      float* __restrict__ colors) {                        // [B, C, N, 3]
    const long long out = global_thread();
    if (out >= (long long)B * C * N) return;
    const long long image = out / N, row = image / C * N + out % N;
    const Input in = {means, quats, scales, covars, opacities};
    const ProjectionLimits<float> limits = {eps2d, near_plane, far_plane, radius_clip};
    ProjectionCamera<float> camera;
    make_projection_camera(viewmats + 16 * image, Ks + 9 * image, float(width), float(height), camera_model, &camera);
    float scale[3], cov[6];
    Projected<float> p;
    const float opacity = row_opacity(in, row);
    bool visible = !opacities || opacity >= 0.0f;
    visible = visible && world_covariance(in, row, scale, cov) &&
              project(camera, limits, means + 3 * row, cov, opacity, compensate != 0, &p);
    if (!visible) {
        p.radius[0] = p.radius[1] = 0;
        p.mean[0] = p.mean[1] = p.depth = p.conic[0] = p.conic[1] = p.conic[2] = p.compensation = 0.0f;
    }
    radii[2 * out] = p.radius[0], radii[2 * out + 1] = p.radius[1];
    means2d[2 * out] = p.mean[0], means2d[2 * out + 1] = p.mean[1];
    depths[out] = p.depth;
    for (int k = 0; k < 3; ++k) conics[3 * out + k] = p.conic[k];
    if (compensations) compensations[out] = p.compensation;
    if (seen_opacities) seen_opacities[out] = !compensate ? opacity : visible ? opacity * p.compensation : 0.0f;
#if GD_SH_DEGREE >= 0
    float color[3] = {0.0f, 0.0f, 0.0f};
    if (visible) view_color(GD_SH_DEGREE, means + 3 * row, campos + 3 * image, coeffs + 3 * coeffs_count * row, color);
    for (int k = 0; k < 3; ++k) colors[3 * out + k] = color[k];
#else
    (void)campos, (void)coeffs, (void)coeffs_count, (void)colors;
#endif
}

// One thread per Gaussian walks the cameras, so that nothing is added from two threads; gradients of cameras are summed
// per block, in a fixed order.
extern "C" __global__ void __launch_bounds__(256) project_gaussians_backward(
    int C, int N, const float* __restrict__ means, const float* __restrict__ quats, const float* __restrict__ scales,
    const float* __restrict__ covars, const float* __restrict__ opacities, const float* __restrict__ viewmats,
    const float* __restrict__ Ks, int width, int height, int camera_model, float eps2d, const int* __restrict__ radii,
    const float* __restrict__ conics, const float* __restrict__ compensations, const float* __restrict__ v_means2d,
    const float* __restrict__ v_depths, const float* __restrict__ v_conics,
    const float* __restrict__ v_compensations,   // or null
    const float* __restrict__ v_seen_opacities,  // or null
    const float* __restrict__ campos, const float* __restrict__ coeffs, int coeffs_count,
    const float* __restrict__ colors, const float* __restrict__ v_colors, float* __restrict__ v_means,
    float* __restrict__ v_quats, float* __restrict__ v_scales,  // or null, with v_covars
    float* __restrict__ v_covars,                               // [B, N, 6] or null
    float* __restrict__ v_opacities,                            // [B, N] or null
    float* __restrict__ v_coeffs,                               // [B, N, coeffs_count, 3], zeros
    float* __restrict__ v_views,                                // [B, blocks, C, 12] rows of [R | t], or null
    float* __restrict__ v_campos) {                             // [B, blocks, C, 3] or null
    __shared__ float scratch[kBlock / kWarp][12];
    const int blocks = (N + kBlock - 1) / kBlock, b = int(blockIdx.x) / blocks;
    const int n = int(blockIdx.x) % blocks * kBlock + int(threadIdx.x);
    const bool exists = n < N;
    const long long row = (long long)b * N + n;
    const Input in = {means, quats, scales, covars, opacities};
    float scale[3] = {1.0f, 1.0f, 1.0f}, cov[6], v_cov[6] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    float v_mean[3] = {0.0f, 0.0f, 0.0f}, v_opacity = 0.0f;
    const bool usable = exists && world_covariance(in, row, scale, cov);
    const float opacity = usable ? row_opacity(in, row) : 0.0f;
    for (int c = 0; c < C; ++c) {
        const long long image = (long long)b * C + c, out = image * N + n;
        float v_camera[12] = {0.0f};
#if GD_SH_DEGREE >= 0
        float v_center[3] = {0.0f, 0.0f, 0.0f};
#endif
        if (usable && (radii[2 * out] > 0 || radii[2 * out + 1] > 0)) {
            ProjectionCamera<float> camera;
            make_projection_camera(viewmats + 16 * image, Ks + 9 * image, float(width), float(height), camera_model,
                                   &camera);
            const float compensation = compensations ? compensations[out] : 0.0f;
            float v_compensation = v_compensations ? v_compensations[out] : 0.0f;
            if (v_seen_opacities) {
                const float v = v_seen_opacities[out];
                v_opacity += compensations ? v * compensation : v;
                if (compensations) v_compensation += v * opacity;
            }
            float v_R[9] = {0.0f}, v_t[3] = {0.0f, 0.0f, 0.0f};
            project_backward(camera, eps2d, means + 3 * row, cov, conics + 3 * out, compensation, v_means2d + 2 * out,
                             v_depths[out], v_conics + 3 * out, v_compensation, v_mean, v_cov, v_R, v_t);
            for (int i = 0; i < 3; ++i) {
                for (int j = 0; j < 3; ++j) v_camera[4 * i + j] = v_R[3 * i + j];
                v_camera[4 * i + 3] = v_t[i];
            }
#if GD_SH_DEGREE >= 0
            view_color_backward(GD_SH_DEGREE, means + 3 * row, campos + 3 * image, coeffs + 3 * coeffs_count * row,
                                colors + 3 * out, v_colors + 3 * out, v_coeffs + 3 * coeffs_count * row, v_mean,
                                v_center);
#endif
        }
        const long long partial = (long long)blockIdx.x * C + c;
        if (v_views) block_sum<12>(v_camera, scratch, v_views + 12 * partial);
#if GD_SH_DEGREE >= 0
        if (v_campos) block_sum<3>(v_center, reinterpret_cast<float (*)[3]>(scratch), v_campos + 3 * partial);
#endif
    }
#if GD_SH_DEGREE < 0
    (void)campos, (void)coeffs, (void)coeffs_count, (void)colors, (void)v_colors, (void)v_coeffs, (void)v_campos;
#endif
    if (!exists) return;
    for (int i = 0; i < 3; ++i) v_means[3 * row + i] = v_mean[i];
    if (v_opacities) v_opacities[row] = GD_ACTIVATIONS ? v_opacity * opacity * (1.0f - opacity) : v_opacity;
    if (v_covars) {
        for (int k = 0; k < 6; ++k) v_covars[6 * row + k] = v_cov[k];
        return;
    }
    float v_quat[4] = {0.0f, 0.0f, 0.0f, 0.0f}, v_scale[3] = {0.0f, 0.0f, 0.0f};
    bool any = false;
    for (int k = 0; k < 6; ++k) any |= v_cov[k] != 0.0f;
    // A row that nobody sees may have a zero quaternion or an infinite scale.
    if (any) covariance_backward(quats + 4 * row, scale, v_cov, v_quat, v_scale);
    for (int i = 0; i < 4; ++i) v_quats[4 * row + i] = v_quat[i];
    for (int i = 0; i < 3; ++i) v_scales[3 * row + i] = GD_ACTIVATIONS && any ? v_scale[i] * scale[i] : v_scale[i];
}
