#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>

namespace gd {
namespace {

#if !defined(GD_HAS_X86_VARIANTS)
const Kernels* avx2_or_null() { return nullptr; }
const Kernels* avx512_or_null() { return nullptr; }
#else
const Kernels* avx2_or_null() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? avx2_kernels() : nullptr;
}
const Kernels* avx512_or_null() {
    const bool supported = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                           __builtin_cpu_supports("fma");
    return supported ? avx512_kernels() : nullptr;
}
#endif

std::vector<const Kernels*> usable() {
    std::vector<const Kernels*> tables;
    for (const Kernels* table : {avx512_or_null(), avx2_or_null(), generic_kernels()})
        if (table) tables.push_back(table);
    return tables;
}

const Kernels* find(const std::string& name) {
    std::string names;
    for (const Kernels* table : usable()) {
        if (name == table->name) return table;
        names += std::string(names.empty() ? "" : ", ") + table->name;
    }
    throw std::invalid_argument("expected an instruction set this processor runs (" + names + "), got '" + name + "'");
}

const Kernels*& current() {
    static const Kernels* table = [] {
        const char* wanted = std::getenv("GAUSSIAN4D_ISA");
        return wanted && *wanted ? find(wanted) : usable().front();
    }();
    return table;
}

}  // namespace

std::vector<std::string> usable_instruction_sets() {
    std::vector<std::string> names;
    for (const Kernels* table : usable()) names.push_back(table->name);
    return names;
}

const Kernels& kernels() { return *current(); }

void use_instruction_set(const std::string& name) { current() = find(name); }

}  // namespace gd
