// Kernels that use one construct each, right or wrong, to see what the emulation makes of it.

extern "C" __global__ void warp_operations(int* out) {
    const int lane = int(threadIdx.x) % 32;
    int* mine = out + 10 * threadIdx.x;
    mine[0] = __shfl_sync(0xffffffffu, 100 + lane, 5);
    mine[1] = __shfl_up_sync(0xffffffffu, 100 + lane, 3);
    mine[2] = __shfl_down_sync(0xffffffffu, 100 + lane, 3);
    mine[3] = __shfl_xor_sync(0xffffffffu, 100 + lane, 6);
    mine[4] = __shfl_sync(0xffffffffu, 100 + lane, 1, 8);
    mine[5] = int(__ballot_sync(0xffffffffu, lane % 3 == 0));
    mine[6] = __any_sync(0xffffffffu, lane == 31);
    mine[7] = __all_sync(0xffffffffu, lane < 31);
    // Half a warp by itself.
    mine[8] = lane < 16 ? __shfl_sync(0x0000ffffu, lane, 15) : __shfl_sync(0xffff0000u, lane, 16);
    mine[9] = __popc(__ballot_sync(0xffffffffu, 1)) + __ffs(8) + __clz(1);
}

extern "C" __global__ void block_operations(int* out, float* sums) {
    __shared__ int values[64];
    const int thread = int(threadIdx.x + blockDim.x * threadIdx.y);
    values[thread] = thread;
    const int count = __syncthreads_count(thread % 2);
    const int any = __syncthreads_or(thread == 40), all = __syncthreads_and(thread != 40);
    __syncthreads();
    out[64 * blockIdx.x + thread] = values[63 - thread] + 1000 * count + 100000 * any + 1000000 * all;
    atomicAdd(sums, 0.5f);
    atomicMax(reinterpret_cast<int*>(sums + 1), thread);
    atomicAdd(reinterpret_cast<int*>(sums + 2), 2);
}

extern "C" __global__ void dynamic_memory(int* out) {
    GD_DYNAMIC_SHARED(int, values);
    values[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = values[31 - threadIdx.x];
}

extern "C" __global__ void stale_shared_memory(float* out) {
    __shared__ float value;
    out[blockIdx.x] = value;
    value = 1.0f;
}

// What follows is wrong on purpose.
extern "C" __global__ void some_leave_before_the_barrier(int* out) {
    if (threadIdx.x >= 40) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

extern "C" __global__ void barrier_in_a_branch(int* out) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
        out[threadIdx.x] = 1;
    }
}

extern "C" __global__ void lane_missing_from_a_shuffle(int* out) {
    if (threadIdx.x % 32 != 7) out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
}

extern "C" __global__ void lane_outside_its_mask(int* out) { out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 0); }

extern "C" __global__ void read_from_a_lane_outside(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);
}

extern "C" __global__ void read_without_a_barrier(int* out) {
    __shared__ int values[64];
    values[threadIdx.x] = 1;
    out[threadIdx.x] = values[63 - threadIdx.x];
}

extern "C" __global__ void large_local_array(int* out) {
    volatile int local[70000];
    for (int i = 0; i < 70000; ++i) local[i] = i;
    out[threadIdx.x] = local[out[threadIdx.x]];
}

extern "C" __global__ void add_numbers(int a, long long b, float c, const float* d, float* out) {
    out[0] = float(a) + float(b) + c + (d ? d[0] : 0.0f);
}
