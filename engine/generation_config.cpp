#include "engine/generation_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <optional>
#include <type_traits>

#include "core/error.h"

namespace headrace::engine {

namespace {

Error bad_setting(const ModelFolder& folder, const std::string& key, const std::string& why) {
  const std::string path = folder.path + "/generation_config.json";
  return Error(ErrorCode::kFormat, fmt::format("{}: {}: {}; mend or remove it", path, key, why))
      .at_path(path)
      .at_field(key);
}

const json::value* setting(const ModelFolder& folder, const char* key) {
  if (!folder.generation_config) return nullptr;
  const json::value* v = folder.generation_config->if_contains(key);
  return v == nullptr || v->is_null() ? nullptr : v;
}

template <typename T>
T value_of(const ModelFolder& folder, const char* key, const json::value& v) {
  boost::system::error_code inexact;
  const T value = v.is_number() ? v.to_number<T>(inexact) : T{};
  if (v.is_number() && !inexact) return value;
  throw bad_setting(folder, key,
                    std::is_integral_v<T> ? "not a whole number of 0 or more" : "not a number");
}

template <typename T>
void read(const ModelFolder& folder, const char* key, T& into) {
  if (const json::value* v = setting(folder, key)) into = value_of<T>(folder, key, *v);
}

bool samples(const ModelFolder& folder) {
  const json::value* v = setting(folder, "do_sample");
  if (v == nullptr) return false;
  if (!v->is_bool()) throw bad_setting(folder, "do_sample", "not true or false");
  return v->as_bool();
}

// Whether a setting asks for nothing: absent, null, false, empty, or its neutral number.
bool is_neutral(const json::value* v, double neutral) {
  if (v == nullptr) return true;
  if (v->is_bool()) return !v->as_bool();
  if (v->is_array()) return v->as_array().empty();
  if (v->is_object()) return v->as_object().empty();
  return v->is_number() && v->to_number<double>() == neutral;
}

}  // namespace

SamplingParams model_sampling(const ModelFolder& folder) {
  SamplingParams p;
  double temperature = 1;
  read(folder, "temperature", temperature);
  read(folder, "top_k", p.top_k);
  read(folder, "top_p", p.top_p);
  read(folder, "min_p", p.min_p);
  read(folder, "typical_p", p.typical_p);
  read(folder, "repetition_penalty", p.repetition_penalty);
  read(folder, "max_new_tokens", p.max_tokens);
  read(folder, "min_new_tokens", p.min_tokens);
  p.temperature = temperature;  // checked also where it is not used
  try {
    check(p);
  } catch (const Error& error) {
    std::string key = error.field();
    if (key == "max_tokens") key = "max_new_tokens";
    if (key == "min_tokens") key = "min_new_tokens";
    throw bad_setting(folder, key, "out of range");
  }
  if (!samples(folder)) p.temperature = 0;
  return p;
}

std::vector<int32_t> end_ids(const ModelFolder& folder) {
  std::vector<int32_t> ids;
  const char* key = "eos_token_id";
  if (const json::value* v = setting(folder, key)) {
    const auto add = [&](const json::value& item) {
      ids.push_back(value_of<int32_t>(folder, key, item));
    };
    if (v->is_array()) {
      for (const json::value& item : v->as_array()) add(item);
    } else {
      add(*v);
    }
  }
  if (ids.empty()) {
    for (int64_t id : folder.config.eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

std::vector<std::string> settings_left_out(const ModelFolder& folder) {
  constexpr std::pair<const char*, double> kLeftOut[] = {{"no_repeat_ngram_size", 0},
                                                         {"encoder_repetition_penalty", 1},
                                                         {"epsilon_cutoff", 0},
                                                         {"eta_cutoff", 0},
                                                         {"min_length", 0},
                                                         {"num_beams", 1},
                                                         {"num_return_sequences", 1},
                                                         {"penalty_alpha", 0},
                                                         {"guidance_scale", 1},
                                                         {"suppress_tokens", 0},
                                                         {"begin_suppress_tokens", 0},
                                                         {"bad_words_ids", 0},
                                                         {"sequence_bias", 0},
                                                         {"forced_bos_token_id", -1},
                                                         {"forced_eos_token_id", -1},
                                                         {"exponential_decay_length_penalty", 0},
                                                         {"stop_strings", 0}};
  std::vector<std::string> left_out;
  for (const auto& [key, neutral] : kLeftOut) {
    const json::value* v = setting(folder, key);
    if (is_neutral(v, neutral)) continue;
    const std::string text = to_text(*v);
    left_out.push_back(fmt::format("{} {}", key, text.size() <= 40 ? text : "…"));
  }
  return left_out;
}

}  // namespace headrace::engine
