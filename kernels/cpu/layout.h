// The operations that all vectorised tables share.
#pragma once

#include "kernels/args.h"

namespace headrace::kernels {

void pack_panels(const PackPanelsArgs& a);
void unpack_row(const UnpackRowArgs& a);

}  // namespace headrace::kernels
