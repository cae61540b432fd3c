// `headrace store list|verify|remove`.
#include "swap/store.h"

#include <fmt/format.h>

#include <ctime>
#include <filesystem>

#include "engine/cli/common.h"
#include "engine/limits.h"

namespace headrace::engine::cli {

namespace {

namespace fs = std::filesystem;

std::string root_of(const std::string& store) {
  return store.empty() ? default_cache_root() + "/stores" : store;
}

// A store's own folder, or that of a model folder's store.
std::string resolve(const std::string& target, const std::string& store) {
  if (fs::exists(fs::path(target) / "super")) return target;
  if (fs::exists(fs::path(target) / "config.json")) {
    const std::string path = root_of(store) + "/" + store_key(open_model(target));
    if (fs::exists(path)) return path;
    throw Error(
        ErrorCode::kFailed,
        fmt::format("{}: no store of it in {}; see `headrace store list`", target, root_of(store)))
        .at_path(target);
  }
  return target;  // an unfinished store, or what the swap floor will refuse by name
}

json::object to_json(const swap::StoreInfo& info, int64_t now) {
  return {{"path", info.path},
          {"source", info.source},
          {"bytes", info.bytes},
          {"age_s", std::max<int64_t>(0, now - info.created_unix_s)},
          {"complete", info.complete}};
}

void list(const std::string& store, const Common& common) {
  const std::vector<swap::StoreInfo> stores = swap::list_stores(root_of(store));
  const int64_t now = std::time(nullptr);
  if (common.json) {
    json::array out;
    for (const swap::StoreInfo& info : stores) out.push_back(to_json(info, now));
    return print_json({{"stores", out}});
  }
  if (stores.empty()) log(common, Level::kInfo, fmt::format("no stores in {}", root_of(store)));
  for (const swap::StoreInfo& info : stores) {
    print_text(fmt::format("{:>10}  {:>6} h  {}  {}{}\n", format_bytes(info.bytes),
                           (now - info.created_unix_s) / 3600, info.path, info.source,
                           info.complete ? "" : "  (unfinished)"));
  }
}

void verify(const std::string& target, const std::string& store, const Common& common) {
  const std::string path = resolve(target, store);
  static ProgressBar* bar = nullptr;  // the floor below takes a plain function
  ProgressBar own(common);
  bar = &own;
  const auto damaged =
      swap::verify_store(path, [](Bytes done, Bytes total) { bar->update("verify", done, total); });
  own.finish();
  json::object out{{"path", path}, {"damaged", json::array(damaged.begin(), damaged.end())}};
  if (damaged.empty()) {
    if (common.json) print_json(out);
    return log(common, Level::kInfo, fmt::format("{}: every byte is right", path));
  }
  const std::string text = fmt::format(
      "{}: {} damaged; remove it with `headrace store remove` and run again", path,
      damaged.size() == 1 ? "a chunk is" : fmt::format("{} chunks are", damaged.size()));
  if (!common.json) {
    for (const std::string& line : damaged) print_text(line + "\n");
    throw Error(ErrorCode::kCorrupt, text).at_path(path);
  }
  // One object on stdout: the error as everywhere, beside what is damaged.
  out["error"] = json::object{
      {"type", name_of(ErrorCode::kCorrupt)}, {"message", lossless(text)}, {"path", path}};
  print_json(out);
  log(common, Level::kError, text);
  throw Silent{1};
}

}  // namespace

Command add_store(CLI::App& app, Common& common) {
  struct Flags {
    std::string store, target;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* c = app.add_subcommand("store", "prepared stores: list, verify, remove");
  c->require_subcommand(1);
  c->add_option("--store", flags->store, "folder of prepared stores (default: the user's cache)")
      ->envname("HEADRACE_STORE");
  CLI::App* l = c->add_subcommand("list", "path, source, size and age");
  CLI::App* v = c->add_subcommand("verify", "read every byte; exit 1 on damage");
  CLI::App* r = c->add_subcommand("remove", "remove a store");
  for (CLI::App* s : {v, r})
    s->add_option("TARGET", flags->target, "a model folder or a store's path")->required();
  for (CLI::App* s : {l, v, r}) s->fallthrough();
  return {c, [flags, l, v, &common] {
            if (l->parsed()) return list(flags->store, common);
            if (v->parsed()) return verify(flags->target, flags->store, common);
            const std::string path = resolve(flags->target, flags->store);
            swap::remove_store(path);
            if (common.json) return print_json({{"removed", path}});
            log(common, Level::kInfo, fmt::format("removed {}", path));
          }};
}

}  // namespace headrace::engine::cli
