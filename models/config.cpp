#include "models/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "models/families.h"
#include "models/fields.h"

namespace headrace::models {

namespace {

// Caps that no known model comes near. They bound what a hostile file can make the layout allocate.
constexpr uint64_t kSizeMax = (uint64_t{1} << 31) - 1;
constexpr uint64_t kLayersMax = 1024;
constexpr uint64_t kHeadsMax = 1 << 16;
constexpr uint64_t kHeadDimMax = 1 << 14;
constexpr double kMatrixElementsMax = 0x1p36;  // 256 Ki vocabulary x 16 Ki hidden is 2^32
constexpr double kModelElementsMax = 0x1p41;   // two trillion parameters

std::string supported_architectures() {
  std::string list;
  for (const Family& family : families()) {
    if (!list.empty()) list += ", ";
    list += family.architecture;
  }
  return list;
}

const Family& family_of(const Fields& fields) {
  const json::value* value = fields.find("architectures");
  if (value == nullptr) {  // a bare config names its type alone
    const std::optional<std::string> type = fields.text("model_type");
    if (!type) fields.malformed("architectures", "it is required, a list of one name");
    for (const Family& family : families()) {
      if (*type == family.model_type) return family;
    }
    fields.unsupported("model_type", supported_architectures());
  }
  if (!value->is_array() || value->get_array().size() != 1 || !value->get_array()[0].is_string()) {
    fields.malformed("architectures", "it must be a list of one name");
  }
  const json::string& name = value->get_array()[0].get_string();
  for (const Family& family : families()) {
    if (std::string_view(name.data(), name.size()) != family.architecture) continue;
    const std::optional<std::string> type = fields.text("model_type");
    if (type && *type != family.model_type) {
      fields.unsupported("model_type",
                         fmt::format("\"{}\" with {}", family.model_type, family.architecture));
    }
    return family;
  }
  fields.unsupported("architectures", supported_architectures());
}

// Fields that other models use to bend the arithmetic of this one: accepted only where they say
// what is computed anyway.
void refuse_other_arithmetic(const Fields& fields) {
  const std::optional<std::string> act = fields.text("hidden_act");
  if (act && *act != "silu" && *act != "swish") fields.unsupported("hidden_act", "\"silu\"");
  for (const char* name : {"quantization_config", "compression_config", "text_config",
                           "vision_config", "audio_config"}) {
    if (fields.find(name) != nullptr) {
      fields.unsupported(name, "a text decoder in float32, bfloat16 or float16 without this field");
    }
  }
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"}) {
    if (fields.find(name) != nullptr) fields.unsupported(name, "models without this field");
  }
  for (const char* name : {"partial_rotary_factor", "logit_scale", "logits_scaling",
                           "embedding_multiplier", "residual_multiplier"}) {
    const std::optional<double> x = fields.number(name);
    if (x && *x != 1.0) fields.unsupported(name, "1");
  }
  for (const char* name :
       {"is_encoder_decoder", "add_cross_attention", "alibi", "rope_interleaved"}) {
    const std::optional<bool> on = fields.flag(name);
    if (on && *on) fields.unsupported(name, "false");
  }
  const std::optional<Fields> code = fields.inside("auto_map");
  if (code && code->find("AutoModelForCausalLM") != nullptr) {
    fields.unsupported("auto_map", "architectures that transformers itself defines");
  }
}

DType read_dtype(const Fields& fields) {
  const char* name = fields.find("dtype") != nullptr ? "dtype" : "torch_dtype";
  const std::optional<std::string> text = fields.text(name);
  if (!text) return DType::kF32;
  const std::optional<DType> type = parse_dtype(*text);
  if (!type || (*type != DType::kF32 && *type != DType::kBF16 && *type != DType::kF16)) {
    fields.unsupported(name, "\"float32\", \"bfloat16\", \"float16\"");
  }
  return *type;
}

void read_sizes(const Fields& fields, ModelConfig& out) {
  out.vocab_size = fields.required_count("vocab_size", {1, kSizeMax});
  out.hidden_size = fields.required_count("hidden_size", {1, kSizeMax});
  out.intermediate_size = fields.required_count("intermediate_size", {1, kSizeMax});
  out.layers = static_cast<uint32_t>(fields.required_count("num_hidden_layers", {1, kLayersMax}));
  out.heads = static_cast<uint32_t>(fields.required_count("num_attention_heads", {1, kHeadsMax}));
  out.kv_heads = static_cast<uint32_t>(
      fields.count("num_key_value_heads", {1, kHeadsMax}).value_or(out.heads));
  if (out.heads % out.kv_heads != 0) {
    fields.malformed("num_key_value_heads",
                     fmt::format("it must divide num_attention_heads, {}", out.heads));
  }
  const std::optional<uint64_t> head_dim = fields.count("head_dim", {2, kHeadDimMax});
  if (!head_dim && out.hidden_size % out.heads != 0) {
    fields.malformed("hidden_size", fmt::format("without head_dim it must be a multiple of "
                                                "num_attention_heads, {}",
                                                out.heads));
  }
  const uint64_t derived = head_dim.value_or(out.hidden_size / out.heads);
  if (derived < 2 || derived > kHeadDimMax || derived % 2 != 0) {
    fields.malformed(head_dim ? "head_dim" : "hidden_size",
                     fmt::format("the size of a head must be even, from 2 to {}", kHeadDimMax));
  }
  out.head_dim = static_cast<uint32_t>(derived);
  out.max_position_embeddings =
      static_cast<uint32_t>(fields.required_count("max_position_embeddings", {1, kSizeMax}));
}

double positive(const Fields& fields, const char* name) {
  const double x = fields.required_number(name);
  if (!(x > 0)) fields.malformed(name, "it must be greater than 0");
  return x;
}

void read_rope_scaling(const Fields& rope, ModelConfig& out) {
  for (const char* nested : {"full_attention", "sliding_attention"}) {
    if (rope.find(nested) != nullptr) rope.unsupported(nested, "one rope for all layers");
  }
  if (rope.find("mrope_section") != nullptr) {
    rope.unsupported("mrope_section", "models without this field");
  }
  const std::optional<double> part = rope.number("partial_rotary_factor");
  if (part && *part != 1.0) rope.unsupported("partial_rotary_factor", "1");
  const char* name = rope.find("rope_type") != nullptr ? "rope_type" : "type";
  const std::string type = rope.text(name).value_or("default");
  if (type == "default") return;
  if (type != "llama3") rope.unsupported(name, "\"default\", \"llama3\"");
  out.rope_scaling = {.factor = positive(rope, "factor"),
                      .low_freq = positive(rope, "low_freq_factor"),
                      .high_freq = positive(rope, "high_freq_factor"),
                      .original_positions = positive(rope, "original_max_position_embeddings")};
  if (out.rope_scaling.low_freq >= out.rope_scaling.high_freq) {
    rope.malformed("low_freq_factor", "it must be less than high_freq_factor");
  }
}

// transformers 4 writes rope_theta and rope_scaling; 5 writes rope_parameters with both inside.
void read_rope(const Fields& fields, ModelConfig& out) {
  const std::optional<Fields> parameters = fields.inside("rope_parameters");
  const std::optional<Fields> scaling = fields.inside("rope_scaling");
  if (parameters && scaling) {
    fields.malformed("rope_scaling", "rope_parameters is there as well; one of them must go");
  }
  const std::optional<double> outer = fields.number("rope_theta");
  const std::optional<double> inner =
      parameters ? parameters->number("rope_theta") : std::optional<double>();
  if (outer && inner && *outer != *inner) {
    fields.malformed("rope_theta", "rope_parameters.rope_theta differs; one of them must go");
  }
  if (outer || inner) {
    out.rope_theta = outer ? positive(fields, "rope_theta") : positive(*parameters, "rope_theta");
  }
  if (parameters) read_rope_scaling(*parameters, out);
  if (scaling) read_rope_scaling(*scaling, out);
}

void check_total(const Fields& fields, const ModelConfig& c) {
  const double hidden = static_cast<double>(c.hidden_size);
  const double ffn = static_cast<double>(c.intermediate_size);
  const double vocab = static_cast<double>(c.vocab_size);
  const double q = static_cast<double>(c.heads) * c.head_dim;
  const auto check = [&](const char* name, double elements, double most) {
    if (elements <= most) return;
    fields.unsupported(
        name, fmt::format("at most {:.0f} elements; this would make {:.0f}", most, elements));
  };
  check("vocab_size", vocab * hidden, kMatrixElementsMax);
  check("intermediate_size", ffn * hidden, kMatrixElementsMax);
  check("num_attention_heads", q * hidden, kMatrixElementsMax);
  const double experts = c.experts == 0 ? 1 : c.experts;
  const double layer = 4 * q * hidden + experts * 3 * ffn * hidden;
  check("num_hidden_layers", 2 * vocab * hidden + c.layers * layer, kModelElementsMax);
}

}  // namespace

ModelConfig parse_config(const json::value& value, const std::string& what) {
  if (!value.is_object()) {
    throw Error(ErrorCode::kFormat,
                fmt::format("{}: not a model's config: it must be a JSON object; give the "
                            "config.json of a Hugging Face folder",
                            what))
        .at_path(what);
  }
  const Fields fields(value.get_object(), what);
  const Family& family = family_of(fields);
  refuse_other_arithmetic(fields);

  ModelConfig out;
  out.architecture = family.architecture;
  out.family = family.name;
  read_sizes(fields, out);
  out.dtype = read_dtype(fields);
  out.tie_word_embeddings = fields.flag("tie_word_embeddings").value_or(false);
  family.read(fields, out);  // before the fields below, whose defaults differ between families

  const double eps = fields.number("rms_norm_eps").value_or(out.rms_norm_eps);
  if (!(eps >= 0 && eps < 1)) fields.malformed("rms_norm_eps", "it must be in [0, 1)");
  out.rms_norm_eps = static_cast<float>(eps);
  read_rope(fields, out);
  const std::vector<int64_t> bos = fields.token_ids("bos_token_id");
  if (!bos.empty()) out.bos_token_id = bos.front();
  out.eos_token_ids = fields.token_ids("eos_token_id");
  check_total(fields, out);
  return out;
}

ModelConfig read_config(const std::string& path) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const std::string file = folder ? (std::filesystem::path(path) / "config.json").string() : path;
  return parse_config(read_json(file), file);
}

}  // namespace headrace::models
