// Everything that is compiled once per instruction set. The including file has included a Pack before.
// Only C headers here and below: an inline function of the C++ library, compiled for AVX-512, could be the copy that
// the linker keeps for the whole program.

#include <stdlib.h>

#include "../maths/config.h"

#include "../maths/alpha.h"
#include "../maths/covariance.h"
#include "../maths/footprint.h"
#include "../maths/projection.h"
#include "../maths/spherical_harmonics.h"
#include "../maths/view_color.h"
#include "kernels.h"

#include "adam.inl"
#include "blend.inl"
#include "colors.inl"
#include "project.inl"
#include "ssim.inl"

#define GD_KERNEL_TABLE(isa)  \
    {isa,                     \
     gd::Pack::kLanes,        \
     gd::projection_forward,  \
     gd::projection_backward, \
     gd::colors_forward,      \
     gd::colors_backward,     \
     gd::blend_forward,       \
     gd::blend_backward,      \
     gd::ssim_forward,        \
     gd::ssim_backward,       \
     gd::squared_error,       \
     gd::adam}
