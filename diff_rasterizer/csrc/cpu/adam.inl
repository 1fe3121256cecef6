// Adam (Kingma & Ba 2015, algorithm 1) in one pass over memory. Included once per instruction set.

namespace gd {
namespace {

void adam(const AdamArgs& a, int threads) {
    const float one_minus_1 = 1.0f - a.beta1, one_minus_2 = 1.0f - a.beta2;
    // Below this a thread costs more to wake than it saves.
    const int team = a.count < 65536 ? 1 : threads;
#pragma omp parallel for schedule(static) num_threads(team)
    for (int64_t i = 0; i < a.count; ++i) {
        const float g = a.grad[i];
        const float m = a.beta1 * a.exp_avg[i] + one_minus_1 * g;
        const float v = a.beta2 * a.exp_avg_sq[i] + one_minus_2 * g * g;
        a.exp_avg[i] = m;
        a.exp_avg_sq[i] = v;
        a.param[i] -= a.step_size * m / (sqrtf(v) * a.inv_sqrt_correction2 + a.eps);
    }
}

}  // namespace
}  // namespace gd
