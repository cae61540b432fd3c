#include "engine/sampling_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "engine/words.h"

namespace headrace::engine {

namespace {

[[noreturn]] void refuse(std::string_view field, std::string_view wanted) {
  throw Error(ErrorCode::kUsage, fmt::format("{}: not {}; mend or remove the field", field, wanted))
      .at_field(std::string(field));
}

template <typename T>
T whole(std::string_view field, const json::value& v) {
  boost::system::error_code inexact;
  const T number = v.is_number() ? v.to_number<T>(inexact) : T{};
  if (!v.is_number() || inexact) {
    refuse(field, fmt::format("a whole number from 0 to {}", std::numeric_limits<T>::max()));
  }
  return number;
}

double number(std::string_view field, const json::value& v) {
  if (!v.is_number()) refuse(field, "a number");
  return v.to_number<double>();
}

bool truth(std::string_view field, const json::value& v) {
  if (!v.is_bool()) refuse(field, "true or false");
  return v.as_bool();
}

std::vector<std::string> texts(std::string_view field, const json::value& v) {
  const auto text = [&](const json::value& item) {
    if (!item.is_string()) refuse(field, "a text or a list of texts");
    return std::string(item.as_string());
  };
  if (!v.is_array()) return {text(v)};
  std::vector<std::string> list;
  for (const json::value& item : v.as_array()) list.push_back(text(item));
  return list;
}

std::vector<int32_t> ids(std::string_view field, const json::value& v) {
  if (!v.is_array()) refuse(field, "a list of token ids");
  std::vector<int32_t> list;
  for (const json::value& item : v.as_array()) list.push_back(whole<int32_t>(field, item));
  return list;
}

std::vector<std::pair<int32_t, float>> biases(std::string_view field, const json::value& v) {
  constexpr const char* kWanted = "an object of token ids and numbers: {\"42\": -1.5}";
  if (!v.is_object()) refuse(field, kWanted);
  std::vector<std::pair<int32_t, float>> list;
  for (const auto& [key, bias] : v.as_object()) {
    int32_t id = -1;
    const char* end = key.data() + key.size();
    const auto [stop, error] = std::from_chars(key.data(), end, id);
    // "07" would be "7" again.
    if (error != std::errc() || stop != end || std::to_string(id) != key || !bias.is_number()) {
      refuse(field, kWanted);
    }
    const double value = bias.to_number<double>();
    if (std::abs(value) > std::numeric_limits<float>::max()) refuse(field, kWanted);
    list.emplace_back(id, static_cast<float>(value));
  }
  return list;
}

struct Field {
  std::string_view name;
  void (*read)(SamplingParams& params, std::string_view name, const json::value& v);
};

template <auto kMember, auto kParse>
void read(SamplingParams& params, std::string_view name, const json::value& v) {
  params.*kMember = kParse(name, v);
}

constexpr Field kFields[] = {
    {"max_tokens", read<&SamplingParams::max_tokens, whole<uint32_t>>},
    {"min_tokens", read<&SamplingParams::min_tokens, whole<uint32_t>>},
    {"temperature", read<&SamplingParams::temperature, number>},
    {"top_k", read<&SamplingParams::top_k, whole<uint32_t>>},
    {"top_p", read<&SamplingParams::top_p, number>},
    {"min_p", read<&SamplingParams::min_p, number>},
    {"typical_p", read<&SamplingParams::typical_p, number>},
    {"repetition_penalty", read<&SamplingParams::repetition_penalty, number>},
    {"presence_penalty", read<&SamplingParams::presence_penalty, number>},
    {"frequency_penalty", read<&SamplingParams::frequency_penalty, number>},
    {"logit_bias", read<&SamplingParams::logit_bias, biases>},
    {"stop", read<&SamplingParams::stop, texts>},
    {"stop_token_ids", read<&SamplingParams::stop_token_ids, ids>},
    {"logprobs", read<&SamplingParams::logprobs, whole<uint32_t>>},
    {"n", read<&SamplingParams::n, whole<uint32_t>>},
    {"seed", read<&SamplingParams::seed, whole<uint64_t>>},
    {"ignore_eos", read<&SamplingParams::ignore_eos, truth>},
};

[[noreturn]] void refuse_unknown(const std::string& name,
                                 std::span<const std::string_view> others) {
  std::vector<std::string> known(others.begin(), others.end());
  for (const Field& field : kFields) known.emplace_back(field.name);
  const std::string near = nearest_word(name, known);
  throw Error(ErrorCode::kUsage,
              fmt::format("{}: no such field; {}", name,
                          near.empty() ? "remove it" : fmt::format("did you mean {}?", near)))
      .at_field(name);
}

}  // namespace

SamplingParams parse_sampling(const json::object& line, const SamplingParams& defaults,
                              std::span<const std::string_view> others, uint64_t vocabulary) {
  SamplingParams params = defaults;
  for (const auto& [key, value] : line) {
    const std::string_view name(key.data(), key.size());
    const auto* field = std::find_if(std::begin(kFields), std::end(kFields),
                                     [&](const Field& f) { return f.name == name; });
    if (field != std::end(kFields)) {
      if (!value.is_null()) field->read(params, name, value);
    } else if (std::find(others.begin(), others.end(), name) == others.end()) {
      refuse_unknown(std::string(name), others);
    }
  }
  const auto given = [&](const char* key) {
    const json::value* v = line.if_contains(key);
    return v != nullptr && !v->is_null();
  };
  if (!given("seed") && given("id")) params.seed = seed_of(defaults.seed, to_text(line.at("id")));
  check(params, vocabulary);
  return params;
}

}  // namespace headrace::engine
