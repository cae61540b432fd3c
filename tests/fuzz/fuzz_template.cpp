// Chat templates: whatever their text, parsing and rendering end, within their limits, in text or
// in a refusal; the text is valid UTF-8.
#include <ctime>

#include "core/json.h"
#include "engine/template/interpreter.h"
#include "engine/template/parser.h"
#include "engine/tokenizer/unicode.h"
#include "tests/fuzz/fuzz.h"

namespace headrace::fuzz {
namespace {

constexpr Bytes kMemory = 4 * kMiB;
constexpr uint64_t kSteps = 20'000;

const json::object& values() {
  static const json::object parsed =
      parse_json(
          R"({"messages":[{"role":"system","content":" Be brief. "},{"role":"user",)"
          R"("content":"Hé <x>"},{"role":"assistant","content":[{"type":"text","text":"a"}],)"
          R"("tool_calls":[{"function":{"name":"f","arguments":{"k":[1,2.5,null]}}}]}],)"
          R"("tools":[{"function":{"name":"f","parameters":{"type":"object"}}}],)"
          R"("bos_token":"<s>","eos_token":"</s>","add_generation_prompt":true,"n":3})",
          "values")
          .as_object();
  return parsed;
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  return {
      "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m.content|trim "
      "}}"
      "{% elif loop.last and m.content is not string %}{{ m.content[0].text }}{% else %}"
      "{{ raise_exception('no ' ~ m.role) if n > 5 }}{% endif %}{% endfor %}",
      "{% macro f(a, b=2) %}{{ a }}{{ caller(b) if caller }}{{ varargs }}{{ kwargs }}{% endmacro %}"
      "{% call(x) f(1, 3) %}<{{ x }}>{% endcall %}{{ f(messages|length, b=[1]) }}",
      "{% set ns = namespace(a=1, l=[]) %}{% for i in range(n) if i %}{% set ns.a = ns.a + i %}"
      "{% set ns.l = ns.l + [i] %}{{ loop.nextitem }}{% break %}{% endfor %}{{ ns.l|tojson }}",
      "{%- for t in tools recursive -%}{{ t|tojson(indent=2) }}{{ loop(t.function) if 0 }}"
      "{%- endfor -%}{% raw %}{{ x }}{% endraw %}{# no #}",
      "{{ messages|selectattr('role', 'in', ['user'])|map(attribute='content')|join(', ')|upper }}"
      "{{ 'a b c'.split(' ', 1)[-1][::-1] }}{{ '%05.1f|%s' % (1.25, n) }}{{ '{} {0.x}'.format(n) "
      "}}",
      "{% set x %}a{{ 1 if n else 2 }}{% endset %}{% filter indent(2) %}{{ x }}\n{% endfilter %}"
      "{% with a = 1, b = n %}{{ a // b ** 2 % 3 - -a }}{% endwith %}{% generation %}g"
      "{% endgeneration %}",
      "{{ {'b': 1, 'a': (1, 'x', none)}|dictsort|list }}{{ [3, 1, 2]|sort(reverse=true)|first }}"
      "{{ messages|groupby('role')|length }}{{ '\\u00e9\\n'|tojson|safe }}{{ 7 is odd and not x }}",
  };
}

void run_one(std::string_view input) {
  std::string repaired;
  const std::string_view source = engine::to_utf8(input, repaired);
  try {
    const engine::jinja::Body body = engine::jinja::parse_template(source);
    engine::jinja::Meter meter(kMemory, kSteps);
    engine::jinja::Runtime runtime(meter, std::tm{});
    std::vector<std::pair<std::string, engine::jinja::Value>> names;
    for (const auto& [name, value] : values()) {
      names.emplace_back(std::string(name), engine::jinja::from_json(&meter, value));
    }
    const std::string text = runtime.render(body, std::move(names));
    FUZZ_CHECK(engine::is_utf8(text));
    FUZZ_CHECK(text.size() <= kMemory);
  } catch (const Error& error) {
    FUZZ_CHECK(error.code() == ErrorCode::kFormat || error.code() == ErrorCode::kFailed);
  }
}

}  // namespace headrace::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  headrace::fuzz::run_one(headrace::fuzz::text_of(data, size));
  return 0;
}
