// A pack of 8 floats in one AVX register; masks are registers of all-ones lanes.
#pragma once

#include <immintrin.h>

#include "../maths/scalar.h"

namespace gd {
namespace {

struct Pack {
    static constexpr int kLanes = 8;
    __m256 v;
};
struct Mask {
    __m256 m;
};

}  // namespace
template <>
inline Pack broadcast<Pack>(float x) {
    return {_mm256_set1_ps(x)};
}
// Beside the functions of the same names: in an inner namespace they would hide them.
GD_FN Pack gd_fma(Pack a, Pack b, Pack c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
GD_FN Pack gd_min(Pack a, Pack b) { return {_mm256_min_ps(a.v, b.v)}; }
GD_FN Pack gd_max(Pack a, Pack b) { return {_mm256_max_ps(a.v, b.v)}; }
GD_FN Pack gd_sqrt(Pack a) { return {_mm256_sqrt_ps(a.v)}; }
namespace {

inline Pack load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Pack a) { _mm256_storeu_ps(p, a.v); }
inline Pack operator+(Pack a, Pack b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Pack operator-(Pack a, Pack b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Pack operator*(Pack a, Pack b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Pack operator/(Pack a, Pack b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Pack abs(Pack a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
// a * 2^n, n in the low bits of the floats of `shifted` (see exp2_bounded).
inline Pack add_exponent(Pack a, Pack shifted) {
    const __m256i n = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), n))};
}
inline Pack reciprocal(Pack a) { return {_mm256_div_ps(_mm256_set1_ps(1.0f), a.v)}; }

// numerator / denominator
inline Pack quotient(Pack numerator, Pack denominator) { return numerator / denominator; }

inline Mask operator<=(Pack a, Pack b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator>=(Pack a, Pack b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
inline Mask operator>(Pack a, Pack b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
inline Mask and_not(Mask a, Mask b) { return {_mm256_andnot_ps(b.m, a.m)}; }
inline bool any(Mask a) { return _mm256_movemask_ps(a.m) != 0; }
// Lane i of the mask as bit i.
inline unsigned bits(Mask a) { return static_cast<unsigned>(_mm256_movemask_ps(a.m)); }
inline int count(Mask a) { return __builtin_popcount(_mm256_movemask_ps(a.m)); }
inline Pack select(Mask m, Pack yes, Pack no) { return {_mm256_blendv_ps(no.v, yes.v, m.m)}; }
inline Pack keep(Mask m, Pack a) { return {_mm256_and_ps(m.m, a.v)}; }

inline Mask greater(const int* p, int k) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(stored, _mm256_set1_epi32(k)))};
}
inline void store_where(Mask m, int* p, int k) {
    _mm256_maskstore_epi32(p, _mm256_castps_si256(m.m), _mm256_set1_epi32(k));
}

// Sums of the lanes of four packs, to out[0..3].
inline void sum4(Pack a, Pack b, Pack c, Pack d, float* out) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a.v, b.v), _mm256_hadd_ps(c.v, d.v));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
inline float sum(Pack a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
    return _mm_cvtss_f32(s);
}

}  // namespace
}  // namespace gd
