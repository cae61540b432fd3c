// Characters whose upper case is several characters.
#pragma once

#include <string>

namespace headrace::engine::jinja {

std::string special_case(char32_t c, bool title);  // empty where the case is one character

}  // namespace headrace::engine::jinja
