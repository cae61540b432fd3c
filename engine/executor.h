// Runs a Plan: the only loop that waits. It decides nothing: transfers start when they head their
// lane and their edges are done, computations likewise, and what data decide goes through
// scheduler/fill.h. After construction a pass makes no allocation. One thread.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/trace.h"
#include "models/model.h"
#include "scheduler/fill.h"
#include "scheduler/plan.h"
#include "scheduler/workload.h"
#include "swap/pager.h"

namespace headrace::engine {

// What a wait of the compute lane is for: the transfer that everything else waits behind.
enum class StallCause : uint8_t { kDiskRead, kDiskWrite, kCopy };
inline constexpr size_t kStallCauses = 3;
const char* name_of(StallCause cause);  // as reports and traces say: "disk_read"

struct ExecutorCounters {
  uint64_t passes = 0;
  uint64_t transfers = 0;                      // started: calls of the pager
  std::array<double, kStallCauses> stall_s{};  // what the compute lane waited for, in passes
  double stalled_s() const { return stall_s[0] + stall_s[1] + stall_s[2]; }
};

// What a pass decided at a hole: distinct candidates in ascending order.
using DecisionObserver =
    std::function<void(uint32_t hole, std::span<const scheduler::Choice> choices)>;
// The experts of every row, in rank order, [rows, experts_per_token], of one routed layer.
using RouteObserver = std::function<void(uint32_t layer, std::span<const uint32_t> experts)>;

class Executor {
 public:
  struct Parts {
    const scheduler::Plan& plan;
    const scheduler::Workload& workload;
    models::Decoder& decoder;
    swap::Pager& pager;
    std::span<std::byte> device, host;  // arenas of plan.arena_bytes; device may be empty
    std::byte* kv = nullptr;            // keys and values: see scheduler::kv_place
    models::Context context;
    Trace* trace = nullptr;                   // lane 0: compute
    std::vector<scheduler::PoolState> pools;  // of plan.pools, as the run begins
    DecisionObserver decisions;               // may be empty
    RouteObserver routes;                     // may be empty
  };

  explicit Executor(Parts parts);
  ~Executor();

  // The enter round: loads what always stays, and starts to load the rest and to fill the streams,
  // which goes on during the first pass. `progress(bytes done, bytes in all)` until they are equal.
  void enter(std::function<void(Bytes, Bytes)> progress = {});
  // One steady round: one pass through the model.
  void run(models::Activations& activations, const models::Pass& pass);
  // Waits for what is still in flight, so that counters can be read. Passes may go on afterwards.
  void drain();

  const ExecutorCounters& counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace headrace::engine
