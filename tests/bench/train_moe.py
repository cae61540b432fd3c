#!/usr/bin/env python3
"""Trains a small sparse model (Mixtral-shaped) on text that is on this machine and writes it as a Hugging Face folder.

    python3 tests/bench/train_moe.py OUT [--minutes 4] [--layers 8] [--experts 32] [--top 4]      (torch, transformers)

Routers of random weights choose experts as a die does; those of a trained model do not, and policies for what to keep
must be judged on such. Besides the model OUT gets prompt-N.txt: held-out text, to record routes on.
Loss is the usual one: next token, and the auxiliary load-balancing loss of transformers at its default weight.
"""
import argparse
import json
import pathlib
import random
import time

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

SOURCES = ["/usr/lib/python3*/**/*.py", "/usr/share/common-licenses/*", "/usr/share/doc/**/copyright",
           "/usr/share/perl/**/*.pod", "/usr/include/**/*.h", "/usr/share/doc/**/*.txt", "/usr/share/doc/**/README*"]
VOCABULARY = 2048
PROMPTS = 6


def documents(limit, rng):
    """Texts of every kind of source, as many bytes of each as of any other, in random order."""
    out = []
    for pattern in SOURCES:
        files = sorted(p for p in pathlib.Path("/").glob(pattern[1:]) if p.is_file() and not p.is_symlink())
        rng.shuffle(files)
        taken = 0
        for path in files:
            try:
                text = path.read_text(encoding="utf-8")[:20000]
            except (UnicodeDecodeError, OSError):
                continue
            out.append(text)
            taken += len(text)
            if taken > limit / len(SOURCES):
                break
    rng.shuffle(out)
    return out


def make_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def train(model, ids, a):
    optimizer = torch.optim.AdamW(model.parameters(), lr=a.lr, betas=(0.9, 0.95), weight_decay=0.05)
    begin, step = time.monotonic(), 0
    budget = a.minutes * 60
    model.train()
    while (spent := time.monotonic() - begin) < budget:
        warm = min(1.0, (step + 1) / 20) * max(0.05, 1 - spent / budget)
        for group in optimizer.param_groups:
            group["lr"] = a.lr * warm
        starts = torch.randint(0, len(ids) - a.length - 1, (a.batch,))
        batch = torch.stack([ids[s:s + a.length] for s in starts])
        out = model(input_ids=batch, labels=batch, output_router_logits=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {out.loss.item():.3f}, balance {out.aux_loss.item():.3f}, {spent:.0f} s", flush=True)
        step += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--top", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--intermediate", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    texts = documents(12 << 20, random.Random(a.seed))
    held, texts = texts[:PROMPTS], texts[PROMPTS:]
    tokenizer = make_tokenizer(texts[:400])
    ids = torch.tensor([i for t in texts for i in tokenizer.encode(t)[:6000] + [tokenizer.eos_token_id]])
    print(f"{len(texts)} texts, {len(ids)} tokens", flush=True)
    config = MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=a.hidden, intermediate_size=a.intermediate, num_hidden_layers=a.layers,
        num_attention_heads=4, num_key_value_heads=4, num_local_experts=a.experts, num_experts_per_tok=a.top,
        max_position_embeddings=8192, sliding_window=None, bos_token_id=1, eos_token_id=2, rope_theta=1e6,
        tie_word_embeddings=False)
    model = MixtralForCausalLM(config)
    train(model, ids, a)
    a.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(a.out)
    tokenizer.save_pretrained(a.out)
    for number, text in enumerate(held):
        (a.out / f"prompt-{number}.txt").write_text(text[:12000], encoding="utf-8")
    (a.out / "training.json").write_text(json.dumps({k: str(v) for k, v in vars(a).items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
