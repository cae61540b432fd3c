#include "tests/scheduler/workloads.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "scheduler/packing.h"
#include "scheduler/policy.h"
#include "scheduler/search.h"

namespace headrace::scheduler::testing {

namespace {

class Builder {
 public:
  ObjectId object(const std::string& name, Bytes bytes, Bytes chunk, bool always = false) {
    ObjectSpec spec{.id = static_cast<ObjectId>(w.objects.size()), .name = name};
    spec.always_resident = always;
    for (Bytes left = round_up(std::max(bytes, kBlock), kBlock); left > 0;) {
      const Bytes b = std::min(left, chunk);
      spec.chunks.push_back(b);
      left -= b;
    }
    w.objects.push_back(std::move(spec));
    return w.objects.back().id;
  }
  SegmentSpec& segment(SegmentKind kind, const std::string& name) {
    SegmentSpec spec{.id = static_cast<SegmentId>(w.segments.size()), .kind = kind, .name = name};
    w.segments.push_back(std::move(spec));
    return w.segments.back();
  }
  void dense(const std::string& name, std::vector<ObjectId> weights, double flops) {
    SegmentSpec& s = segment(SegmentKind::kDense, name);
    s.weights = std::move(weights);
    s.cost.flops_per_row = flops;
  }
  Workload w;
};

double flops_of(Bytes bytes) { return 0.5 * static_cast<double>(bytes); }  // float32

}  // namespace

Workload make_workload(const ModelShape& shape) {
  Builder b;
  b.w.model = "made up";
  b.w.numerics = "float32";
  const ObjectId embedding = b.object("embedding", shape.embedding_bytes, shape.chunk);
  b.segment(SegmentKind::kEmbed, "embed").candidates = {embedding};
  b.w.segments.back().choices_per_row = 1;
  std::vector<ObjectId> pair;
  for (uint32_t l = 0; l < shape.layers; ++l) {
    const std::string name = "layers." + std::to_string(l);
    const ObjectId small = b.object(name + ".small", 8 * kKiB, kMiB, true);
    const Bytes half = shape.layer_bytes / 2;
    if (pair.empty() || !shape.twice) {
      pair = {b.object(name + ".attention", half, shape.chunk),
              b.object(name + ".mlp", shape.layer_bytes - half, shape.chunk)};
    }
    b.dense(name + ".attention", {pair[0]}, flops_of(half));
    if (shape.experts == 0) {
      b.dense(name + ".mlp", {pair[1]}, flops_of(half));
    } else {
      b.segment(SegmentKind::kRoute, name + ".route").weights = {small};
      std::vector<ObjectId> experts;
      for (uint32_t e = 0; e < shape.experts; ++e) {
        experts.push_back(b.object(name + ".expert", shape.expert_bytes, shape.chunk));
      }
      SegmentSpec& s = b.segment(SegmentKind::kExperts, name + ".experts");
      s.candidates = std::move(experts);
      s.choices_per_row = shape.experts_per_token;
      s.cost.flops_per_row = flops_of(shape.expert_bytes);
    }
    if (shape.twice && l % 2 == 1) pair.clear();
  }
  const ObjectId head =
      shape.tied ? embedding : b.object("head", shape.embedding_bytes, shape.chunk);
  b.dense("head", {head}, flops_of(shape.embedding_bytes));
  Workload& w = b.w;
  w.needs = {.base = 20 * kMiB,
             .kv_block = 64 * kKiB,
             .kv_blocks = 4,
             .activation_fixed = 100000,
             .activation_per_row = 8192,
             .activation_per_output = 65536,
             .workspace = 64 * kKiB,
             .io = 256 * kKiB};
  w.prompt_tokens = 64;
  w.generated_tokens = 32;
  w.context = 128;
  w.rows_wanted = 128;
  return std::move(b.w);
}

Workload random_workload(Random& random) {
  ModelShape shape;
  shape.layers = static_cast<uint32_t>(random.between(1, 6));
  shape.chunk = random.between(1, 512) * kBlock;
  shape.layer_bytes = random.between(2, 4096) * kBlock;
  shape.embedding_bytes = random.between(1, 2048) * kBlock;
  shape.tied = random.chance(0.5);
  shape.twice = random.chance(0.1);
  if (random.chance(0.4)) {
    shape.experts = static_cast<uint32_t>(random.between(1, 12));
    shape.experts_per_token = static_cast<uint32_t>(random.between(1, shape.experts));
    shape.expert_bytes = random.between(1, 512) * kBlock;
  }
  Workload w = make_workload(shape);
  // The last chunks of some objects are short, some objects are tiny.
  for (ObjectSpec& object : w.objects) {
    if (random.chance(0.2)) object.chunks.back() = random.between(1, 4) * kBlock;
    if (random.chance(0.1)) object.chunks.resize(1);
  }
  w.sequences = static_cast<uint32_t>(random.between(1, 12));
  w.prompt_tokens = static_cast<uint32_t>(random.between(1, 600));
  w.generated_tokens = static_cast<uint32_t>(random.between(0, 100));
  w.rows_wanted = static_cast<uint32_t>(random.between(1, 256));
  w.outputs_max = static_cast<uint32_t>(random.between(1, 12));
  w.needs.kv_blocks = static_cast<uint32_t>(random.between(0, 40));
  w.needs.activation_per_row = random.between(0, 100000);
  w.needs.activation_per_output = random.between(0, 100000);
  return w;
}

Machine make_machine() {
  Machine m;
  m.name = "made up";
  m.threads = 2;
  m.matmul_flops_f32 = 100e9;
  m.matmul_flops_bf16 = 100e9;
  m.memory_read_bytes_per_s = 10e9;
  m.adamw_bytes_per_s = 5e9;
  m.rates = {{{Tier::kDisk, Tier::kHost}, 1e9, 50e-6},
             {{Tier::kHost, Tier::kDisk}, 0.5e9, 50e-6},
             {{Tier::kHost, Tier::kDevice}, 5e9, 5e-6},
             {{Tier::kDevice, Tier::kHost}, 5e9, 5e-6}};
  return m;
}

Machine random_machine(Random& random) {
  Machine m = make_machine();
  for (Rate& rate : m.rates) rate.bytes_per_s *= std::exp2(random.uniform() * 8 - 4);
  m.matmul_flops_f32 *= std::exp2(random.uniform() * 8 - 4);
  return m;
}

Bytes weights_of(const Workload& workload) {
  Bytes sum = 0;
  for (const ObjectSpec& object : workload.objects) sum += object.bytes();
  return sum;
}

Bytes needs_of(const Workload& w, uint32_t rows) {
  const Needs& n = w.needs;
  return n.base + n.kv_blocks * n.kv_block + n.activation_fixed + rows * n.activation_per_row +
         std::min(rows, w.outputs_max) * n.activation_per_output + n.workspace + n.io;
}

Budgets random_budgets(Random& random, const Workload& w) {
  Budgets b;
  b.memory = needs_of(w) + random.below(weights_of(w) * 3 / 2 + 8 * kMiB);
  if (random.chance(0.4)) {
    b.device_memory = random.below(weights_of(w) + 8 * kMiB);
    b.device_within_memory = random.chance(0.7);
    if (random.chance(0.5)) b.memory += *b.device_memory;
  }
  return b;
}

Choices random_choices(Random& random) {
  Choices c;
  const char* names[] = {"auto", "auto", "stream", "pin", "lru", "sync"};
  c.policy = names[random.below(6)];
  if (c.policy != "sync" && random.chance(0.3)) {
    c.prefetch_depth = static_cast<uint32_t>(random.below(20));
  }
  return c;
}

Planned random_plan(Random& random) {
  Planned out{random_workload(random), random_machine(random), {}, random_choices(random), {}};
  out.budgets = random_budgets(random, out.workload);
  for (int attempt = 0;; ++attempt) {
    try {
      out.plan = search(out.workload, out.machine, out.budgets, out.choices);
      return out;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInfeasible || attempt == 2) throw;
      const bool device = error.field() == "device_memory";
      (device ? *out.budgets.device_memory : out.budgets.memory) = error.required_bytes();
    }
  }
}

Pooled make_pooled(uint32_t layers, uint32_t experts, uint32_t per_token, uint32_t slots,
                   uint32_t resident, Evict evict) {
  Pooled out;
  out.workload = make_workload(
      {.layers = layers, .experts = experts, .experts_per_token = per_token, .chunk = 256 * kKiB});
  const Room room{.host = kGiB * 4};
  auto d = find_policy("pin")->decide(out.workload, take_inventory(out.workload), room, {});
  for (const SegmentSpec& s : out.workload.segments) {
    if (s.kind != SegmentKind::kExperts) continue;
    for (uint32_t e = resident; e < s.candidates.size(); ++e) {
      std::fill(d->home[s.candidates[e]].begin(), d->home[s.candidates[e]].end(), Home::kDisk);
    }
  }
  d->pool_slots = {slots};
  d->evict = evict;
  out.plan = expand(out.workload, *d, room);
  return out;
}

}  // namespace headrace::scheduler::testing
