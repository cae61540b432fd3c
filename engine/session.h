// The composition root: from a model folder, a demand and budgets to a plan, a prepared store,
// loaded weights and a running executor. Everything is wired here by constructor arguments.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "core/prefault.h"
#include "core/threads.h"
#include "core/trace.h"
#include "engine/executor.h"
#include "engine/kv_cache.h"
#include "engine/kv_stream.h"
#include "engine/model_folder.h"
#include "engine/prepare.h"
#include "engine/replay.h"
#include "scheduler/machine.h"
#include "scheduler/plan.h"
#include "scheduler/policy.h"
#include "scheduler/workload.h"
#include "swap/pager.h"

namespace headrace::engine {

struct SessionOptions {
  std::optional<Bytes> memory, device_memory, disk_memory, kv_memory;
  Bytes disk_used = 0;         // by the store, of disk_memory: Session finds out itself
  std::string store;           // folder of stores; empty: in the cache root; kStoreNone: none
  std::string cache;           // cache root; empty: default_cache_root()
  scheduler::Choices choices;  // --policy, --prefetch-depth
  std::string io_engine = "auto";
  std::string isa = "auto";
  unsigned threads = 0;        // 0: all that the process may use
  uint32_t max_sequences = 0;  // --max-num-seqs: requests that run at a time; 0: planned
  Bytes disk_rate = 0;
  std::string machine_file;  // --machine: plan for a described machine
  std::string plan_file;     // --plan: run this one
  std::string trace_file;    // --trace: Chrome trace of the run
  std::function<void(const char* what, Bytes done, Bytes total)> progress;
  std::function<void(const std::string&)>
      note;  // one line for the log: fallbacks and their reasons
};

// What requests ask for; the plan's memory and rows follow from it.
struct Demand {
  std::vector<uint32_t> prompt_tokens;  // per request
  std::vector<uint32_t> max_tokens;     // per request, to be generated
  bool all_logits = false;              // every row's logits are wanted (`logits`)
  Bytes held = 0;                       // by whoever asks, as long as the session lasts
  Bytes held_per_token = 32;            // of a request that runs: ids, text
};

// The planning half: needs a config, no weights. Used by `plan` and by Session alike. `in_place`:
// the shards that a run without a store reads, whose offsets decide what each read moves.
// `usage_file`: what earlier runs left (engine/usage.h), by which experts are expected; empty:
// none.
struct Planned {
  models::WeightLayout layout;
  std::unique_ptr<models::Decoder> decoder;
  scheduler::Workload workload;
  scheduler::Machine machine;
  scheduler::Budgets budgets;
  scheduler::Plan plan;
  double planning_ms = 0;
};
std::unique_ptr<Planned> make_plan(const models::ModelConfig& config, const std::string& name,
                                   Bytes tokenizer_bytes, const SessionOptions& options,
                                   const Demand& demand, const kernels::Kernels& k,
                                   ThreadPool& pool, const std::string& usage_file,
                                   const SafetensorsFolder* in_place = nullptr);

scheduler::Workload make_workload(const models::ModelConfig& config, const std::string& name,
                                  const models::WeightLayout& layout,
                                  const models::Decoder& decoder, Bytes tokenizer_bytes,
                                  const Demand& demand, uint32_t concurrent, const char* isa);
// A plan that was read: held to the model, to the flags and to what this run takes besides weights,
// for which its split of the memory makes room. Throws kFormat.
void adopt_plan(Planned& planned, const SessionOptions& options);

// `plan.memory.base`: what the process takes besides what a plan accounts for by name. Bounds
// declared for this build, asserted by tests/engine to cover what is measured, so that every run
// gives the same figure.
inline constexpr Bytes kBaseBytes = 20 * kMiB;  // code, libraries, stacks, allocator, page rounding
inline constexpr Bytes kBytesPerChunk = 1024;   // see base_bytes()
inline constexpr Bytes kIoBytes = 2 * kMiB;     // ring, tickets, queues
Bytes base_bytes(Bytes tokenizer_bytes, size_t chunks, uint64_t vocabulary);

Bytes memory_budget(const SessionOptions& options);  // --memory, or 80 % of what there is

struct SessionTimings {
  double prepare_s = 0, load_s = 0;
};

// Keys and values that should have moved so far, of layers that stream and move the same.
struct KvReplay {
  scheduler::KvGroup group;
  scheduler::KvMoves moves;  // of the last pass
  // Of one layer: in, out.
  scheduler::ByteRow rows[2] = {{.edge = {Tier::kDisk, Tier::kHost}, .kind = Kind::kKv},
                                {.edge = {Tier::kHost, Tier::kDisk}, .kind = Kind::kKv}};
};

class Session {
 public:
  // Plans, prepares the store if it must, loads. Throws Error; kInfeasible before anything is
  // allocated.
  Session(ModelFolder folder, Bytes tokenizer_bytes, SessionOptions options, const Demand& demand);
  ~Session();

  const ModelFolder& folder() const { return folder_; }
  const scheduler::Plan& plan() const { return planned_->plan; }
  const scheduler::Workload& workload() const { return planned_->workload; }
  models::Decoder& decoder() { return *planned_->decoder; }
  models::Activations& activations() { return *activations_; }
  KvCache& kv() { return *kv_; }
  Executor& executor() { return *executor_; }
  swap::Pager& pager() { return *pager_; }
  ThreadPool& threads() { return pool_; }
  std::string largest_file() const;  // of those that runs read
  // Where weights lie that a pass computes with, those that come and go included.
  std::span<const std::byte> weight_memory() const { return host_.span(0, host_.size()); }
  const SessionTimings& timings() const { return timings_; }
  const PrepareReport& prepared() const { return prepared_; }
  double planning_ms() const { return planned_->planning_ms; }

  void run(const models::Pass& pass);  // one pass; keeps account of what data decided
  // Has every row of a pass computed to its end.
  void set_route_observer(RouteObserver observer) { routes_ = std::move(observer); }

  // Bytes that the plan predicts for what ran so far: enter, passes, and the replay of what was
  // decided; before them what opening the store read.
  std::vector<scheduler::ByteRow> predicted() const;
  const Replay& replay() const { return *replay_; }  // of what was decided
  std::span<const KvReplay> kv_replay() const { return kv_replay_; }
  std::vector<swap::LedgerRow> counted();  // drains first
  void finish_trace();                     // writes options.trace_file

 private:
  bool open_store(const std::string& path);
  void note_rebuilding(const char* why);
  void check_store() const;
  void allocate_and_load(const Demand& demand);
  void open_pager();
  scheduler::ByteRow opening() const;
  void count_opening();
  void trace_resident();
  void replay_kv(const models::Pass& pass);
  std::string usage_path() const;

  SessionOptions options_;
  ModelFolder folder_;
  const kernels::Kernels& k_;
  ThreadPool pool_;
  std::unique_ptr<Planned> planned_;
  std::unique_ptr<swap::Store> store_;
  bool noted_rebuilding_ = false;
  PrepareReport prepared_;
  SessionTimings timings_;
  std::unique_ptr<Trace> trace_;
  Arena device_, host_, work_, arrivals_;
  std::unique_ptr<Prefault> prefault_;      // of the arenas
  std::unique_ptr<swap::Scratch> scratch_;  // null: nothing spills
  std::unique_ptr<swap::Pager> pager_;
  std::unique_ptr<models::Activations, void (*)(models::Activations*)> activations_{nullptr,
                                                                                    nullptr};
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<Executor> executor_;
  RouteObserver routes_;
  std::unique_ptr<Replay> replay_;
  std::vector<KvReplay> kv_replay_;
};

}  // namespace headrace::engine
