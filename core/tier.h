// Tiers of memory, the edges between them and the kinds of bytes that cross the edges: the nouns
// that plans, ledgers and reports share. Names are those of the JSON contract ("disk->host",
// "weights").
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace headrace {

using Bytes = uint64_t;

inline constexpr Bytes kKiB = 1024;
inline constexpr Bytes kMiB = 1024 * kKiB;
inline constexpr Bytes kGiB = 1024 * kMiB;
inline constexpr Bytes kBlock = 4 * kKiB;     // grain of direct I/O, of extents and of chunks
inline constexpr Bytes kHugePage = 2 * kMiB;  // grain of arenas

enum class Tier : uint8_t { kDevice, kHost, kDisk };
inline constexpr size_t kTiers = 3;

enum class Kind : uint8_t {
  kWeights,
  kGradients,
  kOptimizer,
  kActivations,
  kActivationGradients,
  kKv,
  kAdapters,
  kRetries,
  kMetadata,
};
inline constexpr size_t kKinds = 9;

struct Edge {
  Tier from;
  Tier to;
  bool operator==(const Edge&) const = default;
};

std::string_view name_of(Tier tier);
std::string_view name_of(Kind kind);
std::string name_of(Edge edge);  // "disk->host"
std::optional<Tier> parse_tier(std::string_view text);
std::optional<Kind> parse_kind(std::string_view text);

constexpr Bytes round_up(Bytes value, Bytes grain) { return (value + grain - 1) / grain * grain; }
constexpr Bytes round_down(Bytes value, Bytes grain) { return value / grain * grain; }

// "8GiB", "500MB", "1.5GiB", "4096", "4096B"; "90%" of `whole` where a whole is given. Units are
// KiB MiB GiB TiB (powers of 1024), K M G T (the same) and KB MB GB TB (powers of 1000), in any
// case. Nothing else parses: nullopt for signs, blanks inside, overflow, NaN.
std::optional<Bytes> parse_bytes(std::string_view text, std::optional<Bytes> whole = std::nullopt);
std::string format_bytes(Bytes bytes);  // "3.25 GiB", "512 MiB", "17 B": for people, three digits

}  // namespace headrace
