#include "engine/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/checked.h"
#include "core/clock.h"
#include "core/error.h"
#include "core/json.h"
#include "engine/in_place.h"
#include "engine/limits.h"
#include "engine/planning.h"
#include "engine/report.h"
#include "engine/store_wait.h"
#include "scheduler/first_need.h"
#include "scheduler/kv.h"

namespace headrace::engine {

namespace {

namespace fs = std::filesystem;

double since(double begin) { return steady_clock().seconds() - begin; }

std::string store_path(const SessionOptions& options, const ModelFolder& folder) {
  return stores_folder(options) + "/" + store_key(folder);
}

}  // namespace

// ---- session

Session::Session(ModelFolder folder, Bytes tokenizer_bytes, SessionOptions options,
                 const Demand& demand)
    : options_(std::move(options)),
      folder_(std::move(folder)),
      k_(kernels::kernels_for(options_.isa)),
      pool_(options_.threads != 0 ? options_.threads : available_threads()) {
  const bool in_place = options_.store == kStoreNone;
  const std::string path = in_place ? "" : store_path(options_, folder_);
  std::optional<SafetensorsFolder> files;
  const auto open = [&] { return open_store(path); };
  if (in_place || !while_free(options_, path, open)) files = open_weights(folder_);
  if (!in_place) {
    options_.disk_used = files ? prepared_bytes(folder_, *files) : store_->info().bytes;
  }
  planned_ = make_plan(folder_.config, folder_.name, tokenizer_bytes, options_, demand, k_, pool_,
                       in_place ? "" : path + "/usage", in_place ? &*files : nullptr);
  if (!in_place) check_disk_memory(options_.disk_used, options_.disk_memory);
  scratch_ = make_scratch(planned_->plan, planned_->budgets, stores_folder(options_));
  if (in_place) {
    store_ = open_in_place(folder_, *files, planned_->layout, k_);
    files.reset();
  } else if (files) {
    const double begin = steady_clock().seconds();
    const auto make = [&] {
      if (open_store(path)) return true;  // others were faster
      prepared_ = prepare(folder_, *files, planned_->layout, path, options_.disk_memory, k_,
                          [&](Bytes done, Bytes total) {
                            if (options_.progress) options_.progress("prepare", done, total);
                          });
      return open_store(path);
    };
    if (!while_free(options_, path, make)) {
      throw Error(ErrorCode::kFailed,
                  fmt::format("{}: the store changed while it was opened; run again", path))
          .at_path(path);
    }
    files.reset();
    timings_.prepare_s = since(begin);
  }
  allocate_and_load(demand);
}

Session::~Session() {
  pager_.reset();  // drains before the arenas go, and what the executor says is to move
  executor_.reset();
  if (!replay_ || replay_->experts().hits + replay_->experts().misses == 0) return;
  Usage usage = replay_->usage();
  age(usage);
  write_usage(usage_path(), usage);
}

// Empty where the model has no store: its own folder is never written to.
std::string Session::usage_path() const {
  return options_.store == kStoreNone ? "" : store_->info().path + "/usage";
}

std::string Session::largest_file() const {
  std::string largest;
  Bytes most = 0;
  for (uint32_t file = 0; file < store_->files().descriptors.size(); ++file) {
    const std::string path = store_->file_path(file);
    std::error_code ignored;
    const Bytes bytes = fs::file_size(path, ignored);
    if (!ignored && bytes > most) most = bytes, largest = path;
  }
  return largest;
}

// True when the folder's store is there and still belongs to it.
bool Session::open_store(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return false;
  try {
    store_ = swap::Store::open(path);
  } catch (const Error& e) {
    if (e.code() != ErrorCode::kFormat) throw;
    note_rebuilding(e.what());
    return false;
  }
  if (store_->info().fingerprint != fingerprint(folder_)) {
    store_.reset();
    note_rebuilding("the model folder has changed");
    return false;
  }
  folder_.config.dtype = stored_dtype(*store_);
  return true;
}

// Said once, though the store is looked at again when it is this run's turn to make it.
void Session::note_rebuilding(const char* why) {
  if (options_.note && !std::exchange(noted_rebuilding_, true)) {
    options_.note(fmt::format("rebuilding the store: {}", why));
  }
}

void Session::allocate_and_load(const Demand& demand) {
  const double begin = steady_clock().seconds();
  const scheduler::Plan& plan = planned_->plan;
  const scheduler::Workload& w = planned_->workload;
  check_store();
  if (!options_.trace_file.empty()) {
    trace_ = std::make_unique<Trace>(
        std::vector<std::string>{"compute", "disk read", "copy", "disk write"}, kTraceEvents);
  }
  device_ = Arena(plan.arena_bytes[0]);
  host_ = Arena(plan.arena_bytes[1]);
  const Bytes activation_bytes =
      round_up(decoder().activation_bytes(plan.rows_max, plan.outputs_max), kBlock);
  const Bytes kv_bytes =
      scheduler::kv_places(plan.kv) * Bytes{plan.kv_blocks} * plan.kv.block_bytes;
  work_ = Arena(activation_bytes + kv_bytes);
  activations_ = decoder().bind(work_.span(0, activation_bytes), plan.rows_max, plan.outputs_max);
  uint32_t longest = 1;
  for (size_t i = 0; i < demand.prompt_tokens.size(); ++i) {
    longest =
        std::max(longest, kv_blocks_for(uint64_t{demand.prompt_tokens[i]} + demand.max_tokens[i]));
  }
  // Of each block the first layer's part: those of the others are at Pass::kv_offsets from there.
  const std::span<std::byte> kv = work_.span(activation_bytes, kv_bytes);
  kv_ = std::make_unique<KvCache>(kv, plan.kv.block_bytes, plan.kv_blocks, w.sequences, longest);
  for (scheduler::KvGroup& group : scheduler::kv_groups(plan, w)) {
    kv_replay_.push_back({.moves = scheduler::KvMoves(plan.kv_blocks, group.window)});
    kv_replay_.back().group = std::move(group);
  }
  open_pager();
  replay_ = std::make_unique<Replay>(plan, w, read_usage(usage_path(), w));
  executor_ = std::make_unique<Executor>(
      Executor::Parts{.plan = plan,
                      .workload = w,
                      .decoder = decoder(),
                      .pager = *pager_,
                      .device = device_.span(0, device_.size()),
                      .host = host_.span(0, host_.size()),
                      .kv = kv.data(),
                      .context = {k_, pool_},
                      .trace = trace_.get(),
                      .pools = replay_->pools(),
                      .decisions =
                          [this](uint32_t hole, std::span<const scheduler::Choice> choices) {
                            replay_->decide(hole, choices);
                          },
                      .routes =
                          [this](uint32_t layer, std::span<const uint32_t> experts) {
                            if (routes_) routes_(layer, experts);
                          }});
  executor_->enter([this, begin](Bytes done, Bytes total) {
    if (options_.progress) options_.progress("load", done, total);
    if (done == total) timings_.load_s = since(begin);
  });
}

// Arenas are backed while the first reads go on, by half of the processors: the others read, check
// and compute.
void Session::open_pager() {
  const Bytes in_flight = in_flight_of(planned_->machine);
  std::vector<std::span<std::byte>> buffers;  // reads go to the host alone
  if (host_.size() != 0) buffers.push_back(host_.span(0, host_.size()));
  if (const swap::Unpacking* form = store_->unpacking(); form != nullptr) {
    arrivals_ = Arena(swap::unpacking_room(form->read_bytes_most(), in_flight));
    buffers.push_back(arrivals_.span(0, arrivals_.size()));
  }
  std::vector<std::span<std::byte>> needed{arrivals_.span(0, arrivals_.size())};
  for (const scheduler::ArenaRange& range : scheduler::first_needed(planned_->plan, Tier::kHost)) {
    needed.push_back(host_.span(range.offset, range.bytes));
  }
  prefault_ = std::make_unique<Prefault>(std::move(needed), (pool_.threads() + 1) / 2);
  pager_ = swap::make_pager(*store_, {.engine = options_.io_engine,
                                      .bytes_in_flight = in_flight,
                                      .disk_rate = options_.disk_rate,
                                      .trace = trace_.get(),
                                      .scratch = scratch_.get(),
                                      .buffers = buffers,
                                      .prefault = prefault_.get(),
                                      .room = arrivals_.span(0, arrivals_.size()),
                                      .note = options_.note});
  count_opening();
  if (options_.note && !pager_->caps().note.empty()) options_.note(pager_->caps().note);
}

// What opening the store read, before there was anything to count or to trace it.
scheduler::ByteRow Session::opening() const {
  return {.edge = {Tier::kDisk, Tier::kHost},
          .kind = Kind::kMetadata,
          .bytes = store_->metadata_bytes_read(),
          .operations = 1};
}

void Session::count_opening() {
  const scheduler::ByteRow row = opening();
  if (row.bytes == 0) return;
  pager_->ledger().count(row.edge, row.kind, row.bytes, row.operations);
  if (!trace_) return;
  const uint64_t now = trace_->now_ns();
  trace_->record({.name = "open",
                  .lane = 1,  // disk read
                  .is_transfer = true,
                  .edge = row.edge,
                  .kind = row.kind,
                  .bytes = row.bytes,
                  .begin_ns = now,
                  .end_ns = now});
}

// The store's extents must be what the plan moves: chunk for chunk.
void Session::check_store() const {
  const std::vector<ObjectSpec>& objects = planned_->workload.objects;
  bool same = store_->objects() == objects.size();
  for (ObjectId id = 0; same && id < objects.size(); ++id) {
    const auto extents = store_->extents(id);
    same = extents.size() == objects[id].chunks.size();
    for (size_t c = 0; same && c < extents.size(); ++c) {
      same = extents[c].bytes == objects[id].chunks[c];
    }
  }
  if (same) return;
  throw Error(
      ErrorCode::kFormat,
      fmt::format("{}: the store's extents are not this model's; remove it with `headrace store "
                  "remove` and run again",
                  store_->info().path))
      .at_path(store_->info().path);
}

void Session::run(const models::Pass& asked) {
  models::Pass pass = asked;
  pass.every_row |= routes_ != nullptr;
  if (scratch_) replay_kv(pass);
  executor_->run(*activations_, pass);
  const size_t rows = pass.tokens.size();
  const bool decodes =
      pass.output_rows.size() == rows && (rows == 1 || pass.sequence[0] != pass.sequence[1]);
  const size_t outputs = pass.every_row ? rows : pass.output_rows.size();
  replay_->end_pass(
      {.rows = static_cast<uint32_t>(rows), .outputs = static_cast<uint32_t>(outputs)}, decodes);
  if (trace_) trace_resident();
}

// Counters of the trace: weights that each tier holds, in place, in rings and in filled pool slots.
void Session::trace_resident() {
  const scheduler::Plan& plan = planned_->plan;
  Bytes held[2] = {};  // device, host
  const auto at = [&](Tier tier) -> Bytes& { return held[tier == Tier::kDevice ? 0 : 1]; };
  for (const scheduler::Resident& r : plan.residents)
    at(r.tier) += planned_->workload.objects[r.object].chunks[r.chunk];
  for (const scheduler::Ring& ring : plan.rings) at(ring.tier) += ring.slots * ring.slot_bytes;
  for (uint32_t i = 0; i < plan.pools.size(); ++i) at(plan.pools[i].tier) += replay_->held(i);
  const uint64_t now = trace_->now_ns();
  for (const size_t tier : {0u, 1u}) {
    if (plan.arena_bytes[tier] == 0) continue;
    trace_->record({.name = tier == 0 ? "resident device" : "resident host",
                    .is_counter = true,
                    .bytes = held[tier],
                    .begin_ns = now,
                    .end_ns = now});
  }
}

void Session::replay_kv(const models::Pass& pass) {
  const scheduler::KvStream& kv = planned_->plan.kv;
  for (KvReplay& replay : kv_replay_) {
    mark_kv(pass, kv_->memory(), kv.block_bytes, replay.moves);
    const uint64_t moved[2] = {replay.moves.read_blocks(), replay.moves.written_blocks()};
    for (size_t way = 0; way < 2; ++way) {
      replay.rows[way].bytes += moved[way] * kv.block_bytes;
      replay.rows[way].operations += moved[way] != 0;
    }
  }
}

std::vector<scheduler::ByteRow> Session::predicted() const {
  std::vector<scheduler::ByteRow> rows;
  const auto add = [&](const scheduler::ByteRow& row, uint64_t times) {
    auto it = std::find_if(rows.begin(), rows.end(), [&](const scheduler::ByteRow& r) {
      return r.edge == row.edge && r.kind == row.kind;
    });
    if (it == rows.end()) it = rows.insert(rows.end(), {.edge = row.edge, .kind = row.kind});
    it->bytes += row.bytes * times;
    it->operations += row.operations * times;
  };
  if (opening().bytes != 0) add(opening(), 1);
  for (const auto& row : scheduler::bytes_of(planned_->plan.enter)) add(row, 1);
  for (const auto& row : scheduler::bytes_of(planned_->plan.steady)) {
    add(row, executor_->counters().passes);
  }
  for (const auto& row : replay_->rows()) add(row, row.bytes != 0 ? 1 : 0);
  for (const KvReplay& replay : kv_replay_) {
    for (const auto& row : replay.rows) {
      if (row.bytes != 0) add(row, replay.group.members.size());
    }
  }
  return rows;
}

std::vector<swap::LedgerRow> Session::counted() {
  executor_->drain();
  return pager_->ledger().rows();
}

void Session::finish_trace() {
  if (!trace_) return;
  executor_->drain();
  trace_->write(options_.trace_file, "\"run\":" + to_text(trace_json(*this)));
}

}  // namespace headrace::engine
