// config.json: what is understood, in both spellings of transformers, and what is refused by name.
#include "models/config.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/random.h"
#include "models/block.h"
#include "models/families.h"
#include "tests/support/seed.h"

namespace headrace::models {
namespace {

json::object example(const char* family) { return find_family(family)->example(); }

ModelConfig parse(const json::object& config) { return parse_config(config, "x/config.json"); }

TEST(Families, ExamplesParseAndNameThemselves) {
  for (const Family& family : families()) {
    const ModelConfig config = parse(family.example());
    EXPECT_EQ(config.family, family.name);
    EXPECT_EQ(config.architecture, family.architecture);
    EXPECT_EQ(config.dtype, DType::kBF16);
    EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{2});
    EXPECT_EQ(find_family(family.name), &family);
    EXPECT_EQ(find_family(family.architecture), &family);
  }
  EXPECT_EQ(find_family("bloom"), nullptr);
}

TEST(Config, BareModelTypeIsEnough) {
  json::object config = example("qwen3");
  config.erase("architectures");
  EXPECT_EQ(parse(config).architecture, "Qwen3ForCausalLM");
}

TEST(Config, Llama) {
  json::object config = example("llama");
  config["eos_token_id"] = json::array{128001, 128008, 128009};
  config["head_dim"] = nullptr;
  config["attention_bias"] = true;
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.head_dim, 64u);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int64_t>{128001, 128008, 128009}));
  EXPECT_EQ(c.bos_token_id, 1);
  EXPECT_TRUE(c.qkv_bias && c.o_bias);
  EXPECT_FALSE(c.mlp_bias);
  EXPECT_EQ(c.rope.theta, 500000.0);
  EXPECT_EQ(c.rope.scaling.factor, 32.0);
  EXPECT_EQ(c.rope.scaling.original_positions, 8192.0);
  EXPECT_EQ(c.sliding_window, 0u);
}

TEST(Config, SpellingOfTransformers5) {
  const ModelConfig before = parse(example("llama"));
  json::object config = example("llama");
  json::object rope = config["rope_scaling"].as_object();
  rope["rope_theta"] = config["rope_theta"];
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["rope_parameters"] = rope;
  config["dtype"] = "float16";
  config.erase("torch_dtype");
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.dtype, DType::kF16);
  EXPECT_EQ(c.rope.theta, before.rope.theta);
  EXPECT_EQ(rotary_frequencies(c.rope), rotary_frequencies(before.rope));
}

TEST(Config, QwenLayersThatSlide) {
  json::object config = example("qwen2");
  config["num_hidden_layers"] = 4;
  config["max_window_layers"] = 3;
  EXPECT_EQ(parse(config).sliding_window, 0u);  // use_sliding_window is false
  config["use_sliding_window"] = true;
  ModelConfig c = parse(config);
  EXPECT_EQ(c.sliding_window, 4096u);
  EXPECT_EQ(c.layer_slides, (std::vector<uint8_t>{0, 0, 0, 1}));
  config["layer_types"] =
      json::array{"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  c = parse(config);
  EXPECT_EQ(c.layer_slides, (std::vector<uint8_t>{1, 0, 0, 1}));
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.o_bias);
  EXPECT_TRUE(c.tie_word_embeddings);
}

TEST(Config, Mixtral) {
  json::object config = example("mixtral");
  config.erase("rope_theta");
  config.erase("rms_norm_eps");
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.experts, 8u);
  EXPECT_EQ(c.experts_per_token, 2u);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.sliding_window, 0u);
}

TEST(Config, GemmaThreeInBothSpellings) {
  json::object config = example("gemma3");
  config["rope_scaling"] = json::object{{"rope_type", "linear"}, {"factor", 8.0}};
  const ModelConfig before = parse(config);
  ASSERT_TRUE(before.sliding_rope);
  EXPECT_EQ(before.rope.theta, 1e6);
  EXPECT_EQ(before.rope.scaling.kind, Scaling::kLinear);
  EXPECT_EQ(before.sliding_rope->theta, 1e4);
  EXPECT_EQ(before.sliding_rope->scaling.kind, Scaling::kNone);
  EXPECT_EQ(before.layer_slides[4], 1);
  EXPECT_EQ(before.layer_slides[5], 0);
  EXPECT_EQ(before.logit_softcap, 0);
  for (const char* name : {"rope_theta", "rope_local_base_freq", "rope_scaling"}) {
    config.erase(name);
  }
  config["rope_parameters"] = json::object{
      {"full_attention",
       json::object{{"rope_type", "linear"}, {"factor", 8.0}, {"rope_theta", 1e6}}},
      {"sliding_attention", json::object{{"rope_type", "default"}, {"rope_theta", 1e4}}}};
  const ModelConfig c = parse(config);
  EXPECT_EQ(rotary_frequencies(c.rope), rotary_frequencies(before.rope));
  EXPECT_EQ(rotary_frequencies(*c.sliding_rope), rotary_frequencies(*before.sliding_rope));
}

// Folders that were published before transformers had their class name their own code.
TEST(Config, CodeOfTheArchitectureThatTransformersHas) {
  for (const auto& [family, name] :
       {std::pair{"phi3", "modeling_phi3.Phi3ForCausalLM"},
        std::pair{"phi3", "microsoft/Phi-3.5-mini-instruct--modeling_phi3.Phi3ForCausalLM"},
        std::pair{"falcon", "modeling_falcon.FalconForCausalLM"}}) {
    json::object config = example(family);
    config["auto_map"] = json::object{{"AutoModelForCausalLM", name}};
    EXPECT_EQ(parse(config).family, family);
    config.erase("architectures");
    EXPECT_EQ(parse(config).family, family);
  }
}

TEST(Config, GemmaTwoCapsUnlessNull) {
  json::object config = example("gemma2");
  EXPECT_EQ(parse(config).attention_softcap, 50);
  config.erase("final_logit_softcapping");
  config["attn_logit_softcapping"] = nullptr;
  EXPECT_EQ(parse(config).attention_softcap, 0);
  EXPECT_EQ(parse(config).logit_softcap, 30);
  EXPECT_TRUE(parse(config).tie_word_embeddings);
}

TEST(Config, LongropeIsChosenByTheLengthOfTheRequest) {
  json::object config = example("phi3");
  config["max_position_embeddings"] = 131072;
  json::array factors;
  for (int i = 0; i < 48; ++i) factors.push_back(1 + i);
  for (const char* type : {"longrope", "su", "yarn"}) {
    config["rope_scaling"] =
        json::object{{"type", type}, {"short_factor", factors}, {"long_factor", factors}};
    const ModelConfig c = parse(config);
    EXPECT_EQ(c.rope.scaling.kind, Scaling::kLongrope) << type;
    EXPECT_NEAR(c.rope.scaling.attention_factor, std::sqrt(1 + std::log(32) / std::log(4096)),
                1e-12);
    const WeightLayout layout = layout_of(c);
    const Decoder decoder(c, layout);
    EXPECT_TRUE(decoder.lengths_matter());
    EXPECT_FALSE(decoder.is_long(4096));
    EXPECT_TRUE(decoder.is_long(4097));
  }
}

TEST(Config, ScalingThatExtendsTheTextExtendsItsLongest) {
  const auto longest = [](const char* family, uint64_t most, json::object scaling) {
    json::object config = example(family);
    config["max_position_embeddings"] = most;
    config["rope_scaling"] = std::move(scaling);
    const ModelConfig c = parse(config);
    EXPECT_EQ(c.max_position_embeddings, most);
    return uint64_t{c.longest_text()};
  };
  EXPECT_EQ(longest("llama", 4096, {{"type", "linear"}, {"factor", 4.0}}), 16384u);
  EXPECT_EQ(longest("llama", 4096, {{"type", "linear"}, {"factor", 0.5}}), 4096u);
  EXPECT_EQ(longest("llama", 4096, {{"type", "linear"}, {"factor", 1e300}}), (1u << 31) - 1024);
  EXPECT_EQ(longest("llama", 4096, {{"type", "dynamic"}, {"factor", 4.0}}), 4096u);
  for (const uint64_t most : {32768, 131072}) {
    EXPECT_EQ(
        longest(
            "qwen3", most,
            {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}}),
        131072u);
  }
  EXPECT_EQ(longest("qwen3", 1000, {{"rope_type", "yarn"}, {"factor", 2.0}}), 2000u);
  EXPECT_EQ(longest("gemma3", 131072, {{"rope_type", "linear"}, {"factor", 8.0}}), 131072u);
  EXPECT_EQ(parse(example("llama")).longest_text(),
            parse(example("llama")).max_position_embeddings);
}

TEST(Config, FalconOfThreeShapes) {
  json::object config = example("falcon");
  ModelConfig c = parse(config);
  EXPECT_EQ(c.kv_heads, 1u);
  EXPECT_TRUE(c.block.parallel && c.block.one_norm);
  EXPECT_EQ(c.intermediate_size, 4 * c.hidden_size);
  EXPECT_EQ(c.max_position_embeddings, 2048u);
  config["multi_query"] = false;
  config["parallel_attn"] = false;
  c = parse(config);
  EXPECT_EQ(c.kv_heads, c.heads);
  EXPECT_FALSE(c.block.parallel || c.block.one_norm);
  config["parallel_attn"] = true;
  config["new_decoder_architecture"] = true;
  config["hidden_size"] = 4096;
  config["num_attention_heads"] = 64;
  config["num_kv_heads"] = 8;
  c = parse(config);
  EXPECT_EQ(c.kv_heads, 8u);
  EXPECT_TRUE(c.block.parallel && !c.block.one_norm);
  EXPECT_STREQ(c.names->ffn_norm, "ln_mlp");
}

TEST(Config, MixturesWithDenseLayers) {
  json::object config = example("qwen2_moe");
  config["num_hidden_layers"] = 5;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = json::array{3, 9};
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.layer_experts, (std::vector<uint8_t>{0, 1, 0, 0, 0}));
  EXPECT_EQ(c.shared_size, 5632u);
  EXPECT_EQ(c.expert_size, 1408u);
  EXPECT_TRUE(c.qkv_bias);
  EXPECT_FALSE(c.renormalise_routing);
  EXPECT_EQ(c.sliding_window, 0u);
}

TEST(Config, PostNormOptEndsWithoutANorm) {
  json::object config = example("opt");
  EXPECT_TRUE(parse(config).block.final_norm);
  config["do_layer_norm_before"] = false;
  const ModelConfig c = parse(config);
  EXPECT_EQ(c.block.place, NormPlace::kSum);
  EXPECT_FALSE(c.block.final_norm);
  EXPECT_EQ(layout_of(c).final_small, kNone);
}

struct Refusal {
  const char* field;  // that the error must name
  ErrorCode code;
  const char* family;
  std::function<void(json::object&)> edit;
};

const ErrorCode kBad = ErrorCode::kFormat;
const ErrorCode kNo = ErrorCode::kUnsupported;

std::function<void(json::object&)> set(const char* name, json::value value) {
  return [=](json::object& config) { config[name] = value; };
}
std::function<void(json::object&)> drop(const char* name) {
  return [=](json::object& config) { config.erase(name); };
}

json::object rope_of_type(const char* type) { return {{"rope_type", type}, {"factor", 2.0}}; }

const Refusal kRefusals[] = {
    {"architectures", kNo, "llama", set("architectures", json::array{"BloomForCausalLM"})},
    {"architectures", kNo, "llama",
     set("architectures", json::array{"Mistral3ForConditionalGeneration"})},
    {"architectures", kNo, "qwen2",
     set("architectures", json::array{"Qwen2VLForConditionalGeneration"})},
    {"architectures", kBad, "llama", set("architectures", "LlamaForCausalLM")},
    {"architectures", kBad, "llama", set("architectures", json::array{"LlamaForCausalLM", "B"})},
    {"architectures", kBad, "llama", set("architectures", json::array{1})},
    {"model_type", kNo, "llama", set("model_type", "mistral")},
    {"model_type", kBad, "llama", set("model_type", 3)},
    {"hidden_act", kNo, "llama", set("hidden_act", "quick_gelu")},
    {"hidden_act", kBad, "llama", set("hidden_act", true)},
    {"quantization_config", kNo, "llama",
     set("quantization_config", json::object{{"quant_method", "gptq"}})},
    {"vision_config", kNo, "llama", set("vision_config", json::object{{"a", 1}})},
    {"text_config", kNo, "mistral", set("text_config", json::object{{"a", 1}})},
    {"partial_rotary_factor", kNo, "llama", set("partial_rotary_factor", 0.5)},
    {"final_logit_softcapping", kNo, "llama", set("final_logit_softcapping", 30.0)},
    {"rope_interleaved", kNo, "llama", set("rope_interleaved", true)},
    {"auto_map", kNo, "llama",
     set("auto_map", json::object{{"AutoModelForCausalLM", "modeling.Model"}})},
    {"auto_map", kNo, "phi3",
     set("auto_map", json::object{{"AutoModelForCausalLM", "modeling_phi3.MyPhi3ForCausalLM"}})},
    {"auto_map.AutoModelForCausalLM", kBad, "phi3",
     set("auto_map", json::object{{"AutoModelForCausalLM", 3}})},
    {"dtype", kNo, "llama", set("dtype", "float8_e4m3fn")},
    {"torch_dtype", kNo, "llama", set("torch_dtype", "int8")},
    {"torch_dtype", kBad, "llama", set("torch_dtype", 16)},
    {"vocab_size", kBad, "llama", drop("vocab_size")},
    {"vocab_size", kBad, "llama", set("vocab_size", "32000")},
    {"vocab_size", kBad, "llama", set("vocab_size", 0)},
    {"vocab_size", kBad, "llama", set("vocab_size", -5)},
    {"vocab_size", kBad, "llama", set("vocab_size", 2147483648u)},
    {"vocab_size", kNo, "llama", set("vocab_size", 2147483647)},
    {"hidden_size", kBad, "llama", set("hidden_size", 2048.5)},
    {"hidden_size", kBad, "llama", set("hidden_size", 2047)},
    {"hidden_size", kBad, "llama", set("hidden_size", 32 * 63)},  // a head of 63
    {"intermediate_size", kNo, "llama", set("intermediate_size", 2147483647)},
    {"num_hidden_layers", kBad, "llama", set("num_hidden_layers", 1025)},
    {"num_hidden_layers", kBad, "llama", set("num_hidden_layers", 0)},
    {"num_key_value_heads", kBad, "llama", set("num_key_value_heads", 5)},
    {"num_attention_heads", kBad, "llama", set("num_attention_heads", 1e30)},
    {"head_dim", kBad, "qwen3", set("head_dim", 127)},
    {"max_position_embeddings", kBad, "llama", drop("max_position_embeddings")},
    {"rms_norm_eps", kBad, "llama", set("rms_norm_eps", -1e-6)},
    {"rms_norm_eps", kBad, "llama", set("rms_norm_eps", "1e-6")},
    {"tie_word_embeddings", kBad, "llama", set("tie_word_embeddings", 1)},
    {"rope_theta", kBad, "llama", set("rope_theta", 0)},
    {"rope_scaling.rope_type", kNo, "llama", set("rope_scaling", rope_of_type("axial"))},
    {"rope_scaling.type", kNo, "llama", set("rope_scaling", json::object{{"type", "mrope"}})},
    {"rope_scaling.factor", kBad, "llama", set("rope_scaling", json::object{{"type", "dynamic"}})},
    {"rope_scaling.factor", kBad, "llama", set("rope_scaling", json::object{{"type", "linear"}})},
    {"rope_scaling.short_factor", kBad, "phi3", set("rope_scaling", rope_of_type("su"))},
    {"rope_scaling.beta_fast", kBad, "llama",
     set("rope_scaling",
         json::object{{"rope_type", "yarn"}, {"factor", 2.0}, {"beta_fast", -1.0}})},
    {"rope_scaling.low_freq_factor", kBad, "llama", set("rope_scaling", rope_of_type("llama3"))},
    {"rope_scaling", kBad, "llama", set("rope_scaling", json::array{})},
    {"rope_scaling", kBad, "llama", set("rope_parameters", rope_of_type("default"))},
    {"rope_parameters.full_attention", kNo, "qwen3",
     set("rope_parameters", json::object{{"full_attention", json::object{}}})},
    {"rope_theta", kBad, "qwen3", set("rope_parameters", json::object{{"rope_theta", 7.0}})},
    {"bos_token_id", kBad, "llama", set("bos_token_id", "<s>")},
    {"eos_token_id", kBad, "llama", set("eos_token_id", json::array{2, -1})},
    {"eos_token_id", kBad, "llama", set("eos_token_id", json::object{})},
    {"layer_types", kNo, "mixtral",
     [](json::object& c) {
       c["layer_types"] = json::array{"sliding_attention"};
       c["num_hidden_layers"] = 1;
     }},
    {"layer_types", kBad, "qwen2", set("layer_types", json::array{"full_attention"})},
    {"sliding_window", kBad, "mistral", set("sliding_window", 0)},
    {"attention_bias", kNo, "mistral", set("attention_bias", true)},
    {"num_local_experts", kBad, "mixtral", drop("num_local_experts")},
    {"num_local_experts", kBad, "mixtral", set("num_local_experts", 100000)},
    {"num_local_experts", kNo, "mixtral",
     [](json::object& c) {
       c["num_hidden_layers"] = 1024;
       c["num_local_experts"] = 129;
       c["intermediate_size"] = 16;
     }},
    {"num_experts", kNo, "qwen3_moe",
     [](json::object& c) {
       c["num_hidden_layers"] = 129;
       c["num_experts"] = 1024;
       c["hidden_size"] = c["intermediate_size"] = c["moe_intermediate_size"] = 64;
     }},
    {"num_experts_per_tok", kBad, "mixtral", set("num_experts_per_tok", 9)},
    {"partial_rotary_factor", kBad, "phi3", set("partial_rotary_factor", 1.5)},
    {"rotary_pct", kBad, "gpt_neox", set("rotary_pct", 0.01)},
    {"num_key_value_heads", kBad, "gemma2", drop("num_key_value_heads")},
    {"use_bidirectional_attention", kNo, "gemma3", set("use_bidirectional_attention", true)},
    {"attn_logit_softcapping", kNo, "gemma3", set("attn_logit_softcapping", 50.0)},
    {"attn_logit_softcapping", kBad, "gemma2", set("attn_logit_softcapping", -1.0)},
    {"query_pre_attn_scalar", kBad, "gemma2", set("query_pre_attn_scalar", 0)},
    {"architectures", kNo, "gemma3",
     set("architectures", json::array{"Gemma3ForConditionalGeneration"})},
    {"word_embed_proj_dim", kNo, "opt", set("word_embed_proj_dim", 512)},
    {"layer_norm_elementwise_affine", kNo, "opt", set("layer_norm_elementwise_affine", false)},
    {"activation_function", kNo, "opt", set("activation_function", "tanh")},
    {"n_embd", kBad, "gpt2", drop("n_embd")},
    {"n_positions", kBad, "gpt2", set("n_positions", -1)},
    {"add_cross_attention", kNo, "gpt2", set("add_cross_attention", true)},
    {"alibi", kNo, "falcon", set("alibi", true)},
    {"num_ln_in_parallel_attn", kNo, "falcon", set("num_ln_in_parallel_attn", 2)},
    {"moe_intermediate_size", kBad, "qwen2_moe", drop("moe_intermediate_size")},
    {"shared_expert_intermediate_size", kBad, "qwen2_moe",
     set("shared_expert_intermediate_size", 0)},
    {"mlp_only_layers", kBad, "qwen3_moe", set("mlp_only_layers", json::array{"a"})},
    {"mlp_only_layers", kBad, "qwen3_moe", set("mlp_only_layers", 3)},
};

TEST(Config, RefusesByName) {
  for (const Refusal& refusal : kRefusals) {
    json::object config = example(refusal.family);
    refusal.edit(config);
    SCOPED_TRACE(to_text(config));
    try {
      parse(config);
      ADD_FAILURE() << "accepted; " << refusal.field << " should be refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.field(), refusal.field) << error.what();
      EXPECT_EQ(error.code(), refusal.code) << error.what();
      EXPECT_EQ(error.path(), "x/config.json");
      const std::string text = error.what();
      EXPECT_NE(text.find("x/config.json"), std::string::npos) << text;
      EXPECT_NE(text.find(refusal.field), std::string::npos) << text;
      EXPECT_NE(text.find("; "), std::string::npos) << text;  // what to do
    }
  }
}

TEST(Config, NotAnObject) {
  for (const json::value& value : {json::value(1), json::value(json::array{}), json::value("x")}) {
    EXPECT_THROW(parse_config(value, "config.json"), Error);
  }
}

// Any value in any field either parses, and then can be laid out, or is refused with an Error.
TEST(Config, AnyFieldMayBeAnything) {
  const json::value values[] = {nullptr,
                                0,
                                1,
                                2,
                                -1,
                                3.5,
                                1e308,
                                true,
                                false,
                                "silu",
                                "",
                                7,
                                16,
                                64,
                                1024,
                                json::array{},
                                json::object{},
                                json::array{1},
                                4294967296,
                                json::object{{"rope_type", "llama3"}}};
  for (uint64_t i = 0; i < test::cases(3000); ++i) {
    Random random(test::seed(), i);
    json::object config = families()[random.below(families().size())].example();
    for (uint64_t edits = random.between(1, 4); edits > 0; --edits) {
      auto at = config.begin() + static_cast<std::ptrdiff_t>(random.below(config.size()));
      at->value() = values[random.below(std::size(values))];
    }
    SCOPED_TRACE(test::seed_note(i) + ": " + to_text(config));
    try {
      const WeightLayout layout = layout_of(parse(config));
      ASSERT_GT(layout.bytes(), 0u);
    } catch (const Error& error) {
      ASSERT_FALSE(error.field().empty()) << error.what();
    }
  }
}

TEST(Rope, Llama3ScalingKeepsFastAndSlowsSlowRotations) {
  json::object json = example("llama");
  const std::vector<float> scaled = rotary_frequencies(parse(json).rope);
  json.erase("rope_scaling");
  const std::vector<float> plain = rotary_frequencies(parse(json).rope);
  ASSERT_EQ(scaled.size(), 32u);
  EXPECT_EQ(plain[0], 1.0f);
  EXPECT_NEAR(plain[16], 1 / std::sqrt(500000.0), 1e-9);
  EXPECT_EQ(scaled[0], plain[0]);
  EXPECT_EQ(scaled[31], plain[31] / 32);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i], plain[i]);
    EXPECT_GE(scaled[i], plain[i] / 32);
  }
}

}  // namespace
}  // namespace headrace::models
