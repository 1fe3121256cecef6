// Colours from spherical harmonics, seen from each camera: max(SH(direction) + 0.5, 0). Included once per instruction
// set. The gradient also flows through the viewing direction, to the means and the camera centres.

namespace gd {
namespace {

struct ViewDirection {
    float u[3], inv_length;
};

inline ViewDirection view_direction(const float* mean, const float* campos) {
    ViewDirection d;
    const float x = mean[0] - campos[0], y = mean[1] - campos[1], z = mean[2] - campos[2];
    const float length2 = x * x + y * y + z * z;
    d.inv_length = length2 > 0.0f ? 1.0f / gd_sqrt(length2) : 0.0f;
    d.u[0] = x * d.inv_length, d.u[1] = y * d.inv_length, d.u[2] = z * d.inv_length;
    return d;
}

void colors_forward(const ColorArgs& a, int threads) {
    const int bases = (a.degree + 1) * (a.degree + 1);
    const int64_t rows = a.B * a.C * a.N;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t out = 0; out < rows; ++out) {
        float* color = a.colors + 3 * out;
        if (a.radii && a.radii[2 * out] <= 0 && a.radii[2 * out + 1] <= 0) {
            color[0] = color[1] = color[2] = 0.0f;
            continue;
        }
        const int64_t image = out / a.N, n = out % a.N, row = image / a.C * a.N + n;
        const ViewDirection d = view_direction(a.means + 3 * row, a.campos + 3 * image);
        float B[kMaxShBases];
        sh_bases(a.degree, d.u[0], d.u[1], d.u[2], B);
        const float* coeffs = a.coeffs + int64_t(3) * a.K * (a.per_camera ? out : row);
        float sum[3] = {0.5f, 0.5f, 0.5f};
        for (int k = 0; k < bases; ++k)
            for (int i = 0; i < 3; ++i) sum[i] += B[k] * coeffs[3 * k + i];
        for (int i = 0; i < 3; ++i) color[i] = gd_max(sum[i], 0.0f);
    }
}

void colors_backward(const ColorArgs& a, int threads) {
    const int bases = (a.degree + 1) * (a.degree + 1);
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
                const float* color = a.colors + 3 * out;
                float v[3];
                bool live = false;
                for (int i = 0; i < 3; ++i) {
                    v[i] = color[i] > 0.0f ? a.v_colors[3 * out + i] : 0.0f;
                    live |= v[i] != 0.0f;
                }
                if (!live) continue;
                const ViewDirection d = view_direction(a.means + 3 * row, a.campos + 3 * image);
                float B[kMaxShBases], w[kMaxShBases];
                sh_bases(a.degree, d.u[0], d.u[1], d.u[2], B);
                const int64_t at = int64_t(3) * a.K * (a.per_camera ? out : row);
                const float* coeffs = a.coeffs + at;
                float* v_coeffs = a.v_coeffs + at;
                for (int k = 0; k < bases; ++k) {
                    w[k] = coeffs[3 * k] * v[0] + coeffs[3 * k + 1] * v[1] + coeffs[3 * k + 2] * v[2];
                    for (int i = 0; i < 3; ++i) v_coeffs[3 * k + i] += B[k] * v[i];
                }
                float v_u[3] = {0.0f, 0.0f, 0.0f};
                sh_bases_backward(a.degree, d.u[0], d.u[1], d.u[2], w, v_u);
                const float radial = v_u[0] * d.u[0] + v_u[1] * d.u[1] + v_u[2] * d.u[2];
                for (int i = 0; i < 3; ++i) {
                    const float v_dir = (v_u[i] - radial * d.u[i]) * d.inv_length;
                    a.v_means[3 * row + i] += v_dir;
                    v_campos[i] -= v_dir;
                }
            }
        }
    }
}

}  // namespace
}  // namespace gd
