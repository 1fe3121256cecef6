// Structural similarity (Wang et al. 2004) with the 11-tap Gaussian window (sigma 1.5), and the mean absolute error, in
// one pass; data range 1. Included once per instruction set.
//
// Rows are interleaved channels, so a horizontal tap is `channels` floats away and whole packs are filtered at once. A
// thread takes a strip of rows and goes down it in columns of kSpan floats: each row is filtered horizontally once,
// into a ring of the last kTaps rows, which the vertical filter reads from the first-level cache.

namespace gd {
namespace {

constexpr int kTaps = 11, kReach = 5;
constexpr int kSpan = 128;  // floats of a row filtered at a time; a multiple of all pack sizes
constexpr float kC1 = 0.01f * 0.01f, kC2 = 0.03f * 0.03f;
// exp(-k^2 / (2 * 1.5^2)), k = -5..5, normalised to sum 1.
constexpr float kWindow[kTaps] = {0.00102838f, 0.00759876f, 0.03600077f, 0.10936069f, 0.21300554f, 0.26601172f,
                                  0.21300554f, 0.10936069f, 0.03600077f, 0.00759876f, 0.00102838f};

// The window applied at taps `step` floats apart; the two taps of equal weight are added first.
inline Pack filter_row(const float* first, int64_t step) {
    Pack m = broadcast<Pack>(kWindow[kReach]) * load(first + kReach * step);
    for (int t = 0; t < kReach; ++t)
        m = gd_fma(broadcast<Pack>(kWindow[t]), load(first + t * step) + load(first + (kTaps - 1 - t) * step), m);
    return m;
}
inline Pack filter_column(const float* const rows[kTaps], int64_t at) {
    Pack m = broadcast<Pack>(kWindow[kReach]) * load(rows[kReach] + at);
    for (int t = 0; t < kReach; ++t)
        m = gd_fma(broadcast<Pack>(kWindow[t]), load(rows[t] + at) + load(rows[kTaps - 1 - t] + at), m);
    return m;
}

// Sum of n floats, whole packs first.
inline double sum_of(const float* values, int64_t n) {
    Pack total = broadcast<Pack>(0.0f);
    int64_t j = 0;
    for (; j + Pack::kLanes <= n; j += Pack::kLanes) total = total + load(values + j);
    double result = sum(total);
    for (; j < n; ++j) result += values[j];
    return result;
}

// Copies floats [from, to) of a row of `width` to `out`, zeros where the row has none.
inline void copy_padded(const float* row, int64_t width, int64_t from, int64_t to, float* out) {
    for (int64_t j = from; j < gd_min(to, int64_t(0)); ++j) out[j - from] = 0.0f;
    const int64_t first = gd_max(from, int64_t(0)), last = gd_min(to, width);
    for (int64_t j = first; j < last; ++j) out[j - from] = row[j];
    for (int64_t j = gd_max(last, from); j < to; ++j) out[j - from] = 0.0f;
}
inline void copy_padded(const uint8_t* row, int64_t width, int64_t from, int64_t to, float* out) {
    for (int64_t j = from; j < gd_min(to, int64_t(0)); ++j) out[j - from] = 0.0f;
    const int64_t first = gd_max(from, int64_t(0)), last = gd_min(to, width);
    for (int64_t j = first; j < last; ++j) out[j - from] = float(row[j]) * (1.0f / 255.0f);
    for (int64_t j = gd_max(last, from); j < to; ++j) out[j - from] = 0.0f;
}
// The same of row `at / width` of the target.
inline void copy_target(const SsimArgs& a, int64_t at, int64_t width, int64_t from, int64_t to, float* out) {
    if (a.target)
        copy_padded(a.target + at, width, from, to, out);
    else
        copy_padded(a.target_u8 + at, width, from, to, out);
}

// Rows [begin, end) of one image.
struct Strip {
    int64_t image;
    int begin, end;
};
// As few strips as there are threads: each filters 2 kReach rows of its neighbours again.
inline int strips_per_image(const SsimArgs& a, int threads) {
    return gd_max(1, gd_min((threads + int(a.images) - 1) / int(a.images), a.height / (4 * kReach)));
}
inline Strip strip_of(const SsimArgs& a, int64_t item, int strips) {
    const int64_t part = item % strips;
    return {item / strips, int(part * a.height / strips), int((part + 1) * a.height / strips)};
}

// What SSIM needs of a window: the means of x, y, x^2 + y^2 and x y.
constexpr int kMoments = 4;

// SSIM at one pack of pixels, and its derivatives with respect to the means of x, x^2 and x y.
inline Pack ssim_at(const Pack m[kMoments], Pack d[3]) {
    const Pack c1 = broadcast<Pack>(kC1), c2 = broadcast<Pack>(kC2), two = broadcast<Pack>(2.0f);
    const Pack product = m[0] * m[1], squares = gd_fma(m[0], m[0], m[1] * m[1]);
    const Pack A1 = gd_fma(two, product, c1), A2 = gd_fma(two, m[3] - product, c2);
    const Pack B1 = squares + c1, B2 = m[2] - squares + c2;
    const Pack inverse = reciprocal(B1 * B2), inv_b1 = inverse * B2, inv_b2 = inverse * B1;
    const Pack ssim = A1 * A2 * inverse;
    d[1] = broadcast<Pack>(0.0f) - ssim * inv_b2;
    d[2] = two * A1 * inverse;
    // The variances and the covariance contain the means: var = E[x^2] - mu_x^2, cov = E[xy] - mu_x mu_y.
    d[0] = two * (m[1] * A2 * inverse - m[0] * (ssim * inv_b1 + d[1])) - m[1] * d[2];
    return ssim;
}

// One column of a strip: adds to the sums of its rows, writes its part of the partial derivatives.
void ssim_forward_column(const SsimArgs& a, const Strip& strip, int64_t j0, float* scratch) {
    const int64_t width = int64_t(a.width) * a.channels, border = int64_t(kReach) * a.channels;
    const int64_t used = gd_min(int64_t(kSpan), width - j0),
                  span = (used + Pack::kLanes - 1) / Pack::kLanes * Pack::kLanes;
    const int64_t taken = span + 2 * border, stride = ssim_padded_row(a.width, a.channels);
    // Floats of a row whose windows count, in this column.
    const int64_t first = gd_max(a.valid ? border - j0 : int64_t(0), int64_t(0));
    const int64_t last = gd_max(first, gd_min(used, a.valid ? width - border - j0 : used));
    float* source[kMoments];
    for (int q = 0; q < kMoments; ++q) source[q] = scratch + q * (kSpan + 2 * border + Pack::kLanes);
    alignas(64) float ring[kTaps][kMoments][kSpan];
    alignas(64) float map[kSpan];
    for (int padded = strip.begin; padded < strip.end + 2 * kReach; ++padded) {
        float (*into)[kSpan] = ring[padded % kTaps];
        const int row = padded - kReach;
        if (row < 0 || row >= a.height) {
            for (int q = 0; q < kMoments; ++q)
                for (int64_t j = 0; j < span; ++j) into[q][j] = 0.0f;
        } else {
            const int64_t at = (strip.image * a.height + row) * width;
            float *x = source[0], *y = source[1];
            copy_padded(a.image + at, width, j0 - border, j0 - border + taken, x);
            copy_target(a, at, width, j0 - border, j0 - border + taken, y);
            for (int64_t j = 0; j < taken; j += Pack::kLanes) {
                const Pack u = load(x + j), v = load(y + j);
                store(source[2] + j, gd_fma(u, u, v * v));
                store(source[3] + j, u * v);
            }
            for (int q = 0; q < kMoments; ++q)
                for (int64_t j = 0; j < span; j += Pack::kLanes)
                    store(into[q] + j, filter_row(source[q] + j, a.channels));
            if (row >= strip.begin && row < strip.end) {
                for (int64_t j = 0; j < span; j += Pack::kLanes)
                    store(map + j, abs(load(x + border + j) - load(y + border + j)));
                a.l1_rows[strip.image * a.height + row] += sum_of(map, used);
            }
        }
        const int out = padded - 2 * kReach;
        if (out < strip.begin) continue;
        const float* rows[kTaps];
        for (int t = 0; t < kTaps; ++t) rows[t] = ring[(out + t) % kTaps][0];
        const bool counts = !a.valid || (out >= kReach && out < a.height - kReach);
        float* partial[3] = {nullptr, nullptr, nullptr};
        if (a.partials)
            for (int q = 0; q < 3; ++q)
                partial[q] = a.partials + ((strip.image * 3 + q) * a.height + out) * stride + border + j0;
        for (int64_t j = 0; j < span; j += Pack::kLanes) {
            Pack m[kMoments], d[3];
            for (int q = 0; q < kMoments; ++q) m[q] = filter_column(rows, q * kSpan + j);
            store(map + j, ssim_at(m, d));
            if (a.partials)
                for (int q = 0; q < 3; ++q) store(partial[q] + j, d[q]);
        }
        if (counts) a.ssim_rows[strip.image * a.height + out] += sum_of(map + first, last - first);
        if (a.partials) {
            // Whole packs wrote past the row, and `valid` leaves a border out.
            for (int q = 0; q < 3; ++q) {
                for (int64_t j = 0; j < (counts ? first : span); ++j) partial[q][j] = 0.0f;
                for (int64_t j = counts ? last : span; j < span; ++j) partial[q][j] = 0.0f;
            }
        }
    }
}

void ssim_forward(const SsimArgs& a, int threads) {
    const int64_t width = int64_t(a.width) * a.channels, border = int64_t(kReach) * a.channels;
    const int64_t stride = ssim_padded_row(a.width, a.channels);
    const int strips = strips_per_image(a, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < a.images * strips; ++item) {
        const Strip strip = strip_of(a, item, strips);
        for (int row = strip.begin; row < strip.end; ++row) {
            const int64_t at = strip.image * a.height + row;
            a.ssim_rows[at] = a.l1_rows[at] = 0.0;
            for (int q = 0; a.partials && q < 3; ++q) {
                float* partial = a.partials + ((strip.image * 3 + q) * a.height + row) * stride;
                for (int64_t j = 0; j < border; ++j) partial[j] = 0.0f;
                for (int64_t j = border + width; j < stride; ++j) partial[j] = 0.0f;
            }
        }
        const int64_t floats = kMoments * (kSpan + 2 * border + Pack::kLanes);
        float* scratch = static_cast<float*>(malloc(sizeof(float) * floats));
        for (int64_t j0 = 0; j0 < width; j0 += kSpan) ssim_forward_column(a, strip, j0, scratch);
        free(scratch);
    }
}

// v_image = v_ssim sum over windows of (dSSIM/dE[x] + 2 x dSSIM/dE[x^2] + y dSSIM/dE[xy]) + v_l1 sign(x - y); the sum
// over the windows that hold a pixel is the same filter again.
void ssim_backward_column(const SsimArgs& a, const Strip& strip, int64_t j0) {
    const int64_t width = int64_t(a.width) * a.channels, stride = ssim_padded_row(a.width, a.channels);
    const int64_t used = gd_min(int64_t(kSpan), width - j0),
                  span = (used + Pack::kLanes - 1) / Pack::kLanes * Pack::kLanes;
    const Pack zero = broadcast<Pack>(0.0f), two = broadcast<Pack>(2.0f);
    const Pack v_ssim = broadcast<Pack>(a.v_ssim), v_l1 = broadcast<Pack>(a.v_l1);
    alignas(64) float ring[kTaps][3][kSpan];
    alignas(64) float x[kSpan], y[kSpan], v[kSpan];
    for (int padded = strip.begin; padded < strip.end + 2 * kReach; ++padded) {
        float (*into)[kSpan] = ring[padded % kTaps];
        const int row = padded - kReach;
        const bool inside = row >= 0 && row < a.height;
        for (int q = 0; q < 3; ++q) {
            const float* partial = a.partials + ((strip.image * 3 + q) * a.height + (inside ? row : 0)) * stride + j0;
            for (int64_t j = 0; j < span; j += Pack::kLanes)
                store(into[q] + j, inside ? filter_row(partial + j, a.channels) : zero);
        }
        const int out = padded - 2 * kReach;
        if (out < strip.begin) continue;
        const float* rows[kTaps];
        for (int t = 0; t < kTaps; ++t) rows[t] = ring[(out + t) % kTaps][0];
        const int64_t at = (strip.image * a.height + out) * width;
        copy_padded(a.image + at, width, j0, j0 + span, x);
        copy_target(a, at, width, j0, j0 + span, y);
        for (int64_t j = 0; j < span; j += Pack::kLanes) {
            const Pack u = load(x + j), w = load(y + j);
            const Pack of_x = filter_column(rows, j), of_xx = filter_column(rows, kSpan + j);
            const Pack of_xy = filter_column(rows, 2 * kSpan + j);
            const Pack of_ssim = gd_fma(two * u, of_xx, gd_fma(w, of_xy, of_x));
            store(v + j, gd_fma(v_ssim, of_ssim, keep(u > w, v_l1) - keep(w > u, v_l1)));
        }
        for (int64_t j = 0; j < used; ++j) a.v_image[at + j0 + j] = v[j];
    }
}

void ssim_backward(const SsimArgs& a, int threads) {
    const int64_t width = int64_t(a.width) * a.channels;
    const int strips = strips_per_image(a, threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < a.images * strips; ++item) {
        const Strip strip = strip_of(a, item, strips);
        for (int64_t j0 = 0; j0 < width; j0 += kSpan) ssim_backward_column(a, strip, j0);
    }
}

// Sums of (image - target)^2 per row, to ssim_rows.
void squared_error(const SsimArgs& a, int threads) {
    const int64_t width = int64_t(a.width) * a.channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t row = 0; row < a.images * a.height; ++row) {
        const int64_t at = row * width;
        alignas(64) float x[kSpan], y[kSpan];
        double total = 0.0;
        for (int64_t j0 = 0; j0 < width; j0 += kSpan) {
            // Zeros behind the row's end add nothing.
            copy_padded(a.image + at, width, j0, j0 + kSpan, x);
            copy_target(a, at, width, j0, j0 + kSpan, y);
            Pack sum_of_squares = broadcast<Pack>(0.0f);
            for (int j = 0; j < kSpan; j += Pack::kLanes) {
                const Pack d = load(x + j) - load(y + j);
                sum_of_squares = gd_fma(d, d, sum_of_squares);
            }
            total += sum(sum_of_squares);
        }
        a.ssim_rows[row] = total;
    }
}

}  // namespace
}  // namespace gd
