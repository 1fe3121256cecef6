// Structural similarity (Wang et al. 2004) with the 11-tap Gaussian window (sigma 1.5), and the mean absolute error, in
// one pass; data range 1. Included once per instruction set.
//
// Rows are interleaved channels, so a horizontal tap is `channels` floats away and whole packs are filtered at once.
// Pictures are copied into planes with 5 pixels of zeros around, which makes borders need no code.

namespace gd {
namespace {

constexpr int kTaps = 11, kReach = 5;
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
// exp(-k^2 / (2 * 1.5^2)), k = -5..5, normalised to sum 1.
constexpr float kWindow[kTaps] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300554f, 0.26601172f,
                                  0.21300554f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};

inline float target_value(const SsimArgs& a, int64_t at) {
    return a.target ? a.target[at] : float(a.target_u8[at]) * (1.0f / 255.0f);
}

void ssim_forward(const SsimArgs& a, int threads) {
    const int64_t width = int64_t(a.width) * a.channels, stride = ssim_padded_row(a.width, a.channels);
    const int64_t plane = stride * (a.height + 2 * kReach), border = int64_t(kReach) * a.channels;
    float* x_plane = a.scratch;
    float* y_plane = a.scratch + plane;
    for (int64_t image = 0; image < a.images; ++image) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int row = 0; row < a.height + 2 * kReach; ++row) {
            float* x = x_plane + row * stride;
            float* y = y_plane + row * stride;
            for (int64_t j = 0; j < stride; ++j) x[j] = y[j] = 0.0f;
            const int source = row - kReach;
            if (source < 0 || source >= a.height) continue;
            const int64_t at = (image * a.height + source) * width;
            double l1 = 0.0;
            for (int64_t j = 0; j < width; ++j) {
                x[border + j] = a.image[at + j];
                y[border + j] = target_value(a, at + j);
                const float difference = x[border + j] - y[border + j];
                l1 += difference < 0.0f ? -difference : difference;
            }
            a.l1_rows[image * a.height + source] = l1;
        }
#pragma omp parallel num_threads(threads)
        {
            float* buffer = static_cast<float*>(malloc(sizeof(float) * 6 * stride));
            float* map_row = buffer + 5 * stride;
#pragma omp for schedule(static)
            for (int row = 0; row < a.height; ++row) {
                for (int64_t j = 0; j < stride; j += Pack::kLanes) {
                    Pack m[5];
                    for (int q = 0; q < 5; ++q) m[q] = broadcast<Pack>(0.0f);
                    for (int t = 0; t < kTaps; ++t) {
                        const Pack w = broadcast<Pack>(kWindow[t]);
                        const Pack x = load(x_plane + (row + t) * stride + j),
                                   y = load(y_plane + (row + t) * stride + j);
                        const Pack wx = w * x, wy = w * y;
                        m[0] = m[0] + wx;
                        m[1] = m[1] + wy;
                        m[2] = fma(wx, x, m[2]);
                        m[3] = fma(wy, y, m[3]);
                        m[4] = fma(wx, y, m[4]);
                    }
                    for (int q = 0; q < 5; ++q) store(buffer + q * stride + j, m[q]);
                }
                const bool row_counts = !a.valid || (row >= kReach && row < a.height - kReach);
                float* partial[3] = {nullptr, nullptr, nullptr};
                if (a.partials) {
                    for (int q = 0; q < 3; ++q) {
                        partial[q] = a.partials + ((image * 3 + q) * a.height + row) * stride;
                        for (int64_t j = 0; j < stride; ++j) partial[q][j] = 0.0f;
                    }
                }
                for (int64_t j = 0; j < width; j += Pack::kLanes) {
                    Pack m[5];
                    for (int q = 0; q < 5; ++q) m[q] = broadcast<Pack>(0.0f);
                    for (int t = 0; t < kTaps; ++t) {
                        const Pack w = broadcast<Pack>(kWindow[t]);
                        for (int q = 0; q < 5; ++q)
                            m[q] = fma(w, load(buffer + q * stride + j + int64_t(t) * a.channels), m[q]);
                    }
                    const Pack mu_x = m[0], mu_y = m[1], c1 = broadcast<Pack>(kC1), c2 = broadcast<Pack>(kC2);
                    const Pack two = broadcast<Pack>(2.0f), zero = broadcast<Pack>(0.0f);
                    const Pack var_x = m[2] - mu_x * mu_x, var_y = m[3] - mu_y * mu_y, cov = m[4] - mu_x * mu_y;
                    const Pack A1 = fma(two * mu_x, mu_y, c1), A2 = fma(two, cov, c2);
                    const Pack B1 = mu_x * mu_x + mu_y * mu_y + c1, B2 = var_x + var_y + c2;
                    const Pack inv_b1 = reciprocal(B1), inv_b2 = reciprocal(B2);
                    const Pack ssim = A1 * A2 * inv_b1 * inv_b2;
                    store(map_row + j, ssim);
                    if (a.partials) {
                        const Pack d_var = zero - ssim * inv_b2;
                        const Pack d_cov = two * A1 * inv_b1 * inv_b2;
                        // var and cov contain the means: var = E[x^2] - mu_x^2, cov = E[xy] - mu_x mu_y.
                        const Pack d_mu = two * (mu_y * A2 * inv_b1 * inv_b2 - mu_x * ssim * inv_b1) -
                                          two * mu_x * d_var - mu_y * d_cov;
                        store(partial[0] + border + j, d_mu);
                        store(partial[1] + border + j, d_var);
                        store(partial[2] + border + j, d_cov);
                    }
                }
                const int64_t first = a.valid ? border : 0, last = a.valid ? width - border : width;
                double total = 0.0;
                if (row_counts)
                    for (int64_t j = first; j < last; ++j) total += map_row[j];
                a.ssim_rows[image * a.height + row] = total;
                if (a.partials) {
                    // Whole packs wrote past the row, and `valid` leaves a border out.
                    for (int q = 0; q < 3; ++q) {
                        const int64_t keep_from = row_counts ? first : 0, keep_to = row_counts ? last : 0;
                        for (int64_t j = 0; j < keep_from; ++j) partial[q][border + j] = 0.0f;
                        for (int64_t j = gd_max(keep_to, int64_t(0)); border + j < stride; ++j)
                            partial[q][border + j] = 0.0f;
                    }
                }
            }
            free(buffer);
        }
    }
}

void ssim_backward(const SsimArgs& a, int threads) {
    const int64_t width = int64_t(a.width) * a.channels, stride = ssim_padded_row(a.width, a.channels);
    for (int64_t image = 0; image < a.images; ++image) {
#pragma omp parallel num_threads(threads)
        {
            float* buffer = static_cast<float*>(malloc(sizeof(float) * 3 * stride));
#pragma omp for schedule(static)
            for (int row = 0; row < a.height; ++row) {
                const int from = gd_max(row - kReach, 0), to = gd_min(row + kReach, a.height - 1);
                for (int q = 0; q < 3; ++q) {
                    const float* plane = a.partials + (image * 3 + q) * a.height * stride;
                    for (int64_t j = 0; j < stride; j += Pack::kLanes) {
                        Pack m = broadcast<Pack>(0.0f);
                        for (int r = from; r <= to; ++r)
                            m = fma(broadcast<Pack>(kWindow[r - row + kReach]), load(plane + r * stride + j), m);
                        store(buffer + q * stride + j, m);
                    }
                }
                const int64_t at = (image * a.height + row) * width;
                for (int64_t j = 0; j < width; j += Pack::kLanes) {
                    Pack m[3];
                    for (int q = 0; q < 3; ++q) m[q] = broadcast<Pack>(0.0f);
                    for (int t = 0; t < kTaps; ++t) {
                        const Pack w = broadcast<Pack>(kWindow[t]);
                        for (int q = 0; q < 3; ++q)
                            m[q] = fma(w, load(buffer + q * stride + j + int64_t(t) * a.channels), m[q]);
                    }
                    float filtered[3][Pack::kLanes];
                    for (int q = 0; q < 3; ++q) store(filtered[q], m[q]);
                    const int64_t lanes = gd_min(int64_t(Pack::kLanes), width - j);
                    for (int64_t i = 0; i < lanes; ++i) {
                        const float x = a.image[at + j + i], y = target_value(a, at + j + i);
                        const float sign = x > y ? 1.0f : x < y ? -1.0f : 0.0f;
                        a.v_image[at + j + i] =
                            a.v_ssim * (filtered[0][i] + 2.0f * x * filtered[1][i] + y * filtered[2][i]) +
                            a.v_l1 * sign;
                    }
                }
            }
            free(buffer);
        }
    }
}

}  // namespace
}  // namespace gd
