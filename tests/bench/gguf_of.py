#!/usr/bin/env python3
"""A Llama- or Mixtral-shaped Hugging Face folder (bfloat16 safetensors) as a GGUF file of the same bits, for llama.cpp.

    python3 tests/bench/gguf_of.py FOLDER OUT.gguf        needs PyPI's gguf and numpy

Tensors stay bfloat16 (norms and routers float32, as llama.cpp wants them); one tensor is in memory at a time, of experts
one layer's matrices. The vocabulary is left out: token ids go in and out.
"""
import json
import pathlib
import struct
import sys

import gguf
import numpy as np


class Folder:
    def __init__(self, path):
        self.path, self.where = pathlib.Path(path), {}
        for file in sorted(self.path.glob("*.safetensors")):
            with open(file, "rb") as f:
                size = struct.unpack("<Q", f.read(8))[0]
                header = json.loads(f.read(size))
            for name, entry in header.items():
                if name != "__metadata__":
                    self.where[name] = (file, 8 + size + entry["data_offsets"][0], entry["shape"])

    def bits(self, name):  # uint16 [shape]
        file, offset, shape = self.where[name]
        return np.memmap(file, dtype=np.uint16, mode="r", offset=offset, shape=tuple(shape))

    def float32(self, name):
        return (self.bits(name).astype(np.uint32) << 16).view(np.float32)


def turned(bits, heads):
    """Rows of q and k: from halves (Hugging Face) to pairs (llama.cpp)."""
    rows, columns = bits.shape
    return bits.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main():
    folder, out = Folder(sys.argv[1]), sys.argv[2]
    config = json.loads((folder.path / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    experts = config.get("num_local_experts", 0)
    writer = gguf.GGUFWriter(out, "llama", use_temp_file=False)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("no_vocab")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
    makers = []  # (name, shape, bf16, function)

    def matrix(to, name, heads_of=0):
        shape = folder.where[name][2]
        makers.append((to, shape, True,
                       lambda: turned(folder.bits(name), heads_of) if heads_of else folder.bits(name)))

    def vector(to, name):
        makers.append((to, folder.where[name][2], False, lambda: folder.float32(name)))

    matrix("token_embd.weight", "model.embed_tokens.weight")
    vector("output_norm.weight", "model.norm.weight")
    if "lm_head.weight" in folder.where:
        matrix("output.weight", "lm_head.weight")
    for n in range(config["num_hidden_layers"]):
        hf, to = f"model.layers.{n}.", f"blk.{n}."
        vector(to + "attn_norm.weight", hf + "input_layernorm.weight")
        vector(to + "ffn_norm.weight", hf + "post_attention_layernorm.weight")
        matrix(to + "attn_q.weight", hf + "self_attn.q_proj.weight", heads)
        matrix(to + "attn_k.weight", hf + "self_attn.k_proj.weight", kv_heads)
        matrix(to + "attn_v.weight", hf + "self_attn.v_proj.weight")
        matrix(to + "attn_output.weight", hf + "self_attn.o_proj.weight")
        if not experts:
            for part in ("gate", "up", "down"):
                matrix(f"{to}ffn_{part}.weight", f"{hf}mlp.{part}_proj.weight")
            continue
        vector(to + "ffn_gate_inp.weight", hf + "block_sparse_moe.gate.weight")
        for part, key in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            names = [f"{hf}block_sparse_moe.experts.{e}.{key}.weight" for e in range(experts)]
            makers.append((f"{to}ffn_{part}_exps.weight", [experts] + folder.where[names[0]][2], True,
                           lambda names=names: np.stack([folder.bits(x) for x in names])))
    for name, shape, bf16, _ in makers:
        size = int(np.prod(shape)) * (2 if bf16 else 4)
        kind = gguf.GGMLQuantizationType.BF16 if bf16 else None
        stored = list(shape[:-1]) + [shape[-1] * 2] if bf16 else shape  # of bytes, where bits are given raw
        writer.add_tensor_info(name, stored, np.dtype(np.uint8 if bf16 else np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, _, bf16, make in makers:
        data = np.ascontiguousarray(make())
        writer.write_tensor_data(data.view(np.uint8) if bf16 else data)
    writer.close()


if __name__ == "__main__":
    main()
