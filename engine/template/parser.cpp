#include "engine/template/parser.h"

#include <fmt/format.h>

#include <initializer_list>

namespace headrace::engine::jinja {
namespace {

constexpr int kBlocksMax = 60;  // how deep blocks may nest

using What = Statement::What;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(tokenize(source)), expressions_(tokens_) {}

  size_t tokens() const { return tokens_.size(); }
  Body run() {
    Body body = statements({});
    if (!tokens_.at(Token::Type::kEnd)) tokens_.unexpected();
    return body;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  // Until a tag whose word is one of `ends`, which is left as the next token.
  Body statements(Ends ends) {
    if (++depth_ > kBlocksMax) fail_at(tokens_.now().line, "it nests blocks too deeply");
    Body body;
    while (true) {
      const Token& token = tokens_.now();
      if (token.type == Token::Type::kText) {
        auto made = make(What::kText, token.line);
        made->text = tokens_.take().text;
        body.push_back(std::move(made));
      } else if (token.type == Token::Type::kOutputBegin) {
        auto made = make(What::kOutput, tokens_.take().line);
        made->expression = expressions_.tuple();
        if (!tokens_.at(Token::Type::kOutputEnd)) tokens_.unexpected();
        tokens_.take();
        body.push_back(std::move(made));
      } else if (token.type == Token::Type::kBlockBegin) {
        tokens_.take();
        for (const std::string_view end : ends) {
          if (tokens_.at_name(end)) return --depth_, std::move(body);
        }
        if (auto made = statement()) body.push_back(std::move(made));
      } else {
        if (ends.size() > 0) {
          fail_at(token.line, fmt::format("{{% {} %}} is missing", *(ends.end() - 1)));
        }
        --depth_;
        return body;
      }
    }
  }

  // The body up to {% end %}, which is taken.
  Body body_until(std::string_view end) {
    end_of_tag();
    Body body = statements({end});
    tokens_.take();
    end_of_tag();
    return body;
  }

  std::unique_ptr<Statement> make(What what, uint32_t line) {
    auto made = std::make_unique<Statement>();
    made->what = what;
    made->line = line;
    return made;
  }

  void end_of_tag() {
    if (!tokens_.at(Token::Type::kBlockEnd)) tokens_.unexpected();
    tokens_.take();
  }

  std::unique_ptr<Statement> statement() {
    const uint32_t line = tokens_.now().line;
    const std::string word = tokens_.expect_name();
    if (word == "if") return if_block(line);
    if (word == "for") return for_block(line);
    if (word == "set") return set(line);
    if (word == "macro") return macro(line);
    if (word == "call") return call_block(line);
    if (word == "filter") return filter_block(line);
    if (word == "with") return with(line);
    if (word == "print") return print(line);
    if (word == "generation") {
      auto made = make(What::kGeneration, line);
      made->body = body_until("endgeneration");
      return made;
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) fail_at(line, fmt::format("{} outside a loop", word));
      end_of_tag();
      return make(word == "break" ? What::kBreak : What::kContinue, line);
    }
    for (const char* other : {"include", "import", "from", "extends", "block", "autoescape"}) {
      if (word == other) fail_at(line, fmt::format("{{% {} %}} has no place in a chat", word));
    }
    fail_at(line, fmt::format("unknown tag {:?}", word));
  }

  std::unique_ptr<Statement> print(uint32_t line) {
    auto made = make(What::kOutput, line);
    made->expression = std::make_unique<Expression>();
    made->expression->kind = Operator::kConcatenate;
    made->expression->line = line;
    do made->expression->parts.push_back(expressions_.expression());
    while (tokens_.skip_symbol(","));
    end_of_tag();
    return made;
  }

  std::unique_ptr<Statement> if_block(uint32_t line) {
    auto made = make(What::kIf, line);
    ExpressionPtr condition = expressions_.tuple(false);
    while (true) {
      end_of_tag();
      Body body = statements({"elif", "else", "endif"});
      made->branches.push_back({std::move(condition), std::move(body)});
      const bool was_else = made->branches.back().condition == nullptr;
      if (tokens_.skip_name("endif")) break;
      if (was_else) tokens_.unexpected();
      if (tokens_.skip_name("elif")) {
        condition = expressions_.tuple(false);
      } else {
        tokens_.take();
        condition = nullptr;
      }
    }
    end_of_tag();
    return made;
  }

  std::unique_ptr<Statement> for_block(uint32_t line) {
    auto made = make(What::kFor, line);
    made->target = expressions_.target("in");
    if (!tokens_.skip_name("in")) tokens_.unexpected();
    made->expression = expressions_.tuple(false, "recursive");
    if (tokens_.skip_name("if")) made->condition = expressions_.expression();
    made->recursive = tokens_.skip_name("recursive");
    end_of_tag();
    ++loops_;
    made->body = statements({"else", "endfor"});
    --loops_;
    if (tokens_.skip_name("else")) {
      made->otherwise = body_until("endfor");
    } else {
      tokens_.take();
      end_of_tag();
    }
    return made;
  }

  std::unique_ptr<Statement> set(uint32_t line) {
    auto made = make(What::kSet, line);
    made->target = expressions_.target({}, true);
    if (tokens_.skip_symbol("=")) {
      made->expression = expressions_.tuple();
      end_of_tag();
      return made;
    }
    made->what = What::kSetBlock;
    if (tokens_.at_symbol("|")) made->expression = expressions_.filters(nullptr, true);
    made->body = body_until("endset");
    return made;
  }

  void parameters(MacroShape& macro) {
    tokens_.expect_symbol("(");
    while (!tokens_.skip_symbol(")")) {
      if (!macro.parameters.empty()) tokens_.expect_symbol(",");
      if (tokens_.skip_symbol(")")) return;
      const uint32_t line = tokens_.now().line;
      Parameter parameter{tokens_.expect_name(), nullptr};
      if (tokens_.skip_symbol("=")) {
        parameter.standard = expressions_.expression();
      } else if (!macro.parameters.empty() && macro.parameters.back().standard) {
        fail_at(line, "a parameter without default behind one with");
      }
      macro.parameters.push_back(std::move(parameter));
    }
  }

  // The body of a macro, and which of its special names it uses.
  void macro_body(MacroShape& macro, std::string_view end) {
    const auto around = expressions_.uses;
    const int loops = std::exchange(loops_, 0);
    expressions_.uses = {};
    macro.body = body_until(end);
    loops_ = loops;
    const auto inside = expressions_.uses;
    macro.caller = inside.caller;
    macro.named = inside.named;
    macro.more = inside.more;
    expressions_.uses = {around.caller || inside.caller, around.named || inside.named,
                         around.more || inside.more};
  }

  std::unique_ptr<Statement> macro(uint32_t line) {
    auto made = make(What::kMacro, line);
    made->macro = std::make_shared<MacroShape>();
    made->macro->name = tokens_.expect_name();
    parameters(*made->macro);
    macro_body(*made->macro, "endmacro");
    return made;
  }

  std::unique_ptr<Statement> call_block(uint32_t line) {
    auto made = make(What::kCallBlock, line);
    made->macro = std::make_shared<MacroShape>();
    if (tokens_.at_symbol("(")) parameters(*made->macro);
    made->expression = expressions_.expression();
    if (made->expression->kind != Operator::kCall) fail_at(line, "a call block needs a call");
    macro_body(*made->macro, "endcall");
    return made;
  }

  std::unique_ptr<Statement> filter_block(uint32_t line) {
    auto made = make(What::kFilterBlock, line);
    made->expression = expressions_.filters(nullptr, false);
    made->body = body_until("endfilter");
    return made;
  }

  std::unique_ptr<Statement> with(uint32_t line) {
    auto made = make(What::kWith, line);
    while (!tokens_.at(Token::Type::kBlockEnd)) {
      if (!made->assignments.empty()) tokens_.expect_symbol(",");
      ExpressionPtr target = expressions_.target();
      tokens_.expect_symbol("=");
      made->assignments.emplace_back(std::move(target), expressions_.expression());
    }
    made->body = body_until("endwith");
    return made;
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view source, size_t* tokens) {
  Parser parser(source);
  if (tokens != nullptr) *tokens = parser.tokens();
  return parser.run();
}

}  // namespace headrace::engine::jinja
