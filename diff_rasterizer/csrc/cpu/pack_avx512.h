// A pack of 16 floats in one AVX-512 register; masks are mask registers.
#pragma once

#include <immintrin.h>

#include "../maths/scalar.h"

namespace gd {
namespace {

struct Pack {
    static constexpr int kLanes = 16;
    __m512 v;
};
struct Mask {
    __mmask16 m;
};

}  // namespace
template <>
inline Pack broadcast<Pack>(float x) {
    return {_mm512_set1_ps(x)};
}
// Beside the functions of the same names: in an inner namespace they would hide them.
GD_FN Pack gd_fma(Pack a, Pack b, Pack c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
GD_FN Pack gd_min(Pack a, Pack b) { return {_mm512_min_ps(a.v, b.v)}; }
GD_FN Pack gd_max(Pack a, Pack b) { return {_mm512_max_ps(a.v, b.v)}; }
GD_FN Pack gd_sqrt(Pack a) { return {_mm512_sqrt_ps(a.v)}; }
namespace {

inline Pack load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Pack a) { _mm512_storeu_ps(p, a.v); }
inline Pack operator+(Pack a, Pack b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Pack operator-(Pack a, Pack b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Pack operator*(Pack a, Pack b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Pack operator/(Pack a, Pack b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Pack abs(Pack a) { return {_mm512_abs_ps(a.v)}; }
// a * 2^n, n in the low bits of the floats of `shifted` (see exp2_bounded).
inline Pack add_exponent(Pack a, Pack shifted) {
    const __m512i n = _mm512_slli_epi32(_mm512_castps_si512(shifted.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), n))};
}
// 1 / a with one Newton step: relative error 2^-27 before rounding, a third of a division's time.
inline Pack reciprocal(Pack a) {
    const __m512 r = _mm512_rcp14_ps(a.v);
    return {_mm512_mul_ps(r, _mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(2.0f)))};
}

// numerator / denominator
inline Pack quotient(Pack numerator, Pack denominator) { return numerator * reciprocal(denominator); }

inline Mask operator<=(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator>=(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline Mask operator>(Pack a, Pack b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline Mask and_not(Mask a, Mask b) { return {static_cast<__mmask16>(a.m & ~b.m)}; }
inline bool any(Mask a) { return a.m != 0; }
// Lane i of the mask as bit i.
inline unsigned bits(Mask a) { return a.m; }
inline int count(Mask a) { return __builtin_popcount(a.m); }
inline Pack select(Mask m, Pack yes, Pack no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
inline Pack keep(Mask m, Pack a) { return {_mm512_maskz_mov_ps(m.m, a.v)}; }

inline Mask greater(const int* p, int k) {
    return {_mm512_cmp_epi32_mask(_mm512_loadu_si512(p), _mm512_set1_epi32(k), _MM_CMPINT_NLE)};
}
inline void store_where(Mask m, int* p, int k) { _mm512_mask_storeu_epi32(p, m.m, _mm512_set1_epi32(k)); }

inline __m256 halves(Pack a) { return _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)); }
// Sums of the lanes of four packs, to out[0..3].
inline void sum4(Pack a, Pack b, Pack c, Pack d, float* out) {
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(halves(a), halves(b)), _mm256_hadd_ps(halves(c), halves(d)));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}
inline float sum(Pack a) { return _mm512_reduce_add_ps(a.v); }

}  // namespace
}  // namespace gd
