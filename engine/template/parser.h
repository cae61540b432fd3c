// Text of a template to its tree.
#pragma once

#include <string_view>
#include <vector>

#include "engine/template/ast.h"
#include "engine/template/lexer.h"

namespace headrace::engine::jinja {

// Throws Error(kFormat) with the line. `tokens`, where given, is how many parts the text has.
Body parse_template(std::string_view source, size_t* tokens = nullptr);

// What the parsers of statements and of expressions share: the tokens and where they are.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  size_t size() const { return tokens_.size(); }
  const Token& now() const { return tokens_[at_]; }
  const Token& following() const { return tokens_[at_ + (at_ + 1 < tokens_.size() ? 1 : 0)]; }
  Token take();
  bool at(Token::Type type) const { return now().type == type; }
  bool at_symbol(std::string_view text) const;
  bool at_name(std::string_view text) const;
  bool skip_symbol(std::string_view text);
  bool skip_name(std::string_view text);
  void expect_symbol(std::string_view text);
  std::string expect_name();
  [[noreturn]] void unexpected() const;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}

  ExpressionPtr expression(bool with_condition = true);
  // One expression, or several with commas between them: a tuple. `end` names a word that ends it.
  ExpressionPtr tuple(bool with_condition = true, std::string_view end = {},
                      bool in_brackets = false);
  ExpressionPtr target(std::string_view end = {}, bool attributes = false);  // of an assignment
  ExpressionPtr filters(ExpressionPtr input, bool behind_bar);               // name(…)|name(…)
  ExpressionPtr unary(bool with_filter = true);

  // What the bodies under way name, for the macros around them.
  struct Uses {
    bool caller = false, named = false, more = false;
  };
  Uses uses;

 private:
  ExpressionPtr make(Operator kind, uint32_t line);
  ExpressionPtr node(Operator kind, uint32_t line, std::vector<ExpressionPtr> parts);
  ExpressionPtr either();
  ExpressionPtr both();
  ExpressionPtr negation();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr primary();
  ExpressionPtr one_target(bool attributes);
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr input);
  ExpressionPtr subscript(ExpressionPtr input);
  ExpressionPtr subscribed();
  ExpressionPtr test(ExpressionPtr input);
  ExpressionPtr call(ExpressionPtr input);
  void call_arguments(Expression& of);
  void settle(Expression& of);  // its depth
  bool ends(std::string_view end) const;

  TokenStream& tokens_;
  int depth_ = 0;
};

}  // namespace headrace::engine::jinja
