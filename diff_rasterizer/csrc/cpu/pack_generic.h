// A pack of 4 floats written as loops, for processors without AVX2 (arm64, old x86); compilers vectorise most of it.
#pragma once

#include <math.h>
#include <string.h>

#include "../maths/config.h"

namespace gd {
namespace {

struct Pack {
    static constexpr int kLanes = 4;
    float v[4];
};
struct Mask {
    int m[4];
};

}  // namespace
template <>
inline Pack broadcast<Pack>(float x) {
    return {{x, x, x, x}};
}
// Beside the templates of the same names: in an inner namespace they would hide them.
GD_FN Pack gd_min(Pack a, Pack b) {
    for (int i = 0; i < 4; ++i) a.v[i] = gd_min(a.v[i], b.v[i]);
    return a;
}
GD_FN Pack gd_max(Pack a, Pack b) {
    for (int i = 0; i < 4; ++i) a.v[i] = gd_max(a.v[i], b.v[i]);
    return a;
}
GD_FN Pack gd_sqrt(Pack a) {
    for (int i = 0; i < 4; ++i) a.v[i] = gd_sqrt(a.v[i]);
    return a;
}
namespace {

#define GD_LANES for (int i = 0; i < 4; ++i)

inline Pack load(const float* p) {
    Pack r;
    memcpy(r.v, p, sizeof(r.v));
    return r;
}
inline void store(float* p, Pack a) { memcpy(p, a.v, sizeof(a.v)); }

#define GD_BINARY(name, expression)     \
    inline Pack name(Pack a, Pack b) {  \
        Pack r;                         \
        GD_LANES r.v[i] = (expression); \
        return r;                       \
    }
GD_BINARY(operator+, a.v[i] + b.v[i])
GD_BINARY(operator-, a.v[i] - b.v[i])
GD_BINARY(operator*, a.v[i] * b.v[i])
GD_BINARY(operator/, a.v[i] / b.v[i])
#undef GD_BINARY

inline Pack fma(Pack a, Pack b, Pack c) { return a * b + c; }
inline Pack abs(Pack a) {
    GD_LANES a.v[i] = fabsf(a.v[i]);
    return a;
}
// a * 2^n, n in the low bits of the floats of `shifted` (see exp2_bounded).
inline Pack add_exponent(Pack a, Pack shifted) {
    GD_LANES {
        unsigned value, n;
        memcpy(&value, &a.v[i], sizeof(value));
        memcpy(&n, &shifted.v[i], sizeof(n));
        value += n << 23;
        memcpy(&a.v[i], &value, sizeof(value));
    }
    return a;
}
inline Pack reciprocal(Pack a) { return broadcast<Pack>(1.0f) / a; }
// numerator / denominator
inline Pack quotient(Pack numerator, Pack denominator) { return numerator / denominator; }

#define GD_COMPARE(op)                               \
    inline Mask operator op(Pack a, Pack b) {        \
        Mask r;                                      \
        GD_LANES r.m[i] = a.v[i] op b.v[i] ? -1 : 0; \
        return r;                                    \
    }
GD_COMPARE(<=)
GD_COMPARE(>=)
GD_COMPARE(>)
#undef GD_COMPARE

inline Mask operator&(Mask a, Mask b) {
    GD_LANES a.m[i] &= b.m[i];
    return a;
}
inline Mask and_not(Mask a, Mask b) {
    GD_LANES a.m[i] &= ~b.m[i];
    return a;
}
inline bool any(Mask a) { return (a.m[0] | a.m[1] | a.m[2] | a.m[3]) != 0; }
// Lane i of the mask as bit i.
inline unsigned bits(Mask a) { return (a.m[0] & 1u) | (a.m[1] & 2u) | (a.m[2] & 4u) | (a.m[3] & 8u); }
inline int count(Mask a) { return -(a.m[0] + a.m[1] + a.m[2] + a.m[3]); }
inline Pack select(Mask m, Pack yes, Pack no) {
    GD_LANES no.v[i] = m.m[i] ? yes.v[i] : no.v[i];
    return no;
}
inline Pack keep(Mask m, Pack a) {
    GD_LANES a.v[i] = m.m[i] ? a.v[i] : 0.0f;
    return a;
}
inline Mask greater(const int* p, int k) {
    Mask r;
    GD_LANES r.m[i] = p[i] > k ? -1 : 0;
    return r;
}
inline void store_where(Mask m, int* p, int k) { GD_LANES p[i] = m.m[i] ? k : p[i]; }
inline float sum(Pack a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }

#undef GD_LANES

}  // namespace
}  // namespace gd
