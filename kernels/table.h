// The table of contents of this floor: one function pointer per operation, filled once at start for
// the ISA that the machine has or that the caller names. Kernels never allocate, never read files
// or config, and know no tier, layer or rank. Every entry of every table is tested against the
// table "reference".
#pragma once

#include <span>
#include <string_view>

#include "core/threads.h"
#include "kernels/args.h"

namespace headrace::kernels {

struct Kernels {
  const char* isa;  // "reference", "scalar", "avx2", "avx512" (with BF16)

  void (*pack_panels)(const PackPanelsArgs&);
  void (*unpack_row)(const UnpackRowArgs&);
  void (*widen)(const WidenArgs&);
  void (*narrow)(ThreadPool&, const NarrowArgs&);
  void (*matmul)(ThreadPool&, const MatmulArgs&);
  void (*matmul_each)(ThreadPool&, const MatmulEachArgs&);
  void (*rms_norm)(ThreadPool&, const RmsNormArgs&);
  void (*layer_norm)(ThreadPool&, const LayerNormArgs&);
  void (*add)(ThreadPool&, const AddArgs&);
  void (*add_bias)(ThreadPool&, const AddBiasArgs&);
  void (*scale)(ThreadPool&, const ScaleArgs&);
  void (*softcap)(ThreadPool&, const SoftcapArgs&);
  void (*activate)(ThreadPool&, const ActivateArgs&);
  void (*rope)(ThreadPool&, const RopeArgs&);
  void (*kv_append)(ThreadPool&, const KvAppendArgs&);
  void (*attention)(ThreadPool&, const AttentionArgs&);
  void (*topk_route)(const TopkRouteArgs&);
  void (*gather_rows)(ThreadPool&, const GatherRowsArgs&);
  void (*combine)(ThreadPool&, const CombineArgs&);
  void (*add_gated)(ThreadPool&, const AddGatedArgs&);
};

// The tables that this build has, best first; `reference` is last. supported() says whether this
// machine can run one.
std::span<const Kernels* const> tables();
bool supported(const Kernels& kernels);

// "auto": the best supported. Throws Error(kUsage) for an unknown name, with the names that exist,
// and for one that this machine cannot run.
const Kernels& kernels_for(std::string_view isa);

}  // namespace headrace::kernels
