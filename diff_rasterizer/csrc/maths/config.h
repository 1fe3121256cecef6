// Compiled three ways: plain C++ for the CPU backend, nvcc, and NVRTC for the CUDA backend. NVRTC finds no standard
// headers, so nothing here or in the other maths headers may need one there.
//
// Every function has internal linkage. The CPU backend compiles these headers once per instruction set; with external
// linkage the linker would keep one copy for all of them, perhaps the one that crashes on an older processor.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define GD_FN static __host__ __device__ __forceinline__
#define GD_FN_SPECIAL __host__ __device__ __forceinline__  // a specialisation has the linkage of its template
#else
#include <math.h>
#define GD_FN static inline
#define GD_FN_SPECIAL inline
#endif

namespace gd {

constexpr float kAlphaThreshold = 1.0f / 255.0f;  // a smaller alpha is not blended
constexpr float kMaxAlpha = 0.999f;               // alpha is clamped to this
constexpr float kMinTransmittance = 1e-4f;        // blending stops before the transmittance falls to this
constexpr float kMaxExtent = 3.33f;               // bound of a Gaussian in standard deviations

enum CameraModel : int { kPinhole = 0, kOrtho = 1, kFisheye = 2 };

GD_FN float gd_sqrt(float x) { return sqrtf(x); }
GD_FN double gd_sqrt(double x) { return ::sqrt(x); }
GD_FN float gd_log(float x) { return logf(x); }
GD_FN double gd_log(double x) { return ::log(x); }
GD_FN float gd_atan2(float y, float x) { return atan2f(y, x); }
GD_FN double gd_atan2(double y, double x) { return ::atan2(y, x); }
GD_FN float gd_ceil(float x) { return ceilf(x); }
GD_FN double gd_ceil(double x) { return ::ceil(x); }

template <typename T>
GD_FN T gd_min(T a, T b) {
    return a < b ? a : b;
}
template <typename T>
GD_FN T gd_max(T a, T b) {
    return a > b ? a : b;
}
// False for NaN and both infinities, also where the compiler may not assume that those exist.
template <typename T>
GD_FN bool gd_finite(T x) {
    return x - x == T(0);
}

}  // namespace gd
