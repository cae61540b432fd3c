// The table of the ISA whose vec_*.h the translation unit included before this.
#pragma once

#include "kernels/cpu/attention.h"
#include "kernels/cpu/layout.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/tables.h"

namespace headrace::kernels {
namespace {

constexpr Kernels kVectorTable{
    .isa = kIsa,
    .pack_panels = pack_panels,
    .unpack_row = unpack_row,
    .widen = widen,
    .narrow = narrow,
    .matmul = matmul,
    .matmul_each = matmul_each,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .add = add,
    .add_bias = add_bias,
    .scale = scale,
    .softcap = softcap,
    .activate = activate,
    .rope = rope,
    .kv_append = kv_append,
    .attention = attention,
    .topk_route = topk_route,
    .gather_rows = gather_rows,
    .combine = combine,
    .add_gated = add_gated,
};

}  // namespace
}  // namespace headrace::kernels
