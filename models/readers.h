// What the readers of several families share. Private to this folder.
#pragma once

#include <vector>

#include "models/families.h"
#include "models/fields.h"

namespace headrace::models {

inline constexpr uint64_t kWindowMax = (uint64_t{1} << 31) - 1;
inline constexpr uint64_t kExpertsMax = 1024;

// Which layers slide, as transformers 5 writes it; empty when the field is absent.
std::vector<uint8_t> read_layer_types(const Fields& fields, uint32_t layers);
// For architectures with one kind of attention: a list that says otherwise is another model's.
void expect_uniform_layers(const Fields& fields, uint32_t layers, bool sliding);
uint32_t read_window(const Fields& fields);                       // sliding_window; 0: absent
void read_window_of_all(const Fields& fields, ModelConfig& out);  // of every layer, if of any
// Layers from max_window_layers on slide, if use_sliding_window says so at all.
void read_qwen_window(const Fields& fields, ModelConfig& out);
void refuse_set(const Fields& fields, std::initializer_list<const char*> flags);
// Fields that must have the one value that is computed.
void expect_number(const Fields& fields, const char* name, double value);
double positive(const Fields& fields, const char* name);
float read_cap(const Fields& fields, const char* name, float otherwise);
// The config's rope, and that of sliding layers where rope_parameters holds both.
void read_rope(const Fields& fields, const Family& family, ModelConfig& out);

// Shapes of well-known small models; `synth` changes sizes and the number of layers.
json::object common_example(const char* architecture, const char* model_type);
struct ExampleShape {
  uint64_t hidden, intermediate, layers, heads, kv_heads, vocab, positions;
};
json::object with_shape(json::object config, const ExampleShape& shape);

}  // namespace headrace::models
