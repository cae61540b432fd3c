// transformers 4 writes rope_theta and rope_scaling; 5 writes rope_parameters with both inside, and
// one such object for each kind of layer where they differ.
#include <fmt/format.h>

#include <cmath>

#include "models/readers.h"

namespace headrace::models {

namespace {

struct Lengths {
  double most;                     // max_position_embeddings
  std::optional<double> original;  // original_max_position_embeddings beside it, which wins
};

double original_positions(const Fields& rope, const Lengths& lengths) {
  if (lengths.original) return *lengths.original;
  return rope.find("original_max_position_embeddings") == nullptr
             ? lengths.most
             : positive(rope, "original_max_position_embeddings");
}

double optional_positive(const Fields& rope, const char* name, double otherwise) {
  return rope.find(name) == nullptr ? otherwise : positive(rope, name);
}

RopeScaling read_llama3(const Fields& rope) {
  const RopeScaling out{.kind = Scaling::kLlama3,
                        .factor = positive(rope, "factor"),
                        .low_freq = positive(rope, "low_freq_factor"),
                        .high_freq = positive(rope, "high_freq_factor"),
                        .original_positions = positive(rope, "original_max_position_embeddings")};
  if (out.low_freq >= out.high_freq) {
    rope.malformed("low_freq_factor", "it must be less than high_freq_factor");
  }
  return out;
}

double yarn_attention(const Fields& rope, double factor) {
  const auto scaled = [&](double by) {
    return factor <= 1 ? 1.0 : 0.1 * by * std::log(factor) + 1.0;
  };
  if (rope.find("attention_factor") != nullptr) return positive(rope, "attention_factor");
  const double part = rope.number("mscale").value_or(0);
  const double whole = rope.number("mscale_all_dim").value_or(0);
  return part != 0 && whole != 0 ? scaled(part) / scaled(whole) : scaled(1);
}

RopeScaling read_yarn(const Fields& rope, const Lengths& lengths) {
  RopeScaling out{.kind = Scaling::kYarn, .original_positions = original_positions(rope, lengths)};
  out.factor = optional_positive(rope, "factor", lengths.most / out.original_positions);
  out.beta_fast = optional_positive(rope, "beta_fast", 32);
  out.beta_slow = optional_positive(rope, "beta_slow", 1);
  out.truncate = rope.flag("truncate").value_or(true);
  out.attention_factor = yarn_attention(rope, out.factor);
  if (!(std::abs(out.attention_factor) < 1e6)) rope.malformed("mscale", "it is out of range");
  return out;
}

std::vector<double> read_factors(const Fields& rope, const char* name, uint32_t rotary) {
  const json::value* value = rope.find(name);
  if (value == nullptr || !value->is_array() || value->get_array().size() != rotary / 2) {
    rope.malformed(
        name, fmt::format("it must list {} numbers, half of what rotates of a head", rotary / 2));
  }
  std::vector<double> factors;
  for (const json::value& item : value->get_array()) {
    if (!item.is_number() || !(item.to_number<double>() > 0) ||
        !std::isfinite(item.to_number<double>())) {
      rope.malformed(name, "its numbers must be greater than 0");
    }
    factors.push_back(item.to_number<double>());
  }
  return factors;
}

RopeScaling read_longrope(const Fields& rope, const Lengths& lengths, uint32_t rotary) {
  RopeScaling out{.kind = Scaling::kLongrope,
                  .original_positions = original_positions(rope, lengths)};
  if (!(out.original_positions >= 2)) {
    rope.malformed("original_max_position_embeddings", "it must be at least 2");
  }
  out.short_factors = read_factors(rope, "short_factor", rotary);
  out.long_factors = read_factors(rope, "long_factor", rotary);
  out.factor = optional_positive(rope, "factor", lengths.most / out.original_positions);
  if (rope.find("attention_factor") != nullptr) {
    out.attention_factor = positive(rope, "attention_factor");
  } else if (out.factor > 1) {
    out.attention_factor = std::sqrt(1 + std::log(out.factor) / std::log(out.original_positions));
  }
  return out;
}

RopeScaling read_scaling(const Fields& rope, const Lengths& lengths, bool yarn_is_longrope,
                         uint32_t rotary) {
  if (rope.find("mrope_section") != nullptr) {
    rope.unsupported("mrope_section", "models without this field");
  }
  const char* name = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  std::string type = rope.text(name).value_or("default");
  if (type == "su" || (type == "yarn" && yarn_is_longrope)) type = "longrope";
  if (type == "default") return {};
  if (type == "linear") return {.kind = Scaling::kLinear, .factor = positive(rope, "factor")};
  if (type == "dynamic") return positive(rope, "factor"), RopeScaling{};  // see Scaling
  if (type == "llama3") return read_llama3(rope);
  if (type == "yarn") return read_yarn(rope, lengths);
  if (type == "longrope") return read_longrope(rope, lengths, rotary);
  rope.unsupported(name,
                   "\"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\", \"longrope\"");
}

uint32_t rotary_of(const Fields& fields, const char* name, double share, uint32_t head_dim) {
  if (!(share > 0 && share <= 1)) fields.malformed(name, "it must be above 0, at most 1");
  const uint32_t rotary = static_cast<uint32_t>(head_dim * share);
  if (rotary < 2 || rotary % 2 != 0) {
    fields.malformed(name, fmt::format("{} of a head's {} elements would rotate; it must be an "
                                       "even number of at least 2",
                                       rotary, head_dim));
  }
  return rotary;
}

// One object with rope_theta, partial_rotary_factor and the scaling inside, and what the config
// says outside of it.
class RopeReader {
 public:
  RopeReader(const Fields& fields, const Family& family, const ModelConfig& config)
      : fields_(fields), names_(family.fields), config_(config) {}

  Rope read(const std::optional<Fields>& inner, bool theta_inside, double theta) const {
    Rope out{.theta = theta};
    const std::optional<double> outside = fields_.number(names_.theta);
    const std::optional<double> inside =
        inner && theta_inside ? inner->number("rope_theta") : std::optional<double>();
    if (outside && inside && *outside != *inside) {
      fields_.malformed(names_.theta, "rope_parameters.rope_theta differs; one of them must go");
    }
    if (outside) out.theta = positive(fields_, names_.theta);
    if (inside) out.theta = positive(*inner, "rope_theta");
    out.rotary = read_rotary(inner);
    Lengths lengths{.most = static_cast<double>(config_.max_position_embeddings), .original = {}};
    if (fields_.find("original_max_position_embeddings") != nullptr) {
      lengths.original = positive(fields_, "original_max_position_embeddings");
    }
    if (inner) out.scaling = read_scaling(*inner, lengths, names_.yarn_is_longrope, out.rotary);
    return out;
  }

 private:
  uint32_t read_rotary(const std::optional<Fields>& inner) const {
    const char* inside = "partial_rotary_factor";
    const char* outside = names_.rotary_share;
    const bool is_inside = inner && inner->find(inside) != nullptr;
    if (outside == nullptr) {
      if (is_inside && inner->number(inside) != 1.0) inner->unsupported(inside, "1");
      return config_.head_dim;
    }
    if (is_inside) return rotary_of(*inner, inside, *inner->number(inside), config_.head_dim);
    const double share = fields_.number(outside).value_or(names_.rotary_share_default);
    return rotary_of(fields_, outside, share, config_.head_dim);
  }

  const Fields& fields_;
  const FieldNames& names_;
  const ModelConfig& config_;
};

}  // namespace

void read_rope(const Fields& fields, const Family& family, ModelConfig& out) {
  const std::optional<Fields> parameters = fields.inside("rope_parameters");
  const std::optional<Fields> scaling = fields.inside("rope_scaling");
  if (parameters && scaling) {
    fields.malformed("rope_scaling", "rope_parameters is there as well; one of them must go");
  }
  const RopeReader reader(fields, family, out);
  if (!out.sliding_rope) {
    for (const char* nested : {"full_attention", "sliding_attention"}) {
      if (parameters && parameters->find(nested) != nullptr) {
        parameters->unsupported(nested, "one rope for all layers");
      }
    }
    out.rope =
        reader.read(parameters ? parameters : scaling, parameters.has_value(), out.rope.theta);
    return;
  }
  // In the older spelling the scaling is that of full layers, and sliding layers have their theta.
  const std::optional<Fields> full = parameters ? parameters->inside("full_attention") : scaling;
  const std::optional<Fields> sliding =
      parameters ? parameters->inside("sliding_attention") : std::optional<Fields>();
  const Family plain{.fields = {.theta = "rope_local_base_freq"}};
  const double local = out.sliding_rope->theta;
  out.rope = reader.read(full, parameters.has_value(), out.rope.theta);
  out.sliding_rope = RopeReader(fields, plain, out).read(sliding, true, local);
}

}  // namespace headrace::models
