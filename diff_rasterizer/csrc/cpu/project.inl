// Projection of all Gaussians to all cameras, forward and backward. Included once per instruction set.

namespace gd {
namespace {

inline ProjectionCamera<float> projection_camera(const ProjectArgs& a, int64_t image) {
    ProjectionCamera<float> camera;
    make_projection_camera(a.viewmats + 16 * image, a.Ks + 9 * image, float(a.width), float(a.height), a.camera_model,
                           &camera);
    return camera;
}

// Covariance of Gaussian `row` of [B * N]; false when there is none.
inline bool row_covariance(const ProjectArgs& a, int64_t row, float cov[6]) {
    if (a.covars) {
        for (int k = 0; k < 6; ++k) cov[k] = a.covars[6 * row + k];
        return true;
    }
    return covariance(a.quats + 4 * row, a.scales + 3 * row, cov);
}

void projection_forward(const ProjectArgs& a, int threads) {
    const ProjectionLimits<float> limits = {a.eps2d, a.near_plane, a.far_plane, a.radius_clip};
    const int64_t chunks = (a.N + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < a.B * chunks; ++item) {
        const int64_t b = item / chunks, begin = (item % chunks) * kChunk;
        const int64_t end = gd_min(a.N, begin + kChunk);
        for (int64_t c = 0; c < a.C; ++c) {
            const int64_t image = b * a.C + c;
            const ProjectionCamera<float> camera = projection_camera(a, image);
            for (int64_t n = begin; n < end; ++n) {
                const int64_t row = b * a.N + n, out = image * a.N + n;
                float cov[6];
                Projected<float> p;
                // Unknown opacity is -1; a NaN opacity is culled inside.
                const float opacity = a.opacities ? a.opacities[row] : -1.0f;
                const bool usable = !a.opacities || opacity >= 0.0f;
                if (usable && row_covariance(a, row, cov) &&
                    project(camera, limits, a.means + 3 * row, cov, opacity, a.compensate, &p)) {
                    a.radii[2 * out] = p.radius[0], a.radii[2 * out + 1] = p.radius[1];
                    a.means2d[2 * out] = p.mean[0], a.means2d[2 * out + 1] = p.mean[1];
                    a.depths[out] = p.depth;
                    for (int k = 0; k < 3; ++k) a.conics[3 * out + k] = p.conic[k];
                    if (a.compensations) a.compensations[out] = p.compensation;
                } else {
                    a.radii[2 * out] = a.radii[2 * out + 1] = 0;
                    a.means2d[2 * out] = a.means2d[2 * out + 1] = a.depths[out] = 0.0f;
                    for (int k = 0; k < 3; ++k) a.conics[3 * out + k] = 0.0f;
                    if (a.compensations) a.compensations[out] = 0.0f;
                }
            }
        }
    }
}

void projection_backward(const ProjectArgs& a, int threads) {
    const int64_t chunks = (a.N + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < a.B * chunks; ++item) {
        const int64_t b = item / chunks, begin = (item % chunks) * kChunk;
        const int64_t end = gd_min(a.N, begin + kChunk);
        for (int64_t c = 0; c < a.C; ++c) {
            const int64_t image = b * a.C + c;
            const ProjectionCamera<float> camera = projection_camera(a, image);
            float v_R[9] = {0}, v_t[3] = {0};
            for (int64_t n = begin; n < end; ++n) {
                const int64_t row = b * a.N + n, out = image * a.N + n;
                if (a.radii[2 * out] <= 0 && a.radii[2 * out + 1] <= 0) continue;
                float cov[6], v_cov[6] = {0};
                if (!row_covariance(a, row, cov)) continue;
                const float compensation = a.compensations ? a.compensations[out] : 0.0f;
                const float v_compensation = a.v_compensations ? a.v_compensations[out] : 0.0f;
                project_backward(camera, a.eps2d, a.means + 3 * row, cov, a.conics + 3 * out, compensation,
                                 a.v_means2d + 2 * out, a.v_depths[out], a.v_conics + 3 * out, v_compensation,
                                 a.v_means + 3 * row, v_cov, v_R, v_t);
                if (a.v_covars) {
                    for (int k = 0; k < 6; ++k) a.v_covars[6 * row + k] += v_cov[k];
                } else {
                    covariance_backward(a.quats + 4 * row, a.scales + 3 * row, v_cov, a.v_quats + 4 * row,
                                        a.v_scales + 3 * row);
                }
            }
            float* v_view = a.v_viewmats + 12 * ((b * chunks + item % chunks) * a.C + c);
            for (int i = 0; i < 3; ++i) {
                for (int j = 0; j < 3; ++j) v_view[4 * i + j] = v_R[3 * i + j];
                v_view[4 * i + 3] = v_t[i];
            }
        }
    }
}

}  // namespace
}  // namespace gd
