// 3D covariance of a Gaussian from its quaternion and scales, and the gradient.
//   Sigma = M M^T, M = R(q / |q|) diag(s)          (3D Gaussian Splatting, Kerbl et al. 2023, eq. 6)
// Symmetric 3x3 matrices are stored as their upper triangle: xx, xy, xz, yy, yz, zz.
#pragma once

#include "config.h"

namespace gd {

// Rotation matrix (row-major) of a unit quaternion wxyz.
template <typename T>
GD_FN void rotation_from_quat(const T q[4], T R[9]) {
    const T w = q[0], x = q[1], y = q[2], z = q[3];
    R[0] = T(1) - T(2) * (y * y + z * z);
    R[1] = T(2) * (x * y - w * z);
    R[2] = T(2) * (x * z + w * y);
    R[3] = T(2) * (x * y + w * z);
    R[4] = T(1) - T(2) * (x * x + z * z);
    R[5] = T(2) * (y * z - w * x);
    R[6] = T(2) * (x * z - w * y);
    R[7] = T(2) * (y * z + w * x);
    R[8] = T(1) - T(2) * (x * x + y * y);
}

// Covariance from an unnormalised quaternion and linear scales. Returns false for a zero quaternion.
template <typename T>
GD_FN bool covariance(const T quat[4], const T scale[3], T cov[6]) {
    const T norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    if (!(norm2 > T(0))) return false;
    const T inv = T(1) / gd_sqrt(norm2);
    const T q[4] = {quat[0] * inv, quat[1] * inv, quat[2] * inv, quat[3] * inv};
    T M[9];
    rotation_from_quat(q, M);
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) M[3 * i + j] *= scale[j];
    cov[0] = M[0] * M[0] + M[1] * M[1] + M[2] * M[2];
    cov[1] = M[0] * M[3] + M[1] * M[4] + M[2] * M[5];
    cov[2] = M[0] * M[6] + M[1] * M[7] + M[2] * M[8];
    cov[3] = M[3] * M[3] + M[4] * M[4] + M[5] * M[5];
    cov[4] = M[3] * M[6] + M[4] * M[7] + M[5] * M[8];
    cov[5] = M[6] * M[6] + M[7] * M[7] + M[8] * M[8];
    return true;
}

// Adds to v_quat, v_scale the gradients of a scalar whose gradient with respect to the full symmetric matrix Sigma
// is v_cov (upper triangle of the symmetric matrix dL/dSigma, so an off-diagonal entry stands for two).
template <typename T>
GD_FN void covariance_backward(const T quat[4], const T scale[3], const T v_cov[6], T v_quat[4], T v_scale[3]) {
    const T norm2 = quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3];
    const T inv = T(1) / gd_sqrt(norm2);
    const T q[4] = {quat[0] * inv, quat[1] * inv, quat[2] * inv, quat[3] * inv};
    T R[9];
    rotation_from_quat(q, R);
    const T V[9] = {v_cov[0], v_cov[1], v_cov[2], v_cov[1], v_cov[3], v_cov[4], v_cov[2], v_cov[4], v_cov[5]};
    T v_R[9];
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            // dL/dM = 2 V M, M = R diag(s).
            const T v_M = T(2) * (V[3 * i] * R[j] + V[3 * i + 1] * R[3 + j] + V[3 * i + 2] * R[6 + j]) * scale[j];
            v_scale[j] += v_M * R[3 * i + j];
            v_R[3 * i + j] = v_M * scale[j];
        }
    }
    const T w = q[0], x = q[1], y = q[2], z = q[3];
    T v_q[4];
    v_q[0] = T(2) * (x * (v_R[7] - v_R[5]) + y * (v_R[2] - v_R[6]) + z * (v_R[3] - v_R[1]));
    v_q[1] =
        T(2) * (T(-2) * x * (v_R[4] + v_R[8]) + y * (v_R[1] + v_R[3]) + z * (v_R[2] + v_R[6]) + w * (v_R[7] - v_R[5]));
    v_q[2] =
        T(2) * (x * (v_R[1] + v_R[3]) - T(2) * y * (v_R[0] + v_R[8]) + z * (v_R[5] + v_R[7]) + w * (v_R[2] - v_R[6]));
    v_q[3] =
        T(2) * (x * (v_R[2] + v_R[6]) + y * (v_R[5] + v_R[7]) - T(2) * z * (v_R[0] + v_R[4]) + w * (v_R[3] - v_R[1]));
    // Through the normalisation: only the part orthogonal to q survives.
    const T dot = v_q[0] * q[0] + v_q[1] * q[1] + v_q[2] * q[2] + v_q[3] * q[3];
    for (int i = 0; i < 4; ++i) v_quat[i] += (v_q[i] - dot * q[i]) * inv;
}

}  // namespace gd
