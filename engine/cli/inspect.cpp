// `headrace inspect` and `headrace doctor`.
#include <fmt/format.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "engine/calibrate.h"
#include "engine/cli/common.h"
#include "engine/limits.h"
#include "models/families.h"

namespace headrace::engine::cli {

namespace {

namespace fs = std::filesystem;

// ---- inspect

json::object config_json(const models::ModelConfig& c) {
  json::object o{{"architecture", c.architecture},
                 {"family", c.family},
                 {"hidden_size", c.hidden_size},
                 {"intermediate_size", c.intermediate_size},
                 {"num_hidden_layers", c.layers},
                 {"num_attention_heads", c.heads},
                 {"num_key_value_heads", c.kv_heads},
                 {"head_dim", c.head_dim},
                 {"vocab_size", c.vocab_size},
                 {"max_position_embeddings", c.max_position_embeddings},
                 {"tie_word_embeddings", c.tie_word_embeddings},
                 {"dtype", name_of(c.dtype)}};
  if (c.experts != 0) {
    o["num_experts"] = c.experts;
    o["num_experts_per_tok"] = c.experts_per_token;
  }
  return o;
}

json::array tensors_json(const SafetensorsFolder& files) {
  json::array list;
  for (const TensorInfo& t : files.tensors) {
    json::array shape;
    for (uint64_t d : t.shape) shape.push_back(d);
    list.push_back(json::object{
        {"name", t.name}, {"dtype", name_of(t.dtype)}, {"shape", shape}, {"bytes", t.bytes}});
  }
  return list;
}

void run_inspect(const std::string& path, bool tensors_too, const Common& common) {
  ModelFolder folder = open_model(path);
  const SafetensorsFolder files = open_weights(folder);
  const models::WeightLayout layout = models::layout_of(folder.config);
  std::map<std::string, std::pair<uint64_t, Bytes>> by_dtype;
  Bytes total = 0;
  for (const TensorInfo& t : files.tensors) {
    auto& [count, bytes] = by_dtype[std::string(name_of(t.dtype))];
    ++count, bytes += t.bytes, total += t.bytes;
  }
  std::optional<Error> unsupported;
  const auto tokenizer = load_tokenizer(folder.path, unsupported);
  Bytes layer_bytes = 0;
  for (const models::ObjectLayout& o : layout.objects) {
    if (!o.name.starts_with("layers.0.")) continue;
    for (const models::ChunkLayout& c : o.chunks) layer_bytes += c.bytes;
  }
  if (common.json) {
    json::object dtypes;
    for (const auto& [name, entry] : by_dtype) {
      dtypes[name] = json::object{{"tensors", entry.first}, {"bytes", entry.second}};
    }
    json::object out{{"model", folder.path},
                     {"runs", true},
                     {"config", config_json(folder.config)},
                     {"tensors", files.tensors.size()},
                     {"files", files.files.size()},
                     {"weights_bytes", total},
                     {"stored_bytes", layout.bytes()},
                     {"layer_bytes", layer_bytes},
                     {"objects", layout.objects.size()},
                     {"dtypes", dtypes}};
    out["tokenizer"] = tokenizer
                           ? json::value(json::object{{"vocabulary", tokenizer->vocabulary_size()}})
                           : json::value(nullptr);
    if (unsupported) out["tokenizer_error"] = unsupported->what();
    if (tensors_too) out["tensor_list"] = tensors_json(files);
    return print_json(out);
  }
  const models::ModelConfig& c = folder.config;
  std::string text = fmt::format(
      "{}\n  {} ({}): {} layers, hidden {}, intermediate {}, {} heads, {} kv heads of {}\n",
      folder.path, c.architecture, c.family, c.layers, c.hidden_size, c.intermediate_size, c.heads,
      c.kv_heads, c.head_dim);
  if (c.experts != 0)
    text += fmt::format("  {} experts, {} per token\n", c.experts, c.experts_per_token);
  text += fmt::format("  vocabulary {}{}, context {}\n", c.vocab_size,
                      c.tie_word_embeddings ? " (tied)" : "", c.max_position_embeddings);
  for (const auto& [name, entry] : by_dtype) {
    text += fmt::format("  {} tensors {} ({})\n", entry.first, name, format_bytes(entry.second));
  }
  text += fmt::format("  weights {} in {} file(s); a layer {}; prepared store {}\n",
                      format_bytes(total), files.files.size(), format_bytes(layer_bytes),
                      format_bytes(layout.bytes()));
  text += tokenizer     ? fmt::format("  tokenizer: {} ids\n", tokenizer->vocabulary_size())
          : unsupported ? fmt::format("  no text, only --ids: {}\n", unsupported->what())
                        : "  no tokenizer.json: give ids with --ids\n";
  text += "  runs with this version\n";
  if (tensors_too) {
    for (const TensorInfo& t : files.tensors) {
      text += fmt::format("  {} {} [{}]\n", t.name, name_of(t.dtype), fmt::join(t.shape, ", "));
    }
  }
  print_text(text);
}

// ---- doctor

struct Check {
  std::string name, state, advice;  // state: ok, or what is missing
};

std::vector<Check> checks_of(const scheduler::Machine& machine) {
  std::vector<Check> checks;
  const bool uring = machine.measured_how.find("io_uring") != std::string::npos;
  const bool tried = machine.measured_how.find("assumed") == std::string::npos;
  checks.push_back({"io_uring",
                    uring   ? "ok"
                    : tried ? "refused"
                            : "not tried",
                    uring ? ""
                    : !tried
                        ? "no scratch file could be made; give --store a folder with room"
                        : "reads go through pread threads; allow io_uring_setup in the seccomp "
                          "profile, or set kernel.io_uring_disabled=0"});
  std::ifstream thp("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  std::getline(thp, line);
  const bool huge = line.find("[never]") == std::string::npos && !line.empty();
  checks.push_back({"huge pages", huge ? "ok" : "off",
                    huge ? ""
                         : "reads into small pages are two to three times slower; write madvise to "
                           "/sys/kernel/mm/transparent_hugepage/enabled"});
  struct rlimit limit {};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  const bool locked = limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= 64 * kMiB;
  checks.push_back({"memlock", locked ? "ok" : format_bytes(limit.rlim_cur),
                    locked ? ""
                           : "buffers may stay unregistered (a little more CPU per byte); raise it "
                             "with ulimit -l"});
  const std::string isa = kernels::kernels_for("auto").isa;
  const bool vector = isa == "avx512" || isa == "avx2";
  checks.push_back({"kernels", isa, vector ? "" : "no AVX2: products are slow on this processor"});
  checks.push_back({"gpu", "none used", "this version computes on the CPU"});
  return checks;
}

void run_doctor(const std::string& store, bool again, const Common& common) {
  const std::string root = default_cache_root();
  const kernels::Kernels& k = kernels::kernels_for("auto");
  ThreadPool pool(available_threads());
  const std::string scratch = store.empty() || store == "none" ? root + "/stores" : store;
  const scheduler::Machine machine = calibrate(
      {.cache_file = root + "/machine.json", .scratch_folder = scratch, .again = again}, k, pool);
  const std::vector<Check> checks = checks_of(machine);
  const Bytes host = available_memory(), disk = free_disk(scratch);
  if (common.json) {
    json::object out = machine_to_json(machine, host, disk);
    json::array list;
    for (const Check& c : checks)
      list.push_back(json::object{{"name", c.name}, {"state", c.state}, {"advice", c.advice}});
    out["checks"] = list;
    return print_json(out);
  }
  std::string text = fmt::format("memory  {} available to this process\n", format_bytes(host));
  text += fmt::format(
      "disk    {} free at {}; reads {}/s, writes {}/s\n", format_bytes(disk), scratch,
      format_bytes(static_cast<Bytes>(machine.rate({Tier::kDisk, Tier::kHost})->bytes_per_s)),
      format_bytes(static_cast<Bytes>(machine.rate({Tier::kHost, Tier::kDisk})->bytes_per_s)));
  text += fmt::format(
      "cpu     {} threads; weights read at {}/s; products {:.0f} GF/s bfloat16, {:.0f} GF/s "
      "float32\n",
      machine.threads, format_bytes(static_cast<Bytes>(machine.memory_read_bytes_per_s)),
      machine.matmul_flops_bf16 * 1e-9, machine.matmul_flops_f32 * 1e-9);
  for (const Check& c : checks) {
    text += fmt::format("{:<11} {}{}\n", c.name, c.state, c.advice.empty() ? "" : ": " + c.advice);
  }
  text += fmt::format("measured {}: {}\n", machine.measured_date, machine.measured_how);
  print_text(text);
}

}  // namespace

Command add_inspect(CLI::App& app, Common& common) {
  struct Flags {
    std::string model;
    bool tensors = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("inspect", "what a model folder holds and whether it can run");
  c->add_option("MODEL", flags->model, "a Hugging Face folder")->required();
  c->add_flag("--tensors", flags->tensors, "list every tensor");
  return {c, [flags, &common] { run_inspect(flags->model, flags->tensors, common); }};
}

Command add_doctor(CLI::App& app, Common& common) {
  struct Flags {
    std::string store;
    bool again = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("doctor", "what this machine offers, with what to do");
  c->add_option("--store", flags->store,
                "folder whose disk is measured (default: the user's cache)")
      ->envname("HEADRACE_STORE");
  c->add_flag("--again", flags->again, "measure even when a calibration is cached");
  return {c, [flags, &common] { run_doctor(flags->store, flags->again, common); }};
}

}  // namespace headrace::engine::cli
