// The rows of the table in families.cpp. Private to models.
#pragma once

#include "models/families.h"

namespace headrace::models {

extern const Family kLlama, kMistral, kQwen2, kQwen3, kMixtral;  // llama.cpp
extern const Family kPhi3, kOlmo2;                               // llama_kin.cpp
extern const Family kGemma2, kGemma3;                            // gemma.cpp
extern const Family kStarcoder2, kGpt2, kOpt;                    // gpt.cpp
extern const Family kGptNeoX, kFalcon;                           // parallel.cpp
extern const Family kQwen2Moe, kQwen3Moe;                        // moe.cpp

}  // namespace headrace::models
