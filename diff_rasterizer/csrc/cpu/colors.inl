// Colours from spherical harmonics, seen from each camera: max(SH(direction) + 0.5, 0). Included once per instruction
// set. The gradient also flows through the viewing direction, to the means and the camera centres.

namespace gd {
namespace {

void colors_forward(const ColorArgs& a, int threads) {
    const int64_t rows = a.B * a.C * a.N;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t out = 0; out < rows; ++out) {
        float* color = a.colors + 3 * out;
        if (a.radii && a.radii[2 * out] <= 0 && a.radii[2 * out + 1] <= 0) {
            color[0] = color[1] = color[2] = 0.0f;
            continue;
        }
        const int64_t image = out / a.N, n = out % a.N, row = image / a.C * a.N + n;
        const float* coeffs = a.coeffs + int64_t(3) * a.K * (a.per_camera ? out : row);
        view_color(a.degree, a.means + 3 * row, a.campos + 3 * image, coeffs, color);
    }
}

void colors_backward(const ColorArgs& a, int threads) {
    const int64_t chunks = (a.N + kChunk - 1) / kChunk;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < a.B * chunks; ++item) {
        const int64_t b = item / chunks, begin = (item % chunks) * kChunk;
        const int64_t end = gd_min(a.N, begin + kChunk);
        for (int64_t c = 0; c < a.C; ++c) {
            const int64_t image = b * a.C + c;
            float* v_campos = a.v_campos + 3 * ((b * chunks + item % chunks) * a.C + c);
            v_campos[0] = v_campos[1] = v_campos[2] = 0.0f;
            for (int64_t n = begin; n < end; ++n) {
                const int64_t row = b * a.N + n, out = image * a.N + n;
                const int64_t at = int64_t(3) * a.K * (a.per_camera ? out : row);
                view_color_backward(a.degree, a.means + 3 * row, a.campos + 3 * image, a.coeffs + at,
                                    a.colors + 3 * out, a.v_colors + 3 * out, a.v_coeffs + at, a.v_means + 3 * row,
                                    v_campos);
            }
        }
    }
}

}  // namespace
}  // namespace gd
