// What one Gaussian does to one pixel, and the gradient, one pixel at a time.
//   alpha = min(0.999, opacity exp(-sigma)),  sigma = (a dx^2 + c dy^2) / 2 + b dx dy,  d = mean - pixel centre
//   colour += alpha T c,  T -= T alpha;  skip if sigma < 0 or alpha < 1/255, stop before T <= 1e-4
// with the exponent of alpha.h.
#pragma once

#include "alpha.h"
#include "config.h"
#include "scalar.h"

namespace gd {

constexpr int kSplatFloats = 6;

struct Splat {
    float x, y;               // mean, pixels
    float half_a, b, half_c;  // conic times -log2(e), diagonal halved
    float log2_opacity;
};

GD_FN Splat make_splat(const float mean[2], const float conic[3], float opacity) {
    Splat s;
    s.x = mean[0], s.y = mean[1];
    s.half_a = -0.5f * kLog2E * conic[0], s.b = -kLog2E * conic[1], s.half_c = -0.5f * kLog2E * conic[2];
    s.log2_opacity = gd_log2(opacity);
    return s;
}

// log2(opacity exp(-sigma)) at the offset d. Fused operations are spelled out: both passes must decide alike.
GD_FN float splat_power(const Splat& s, float dx, float dy) {
    return alpha_exponent(s.half_a, s.b, s.half_c, s.log2_opacity, dx, dy);
}
GD_FN bool splat_reaches(const Splat& s, float power) {
    return power >= kLog2AlphaThreshold && power <= s.log2_opacity;
}
GD_FN float splat_alpha(float power) { return gd_min(kMaxAlpha, gd_exp2(power)); }

// Transmittance behind a Gaussian.
GD_FN float transmittance_behind(float T, float alpha) { return gd_fma(-T, alpha, T); }

// Sums over pixels that the gradient of one Gaussian needs, s = dL/dsigma.
struct SplatGradient {
    float s, s_x, s_y, s_xx, s_xy, s_yy;
    float abs_x, abs_y;  // of |dL/dmean|, per pixel (AbsGS, Ye et al. 2024)
};

GD_FN SplatGradient zero_splat_gradient() { return {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f}; }

// Adds one pixel. `T` is the transmittance in front of the Gaussian, `dot` its colour times dL/dcolour, `later` the sum
// of weight times dot over the Gaussians behind it plus what background and alpha receive:
//   dL/dalpha = T dot - later / (1 - alpha)
// A clamped alpha does not move with opacity or sigma.
template <bool kAbs>
GD_FN void splat_backward(const Splat& s, float dx, float dy, float power, float alpha, float T, float dot, float later,
                          SplatGradient* g) {
    if (power > kLog2MaxAlpha) return;
    const float v_alpha = gd_fma(T, dot, -later * gd_reciprocal(1.0f - alpha));
    const float v_sigma = -alpha * v_alpha;
    const float sx = v_sigma * dx, sy = v_sigma * dy;
    g->s += v_sigma;
    g->s_x += sx;
    g->s_y += sy;
    g->s_xx = gd_fma(sx, dx, g->s_xx);
    g->s_xy = gd_fma(sx, dy, g->s_xy);
    g->s_yy = gd_fma(sy, dy, g->s_yy);
    if (kAbs) {
        const float x = gd_fma(s.half_a + s.half_a, sx, s.b * sy), y = gd_fma(s.b, sx, (s.half_c + s.half_c) * sy);
        g->abs_x += kLn2 * (x < 0.0f ? -x : x);
        g->abs_y += kLn2 * (y < 0.0f ? -y : y);
    }
}

// From the sums to the parameters of `make_splat`.
GD_FN void finish_splat_gradient(const Splat& s, const SplatGradient& g, float v_mean[2], float v_conic[3],
                                 float* v_opacity) {
    v_mean[0] = -kLn2 * (2.0f * s.half_a * g.s_x + s.b * g.s_y);
    v_mean[1] = -kLn2 * (s.b * g.s_x + 2.0f * s.half_c * g.s_y);
    v_conic[0] = 0.5f * g.s_xx, v_conic[1] = g.s_xy, v_conic[2] = 0.5f * g.s_yy;
    *v_opacity = -g.s * gd_exp2(-s.log2_opacity);
}

}  // namespace gd
