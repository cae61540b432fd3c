#include "core/tier.h"

#include <fmt/format.h>

#include <cctype>
#include <limits>

#include "core/error.h"

namespace headrace {
namespace {

__extension__ typedef unsigned __int128 Wide;  // no product below can wrap

constexpr std::array<std::string_view, kTiers> kTierNames = {"device", "host", "disk"};
constexpr std::array<std::string_view, kKinds> kKindNames = {
    "weights", "gradients", "optimizer", "activations", "activation_gradients",
    "kv",      "adapters",  "retries",   "metadata",
};

// Nine digits of fraction name every byte of a GiB, and keep the products below in 128 bits.
constexpr size_t kFractionDigitsMax = 9;

struct Decimal {  // whole + fraction / scale
  uint64_t whole = 0;
  uint64_t fraction = 0;
  uint64_t scale = 1;
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes "12" or "12.5" off the front of `text`; a dot needs digits on both sides.
std::optional<Decimal> take_decimal(std::string_view& text) {
  Decimal d;
  size_t i = 0;
  for (; i < text.size() && is_digit(text[i]); ++i) {
    const auto digit = static_cast<uint64_t>(text[i] - '0');
    if (__builtin_mul_overflow(d.whole, uint64_t{10}, &d.whole) ||
        __builtin_add_overflow(d.whole, digit, &d.whole)) {
      return std::nullopt;
    }
  }
  if (i == 0) return std::nullopt;
  if (i < text.size() && text[i] == '.') {
    const size_t first = ++i;
    for (; i < text.size() && is_digit(text[i]); ++i) {
      if (i - first == kFractionDigitsMax) return std::nullopt;
      d.fraction = d.fraction * 10 + static_cast<uint64_t>(text[i] - '0');
      d.scale *= 10;
    }
    if (i == first) return std::nullopt;
  }
  text.remove_prefix(i);
  return d;
}

struct Unit {
  std::string_view name;  // lower case
  Bytes bytes;
};
constexpr std::array<Unit, 14> kUnits = {{
    {"", 1},
    {"b", 1},
    {"k", kKiB},
    {"kib", kKiB},
    {"kb", 1'000},
    {"m", kMiB},
    {"mib", kMiB},
    {"mb", 1'000'000},
    {"g", kGiB},
    {"gib", kGiB},
    {"gb", 1'000'000'000},
    {"t", 1024 * kGiB},
    {"tib", 1024 * kGiB},
    {"tb", 1'000'000'000'000},
}};

std::optional<Bytes> parse_unit(std::string_view text) {
  if (text.size() > 3) return std::nullopt;
  std::string lower;
  for (char c : text) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const Unit& unit : kUnits) {
    if (unit.name == lower) return unit.bytes;
  }
  return std::nullopt;
}

// d * unit / divisor, rounded down; nullopt past 64 bits. d.fraction < 10^9, unit < 2^64.
std::optional<Bytes> scaled(const Decimal& d, Bytes unit, uint64_t divisor) {
  const Wide numerator = (Wide{d.whole} * d.scale + d.fraction);
  // whole < 2^64 and scale <= 10^9, so the numerator has at most 94 bits: divide the wide product
  // only where it fits, and let everything else be the overflow that it is.
  if (numerator != 0 && ~Wide{0} / numerator < unit) return std::nullopt;
  const Wide bytes = numerator * unit / d.scale / divisor;
  if (bytes > std::numeric_limits<Bytes>::max()) return std::nullopt;
  return static_cast<Bytes>(bytes);
}

}  // namespace

std::string_view name_of(Tier tier) { return kTierNames.at(static_cast<size_t>(tier)); }
std::string_view name_of(Kind kind) { return kKindNames.at(static_cast<size_t>(kind)); }
std::string name_of(Edge edge) {
  return fmt::format("{}->{}", name_of(edge.from), name_of(edge.to));
}

std::optional<Tier> parse_tier(std::string_view text) {
  for (size_t i = 0; i < kTiers; ++i) {
    if (kTierNames[i] == text) return static_cast<Tier>(i);
  }
  return std::nullopt;
}

std::optional<Kind> parse_kind(std::string_view text) {
  for (size_t i = 0; i < kKinds; ++i) {
    if (kKindNames[i] == text) return static_cast<Kind>(i);
  }
  return std::nullopt;
}

std::optional<Bytes> parse_bytes(std::string_view text, std::optional<Bytes> whole) {
  const auto number = take_decimal(text);
  if (!number) return std::nullopt;
  if (text == "%") {
    const bool past_all = number->whole > 100 || (number->whole == 100 && number->fraction > 0);
    if (!whole || past_all) return std::nullopt;
    return scaled(*number, *whole, 100);
  }
  const auto unit = parse_unit(text);
  // Half a byte is a mistake (a forgotten unit), not a size.
  if (!unit || (*unit == 1 && number->scale > 1)) return std::nullopt;
  return scaled(*number, *unit, 1);
}

std::string format_bytes(Bytes bytes) {
  constexpr std::array<std::string_view, 7> kNames = {"B",   "KiB", "MiB", "GiB",
                                                      "TiB", "PiB", "EiB"};
  if (bytes < kKiB) return fmt::format("{} B", bytes);
  size_t unit = 0;
  auto value = static_cast<double>(bytes);
  // 1023.5 and more would print as 1024 of a unit: that is 1 of the next.
  while (unit + 1 < kNames.size() && value >= 1023.5) {
    value /= 1024;
    ++unit;
  }
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  std::string digits = fmt::format("{:.{}f}", value, decimals);
  if (decimals > 0) {  // "8 GiB" reads better than "8.00 GiB" and says the same
    while (digits.back() == '0') digits.pop_back();
    if (digits.back() == '.') digits.pop_back();
  }
  return fmt::format("{} {}", digits, kNames[unit]);
}

}  // namespace headrace
