#!/usr/bin/env python3
"""Writes the tiny random models that tests compare with: one Hugging Face folder per family and
precision under models/, each with what transformers computes for it.

    python make_models.py [NAME…]    (torch, transformers, tokenizers; never needed by a build)

Beside config.json, model.safetensors and a byte-level tokenizer, a folder holds
    expected.json   {"prompt": 40 token ids, "greedy": the 64 ids that follow, "margin": …}
    logits.f32      float32 [40, vocabulary], little-endian, row-major: logits of the prompt
Both are computed in float32 from the stored weights, those of bfloat16 folders widened. A seed is
taken only if every greedy choice (and every choice of experts) is clear of its runner-up, so that
rounding cannot change it.
"""

import json
import pathlib
import shutil
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    FalconConfig, FalconForCausalLM, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM,
    Gemma3TextConfig, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig,
    LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM,
    Olmo2Config, Olmo2ForCausalLM, OPTConfig, OPTForCausalLM, Phi3Config, Phi3ForCausalLM,
    PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM,
    Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, Starcoder2Config,
    Starcoder2ForCausalLM)

VOCABULARY = 300
PROMPT = 40
GREEDY = 64
MARGIN = 2e-3  # of the largest logit: a hundred times the float32 tolerance of the tests
ROUTE_MARGIN = 0.003  # between the last chosen and the first rejected expert's probability
EOS = 2
SEEDS_MAX = 400

COMMON = dict(vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=512,
              bos_token_id=1, eos_token_id=EOS, attn_implementation="eager")

# Sizes are odd on purpose: rows of q, k and intermediate that fill no 16-row panel, grouped heads,
# head sizes that do not follow from hidden_size, windows shorter than the prompt.
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(
        **COMMON, hidden_size=36, intermediate_size=70, num_attention_heads=6,
        num_key_value_heads=2, rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64})),
    "llama_bias": (LlamaForCausalLM, LlamaConfig(
        **COMMON, hidden_size=32, intermediate_size=52, num_attention_heads=4,
        num_key_value_heads=4, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5)),
    "mistral": (MistralForCausalLM, MistralConfig(
        **COMMON, hidden_size=30, intermediate_size=56, num_attention_heads=5,
        num_key_value_heads=1, head_dim=14, sliding_window=13)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(
        **COMMON, hidden_size=40, intermediate_size=66, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, use_sliding_window=True,
        sliding_window=17, max_window_layers=1)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(
        **COMMON, hidden_size=28, intermediate_size=60, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, rope_parameters={
            "rope_type": "default", "rope_theta": 1000000.0})),
    "mixtral": (MixtralForCausalLM, MixtralConfig(
        **COMMON, hidden_size=32, intermediate_size=24, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2)),
    "llama_yarn": (LlamaForCausalLM, LlamaConfig(
        **COMMON, hidden_size=32, intermediate_size=40, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters={
            "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
            "original_max_position_embeddings": 32})),
    "phi3": (Phi3ForCausalLM, Phi3Config(
        **{**COMMON, "pad_token_id": 0}, hidden_size=64, intermediate_size=38,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=29,
        original_max_position_embeddings=24, rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.2, 1.5, 2.0, 4.0, 8.0, 16.0]})),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config(
        **{**COMMON, "pad_token_id": 0}, hidden_size=36, intermediate_size=50,
        num_attention_heads=6, num_key_value_heads=2, rope_parameters={
            "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})),
    "starcoder2": (Starcoder2ForCausalLM, Starcoder2Config(
        **COMMON, hidden_size=32, intermediate_size=70, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=21, rope_parameters={
            "rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config(
        **{**COMMON, "pad_token_id": 0}, hidden_size=36, intermediate_size=50,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, sliding_window=11,
        query_pre_attn_scalar=20, attn_logit_softcapping=3.0, final_logit_softcapping=20.0)),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig(
        **{**COMMON, "pad_token_id": 0, "num_hidden_layers": 3}, hidden_size=32,
        intermediate_size=42, num_attention_heads=4, num_key_value_heads=1, head_dim=10,
        sliding_window=13, sliding_window_pattern=2, query_pre_attn_scalar=8, rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}})),
    "gpt2": (GPT2LMHeadModel, GPT2Config(
        **COMMON, hidden_size=36, num_attention_heads=3, scale_attn_by_inverse_layer_idx=True)),
    "opt": (OPTForCausalLM, OPTConfig(
        **{**COMMON, "max_position_embeddings": 160}, hidden_size=36, ffn_dim=70,
        num_attention_heads=3)),
    "opt_post": (OPTForCausalLM, OPTConfig(
        **{**COMMON, "max_position_embeddings": 160}, hidden_size=32, ffn_dim=56,
        num_attention_heads=2, do_layer_norm_before=False)),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig(
        **COMMON, hidden_size=48, intermediate_size=70, num_attention_heads=3, rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25})),
    "falcon": (FalconForCausalLM, FalconConfig(
        **COMMON, hidden_size=36, num_attention_heads=3)),
    "falcon_groups": (FalconForCausalLM, FalconConfig(
        **COMMON, hidden_size=32, ffn_hidden_size=70, num_attention_heads=4, num_kv_heads=2,
        new_decoder_architecture=True, bias=True)),
    "qwen2_moe": (Qwen2MoeForCausalLM, Qwen2MoeConfig(
        **{**COMMON, "num_hidden_layers": 3}, hidden_size=32, intermediate_size=40,
        moe_intermediate_size=12, shared_expert_intermediate_size=26, num_attention_heads=4,
        num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, mlp_only_layers=[1],
        use_sliding_window=True, sliding_window=19, max_window_layers=2)),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig(
        **COMMON, hidden_size=28, intermediate_size=40, moe_intermediate_size=20,
        num_attention_heads=4, num_key_value_heads=2, head_dim=10, num_experts=4,
        num_experts_per_tok=2, decoder_sparse_step=2, norm_topk_prob=True)),
}


def make_tokenizer():
    text = ["the quick brown fox jumps over the lazy dog", "a headrace feeds a water wheel",
            "water is led to the wheel when the wheel needs the water"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                                   unk_token="<unk>")


def randomise(model, seed):
    """Weights large enough that every part of the model shows in the logits. Where the head is the
    embedding, a token's own row must not outweigh what the blocks add to it (Qwen2's biases see to
    that)."""
    tied = model.config.tie_word_embeddings and model.config.model_type != "qwen2"
    scaled = 6 if model.config.model_type.startswith("gemma") else 1
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "bias" in name:
                parameter.copy_(0.3 * noise)
            elif parameter.dim() == 1:  # a norm
                base = 0 if model.config.model_type.startswith("gemma") else 1
                parameter.copy_(base + 0.2 * noise)
            elif "wpe" in name or "embed_positions" in name:
                parameter.copy_(0.5 * noise)
            elif any(part in name for part in ("embed", "lm_head", "wte")):
                parameter.copy_((0.05 / scaled if tied else 0.5) * noise)
            else:
                inputs = parameter.shape[0 if ".c_" in name and "gpt2" in
                                         model.config.model_type else -1]
                parameter.copy_((2 if tied else 1.2) * noise / inputs ** 0.5)


def widened(model_class, config, state, dtype):
    """The model in float32 with stored weights; a scaled embedding rounds its scale as stored."""
    model = model_class(config).eval()
    model.load_state_dict({name: value.float() for name, value in state.items()})
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale).to(dtype).float()
    return model


def clear_routes(outputs, ranks):
    for logits in outputs.router_logits or ():
        best = logits.float().softmax(-1).topk(ranks + 1, -1).values
        if (best[:, ranks - 1] - best[:, ranks]).min() < ROUTE_MARGIN:
            return False
    return True


def evaluate(model, seed, routed):
    """Prompt, logits, greedy ids and margin; None where a choice is too close."""
    generator = torch.Generator().manual_seed(1000 + seed)
    ids = torch.randint(3, VOCABULARY, (1, PROMPT), generator=generator)
    prompt, prompt_logits, margin = ids[0].tolist(), None, float("inf")
    extra = {"output_router_logits": True} if routed else {}
    with torch.no_grad():
        for _ in range(GREEDY):
            outputs = model(ids, use_cache=False, **extra)
            if prompt_logits is None:
                prompt_logits = outputs.logits[0]
                if routed and not clear_routes(outputs, model.config.num_experts_per_tok):
                    return None
            top = outputs.logits[0, -1].topk(2)
            scale = outputs.logits[0, -1].abs().max()
            margin = min(margin, float((top.values[0] - top.values[1]) / scale))
            if margin < MARGIN or int(top.indices[0]) == EOS:
                return None
            ids = torch.cat([ids, top.indices[:1].view(1, 1)], dim=1)
    greedy = ids[0, PROMPT:].tolist()
    if len(set(greedy)) < GREEDY // 4:
        return None
    return prompt, prompt_logits, greedy, margin


def write(folder, model_class, config, dtype, tokenizer):
    routed = hasattr(config, "num_experts_per_tok")
    for seed in range(SEEDS_MAX):
        model = model_class(config).eval()
        randomise(model, seed)
        stored = model.to(dtype)
        stored_state = {k: v.clone() for k, v in stored.state_dict().items()}
        result = evaluate(widened(model_class, config, stored_state, dtype), seed, routed)
        if result is None:
            continue
        prompt, logits, greedy, margin = result
        shutil.rmtree(folder, ignore_errors=True)
        model.to(dtype).load_state_dict(stored_state)
        # Sharded once, so that the index is read as well.
        shard = "60KB" if folder.name == "mixtral-float32" else "50GB"
        model.save_pretrained(folder, max_shard_size=shard)
        tokenizer.save_pretrained(folder)
        (folder / "expected.json").write_text(json.dumps(
            {"prompt": prompt, "greedy": greedy, "margin": margin, "seed": seed}) + "\n")
        (folder / "logits.f32").write_bytes(logits.float().contiguous().numpy().tobytes())
        print(f"{folder.name}: seed {seed}, margin {margin:.4f}, {len(set(greedy))} tokens")
        return
    raise SystemExit(f"{folder.name}: no seed below {SEEDS_MAX} has clear choices")


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    root = pathlib.Path(__file__).parent / "models"
    tokenizer = make_tokenizer()
    for family, (model_class, config) in FAMILIES.items():
        if len(sys.argv) > 1 and family not in sys.argv[1:]:
            continue
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{family}-{str(dtype).removeprefix('torch.')}"
            write(root / name, model_class, config, dtype, tokenizer)


if __name__ == "__main__":
    main()
