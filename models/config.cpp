#include "models/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "models/families.h"
#include "models/readers.h"

namespace headrace::models {

namespace {

// Caps that no known model comes near. They bound what a hostile file can make the layout allocate.
constexpr uint64_t kSizeMax = (uint64_t{1} << 31) - 1;
constexpr uint64_t kLayersMax = 1024;
constexpr uint64_t kPositionsMax = (uint64_t{1} << 31) - 1024;  // with a table's offset, 32 bits
constexpr uint64_t kHeadsMax = 1 << 16;
constexpr uint64_t kHeadDimMax = 1 << 14;
constexpr uint64_t kExpertsOfModelMax = 1 << 17;
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

// Fields that other models use to bend the arithmetic of this one: accepted only where the family
// has read them, or where they say what is computed anyway.
void refuse_other_arithmetic(const Fields& fields, std::string_view architecture) {
  for (const char* name : {"quantization_config", "compression_config", "text_config",
                           "vision_config", "audio_config"}) {
    if (fields.find(name) != nullptr) {
      fields.unsupported(name, "a text decoder in float32, bfloat16 or float16 without this field");
    }
  }
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"}) {
    if (!fields.asked(name) && fields.find(name) != nullptr) {
      fields.unsupported(name, "models without this field");
    }
  }
  for (const char* name : {"partial_rotary_factor", "logit_scale", "logits_scaling",
                           "embedding_multiplier", "residual_multiplier"}) {
    if (!fields.asked(name)) expect_number(fields, name, 1.0);
  }
  refuse_set(fields, {"is_encoder_decoder", "add_cross_attention", "alibi", "rope_interleaved",
                      "use_bidirectional_attention"});
  // Code that comes with a model of an architecture that transformers has is not what transformers
  // runs. "repository--file.Class"
  const std::optional<Fields> code = fields.inside("auto_map");
  const std::optional<std::string> name = code ? code->text("AutoModelForCausalLM") : std::nullopt;
  if (name && name->substr(name->rfind('.') + 1) != architecture) {
    fields.unsupported("auto_map", "architectures that transformers itself defines");
  }
}

void read_activation(const Fields& fields, const char* name, ModelConfig& out) {
  using kernels::Activation;
  const std::optional<std::string> text = fields.text(name);
  if (!text) return;
  constexpr struct {
    const char* name;
    Activation function;
  } kNames[] = {{"silu", Activation::kSilu},
                {"swish", Activation::kSilu},
                {"gelu", Activation::kGelu},
                {"gelu_new", Activation::kGeluTanh},
                {"gelu_pytorch_tanh", Activation::kGeluTanh},
                {"gelu_fast", Activation::kGeluTanh},
                {"relu", Activation::kRelu}};
  for (const auto& known : kNames) {
    if (*text == known.name) {
      out.block.activation = known.function;
      return;
    }
  }
  fields.unsupported(name, "\"silu\", \"gelu\", \"gelu_new\", \"gelu_pytorch_tanh\", \"relu\"");
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

void read_heads(const Fields& fields, const FieldNames& names, ModelConfig& out) {
  out.heads = static_cast<uint32_t>(fields.required_count(names.heads, {1, kHeadsMax}));
  out.kv_heads = out.heads;
  if (names.kv_heads != nullptr) {
    out.kv_heads =
        static_cast<uint32_t>(fields.count(names.kv_heads, {1, kHeadsMax}).value_or(out.heads));
  }
  if (out.heads % out.kv_heads != 0) {
    fields.malformed(names.kv_heads, fmt::format("it must divide {}, {}", names.heads, out.heads));
  }
  const std::optional<uint64_t> head_dim = fields.count("head_dim", {2, kHeadDimMax});
  if (!head_dim && out.hidden_size % out.heads != 0) {
    fields.malformed(names.hidden, fmt::format("without head_dim it must be a multiple of {}, {}",
                                               names.heads, out.heads));
  }
  const uint64_t derived = head_dim.value_or(out.hidden_size / out.heads);
  if (derived < 2 || derived > kHeadDimMax || derived % 2 != 0) {
    fields.malformed(head_dim ? "head_dim" : names.hidden,
                     fmt::format("the size of a head must be even, from 2 to {}", kHeadDimMax));
  }
  out.head_dim = static_cast<uint32_t>(derived);
}

void read_sizes(const Fields& fields, const FieldNames& names, ModelConfig& out) {
  out.vocab_size = fields.required_count("vocab_size", {1, kSizeMax});
  out.hidden_size = fields.required_count(names.hidden, {1, kSizeMax});
  const std::optional<uint64_t> widened =
      names.widening != 0 ? fields.count(names.intermediate, {1, kSizeMax})
                          : fields.required_count(names.intermediate, {1, kSizeMax});
  out.intermediate_size = widened.value_or(names.widening * out.hidden_size);
  out.layers = static_cast<uint32_t>(fields.required_count(names.layers, {1, kLayersMax}));
  read_heads(fields, names, out);
  const std::optional<uint64_t> positions =
      names.positions_default != 0 ? fields.count(names.positions, {1, kPositionsMax})
                                   : fields.required_count(names.positions, {1, kPositionsMax});
  out.max_position_embeddings = static_cast<uint32_t>(positions.value_or(names.positions_default));
}

void read_norm_eps(const Fields& fields, const char* name, ModelConfig& out) {
  if (name == nullptr) return;
  const double eps = fields.number(name).value_or(double{out.norm_eps});
  if (!(eps >= 0 && eps < 1)) fields.malformed(name, "it must be in [0, 1)");
  out.norm_eps = static_cast<float>(eps);
}

void check_total(const Fields& fields, const FieldNames& names, const ModelConfig& c) {
  const double hidden = static_cast<double>(c.hidden_size);
  const double ffn =
      static_cast<double>(std::max({c.intermediate_size, c.expert_size, c.shared_size}));
  const double vocab = static_cast<double>(c.vocab_size);
  const double q = static_cast<double>(c.heads) * c.head_dim;
  const auto check = [&](const char* name, double elements, double most) {
    if (elements <= most) return;
    fields.unsupported(
        name, fmt::format("at most {:.0f} elements; this would make {:.0f}", most, elements));
  };
  check("vocab_size", vocab * hidden, kMatrixElementsMax);
  check(names.intermediate, ffn * hidden, kMatrixElementsMax);
  check(names.heads, q * hidden, kMatrixElementsMax);
  if (c.positions == Positions::kLearned) {
    check(names.positions, c.max_position_embeddings * hidden, kMatrixElementsMax);
  }
  if (const uint64_t all = uint64_t{c.layers} * c.experts; all > kExpertsOfModelMax) {
    const char* name = fields.asked("num_experts") ? "num_experts" : "num_local_experts";
    fields.unsupported(name, fmt::format("at most {} experts in all of {}; these would be {}",
                                         kExpertsOfModelMax, names.layers, all));
  }
  const double experts = 1.0 + c.experts;
  const double layer = 4 * q * hidden + experts * 3 * ffn * hidden;
  check(names.layers, 2 * vocab * hidden + c.layers * layer, kModelElementsMax);
}

}  // namespace

// Of llama3 and longrope max_position_embeddings is the scaled length, as it is where sliding
// layers have a rope of their own (Gemma 3); of linear it is the one before.
uint32_t ModelConfig::longest_text() const {
  const RopeScaling& s = rope.scaling;
  const double most = max_position_embeddings;
  double scaled = most;
  if (!sliding_rope && s.kind == Scaling::kLinear) scaled = most * s.factor;
  if (!sliding_rope && s.kind == Scaling::kYarn) scaled = s.original_positions * s.factor;
  return static_cast<uint32_t>(std::min(std::max(most, scaled), double{kPositionsMax}));
}

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
  ModelConfig out;
  out.architecture = family.architecture;
  out.family = family.name;
  out.names = &family.names;
  read_sizes(fields, family.fields, out);
  out.dtype = read_dtype(fields);
  out.tie_word_embeddings = fields.flag("tie_word_embeddings").value_or(family.ties);
  family.read(fields, out);  // before the fields below, whose defaults differ between families
  read_activation(fields, family.fields.activation, out);
  read_norm_eps(fields, family.fields.norm_eps, out);
  if (out.positions == Positions::kRotary) read_rope(fields, family, out);
  refuse_other_arithmetic(fields, out.architecture);
  const std::vector<int64_t> bos = fields.token_ids("bos_token_id");
  if (!bos.empty()) out.bos_token_id = bos.front();
  out.eos_token_ids = fields.token_ids("eos_token_id");
  check_total(fields, family.fields, out);
  return out;
}

ModelConfig read_config(const std::string& path) {
  std::error_code ignored;
  const bool folder = std::filesystem::is_directory(path, ignored);
  const std::string file = folder ? (std::filesystem::path(path) / "config.json").string() : path;
  return parse_config(read_json(file), file);
}

}  // namespace headrace::models
