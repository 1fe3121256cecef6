// Which instruction set's kernels run in this process.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace gd {

// Names of the sets this processor can run, best first.
std::vector<std::string> usable_instruction_sets();
// The table in use: the best usable one, or what GAUSSIAN4D_ISA names.
const Kernels& kernels();
// Switches the table; throws std::invalid_argument for a name that is not usable here.
void use_instruction_set(const std::string& name);

}  // namespace gd
