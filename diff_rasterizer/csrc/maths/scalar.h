// Scalar functions that are one instruction on a GPU and a library call elsewhere, and what makes a float a pack of
// one.
#pragma once

#include "config.h"

namespace gd {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

GD_FN float gd_fma(float a, float b, float c) { return fmaf(a, b, c); }
// One float in every lane of V.
template <typename V>
GD_FN V broadcast(float x);
template <>
GD_FN_SPECIAL float broadcast<float>(float x) {
    return x;
}
GD_FN float gd_exp(float x) { return expf(x); }
GD_FN float gd_exp2(float x) { return exp2f(x); }
GD_FN float gd_log2(float x) { return log2f(x); }
GD_FN float gd_floor(float x) { return floorf(x); }
// To about one unit in the last place; the argument must not be denormal.
GD_FN float gd_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
    return __fdividef(1.0f, x);
#else
    return 1.0f / x;
#endif
}

}  // namespace gd
