// One argument struct per operation. Dimension letters: M rows (tokens of a pass), K reduction, N
// outputs, H heads, G key-value heads, D head size, V vocabulary, E experts. Activations are
// float32 unless said.
//
// Weight matrices are stored in 16-row panels, the same for every ISA (docs/format/panels.md):
//   float32           panel p holds rows 16p..16p+15; element (row r, column k) at [k][r % 16]
//   bfloat16, float16 pairs of columns: element (r, k) at [k / 2][r % 16][k % 2]; K odd is padded
//   by a zero
// Rows past N in the last panel are zero. A panel is a multiple of 64 bytes.
//
// Batch invariance: every output element is accumulated along K in index order by one thread, so
// the bits of a row depend neither on M, nor on how N is cut into calls, nor on the number of
// threads.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/tier.h"

namespace headrace::kernels {

inline constexpr uint32_t kPanelRows = 16;

// Bytes of one panel: 16 rows of K elements.
constexpr Bytes panel_bytes(DType type, uint64_t k) {
  return type == DType::kF32 ? k * 64 : (k + 1) / 2 * 64;
}

struct PackPanelsArgs {   // rows [first, first + count) of a row-major matrix to panels
  const std::byte* rows;  // [count, K] row-major, stored type
  DType type;
  uint64_t k;
  uint32_t count;     // any; the last panel is filled up with zero rows
  std::byte* panels;  // ceil(count / 16) panels
};

struct UnpackRowArgs {  // one row of a packed matrix, widened: the embedding lookup of tied weights
  const std::byte* panels;  // the panel that holds the row
  DType type;
  uint64_t k;
  uint32_t lane;  // row % 16
  float* out;     // [K]
};

struct WidenArgs {  // float16, bfloat16 or float32 to float32
  const std::byte* in;
  DType type;
  uint64_t count;
  float* out;
};

struct NarrowArgs {  // float32 to bfloat16, round to nearest even
  const float* in;   // [M, K], row stride in_stride elements
  uint64_t rows, k, in_stride;
  uint16_t* out;  // [M, Kp], Kp = K rounded up to even, pad zero
};

// y[m, n] = sum over k of x[m, k] * w[n, k], n in [0, n). With bfloat16 weights x is bfloat16 (see
// narrow) and pairs (2i, 2i+1) enter together, float32 accumulation; otherwise x is float32.
struct MatmulArgs {
  const void* x;       // [M, K] float32, or [M, Kp] bfloat16; dense rows
  const std::byte* w;  // ceil(n / 16) panels
  DType w_type;
  uint64_t m, k, n;
  float* y;  // [M, n], row stride y_stride elements
  uint64_t y_stride;
};

// Several products as one loop: threads do not wait for each other between them, which matters
// where one takes some tens of microseconds. None reads what another writes.
struct MatmulEachArgs {
  const MatmulArgs* products;
  uint32_t count;
};

struct RmsNormArgs {    // y = x / sqrt(mean(x^2) + eps) * weight
  const float* x;       // [M, K]
  const float* weight;  // [K]
  float* y;             // [M, K]; may be x
  uint64_t rows, k;
  uint64_t x_stride, y_stride;  // elements between rows
  float eps;
};

struct LayerNormArgs {  // y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias
  const float* x;       // [M, K]
  const float* weight;  // [K]
  const float* bias;    // [K]
  float* y;             // [M, K]; may be x
  uint64_t rows, k;
  uint64_t x_stride, y_stride;  // elements between rows
  float eps;
};

struct AddArgs {  // y += x
  const float* x;
  float* y;
  uint64_t count;
};

struct AddBiasArgs {  // y[m, :] += bias
  const float* bias;  // [N]
  float* y;
  uint64_t rows, n, y_stride;
};

struct ScaleArgs {  // x *= factor
  float* x;
  uint64_t count;
  float factor;
};

struct SoftcapArgs {  // x = cap * tanh(x / cap)
  float* x;
  uint64_t count;
  float cap;
};

enum class Activation : uint8_t {
  kSilu,      // x / (1 + e^-x)
  kGelu,      // x * (1 + erf(x / sqrt(2))) / 2
  kGeluTanh,  // x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2
  kRelu,      // max(x, 0)
};

struct ActivateArgs {  // out = f(gate) * up, or f(gate)
  Activation function;
  const float* gate;  // [M, N], row stride gate_stride
  const float* up;    // [M, N], row stride up_stride; null: 1
  float* out;         // [M, N] dense; may be gate when strides agree
  uint64_t rows, n, gate_stride, up_stride;
};

// Rotary embedding, halves convention of Hugging Face: of the first R elements of each head,
// (x[i], x[i + R/2]) turn by position * freq[i]; the others stay.
struct RopeArgs {
  float* x;                  // [M, heads, D], row stride x_stride elements; in place
  const int32_t* positions;  // [M]
  const float* inv_freq;     // [R / 2]
  uint64_t rows, heads, head_dim, x_stride;
  float scale;          // attention factor; 1 without rope scaling
  uint64_t rotary = 0;  // R; 0: all of D
};

// Keys and values live in blocks of kKvBlockTokens tokens. A block of one layer is
//   K [G, tokens / 16] panels of sixteen tokens by D columns, then V [G, tokens, D],
// in kv_type (float32 or bfloat16). A panel of keys is one of weights whose rows are tokens, except
// that an odd last column of bfloat16 is sixteen elements without padding.
inline constexpr uint32_t kKvBlockTokens = 32;

constexpr Bytes kv_layer_block_bytes(DType type, uint64_t kv_heads, uint64_t head_dim) {
  return 2 * kv_heads * kKvBlockTokens * head_dim * (type == DType::kF32 ? 4 : 2);
}

struct SequenceKv {          // where one sequence's blocks are
  std::byte* const* blocks;  // block b holds tokens [32 b, 32 b + 32)
};

struct KvAppendArgs {  // writes this pass's keys and values
  const float* k;      // [M, G, D], row stride
  const float* v;      // [M, G, D]
  uint64_t k_stride, v_stride;
  const uint32_t* sequence;  // [M] index into sequences
  const int32_t* positions;  // [M]
  const SequenceKv* sequences;
  Bytes layer_offset;  // of this layer inside a block
  DType kv_type;
  uint64_t rows, kv_heads, head_dim;
};

// Causal attention of each row over its own sequence's tokens [max(0, p + 1 - window), p]. Blocks
// are folded in index order with a running maximum and sum, the same way for one query as for many.
struct AttentionArgs {
  const float* q;  // [M, H, D], row stride q_stride
  uint64_t q_stride;
  float* out;                // [M, H, D] dense
  const uint32_t* sequence;  // [M]
  const int32_t* positions;  // [M]
  const SequenceKv* sequences;
  Bytes layer_offset;
  DType kv_type;
  uint64_t rows, heads, kv_heads, head_dim;
  float scale;
  uint32_t window;    // 0: none
  float softcap = 0;  // scaled scores s become softcap * tanh(s / softcap); 0: they stay
};

// Router: probabilities over E by softmax of logits, the k largest (ties: lower index first),
// optionally renormalised to sum 1.
struct TopkRouteArgs {
  const float* logits;  // [M, E]
  uint32_t* expert;     // [M, k], rank order
  float* weight;        // [M, k]
  uint64_t rows, experts, k;
  bool renormalise;
};

struct GatherRowsArgs {  // out[i] = in[index[i]]
  const float* in;
  const uint32_t* index;  // [count]
  float* out;
  uint64_t count, k;
};

// y[m] += sum over ranks r, in rank order, of weight[m, r] * part[m, r]
struct CombineArgs {
  const float* part;    // [M, k, K]
  const float* weight;  // [M, k]
  float* y;             // [M, K]
  uint64_t rows, ranks, k;
};

struct AddGatedArgs {  // y[m] += part[m] / (1 + e^-gate[m])
  const float* part;   // [M, K]
  const float* gate;   // [M]
  float* y;            // [M, K]
  uint64_t rows, k;
};

}  // namespace headrace::kernels
