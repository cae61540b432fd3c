// The first line of an input is a number. 0: the rest is a tokenizer.json, which is refused with an
// Error or loaded and used. Otherwise the rest is a text for one of the small legal tokenizers:
// encoding never fails, and a stream decodes what the whole decodes.
#include <array>
#include <memory>

#include "engine/tokenizer/synthetic.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/unicode.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/temp_folder.h"

namespace headrace::fuzz {
namespace {

using engine::TextStream;
using engine::Tokenizer;

constexpr std::string_view kSample =
    "I'm sure <s> they'LL\n\n  say 12345 words\xC3\xA9 e\xCC\x81 \xE4\xB8\xAD\xE6\x96\x87 "
    "\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7 \xE2\x96\x81x\xFF";

// A file with pieces of every kind: `parts` are its fields before the model.
std::string file_of(std::string_view parts, std::string_view options) {
  std::string vocabulary;
  int id = 0;
  for (const char* token : {"<unk>", "<s>", "a", "b", "e", "s", "\xE2\x96\x81", "\xC4\xA0", "ab",
                            "\xE2\x96\x81"
                            "a",
                            "<0x0A>", "<0xC3>", "<0xA9>", "<0xFF>"}) {
    if (id > 0) vocabulary += ',';
    vocabulary += '"' + std::string(token) + "\":" + std::to_string(id++);
  }
  return std::string(R"({"added_tokens":[{"id":1,"content":"<s>","single_word":false,)") +
         R"("lstrip":true,"rstrip":true,"normalized":false,"special":true},{"id":14,)" +
         R"("content":"say","single_word":true,"lstrip":false,"rstrip":false,"normalized":true,)" +
         R"("special":false}],)" + std::string(parts) + R"("model":{"type":"BPE",)" +
         std::string(options) + R"("vocab":{)" + vocabulary +
         R"(},"merges":["a b",["\u2581","a"]]}})";
}

std::vector<std::string> files() {
  return {
      file_of(R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":true,"use_regex":true},)"
              R"("decoder":{"type":"ByteLevel"},)",
              ""),
      file_of(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend",)"
              R"("prepend":"\u2581"},)"
              R"({"type":"Replace","pattern":{"String":" "},"content":"\u2581"}]},)"
              R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":)"
              R"("<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"special_tokens":)"
              R"({"<s>":{"id":"<s>","ids":[1],"tokens":["<s>"]}}},)"
              R"("decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":)"
              R"({"String":"\u2581"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},)"
              R"({"type":"Strip","content":" ","start":1,"stop":0}]},)",
              R"("unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,)"),
      file_of(R"("normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"Sequence","pretokenizers":)"
              R"([{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|[^\\s\\p{L}]+|\\s+(?!\\S)|~"},)"
              R"("behavior":"MergedWithNext","invert":true},{"type":"Digits","individual_digits":)"
              R"(true},{"type":"Punctuation","behavior":"Contiguous"},{"type":"Metaspace",)"
              R"("replacement":"\u2581","prepend_scheme":"first","split":true}]},)"
              R"("decoder":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first"},)",
              R"("unk_token":"<unk>","ignore_merges":true,)"),
  };
}

std::unique_ptr<Tokenizer> load(std::string_view text) {
  static const test::TempFolder folder;
  folder.write("tokenizer.json", text);
  return Tokenizer::load(folder.path());
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  for (const bool skip : {false, true}) {
    const std::string whole = tokenizer.decode(ids, skip);
    TextStream stream(tokenizer, skip);
    std::string streamed;
    for (const int32_t id : ids) {
      FUZZ_CHECK(id >= 0);
      streamed += stream.next(id);
      FUZZ_CHECK(engine::is_utf8(streamed));
    }
    FUZZ_CHECK(streamed + stream.finish() == whole);
  }
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  for (const std::string& file : files()) seeds.push_back("0\n" + file);
  seeds.push_back("0\n" + engine::synthetic_tokenizer_json(300, 1));
  for (const char* which : {"1\n", "2\n", "3\n"}) seeds.push_back(which + std::string(kSample));
  return seeds;
}

void run_one(std::string_view input) {
  const size_t line = input.find('\n');
  if (line == std::string_view::npos) return;
  const std::string_view rest = input.substr(line + 1);
  const std::string_view which = input.substr(0, line);
  if (which == "0") {
    try {
      use(*load(rest), kSample);
    } catch (const Error&) {  // a refusal
    }
    return;
  }
  static const std::array<std::unique_ptr<Tokenizer>, 3> legal = {
      load(files()[0]), load(files()[1]), load(files()[2])};
  use(*legal[which.size() % legal.size()], rest);
  for (const auto& tokenizer : legal) {
    if (rest.size() < 4096) use(*tokenizer, rest);
  }
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  headrace::fuzz::run_one(headrace::fuzz::text_of(data, size));
  return 0;
}
