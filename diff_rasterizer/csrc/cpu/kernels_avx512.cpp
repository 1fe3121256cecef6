#include "pack_avx512.h"

#include "kernels.inl"

namespace gd {

const Kernels* avx512_kernels() {
    static const Kernels table = GD_KERNEL_TABLE("avx512");
    return &table;
}

}  // namespace gd
