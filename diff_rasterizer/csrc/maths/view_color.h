// The colour of a Gaussian seen from a camera, max(SH(direction) + 0.5, 0), and its gradient, which also flows through
// the direction to the mean and to the camera's centre.
#pragma once

#include "config.h"
#include "spherical_harmonics.h"

namespace gd {

// Unit vector u from the camera's centre to the mean; the zero vector stays zero. False when it is not finite.
GD_FN bool view_direction(const float* mean, const float* campos, float u[3], float* inv_length) {
    const float x = mean[0] - campos[0], y = mean[1] - campos[1], z = mean[2] - campos[2];
    const float length2 = x * x + y * y + z * z;
    *inv_length = length2 > 0.0f ? 1.0f / gd_sqrt(length2) : 0.0f;
    u[0] = x * *inv_length, u[1] = y * *inv_length, u[2] = z * *inv_length;
    return gd_finite(length2);
}

// A channel with a coefficient that is not finite is 0.
GD_FN void view_color(int degree, const float* mean, const float* campos, const float* coeffs, float color[3]) {
    float u[3], inv_length, B[kMaxShBases];
    color[0] = color[1] = color[2] = 0.0f;
    if (!view_direction(mean, campos, u, &inv_length)) return;
    sh_bases(degree, u[0], u[1], u[2], B);
    float sum[3] = {0.5f, 0.5f, 0.5f};
    for (int k = 0; k < (degree + 1) * (degree + 1); ++k)
        for (int i = 0; i < 3; ++i) sum[i] += B[k] * coeffs[3 * k + i];
    for (int i = 0; i < 3; ++i) color[i] = gd_finite(sum[i]) ? gd_max(sum[i], 0.0f) : 0.0f;
}

// Adds to v_coeffs [K, 3], v_mean [3] and v_campos [3]. `color` is what `view_color` returned.
GD_FN void view_color_backward(int degree, const float* mean, const float* campos, const float* coeffs,
                               const float* color, const float* v_color, float* v_coeffs, float v_mean[3],
                               float v_campos[3]) {
    float v[3], u[3], inv_length, B[kMaxShBases], w[kMaxShBases];
    bool live = false;
    for (int i = 0; i < 3; ++i) {
        v[i] = color[i] > 0.0f ? v_color[i] : 0.0f;
        live |= v[i] != 0.0f;
    }
    if (!live) return;
    view_direction(mean, campos, u, &inv_length);
    sh_bases(degree, u[0], u[1], u[2], B);
    for (int k = 0; k < (degree + 1) * (degree + 1); ++k) {
        w[k] = 0.0f;
        for (int i = 0; i < 3; ++i) {
            // Not a product with zero: the coefficient of a channel that is off may be anything.
            if (v[i] == 0.0f) continue;
            w[k] += coeffs[3 * k + i] * v[i];
            v_coeffs[3 * k + i] += B[k] * v[i];
        }
    }
    float v_u[3] = {0.0f, 0.0f, 0.0f};
    sh_bases_backward(degree, u[0], u[1], u[2], w, v_u);
    const float radial = v_u[0] * u[0] + v_u[1] * u[1] + v_u[2] * u[2];
    for (int i = 0; i < 3; ++i) {
        const float v_dir = (v_u[i] - radial * u[i]) * inv_length;
        v_mean[i] += v_dir;
        v_campos[i] -= v_dir;
    }
}

}  // namespace gd
