// The words of a plan's text, one table an enumeration, read by its writer and its parser.
#pragma once

#include <array>

#include "scheduler/plan.h"

namespace headrace::scheduler {

inline constexpr std::array kTaskWords = {"fetch", "copy",    "embed",   "forward",
                                          "route", "experts", "kv_read", "kv_write"};
inline constexpr std::array kSpaceWords = {"none", "resident", "ring", "pool", "store", "kv"};
inline constexpr std::array kSourceWords = {"tokens", "router"};
inline constexpr std::array kEvictWords = {"recency", "forecast"};
inline constexpr std::array kRoundWords = {"enter", "steady"};

template <size_t N, typename Enum>
constexpr const char* word(const std::array<const char*, N>& words, Enum value) {
  return words.at(static_cast<size_t>(value));
}

}  // namespace headrace::scheduler
