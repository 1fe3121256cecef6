// Adam (Kingma & Ba 2015, algorithm 1) over a flat array, one pass over memory.
#include "device.cuh"

#ifndef GD_VECTOR
#define GD_VECTOR 4  // floats per thread; 1 where an array is not aligned to 16 bytes
#endif

using namespace gd;

namespace {

struct AdamStep {
    float beta1, beta2, step_size, inv_sqrt_correction2, eps;
    __device__ void operator()(float* param, float grad, float* exp_avg, float* exp_avg_sq) const {
        const float m = beta1 * *exp_avg + (1.0f - beta1) * grad;
        const float v = beta2 * *exp_avg_sq + (1.0f - beta2) * grad * grad;
        *exp_avg = m;
        *exp_avg_sq = v;
        *param -= step_size * m / (gd_sqrt(v) * inv_sqrt_correction2 + eps);
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    adam(long long count, float* __restrict__ param, const float* __restrict__ grad, float* __restrict__ exp_avg,
         float* __restrict__ exp_avg_sq, float beta1, float beta2, float step_size, float inv_sqrt_correction2,
         float eps) {
    const AdamStep step = {beta1, beta2, step_size, inv_sqrt_correction2, eps};
    const long long begin = global_thread() * GD_VECTOR;
#if GD_VECTOR == 4
    if (begin + 4 <= count) {
        float4 p = *reinterpret_cast<float4*>(param + begin), m = *reinterpret_cast<float4*>(exp_avg + begin);
        float4 v = *reinterpret_cast<float4*>(exp_avg_sq + begin);
        const float4 g = *reinterpret_cast<const float4*>(grad + begin);
        step(&p.x, g.x, &m.x, &v.x), step(&p.y, g.y, &m.y, &v.y);
        step(&p.z, g.z, &m.z, &v.z), step(&p.w, g.w, &m.w, &v.w);
        *reinterpret_cast<float4*>(param + begin) = p;
        *reinterpret_cast<float4*>(exp_avg + begin) = m;
        *reinterpret_cast<float4*>(exp_avg_sq + begin) = v;
        return;
    }
#endif
    const long long end = gd_min(count, begin + GD_VECTOR);
    for (long long i = begin; i < end; ++i) step(param + i, grad[i], exp_avg + i, exp_avg_sq + i);
}
