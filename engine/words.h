// Slips of the hand in names: which known word was meant.
#pragma once

#include <string>
#include <vector>

namespace headrace::engine {

// The known word that takes the fewest edits; empty when all are too far for a slip.
std::string nearest_word(const std::string& word, const std::vector<std::string>& known);

}  // namespace headrace::engine
