// A libcuda.so.1 that owns no GPU and writes down what it is asked: enough of the driver's interface for cuda.core to
// load a kernel and launch it. It refuses what the real one refuses (a launch on a thread without a context), and the
// parameters of a kernel are what FAKE_CUDA_PARAMS says, as sizes in bytes: "8,8,4".

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

enum Status : int { kSuccess = 0, kInvalidValue = 1, kInvalidContext = 201, kNotFound = 500 };
using Handle = std::uintptr_t;

constexpr Handle kContextBase = 0x1000;
constexpr Handle kLibrary = 0x2000;

std::mutex mutex;
std::ostringstream calls;
std::string text;
std::map<Handle, std::string> kernels;
thread_local Handle current = 0;
thread_local int thread_number = -1;

int this_thread() {
    static int threads = 0;
    if (thread_number < 0) thread_number = threads++;
    return thread_number;
}

std::vector<size_t> parameter_sizes() {
    std::vector<size_t> sizes;
    const char* given = std::getenv("FAKE_CUDA_PARAMS");
    std::istringstream stream(given ? given : "");
    for (std::string word; std::getline(stream, word, ',');) sizes.push_back(std::stoul(word));
    return sizes;
}

struct LaunchConfig {
    unsigned grid[3], block[3], shared_bytes;
    Handle stream;
    void* attributes;
    unsigned attribute_count;
};

Status init(unsigned) { return kSuccess; }
Status driver_version(int* version) { return *version = 13000, kSuccess; }
Status device_count(int* count) { return *count = 2, kSuccess; }
Status device_get(int* device, int index) { return *device = index, index < 2 ? kSuccess : kInvalidValue; }
Status device_attribute(int* value, int attribute, int) {
    constexpr int kMajor = 75;
    return *value = attribute == kMajor ? 9 : 0, kSuccess;
}
Status primary_retain(Handle* context, int device) { return *context = kContextBase + device, kSuccess; }
Status primary_release(int) { return kSuccess; }
Status context_set(Handle context) { return current = context, kSuccess; }
Status context_get(Handle* context) { return *context = current, kSuccess; }
Status context_device(int* device) {
    if (!current) return kInvalidContext;
    return *device = static_cast<int>(current - kContextBase), kSuccess;
}
Status library_load(Handle* library, const void*, void*, void**, unsigned, void*, void**, unsigned) {
    return *library = kLibrary, kSuccess;
}
Status library_unload(Handle) { return kSuccess; }
Status library_kernel(Handle* kernel, Handle, const char* name) {
    std::lock_guard lock(mutex);
    *kernel = 0x3000 + kernels.size();
    kernels[*kernel] = name;
    return kSuccess;
}
Status parameter_info(Handle, size_t index, size_t* offset, size_t* size) {
    const auto sizes = parameter_sizes();
    if (index >= sizes.size()) return kInvalidValue;
    *offset = 8 * index;
    *size = sizes[index];
    return kSuccess;
}
Status kernel_set_attribute(int attribute, int value, Handle kernel, int device) {
    std::lock_guard lock(mutex);
    calls << "attribute " << attribute << "=" << value << " " << kernels[kernel] << " device " << device << "\n";
    return kSuccess;
}
Status launch(const LaunchConfig* config, Handle kernel, void** parameters, void**) {
    std::lock_guard lock(mutex);
    if (!current) return kInvalidContext;
    calls << "launch " << kernels[kernel] << " thread " << this_thread() << " device " << current - kContextBase;
    calls << " stream " << config->stream << " shared " << config->shared_bytes << " grid";
    for (unsigned n : config->grid) calls << " " << n;
    calls << " block";
    for (unsigned n : config->block) calls << " " << n;
    calls << " args";
    const auto sizes = parameter_sizes();
    for (size_t i = 0; i < sizes.size(); ++i) {
        calls << " ";
        // Little-endian bytes, as the GPU would get them.
        for (size_t k = 0; k < sizes[i]; ++k) {
            char hex[3];
            std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char*>(parameters[i])[k]);
            calls << hex;
        }
    }
    calls << "\n";
    return kSuccess;
}
Status error_text(int, const char** out) { return *out = "what the fake driver answers", kSuccess; }

struct Entry {
    const char* name;
    void* function;
};
template <typename F>
Entry entry(const char* name, F* function) {
    return {name, reinterpret_cast<void*>(function)};
}

Status find(const char* name, void** function, int, uint64_t, int* found);

const Entry* table() {
    static const Entry entries[] = {
        entry("cuInit", init),
        entry("cuDriverGetVersion", driver_version),
        entry("cuDeviceGetCount", device_count),
        entry("cuDeviceGet", device_get),
        entry("cuDeviceGetAttribute", device_attribute),
        entry("cuDevicePrimaryCtxRetain", primary_retain),
        entry("cuDevicePrimaryCtxRelease", primary_release),
        entry("cuCtxSetCurrent", context_set),
        entry("cuCtxGetCurrent", context_get),
        entry("cuCtxGetDevice", context_device),
        entry("cuLibraryLoadData", library_load),
        entry("cuLibraryUnload", library_unload),
        entry("cuLibraryGetKernel", library_kernel),
        entry("cuKernelGetParamInfo", parameter_info),
        entry("cuKernelSetAttribute", kernel_set_attribute),
        entry("cuLaunchKernelEx", launch),
        entry("cuGetErrorString", error_text),
        entry("cuGetErrorName", error_text),
        entry("cuGetProcAddress", find),
        {nullptr, nullptr},
    };
    return entries;
}

Status find(const char* name, void** function, int, uint64_t, int* found) {
    for (const Entry* e = table(); e->name; ++e) {
        if (std::strcmp(e->name, name)) continue;
        *function = e->function;
        if (found) *found = 0;
        return kSuccess;
    }
    *function = nullptr;
    if (found) *found = 1;
    return kNotFound;
}

}  // namespace

extern "C" {
int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* found) {
    return find(name, function, version, flags, found);
}
int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
    return find(name, function, version, flags, nullptr);
}
const char* fake_cuda_calls() {
    std::lock_guard lock(mutex);
    text = calls.str();
    return text.c_str();
}
}
