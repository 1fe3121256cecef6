#include "pack_avx2.h"

#include "kernels.inl"

namespace gd {

const Kernels* avx2_kernels() {
    static const Kernels table = GD_KERNEL_TABLE("avx2");
    return &table;
}

}  // namespace gd
