// A pack of 4 floats in the compiler's vector extension, for processors without AVX2: NEON on arm64, SSE2 on x86.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../maths/scalar.h"

namespace gd {
namespace {

typedef float Floats4 __attribute__((vector_size(16)));
typedef int Ints4 __attribute__((vector_size(16)));

struct Pack {
    static constexpr int kLanes = 4;
    Floats4 v;
};
struct Mask {
    Ints4 m;  // all bits of a lane or none
};

}  // namespace
template <>
inline Pack broadcast<Pack>(float x) {
    return {Floats4{x, x, x, x}};
}
namespace {
inline Ints4 as_ints(Floats4 a) { return reinterpret_cast<Ints4>(a); }
inline Floats4 as_floats(Ints4 a) { return reinterpret_cast<Floats4>(a); }
}  // namespace
// Beside the functions of the same names: in an inner namespace they would hide them.
GD_FN Pack gd_fma(Pack a, Pack b, Pack c) { return {a.v * b.v + c.v}; }
GD_FN Pack gd_min(Pack a, Pack b) {
    const Ints4 less = a.v < b.v;
    return {as_floats((as_ints(a.v) & less) | (as_ints(b.v) & ~less))};
}
GD_FN Pack gd_max(Pack a, Pack b) {
    const Ints4 more = a.v > b.v;
    return {as_floats((as_ints(a.v) & more) | (as_ints(b.v) & ~more))};
}
GD_FN Pack gd_sqrt(Pack a) { return {Floats4{gd_sqrt(a.v[0]), gd_sqrt(a.v[1]), gd_sqrt(a.v[2]), gd_sqrt(a.v[3])}}; }
namespace {

inline Pack load(const float* p) {
    Pack r;
    memcpy(&r.v, p, sizeof(r.v));
    return r;
}
inline void store(float* p, Pack a) { memcpy(p, &a.v, sizeof(a.v)); }

inline Pack operator+(Pack a, Pack b) { return {a.v + b.v}; }
inline Pack operator-(Pack a, Pack b) { return {a.v - b.v}; }
inline Pack operator*(Pack a, Pack b) { return {a.v * b.v}; }
inline Pack operator/(Pack a, Pack b) { return {a.v / b.v}; }
inline Pack abs(Pack a) { return {as_floats(as_ints(a.v) & 0x7fffffff)}; }
// a * 2^n, n in the low bits of the floats of `shifted` (see exp2_bounded).
inline Pack add_exponent(Pack a, Pack shifted) { return {as_floats(as_ints(a.v) + (as_ints(shifted.v) << 23))}; }
inline Pack reciprocal(Pack a) { return broadcast<Pack>(1.0f) / a; }
// numerator / denominator
inline Pack quotient(Pack numerator, Pack denominator) { return numerator / denominator; }

inline Mask operator<=(Pack a, Pack b) { return {a.v <= b.v}; }
inline Mask operator>=(Pack a, Pack b) { return {a.v >= b.v}; }
inline Mask operator>(Pack a, Pack b) { return {a.v > b.v}; }
inline Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
inline Mask and_not(Mask a, Mask b) { return {a.m & ~b.m}; }
inline bool any(Mask a) {
    uint64_t halves[2];
    memcpy(halves, &a.m, sizeof(halves));
    return (halves[0] | halves[1]) != 0;
}
// Lane i of the mask as bit i.
inline unsigned bits(Mask a) {
    const Ints4 b = a.m & Ints4{1, 2, 4, 8};
    return static_cast<unsigned>(b[0] | b[1] | b[2] | b[3]);
}
inline int count(Mask a) { return -(a.m[0] + a.m[1] + a.m[2] + a.m[3]); }
inline Pack select(Mask m, Pack yes, Pack no) { return {as_floats((as_ints(yes.v) & m.m) | (as_ints(no.v) & ~m.m))}; }
inline Pack keep(Mask m, Pack a) { return {as_floats(as_ints(a.v) & m.m)}; }

inline Mask greater(const int* p, int k) {
    Ints4 stored;
    memcpy(&stored, p, sizeof(stored));
    return {stored > Ints4{k, k, k, k}};
}
inline void store_where(Mask m, int* p, int k) {
    for (int i = 0; i < 4; ++i) p[i] = m.m[i] ? k : p[i];
}

inline float sum(Pack a) { return (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]); }
// Sums of the lanes of four packs, to out[0..3].
inline void sum4(Pack a, Pack b, Pack c, Pack d, float* out) {
    out[0] = sum(a), out[1] = sum(b), out[2] = sum(c), out[3] = sum(d);
}

}  // namespace
}  // namespace gd
