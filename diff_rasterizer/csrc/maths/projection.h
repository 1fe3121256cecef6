// Projection of a 3D Gaussian to the image plane (EWA splatting, Zwicker et al. 2001), and its gradient.
//   p_c = R p + t,  Sigma_2 = J R Sigma R^T J^T + eps I,  conic = Sigma_2^-1
// J is the Jacobian of the camera model at p_c. Symmetric 3x3 matrices: xx, xy, xz, yy, yz, zz; 2x2: xx, xy, yy.
#pragma once

#include "config.h"

namespace gd {

template <typename T>
struct ProjectionCamera {
    T R[9], t[3];                  // world to camera
    T fx, fy, cx, cy;              // pixels
    T width, height;               // pixels
    T x_min, x_max, y_min, y_max;  // where the pinhole Jacobian's tangents are clamped
    int model;
};

template <typename T>
struct ProjectionLimits {
    T eps2d, near_plane, far_plane, radius_clip;
};

template <typename T>
struct Projected {
    T mean[2], depth, conic[3], compensation;
    int radius[2];
};

// Fills `camera` from a row-major 4x4 world-to-camera matrix and 3x3 intrinsics.
template <typename T>
GD_FN void make_projection_camera(const T* viewmat, const T* K, T width, T height, int model,
                                  ProjectionCamera<T>* camera) {
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) camera->R[3 * i + j] = viewmat[4 * i + j];
        camera->t[i] = viewmat[4 * i + 3];
    }
    camera->fx = K[0], camera->fy = K[4], camera->cx = K[2], camera->cy = K[5];
    camera->width = width, camera->height = height, camera->model = model;
    // The Jacobian is frozen 15 % of the picture beyond its border: the linearisation explodes there.
    const T margin_x = T(0.3) * T(0.5) * width / K[0], margin_y = T(0.3) * T(0.5) * height / K[4];
    camera->x_min = -(K[2] / K[0] + margin_x), camera->x_max = (width - K[2]) / K[0] + margin_x;
    camera->y_min = -(K[5] / K[4] + margin_y), camera->y_max = (height - K[5]) / K[4] + margin_y;
}

// Equidistant fisheye: u = f x s + c with s = theta / r, and the derivatives of s that the Jacobian needs:
//   g = (ds/dr) / r,  h = (dg/dr) / r,  ds/dz = -1 / rho^2,  dg/dz = 2 / rho^4.
// Near the axis the closed forms cancel, so there the series in (r / z)^2 is used.
template <typename T>
GD_FN void fisheye_terms(T r2, T z, T* s, T* g, T* h) {
    if (r2 < T(0.04) * z * z && z > T(0)) {
        const T iz = T(1) / z, u = r2 * iz * iz, iz3 = iz * iz * iz;
        *s = iz * (T(1) - u * (T(1.0 / 3) -
                               u * (T(1.0 / 5) -
                                    u * (T(1.0 / 7) -
                                         u * (T(1.0 / 9) - u * (T(1.0 / 11) - u * (T(1.0 / 13) - u * T(1.0 / 15))))))));
        *g = iz3 *
             (T(-2.0 / 3) +
              u * (T(4.0 / 5) -
                   u * (T(6.0 / 7) - u * (T(8.0 / 9) - u * (T(10.0 / 11) - u * (T(12.0 / 13) - u * T(14.0 / 15)))))));
        *h = T(2) * iz3 * iz * iz *
             (T(4.0 / 5) -
              u * (T(12.0 / 7) - u * (T(24.0 / 9) - u * (T(40.0 / 11) - u * (T(60.0 / 13) - u * T(84.0 / 15))))));
    } else {
        const T r = gd_sqrt(r2), rho2 = r2 + z * z;
        *s = gd_atan2(r, z) / r;
        *g = (z / rho2 - *s) / r2;
        *h = (T(-2) * z / (rho2 * rho2) - T(3) * *g) / r2;
    }
}

// J [2x3] of the camera model at p (camera coordinates), and the projected point.
template <typename T>
GD_FN void camera_jacobian(const ProjectionCamera<T>& camera, const T p[3], T mean[2], T J[6]) {
    const T x = p[0], y = p[1], z = p[2];
    if (camera.model == kPinhole) {
        const T iz = T(1) / z;
        const T u = gd_min(camera.x_max, gd_max(camera.x_min, x * iz));
        const T v = gd_min(camera.y_max, gd_max(camera.y_min, y * iz));
        mean[0] = camera.fx * x * iz + camera.cx;
        mean[1] = camera.fy * y * iz + camera.cy;
        J[0] = camera.fx * iz, J[1] = T(0), J[2] = -camera.fx * u * iz;
        J[3] = T(0), J[4] = camera.fy * iz, J[5] = -camera.fy * v * iz;
    } else if (camera.model == kOrtho) {
        mean[0] = camera.fx * x + camera.cx;
        mean[1] = camera.fy * y + camera.cy;
        J[0] = camera.fx, J[1] = T(0), J[2] = T(0), J[3] = T(0), J[4] = camera.fy, J[5] = T(0);
    } else {
        T s, g, h;
        const T r2 = x * x + y * y, rho2 = r2 + z * z;
        fisheye_terms(r2, z, &s, &g, &h);
        mean[0] = camera.fx * x * s + camera.cx;
        mean[1] = camera.fy * y * s + camera.cy;
        J[0] = camera.fx * (s + g * x * x), J[1] = camera.fx * g * x * y, J[2] = -camera.fx * x / rho2;
        J[3] = camera.fy * g * x * y, J[4] = camera.fy * (s + g * y * y), J[5] = -camera.fy * y / rho2;
    }
}

// Adds to v_p the gradient through the projected point and through J.
template <typename T>
GD_FN void camera_jacobian_backward(const ProjectionCamera<T>& camera, const T p[3], const T v_mean[2], const T v_J[6],
                                    T v_p[3]) {
    const T x = p[0], y = p[1], z = p[2];
    if (camera.model == kPinhole) {
        const T iz = T(1) / z, iz2 = iz * iz, fx = camera.fx, fy = camera.fy;
        v_p[0] += fx * iz * v_mean[0];
        v_p[1] += fy * iz * v_mean[1];
        v_p[2] -= (fx * x * v_mean[0] + fy * y * v_mean[1]) * iz2;
        v_p[2] -= fx * iz2 * v_J[0] + fy * iz2 * v_J[4];
        // J[2] = -fx u / z: with the tangent u free it is -fx x / z^2, clamped it depends on z alone.
        const T u = x * iz, v = y * iz;
        if (u >= camera.x_min && u <= camera.x_max) {
            v_p[0] -= fx * iz2 * v_J[2];
            v_p[2] += T(2) * fx * u * iz2 * v_J[2];
        } else {
            v_p[2] += fx * gd_min(camera.x_max, gd_max(camera.x_min, u)) * iz2 * v_J[2];
        }
        if (v >= camera.y_min && v <= camera.y_max) {
            v_p[1] -= fy * iz2 * v_J[5];
            v_p[2] += T(2) * fy * v * iz2 * v_J[5];
        } else {
            v_p[2] += fy * gd_min(camera.y_max, gd_max(camera.y_min, v)) * iz2 * v_J[5];
        }
    } else if (camera.model == kOrtho) {
        v_p[0] += camera.fx * v_mean[0];
        v_p[1] += camera.fy * v_mean[1];
    } else {
        T s, g, h;
        const T r2 = x * x + y * y, rho2 = r2 + z * z, irho2 = T(1) / rho2, irho4 = irho2 * irho2;
        fisheye_terms(r2, z, &s, &g, &h);
        const T fx = camera.fx, fy = camera.fy;
        // Through mean: rows of J.
        v_p[0] += fx * (s + g * x * x) * v_mean[0] + fy * g * x * y * v_mean[1];
        v_p[1] += fx * g * x * y * v_mean[0] + fy * (s + g * y * y) * v_mean[1];
        v_p[2] -= (fx * x * v_mean[0] + fy * y * v_mean[1]) * irho2;
        // Through J: gradients of s, g and rho2 collected first, then the explicit x and y.
        const T v_s = fx * v_J[0] + fy * v_J[4];
        const T v_g = fx * (x * x * v_J[0] + x * y * v_J[1]) + fy * (x * y * v_J[3] + y * y * v_J[4]);
        const T v_rho2 = (fx * x * v_J[2] + fy * y * v_J[5]) * irho4;
        v_p[0] += fx * (T(2) * g * x * v_J[0] + g * y * v_J[1] - irho2 * v_J[2]) + fy * g * y * v_J[3];
        v_p[1] += fy * (T(2) * g * y * v_J[4] + g * x * v_J[3] - irho2 * v_J[5]) + fx * g * x * v_J[1];
        const T radial = v_s * g + v_g * h + T(2) * v_rho2;
        v_p[0] += radial * x;
        v_p[1] += radial * y;
        v_p[2] += -irho2 * v_s + T(2) * irho4 * v_g + T(2) * z * v_rho2;
    }
}

// T = J R [2x3], the product that maps world covariances to the image.
template <typename T>
GD_FN void jacobian_times_rotation(const T J[6], const T R[9], T JR[6]) {
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 3; ++j) JR[3 * i + j] = J[3 * i] * R[j] + J[3 * i + 1] * R[3 + j] + J[3 * i + 2] * R[6 + j];
}

// Covariance in the image, without the eps2d blur.
template <typename T>
GD_FN void project_covariance(const T JR[6], const T cov[6], T cov2d[3]) {
    T A[6];  // JR Sigma
    for (int i = 0; i < 2; ++i) {
        const T a = JR[3 * i], b = JR[3 * i + 1], c = JR[3 * i + 2];
        A[3 * i] = a * cov[0] + b * cov[1] + c * cov[2];
        A[3 * i + 1] = a * cov[1] + b * cov[3] + c * cov[4];
        A[3 * i + 2] = a * cov[2] + b * cov[4] + c * cov[5];
    }
    cov2d[0] = A[0] * JR[0] + A[1] * JR[1] + A[2] * JR[2];
    cov2d[1] = A[0] * JR[3] + A[1] * JR[4] + A[2] * JR[5];
    cov2d[2] = A[3] * JR[3] + A[4] * JR[4] + A[5] * JR[5];
}

// Projects one Gaussian. Returns false when it is culled (behind, outside, too faint, degenerate, not finite).
// `opacity` < 0 means that it is unknown; then the bound is kMaxExtent standard deviations.
template <typename T>
GD_FN bool project(const ProjectionCamera<T>& camera, const ProjectionLimits<T>& limits, const T mean[3],
                   const T cov[6], T opacity, bool compensate, Projected<T>* out) {
    T p[3];
    for (int i = 0; i < 3; ++i)
        p[i] = camera.R[3 * i] * mean[0] + camera.R[3 * i + 1] * mean[1] + camera.R[3 * i + 2] * mean[2] + camera.t[i];
    if (!(p[2] >= limits.near_plane && p[2] <= limits.far_plane)) return false;
    T J[6], JR[6], cov2d[3];
    camera_jacobian(camera, p, out->mean, J);
    jacobian_times_rotation(J, camera.R, JR);
    project_covariance(JR, cov, cov2d);
    const T det_sharp = cov2d[0] * cov2d[2] - cov2d[1] * cov2d[1];
    cov2d[0] += limits.eps2d;
    cov2d[2] += limits.eps2d;
    const T det = cov2d[0] * cov2d[2] - cov2d[1] * cov2d[1];
    if (!(det > T(0)) || !gd_finite(det) || !gd_finite(out->mean[0]) || !gd_finite(out->mean[1])) return false;
    const T ratio = det_sharp / det;
    out->compensation = ratio > T(0) ? gd_sqrt(ratio) : T(0);
    T extent = T(kMaxExtent);
    if (!(opacity < T(0))) {
        const T effective = compensate ? opacity * out->compensation : opacity;
        if (!(effective >= T(kAlphaThreshold)) || !gd_finite(effective)) return false;
        extent = gd_min(extent, gd_sqrt(T(2) * gd_log(effective / T(kAlphaThreshold))));
    }
    const T rx = gd_ceil(extent * gd_sqrt(cov2d[0])), ry = gd_ceil(extent * gd_sqrt(cov2d[2]));
    if (rx <= limits.radius_clip && ry <= limits.radius_clip) return false;
    if (out->mean[0] + rx <= T(0) || out->mean[0] - rx >= camera.width) return false;
    if (out->mean[1] + ry <= T(0) || out->mean[1] - ry >= camera.height) return false;
    const T inv_det = T(1) / det;
    out->conic[0] = cov2d[2] * inv_det;
    out->conic[1] = -cov2d[1] * inv_det;
    out->conic[2] = cov2d[0] * inv_det;
    if (!gd_finite(out->conic[0]) || !gd_finite(out->conic[1]) || !gd_finite(out->conic[2])) return false;
    out->depth = p[2];
    // Radii beyond any picture are cut so that they stay integers.
    out->radius[0] = int(gd_min(rx, T(1 << 28)));
    out->radius[1] = int(gd_min(ry, T(1 << 28)));
    return true;
}

// Gradient of `project`. Adds to v_mean [3], v_cov (upper triangle of the symmetric dL/dSigma), v_R [9], v_t [3].
template <typename T>
GD_FN void project_backward(const ProjectionCamera<T>& camera, T eps2d, const T mean[3], const T cov[6],
                            const T conic[3], T compensation, const T v_mean2d[2], T v_depth, const T v_conic[3],
                            T v_compensation, T v_mean[3], T v_cov[6], T v_R[9], T v_t[3]) {
    T p[3];
    for (int i = 0; i < 3; ++i)
        p[i] = camera.R[3 * i] * mean[0] + camera.R[3 * i + 1] * mean[1] + camera.R[3 * i + 2] * mean[2] + camera.t[i];
    T J[6], JR[6], mean2d[2];
    camera_jacobian(camera, p, mean2d, J);
    jacobian_times_rotation(J, camera.R, JR);

    // conic = Sigma_2^-1: dL/dSigma_2 = -conic V conic, V the symmetric dL/dconic (its off-diagonal is half the
    // gradient of the stored scalar, which stands for two entries).
    const T a = conic[0], b = conic[1], c = conic[2];
    const T va = v_conic[0], vb = T(0.5) * v_conic[1], vc = v_conic[2];
    const T m00 = a * va + b * vb, m01 = a * vb + b * vc, m10 = b * va + c * vb, m11 = b * vb + c * vc;
    T v00 = -(m00 * a + m01 * b), v01 = -(m00 * b + m01 * c), v11 = -(m10 * b + m11 * c);
    if (v_compensation != T(0) && compensation > T(0)) {
        // compensation^2 = det(S - eps I) / det(S), with S^-1 = conic: d log det(S) = conic : dS, and the adjugate of
        // S - eps I is the adjugate of S less eps I.
        const T inv_det = a * c - b * b;  // 1 / det(S)
        const T factor = v_compensation / (T(2) * compensation);
        const T ratio = compensation * compensation;
        v00 += factor * ((a - eps2d * inv_det) - ratio * a);
        v11 += factor * ((c - eps2d * inv_det) - ratio * c);
        v01 += factor * (b - ratio * b);
    }
    // Sigma_2 = JR Sigma JR^T.
    T A[6], v_JR[6];
    for (int i = 0; i < 2; ++i) {
        const T x = JR[3 * i], y = JR[3 * i + 1], z = JR[3 * i + 2];
        A[3 * i] = x * cov[0] + y * cov[1] + z * cov[2];
        A[3 * i + 1] = x * cov[1] + y * cov[3] + z * cov[4];
        A[3 * i + 2] = x * cov[2] + y * cov[4] + z * cov[5];
    }
    for (int j = 0; j < 3; ++j) {
        v_JR[j] = T(2) * (v00 * A[j] + v01 * A[3 + j]);
        v_JR[3 + j] = T(2) * (v01 * A[j] + v11 * A[3 + j]);
    }
    const int row[6] = {0, 0, 0, 1, 1, 2}, col[6] = {0, 1, 2, 1, 2, 2};
    for (int k = 0; k < 6; ++k) {
        const int i = row[k], j = col[k];
        v_cov[k] += v00 * JR[i] * JR[j] + v11 * JR[3 + i] * JR[3 + j] + v01 * (JR[i] * JR[3 + j] + JR[3 + i] * JR[j]);
    }
    T v_J[6];
    for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 3; ++k)
            v_J[3 * i + k] = v_JR[3 * i] * camera.R[3 * k] + v_JR[3 * i + 1] * camera.R[3 * k + 1] +
                             v_JR[3 * i + 2] * camera.R[3 * k + 2];
    T v_p[3] = {T(0), T(0), v_depth};
    camera_jacobian_backward(camera, p, v_mean2d, v_J, v_p);
    for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) {
            v_R[3 * i + j] += v_p[i] * mean[j] + J[i] * v_JR[j] + J[3 + i] * v_JR[3 + j];
            v_mean[j] += camera.R[3 * i + j] * v_p[i];
        }
        v_t[i] += v_p[i];
    }
}

}  // namespace gd
