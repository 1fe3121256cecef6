// The part of CUDA C++ that our kernels use, on the CPU: included before a .cu file, it lets a plain C++ compiler build
// it. Threads of a block are fibers, or OS threads with GD_EMULATION_THREADS.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <initializer_list>
#include <utility>

#if defined(GD_EMULATION_THREADS)
#include "threads.h"
#else
#include "fibers.h"
#endif

#define GD_EMULATION 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#if defined(GD_EMULATION_PLAIN_SHARED)
#define __shared__ static
#else
// A section of its own lets a launch fill shared memory with garbage before each block: it is not zero on a GPU.
#define __shared__ static __attribute__((section("gd_shared")))
extern "C" {
extern char __start_gd_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_gd_shared[] __attribute__((weak, visibility("hidden")));
}
#endif

#define threadIdx (::emulation::self().index)
#define blockIdx (::emulation::block().index)
#define blockDim (::emulation::block().dim)
#define gridDim (::emulation::block().grid)
constexpr int warpSize = 32;

struct alignas(8) float2 {
    float x, y;
};
struct float3 {
    float x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

namespace emulation {

template <typename T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline uint64_t block_op(Op op, uint64_t value, const char* file, int line) {
    return meet_block({op, 0, value, 0, kMaxThreads, file, line});
}
inline uint64_t vote(uint32_t mask, bool value, const char* file, int line) {
    return meet_warp({Op::kBallot, mask, value, 0, kWarp, file, line});
}
template <typename T>
T shuffle(Op op, const char* file, int line, uint32_t mask, T value, int source, int width = kWarp) {
    return from_bits<T>(meet_warp({op, mask, to_bits(value), source, width, file, line}));
}
struct WarpBarrier {
    const char* file;
    int line;
    void operator()(uint32_t mask = 0xffffffffu) const { meet_warp({Op::kWarpBarrier, mask, 0, 0, kWarp, file, line}); }
};

}  // namespace emulation

#define GD_HERE __FILE__, __LINE__
#define __syncthreads() (void)::emulation::block_op(::emulation::Op::kBarrier, 0, GD_HERE)
#define __syncthreads_count(p) int(::emulation::block_op(::emulation::Op::kBarrierCount, bool(p), GD_HERE))
#define __syncthreads_or(p) int(::emulation::block_op(::emulation::Op::kBarrierOr, bool(p), GD_HERE))
#define __syncthreads_and(p) int(::emulation::block_op(::emulation::Op::kBarrierAnd, bool(p), GD_HERE))
#define __syncwarp \
    ::emulation::WarpBarrier { GD_HERE }
#define __shfl_sync(...) ::emulation::shuffle(::emulation::Op::kShuffle, GD_HERE, __VA_ARGS__)
#define __shfl_up_sync(...) ::emulation::shuffle(::emulation::Op::kUp, GD_HERE, __VA_ARGS__)
#define __shfl_down_sync(...) ::emulation::shuffle(::emulation::Op::kDown, GD_HERE, __VA_ARGS__)
#define __shfl_xor_sync(...) ::emulation::shuffle(::emulation::Op::kXor, GD_HERE, __VA_ARGS__)
#define __ballot_sync(mask, p) unsigned(::emulation::vote(mask, p, GD_HERE))
#define __any_sync(mask, p) int(::emulation::vote(mask, p, GD_HERE) != 0)
#define __all_sync(mask, p) int(::emulation::vote(mask, p, GD_HERE) == uint64_t(uint32_t(mask)))
// Hardware may split a warp as it likes; alone is the split that breaks most code relying on company.
#define __activemask() (1u << ::emulation::self().lane)

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
inline int __float_as_int(float x) { return emulation::from_bits<int>(emulation::to_bits(x)); }
inline float __int_as_float(int x) { return emulation::from_bits<float>(emulation::to_bits(x)); }
template <typename T>
T __ldg(const T* p) {
    return *p;
}

inline int atomicAdd(int* p, int v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned atomicAdd(unsigned* p, unsigned v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
inline unsigned long long atomicAdd(unsigned long long* p, unsigned long long v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* p, float v) {
    int* bits = reinterpret_cast<int*>(p);
    int seen = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &seen, __float_as_int(__int_as_float(seen) + v), true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
    }
    return __int_as_float(seen);
}
inline int atomicMax(int* p, int v) {
    int seen = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (seen < v && !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}

namespace emulation {

inline char*& dynamic_shared() {
    static char* memory = nullptr;
    return memory;
}

// Calls kernel(args...) as a launch would: `values` points at each argument, `sizes` tells how large it is there.
template <typename... P, size_t... I>
void launch_with(void (*kernel)(P...), const uint32_t dims[6], void* const* values, const uint32_t* sizes, int count,
                 int shared_bytes, bool reverse, Failure& failure, std::index_sequence<I...>) {
    if (count != int(sizeof...(P))) {
        snprintf(failure.text, sizeof(failure.text), "the kernel takes %d arguments, got %d", int(sizeof...(P)), count);
        return;
    }
    const uint32_t wanted[] = {uint32_t(sizeof(P))..., 0};
    for (int i = 0; i < count; ++i) {
        if (sizes[i] == wanted[i]) continue;
        snprintf(failure.text, sizeof(failure.text), "argument %d has %u bytes, the kernel expects %u", i, sizes[i],
                 wanted[i]);
        return;
    }
    Block& b = block();
    b.failure = Failure();
    b.grid = {dims[0], dims[1], dims[2]}, b.dim = {dims[3], dims[4], dims[5]};
    b.threads = int(dims[3] * dims[4] * dims[5]);
    if (b.threads < 1 || b.threads > kMaxThreads) {
        snprintf(failure.text, sizeof(failure.text), "a block has 1 to 1024 threads, got %d", b.threads);
        return;
    }
    char* dynamic = static_cast<char*>(::operator new(size_t(shared_bytes) + 64));
    dynamic_shared() = dynamic + (64 - reinterpret_cast<uintptr_t>(dynamic) % 64) % 64;
    struct Call {
        void (*kernel)(P...);
        void* const* values;
    } call = {kernel, values};
    const auto body = [](void* argument) {
        const Call& c = *static_cast<Call*>(argument);
        c.kernel(*static_cast<std::remove_reference_t<P>*>(c.values[I])...);
    };
    for (unsigned z = 0; z < dims[2]; ++z)
        for (unsigned y = 0; y < dims[1]; ++y)
            for (unsigned x = 0; x < dims[0] && !b.failure.happened(); ++x) {
                b.index = {x, y, z};
#if !defined(GD_EMULATION_PLAIN_SHARED)
                if (__start_gd_shared) memset(__start_gd_shared, 0xff, size_t(__stop_gd_shared - __start_gd_shared));
#endif
                run_block(body, &call, reverse);
            }
    ::operator delete(dynamic);
    failure = b.failure;
}

template <typename... P>
void launch(void (*kernel)(P...), const uint32_t dims[6], void* const* values, const uint32_t* sizes, int count,
            int shared_bytes, bool reverse, Failure& failure) {
    launch_with(kernel, dims, values, sizes, count, shared_bytes, reverse, failure, std::index_sequence_for<P...>());
}

}  // namespace emulation

// What a kernel writes as `extern __shared__` on the GPU goes through this macro in our sources.
#define GD_DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(::emulation::dynamic_shared())

// Defines the function by which Python launches the kernel: returns 0, or 1 with a message.
#define GD_EMULATED_ENTRY(kernel)                                                                                   \
    extern "C" __attribute__((visibility("default"))) int launch_##kernel(                                          \
        const uint32_t* dims, void* const* values, const uint32_t* sizes, int count, int shared_bytes, int reverse, \
        char* message, int message_size) {                                                                          \
        ::emulation::Failure failure;                                                                               \
        ::emulation::launch(kernel, dims, values, sizes, count, shared_bytes, reverse != 0, failure);               \
        snprintf(message, size_t(message_size), "%s", failure.text);                                                \
        return failure.happened();                                                                                  \
    }
