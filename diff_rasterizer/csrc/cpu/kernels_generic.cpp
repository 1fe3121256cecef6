#include "pack_generic.h"

#include "kernels.inl"

namespace gd {

const Kernels* generic_kernels() {
    static const Kernels table = GD_KERNEL_TABLE("generic");
    return &table;
}

}  // namespace gd
