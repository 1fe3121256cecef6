// Real spherical harmonics up to degree 4 in the order and with the signs of 3D Gaussian Splatting, and their
// derivatives. The arguments are a unit direction; the polynomials use x^2 + y^2 + z^2 = 1 freely, so a derivative is
// right only in the directions tangent to the sphere, which is all that survives the normalisation.
#pragma once

#include "config.h"

namespace gd {

constexpr int kMaxShBases = 25;

// B[k], k < (degree + 1)^2.
template <typename T>
GD_FN void sh_bases(int degree, T x, T y, T z, T* B) {
    B[0] = T(0.28209479177387814);
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199);
    B[1] = -c1 * y, B[2] = c1 * z, B[3] = -c1 * x;
    if (degree < 2) return;
    const T xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    B[4] = T(1.0925484305920792) * xy;
    B[5] = T(-1.0925484305920792) * yz;
    B[6] = T(0.31539156525252005) * (T(3) * zz - T(1));
    B[7] = T(-1.0925484305920792) * xz;
    B[8] = T(0.5462742152960396) * (xx - yy);
    if (degree < 3) return;
    B[9] = T(-0.5900435899266435) * y * (T(3) * xx - yy);
    B[10] = T(2.890611442640554) * xy * z;
    B[11] = T(-0.4570457994644658) * y * (T(5) * zz - T(1));
    B[12] = T(0.3731763325901154) * z * (T(5) * zz - T(3));
    B[13] = T(-0.4570457994644658) * x * (T(5) * zz - T(1));
    B[14] = T(1.445305721320277) * z * (xx - yy);
    B[15] = T(-0.5900435899266435) * x * (xx - T(3) * yy);
    if (degree < 4) return;
    B[16] = T(2.5033429417967046) * xy * (xx - yy);
    B[17] = T(-1.7701307697799304) * yz * (T(3) * xx - yy);
    B[18] = T(0.9461746957575601) * xy * (T(7) * zz - T(1));
    B[19] = T(-0.6690465435572892) * yz * (T(7) * zz - T(3));
    B[20] = T(0.10578554691520431) * (zz * (T(35) * zz - T(30)) + T(3));
    B[21] = T(-0.6690465435572892) * xz * (T(7) * zz - T(3));
    B[22] = T(0.47308734787878004) * (xx - yy) * (T(7) * zz - T(1));
    B[23] = T(-1.7701307697799304) * xz * (xx - T(3) * yy);
    B[24] = T(0.6258357354491761) * (xx * (xx - T(3) * yy) - yy * (T(3) * xx - yy));
}

// v_u[3] += sum_k w[k] dB[k]/du, with w[k] = dL/dB[k].
template <typename T>
GD_FN void sh_bases_backward(int degree, T x, T y, T z, const T* w, T v_u[3]) {
    if (degree < 1) return;
    const T c1 = T(0.4886025119029199);
    T vx = -c1 * w[3], vy = -c1 * w[1], vz = c1 * w[2];
    if (degree >= 2) {
        const T c2 = T(1.0925484305920792), d2 = T(0.5462742152960396);
        vx += c2 * (y * w[4] - z * w[7]) + T(2) * d2 * x * w[8];
        vy += c2 * (x * w[4] - z * w[5]) - T(2) * d2 * y * w[8];
        vz += c2 * (-y * w[5] - x * w[7]) + T(6 * 0.31539156525252005) * z * w[6];
    }
    if (degree >= 3) {
        const T xx = x * x, yy = y * y, zz = z * z;
        const T a = T(0.5900435899266435), b = T(2.890611442640554), c = T(0.4570457994644658);
        const T d = T(0.3731763325901154), e = T(1.445305721320277);
        vx += -a * T(6) * x * y * w[9] + b * y * z * w[10] - c * (T(5) * zz - T(1)) * w[13] + e * T(2) * x * z * w[14] -
              a * T(3) * (xx - yy) * w[15];
        vy += -a * T(3) * (xx - yy) * w[9] + b * x * z * w[10] - c * (T(5) * zz - T(1)) * w[11] -
              e * T(2) * y * z * w[14] + a * T(6) * x * y * w[15];
        vz += b * x * y * w[10] - c * T(10) * z * (y * w[11] + x * w[13]) + d * T(3) * (T(5) * zz - T(1)) * w[12] +
              e * (xx - yy) * w[14];
    }
    if (degree >= 4) {
        const T xx = x * x, yy = y * y, zz = z * z, xy = x * y;
        const T a = T(2.5033429417967046), b = T(1.7701307697799304), c = T(0.9461746957575601);
        const T d = T(0.6690465435572892), e = T(0.10578554691520431), f = T(0.47308734787878004);
        const T g = T(0.6258357354491761);
        vx += a * y * (T(3) * xx - yy) * w[16] - b * T(6) * xy * z * w[17] + c * y * (T(7) * zz - T(1)) * w[18] -
              d * z * (T(7) * zz - T(3)) * w[21] + f * T(2) * x * (T(7) * zz - T(1)) * w[22] -
              b * T(3) * z * (xx - yy) * w[23] + g * T(4) * x * (xx - T(3) * yy) * w[24];
        vy += a * x * (xx - T(3) * yy) * w[16] - b * T(3) * z * (xx - yy) * w[17] + c * x * (T(7) * zz - T(1)) * w[18] -
              d * z * (T(7) * zz - T(3)) * w[19] - f * T(2) * y * (T(7) * zz - T(1)) * w[22] +
              b * T(6) * xy * z * w[23] + g * T(4) * y * (yy - T(3) * xx) * w[24];
        vz += -b * y * (T(3) * xx - yy) * w[17] + c * T(14) * xy * z * w[18] -
              d * T(3) * (T(7) * zz - T(1)) * (y * w[19] + x * w[21]) + e * T(20) * z * (T(7) * zz - T(3)) * w[20] +
              f * T(14) * z * (xx - yy) * w[22] - b * x * (xx - T(3) * yy) * w[23];
    }
    v_u[0] += vx, v_u[1] += vy, v_u[2] += vz;
}

}  // namespace gd
