#include "scheduler/packing.h"

#include <algorithm>
#include <map>

#include "core/error.h"

namespace headrace::scheduler {

std::vector<DenseUse> dense_walk(const Workload& workload) {
  std::vector<DenseUse> walk;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind != SegmentKind::kDense) continue;
    for (ObjectId id : segment.weights) {
      const uint32_t chunks = static_cast<uint32_t>(workload.objects[id].chunks.size());
      for (uint32_t c = 0; c < chunks; ++c) walk.push_back({segment.id, id, c});
    }
  }
  return walk;
}

std::vector<uint8_t> always_resident(const Workload& workload) {
  std::vector<uint8_t> always(workload.objects.size(), 0);
  for (const ObjectSpec& object : workload.objects) always[object.id] = object.always_resident;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind != SegmentKind::kRoute) continue;
    for (ObjectId id : segment.weights) always[id] = 1;
  }
  return always;
}

namespace {

Bytes largest_chunk(const ObjectSpec& object) {
  return object.chunks.empty() ? 0 : *std::max_element(object.chunks.begin(), object.chunks.end());
}

void take_dense(const Workload& workload, const std::vector<uint8_t>& always, Inventory& out) {
  constexpr uint32_t kUnseen = kNone;
  std::vector<uint32_t> first(workload.objects.size(), kUnseen);  // item of an object's chunk 0
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind != SegmentKind::kDense) continue;
    for (ObjectId id : segment.weights) {
      if (always[id]) continue;
      const std::vector<Bytes>& chunks = workload.objects[id].chunks;
      if (first[id] != kUnseen) {
        for (uint32_t c = 0; c < chunks.size(); ++c) ++out.dense[first[id] + c].uses;
        continue;
      }
      first[id] = static_cast<uint32_t>(out.dense.size());
      for (uint32_t c = 0; c < chunks.size(); ++c) {
        out.dense.push_back({id, c, chunks[c], 1});
        out.dense_bytes += chunks[c];
      }
    }
  }
  out.dense_sizes = size_classes(out.dense);
  out.tied = out.embedding != kNone && first[out.embedding] != kUnseen;
}

}  // namespace

Inventory take_inventory(const Workload& workload) {
  Inventory out;
  const std::vector<uint8_t> always = always_resident(workload);
  for (const ObjectSpec& object : workload.objects) {
    if (always[object.id]) out.fixed += object.bytes();
    out.chunk_max = std::max(out.chunk_max, largest_chunk(object));
  }
  std::vector<uint8_t> seen = always;
  bool any_hole = false;
  for (const SegmentSpec& segment : workload.segments) {
    if (segment.kind == SegmentKind::kEmbed && !always[segment.candidates.at(0)]) {
      const ObjectSpec& object = workload.objects[segment.candidates[0]];
      if (!any_hole) out.embedding_hole_first = true;
      any_hole = true;
      HEADRACE_ASSERT(out.embedding == kNone || out.embedding == object.id,
                      "two embeddings in one workload");
      out.embedding = object.id;
      out.embedding_chunks = static_cast<uint32_t>(object.chunks.size());
      out.embedding_bytes = object.bytes();
      out.embedding_slot = largest_chunk(object);
    }
    if (segment.kind != SegmentKind::kExperts) continue;
    if (!any_hole) out.embedding_hole_first = false;
    any_hole = true;
    out.expert_choices = std::max(out.expert_choices, segment.choices_per_row);
    for (ObjectId id : segment.candidates) {
      if (seen[id]) continue;
      seen[id] = 1;
      const Bytes bytes = workload.objects[id].bytes();
      out.experts.push_back(id);
      out.experts_bytes += bytes;
      out.expert_slot = std::max(out.expert_slot, bytes);
      out.expert_chunk = std::max(out.expert_chunk, largest_chunk(workload.objects[id]));
    }
  }
  take_dense(workload, always, out);
  return out;
}

namespace {

// A choice of what is too large to stream: items above `slot` stay, and the ring's slots hold
// `slot`.
struct Threshold {
  Bytes slot = 0;
  Bytes above = 0;  // bytes of the items that must stay
  Bytes ring = 0;
  Bytes need() const { return above + ring; }
};

Bytes total_of(std::span<const SizeClass> sizes) {
  Bytes sum = 0;
  for (const SizeClass& size : sizes) sum += size.bytes;
  return sum;
}

// One threshold per distinct size, smallest first.
std::vector<Threshold> thresholds(std::span<const SizeClass> sizes, uint32_t ahead) {
  Bytes above = total_of(sizes);
  uint64_t uses = 0;
  std::vector<Threshold> out;
  for (const SizeClass& size : sizes) {
    uses += size.uses;
    above -= size.bytes;
    out.push_back({size.each, above, std::min<uint64_t>(ahead, uses) * size.each});
  }
  return out;
}

}  // namespace

std::vector<SizeClass> size_classes(std::span<const Item> items) {
  std::map<Bytes, SizeClass> sizes;
  for (const Item& item : items) {
    SizeClass& size = sizes[item.bytes];
    size.each = item.bytes;
    size.bytes += item.bytes;
    size.uses += item.uses;
  }
  std::vector<SizeClass> out;
  for (const auto& [each, size] : sizes) out.push_back(size);
  return out;
}

Bytes least_room_of(std::span<const SizeClass> sizes, uint32_t ahead) {
  Bytes least = total_of(sizes);
  for (const Threshold& t : thresholds(sizes, ahead)) least = std::min(least, t.need());
  return least;
}

Bytes ring_of(std::span<const SizeClass> sizes, uint32_t ahead) {
  if (sizes.empty()) return 0;
  uint64_t uses = 0;
  for (const SizeClass& size : sizes) uses += size.uses;
  return std::min<uint64_t>(ahead, uses) * sizes.back().each;
}

std::optional<std::vector<uint8_t>> keep_spread(std::span<const Item> items,
                                                std::span<const SizeClass> sizes, Bytes room,
                                                uint32_t ahead) {
  const Bytes total = total_of(sizes);
  std::vector<uint8_t> keep(items.size(), 1);
  if (total <= room) return keep;
  // Small slots leave more room; large ones leave more freedom to spread. The largest slot wins
  // that streams at most 2 % more bytes than the least possible.
  const Threshold* best = nullptr;
  const std::vector<Threshold> all = thresholds(sizes, ahead);
  Bytes least_streamed = 0;
  for (const Threshold& t : all) {
    if (t.need() > room) continue;
    const Bytes streamed = total - (room - t.ring);
    if (best == nullptr || streamed < least_streamed) least_streamed = streamed;
    if (best == nullptr) best = &t;
  }
  if (best == nullptr) return std::nullopt;
  for (const Threshold& t : all) {
    if (t.need() <= room && total - (room - t.ring) <= least_streamed + least_streamed / 50) {
      best = &t;
    }
  }
  // Bresenham on cumulative bytes, in blocks so that products of two sums stay within 64 bits. Of
  // the first x bytes at most x * cap / rest stay, so what stays never exceeds `cap`.
  const Bytes cap = (room - best->ring - best->above) / kBlock;
  const Bytes rest = (total - best->above) / kBlock;
  Bytes passed = 0, kept = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    if (items[i].bytes > best->slot) continue;
    const Bytes blocks = items[i].bytes / kBlock;
    passed += blocks;
    keep[i] = (kept + blocks) * rest <= cap * passed;
    if (keep[i]) kept += blocks;
  }
  for (size_t i = 0; i < items.size(); ++i) {  // the remainder, less than the largest item
    const Bytes blocks = items[i].bytes / kBlock;
    if (keep[i] || kept + blocks > cap) continue;
    keep[i] = 1;
    kept += blocks;
  }
  return keep;
}

Decision empty_decision(const Workload& workload, const char* policy, uint32_t depth) {
  Decision out;
  out.policy = policy;
  out.depth = depth;
  for (const ObjectSpec& object : workload.objects) {
    out.home.emplace_back(object.chunks.size(), Home::kDisk);
  }
  return out;
}

Decision all_resident(const Workload& workload, const char* policy, Tier tier, uint32_t depth) {
  Decision out = empty_decision(workload, policy, depth);
  const Home home = tier == Tier::kDevice ? Home::kDevice : Home::kHost;
  for (const SegmentSpec& segment : workload.segments) {
    for (ObjectId id : segment.weights) std::fill(out.home[id].begin(), out.home[id].end(), home);
    for (ObjectId id : segment.candidates) {
      std::fill(out.home[id].begin(), out.home[id].end(), home);
    }
  }
  return out;
}

uint32_t depth_of(const Choices& choices) {
  constexpr uint32_t kDefaultDepth = 4;
  return choices.prefetch_depth.value_or(kDefaultDepth);
}

void set_pools(const Inventory& inventory, const Workload& workload, Decision& decision,
               bool has_device, uint32_t embedding_slots, uint32_t expert_slots) {
  const Home home = has_device ? Home::kDevice : Home::kHost;
  const auto stays = [&](ObjectId id) {
    const std::vector<Home>& homes = decision.home[id];
    return std::all_of(homes.begin(), homes.end(), [&](Home h) { return h == home; });
  };
  const bool embedding = inventory.embedding != kNone && !stays(inventory.embedding);
  const bool experts =
      std::any_of(inventory.experts.begin(), inventory.experts.end(),
                  [&](ObjectId id) { return !workload.objects[id].chunks.empty() && !stays(id); });
  decision.pool_slots.clear();
  if (embedding && inventory.embedding_hole_first) decision.pool_slots.push_back(embedding_slots);
  if (experts) decision.pool_slots.push_back(expert_slots);
  if (embedding && !inventory.embedding_hole_first) decision.pool_slots.push_back(embedding_slots);
}

Bytes staging_least(const Inventory& inventory, uint32_t ahead) {
  uint64_t uses = 0;
  for (const SizeClass& size : inventory.dense_sizes) uses += size.uses;
  const uint64_t slots = std::max<uint64_t>(1, std::min<uint64_t>(ahead, uses));
  return slots * inventory.chunk_max + inventory.embedding_slot + inventory.expert_chunk;
}

void keep_on_host(const Inventory& inventory, Bytes host, uint32_t ahead, Decision& decision) {
  std::vector<Item> streamed;
  Bytes total = 0;
  for (const Item& item : inventory.dense) {
    if (decision.home[item.object][item.chunk] != Home::kDisk) continue;
    streamed.push_back(item);
    total += item.bytes;
  }
  // With everything on the host, staging serves the enter round alone: one slot.
  const Bytes pools = inventory.embedding_slot + inventory.expert_chunk;
  const Bytes all = total + inventory.chunk_max + pools;
  Bytes cap = all <= host ? total : host - staging_least(inventory, ahead);
  Bytes passed = 0, kept = 0;
  const Bytes rest = std::max<Bytes>(1, total / kBlock);
  cap /= kBlock;
  for (const Item& item : streamed) {
    passed += item.bytes / kBlock;
    const Bytes with = kept + item.bytes / kBlock;
    if (cap < rest && with * rest > cap * passed) continue;
    kept = with;
    decision.home[item.object][item.chunk] = Home::kHost;
  }
}

// Residents, then rings, then pools, without gaps: every part is a multiple of kBlock.
void pack(const Workload& workload, Plan& plan) {
  Bytes end[2] = {0, 0};
  for (Resident& r : plan.residents) {
    Bytes& at = end[static_cast<size_t>(r.tier)];
    r.offset = at;
    at += workload.objects[r.object].chunks[r.chunk];
    plan.memory.resident_weights += workload.objects[r.object].chunks[r.chunk];
  }
  const auto place = [&](auto& area) {
    Bytes& at = end[static_cast<size_t>(area.tier)];
    area.offset = at;
    at += area.slots * area.slot_bytes;
    plan.memory.stream_ring += area.slots * area.slot_bytes;
  };
  for (Ring& ring : plan.rings) place(ring);
  for (Pool& pool : plan.pools) place(pool);
  for (size_t t = 0; t < 2; ++t) plan.arena_bytes[t] = round_up(end[t], kHugePage);
}

}  // namespace headrace::scheduler
