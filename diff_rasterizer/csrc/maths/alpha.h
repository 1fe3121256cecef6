// The weight of a Gaussian at a pixel, for one pixel (V = float) or a pack of them.
//   d = mean - pixel centre,  sigma = (a dx^2 + c dy^2) / 2 + b dx dy,  alpha = min(0.999, opacity exp(-sigma))
// All in powers of two, with the opacity in the exponent: alpha = 2^e, e = log2(opacity) - sigma / ln 2. What is too
// faint is then known before anything is exponentiated.
#pragma once

#include "config.h"
#include "scalar.h"

namespace gd {

constexpr float kLog2AlphaThreshold = -7.99435343685885800f;  // log2(kAlphaThreshold)
constexpr float kLog2MaxAlpha = -0.00144341686966872f;        // log2(kMaxAlpha)

// The exponent e. `xx`, `xy`, `yy` are -a / (2 ln 2), -b / ln 2, -c / (2 ln 2); `top` is log2(opacity).
template <typename V>
GD_FN V alpha_exponent(V xx, V xy, V yy, V top, V dx, V dy) {
    return gd_fma(dx, gd_fma(xx, dx, xy * dy), gd_fma(yy * dy, dy, top));
}

// 2^e for -120 < e < 1: the fraction in [-1/2, 1/2] by a minimax polynomial (relative error 8e-8), the whole part added
// to the exponent bits. V provides gd_fma, broadcast and add_exponent (p * 2^n, n in the low bits of `shifted`).
template <typename V>
GD_FN V exp2_bounded(V e) {
    const V shift = broadcast<V>(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const V shifted = e + shift;
    const V f = e - (shifted - shift);
    // Estrin's scheme: one multiplication more than Horner's, and three steps deep instead of five.
    const V low = gd_fma(broadcast<V>(6.931469670647543e-1f), f, broadcast<V>(1.0000000716546833f));
    const V middle = gd_fma(broadcast<V>(5.550713273507437e-2f), f, broadcast<V>(2.402211972384157e-1f));
    const V high = gd_fma(broadcast<V>(1.327647198928094e-3f), f, broadcast<V>(9.675541334402321e-3f));
    const V f2 = f * f;
    const V p = gd_fma(gd_fma(high, f2, middle), f2, low);
    return add_exponent(p, shifted);
}

}  // namespace gd
