// The weight of a Gaussian at a pixel, for one pixel (V = float) or a pack of them.
//   d = mean - pixel centre,  sigma = (a dx^2 + c dy^2) / 2 + b dx dy,  alpha = min(0.999, opacity exp(-sigma))
#pragma once

#include "config.h"

namespace gd {

// sigma for packs of offsets. The diagonal of the conic comes halved: half_a = a / 2, half_c = c / 2.
template <typename V>
GD_FN V gaussian_exponent(V half_a, V b, V half_c, V dx, V dy) {
    return fma(dx, fma(half_a, dx, b * dy), half_c * dy * dy);
}

// exp(-x) for 0 <= x < 80. Cody-Waite reduction to |r| <= ln(2)/2, Taylor polynomial of degree 6: relative error 2e-7.
// V provides fma, round, broadcast and scale2 (v * 2^n).
template <typename V>
GD_FN V exp_negative(V x) {
    const V n = round(x * broadcast<V>(-1.44269504088896341f));
    V r = fma(n, broadcast<V>(-0.693359375f), broadcast<V>(0.0f) - x);
    r = fma(n, broadcast<V>(2.12194440e-4f), r);
    V p = fma(broadcast<V>(1.0f / 720.0f), r, broadcast<V>(1.0f / 120.0f));
    p = fma(p, r, broadcast<V>(1.0f / 24.0f));
    p = fma(p, r, broadcast<V>(1.0f / 6.0f));
    p = fma(p, r, broadcast<V>(0.5f));
    p = fma(p, r, broadcast<V>(1.0f));
    p = fma(p, r, broadcast<V>(1.0f));
    return scale2(p, n);
}

}  // namespace gd
