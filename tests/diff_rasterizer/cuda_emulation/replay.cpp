// Runs recorded launches of one .cu file outside Python, so that a sanitizer sees nothing but the kernels. Every buffer
// is a heap block of its exact size. Compiled with -DGD_SOURCE="file.cu" and -DGD_ENTRIES(X)=X(a) X(b).
//   replay FILE [SYNCHRONISATION-LINE SOURCE-NAME]     the second form leaves that barrier out (threads only)
#include "cuda_emulation.h"

#include GD_SOURCE

#include <stdio.h>
#include <stdlib.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#define GD_DEFINE(kernel) GD_EMULATED_ENTRY(kernel)
GD_ENTRIES(GD_DEFINE)

namespace {

using Launch = int (*)(const uint32_t*, void* const*, const uint32_t*, int, int, int, char*, int);

template <typename T>
T read(std::ifstream& file) {
    T value = T();
    file.read(reinterpret_cast<char*>(&value), sizeof(T));
    return value;
}

struct Argument {
    std::vector<char> scalar;
    char* buffer = nullptr;
    uint64_t bytes = 0;
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return fprintf(stderr, "usage: replay FILE [LINE NAME]\n"), 2;
#if defined(GD_EMULATION_THREADS)
    if (argc == 4) emulation::engine().skipped_line = atoi(argv[2]), emulation::engine().skipped_file = argv[3];
#endif
#define GD_ENTRY(kernel) {#kernel, launch_##kernel},
    const std::map<std::string, Launch> entries = {GD_ENTRIES(GD_ENTRY)};
    std::ifstream file(argv[1], std::ios::binary);
    if (!file) return fprintf(stderr, "cannot read %s\n", argv[1]), 2;
    std::string name(read<uint32_t>(file), 0);
    file.read(&name[0], std::streamsize(name.size()));
    uint32_t dims[6];
    for (uint32_t& d : dims) d = read<uint32_t>(file);
    const int count = int(read<uint32_t>(file));
    std::vector<Argument> arguments(static_cast<size_t>(count));
    std::vector<void*> values;
    std::vector<uint32_t> sizes;
    for (Argument& a : arguments) {
        // 0: null, 1: scalar, 2: buffer.
        const uint32_t kind = read<uint32_t>(file);
        a.bytes = read<uint64_t>(file);
        if (kind == 1) {
            a.scalar.resize(a.bytes);
            file.read(a.scalar.data(), std::streamsize(a.bytes));
            values.push_back(a.scalar.data());
            sizes.push_back(uint32_t(a.bytes));
            continue;
        }
        if (kind == 2) {
            a.buffer = static_cast<char*>(malloc(a.bytes ? a.bytes : 1));
            file.read(a.buffer, std::streamsize(a.bytes));
        }
        values.push_back(&a.buffer);
        sizes.push_back(sizeof(char*));
    }
    if (!file) return fprintf(stderr, "%s is cut off\n", argv[1]), 2;
    char message[512] = "";
    const auto found = entries.find(name);
    if (found == entries.end()) return fprintf(stderr, "no kernel %s here\n", name.c_str()), 2;
    const int failed = found->second(dims, values.data(), sizes.data(), count, 0, 0, message, sizeof(message));
    if (failed) fprintf(stderr, "emulation: %s\n", message);
    for (Argument& a : arguments) free(a.buffer);
    return failed;
}
