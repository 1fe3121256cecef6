// Where the ellipse alpha >= 1/255 of a projected Gaussian lies: the span of x that it covers in a band of y.
// In offsets from the mean, the ellipse is  a ex^2 + 2 b ex ey + c ey^2 <= 2 L  with L = ln(255 opacity), so
//   ex = slope ey +- sqrt(reach + curve ey^2),  slope = -b / a,  reach = 2 L / a,  curve = -(a c - b^2) / a^2.
#pragma once

#include "config.h"

namespace gd {

constexpr float kUnbounded = 3.0e38f;

// V is float, or a pack of them in which every lane holds the same Gaussian.
template <typename V>
struct Footprint {
    V slope, curve, reach;
    V turn;      // ey of the rightmost point; the leftmost has -turn
    V extent_y;  // half height; kUnbounded where the conic is no ellipse
};

// Footprint of a conic (a, b, c) and L. A conic that is no ellipse may reach every pixel.
GD_FN Footprint<float> footprint(float a, float b, float c, float limit, float* extent_x) {
    // Products of floats are exact in double: the determinant of a needle is the small difference of two large ones.
    const double det = double(a) * c - double(b) * b;
    if (det > 0.0 && a > 0.0f && c > 0.0f) {
        // A little larger than exact, for the rounding of sigma.
        const double two_L = 2.0 * (double(limit) + 1e-3), inv_a = 1.0 / a;
        *extent_x = float(gd_sqrt(two_L * c / det)) + 1e-3f;
        const float extent_y = float(gd_sqrt(two_L * a / det)) + 1e-3f;
        const Footprint<float> f = {float(-b * inv_a), float(-det * inv_a * inv_a), float(two_L * inv_a) * 1.00001f,
                                    -b / c * *extent_x, extent_y};
        if (gd_finite(f.slope + f.curve + f.reach + f.turn + f.extent_y + *extent_x)) return f;
    }
    *extent_x = kUnbounded;
    return {0.0f, 0.0f, kUnbounded, 0.0f, kUnbounded};
}

// Smallest and largest ex over the band y0 <= ey <= y1, which must meet the ellipse's height.
template <typename V>
GD_FN void footprint_span(const Footprint<V>& f, V y0, V y1, V zero, V* lo, V* hi) {
    const V right = gd_min(gd_max(f.turn, y0), y1), left = gd_min(gd_max(zero - f.turn, y0), y1);
    *hi = f.slope * right + gd_sqrt(gd_max(f.reach + f.curve * right * right, zero));
    *lo = f.slope * left - gd_sqrt(gd_max(f.reach + f.curve * left * left, zero));
}

}  // namespace gd
