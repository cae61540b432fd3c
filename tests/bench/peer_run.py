#!/usr/bin/env python3
"""One run of one peer, for peers.py: prints a JSON object of rates. Needs the peer installed, nothing of headrace.

    python3 tests/bench/peer_run.py llama MODEL.gguf --tokens 8 [--prompt 8] [--sequences 1]
    python3 tests/bench/peer_run.py transformers|accelerate|airllm FOLDER --tokens 4 [--prompt 8]

Decoding is timed from the second generated token on: the first pays for what is not loaded yet.
"""
import argparse
import ctypes
import json
import os
import resource
import sys
import tempfile
import time


def read_bytes():
    with open("/proc/self/io", encoding="ascii") as file:
        return int(next(line for line in file if line.startswith("read_bytes")).split()[1])


class Clock:
    """Marks after the prompt and after every generated token; `ticks`: a line is printed then."""

    def __init__(self, ticks):
        self.ticks, self.marks, self.reads, self.begin = ticks, [], [], time.monotonic()

    def mark(self):
        self.marks.append(time.monotonic())
        self.reads.append(read_bytes())
        if self.ticks:
            os.write(1, b"%d\n" % len(self.marks))  # at once, whatever Python buffers

    def result(self, prompt, sequences):
        steps = len(self.marks) - 2  # the prompt's mark, the first token's, then `steps` more
        seconds = self.marks[-1] - self.marks[1]
        return {"prefill_tokens_per_second": prompt * sequences / (self.marks[0] - self.begin),
                "first_s": self.marks[0] - self.begin,
                "decode_tokens_per_second": steps * sequences / seconds,
                "read_bytes_per_step": (self.reads[-1] - self.reads[1]) / steps}


def llama(a):
    import llama_cpp as l  # pylint: disable=import-outside-toplevel
    log = l.llama_log_callback(lambda level, text, data: None)
    l.llama_log_set(log, ctypes.c_void_p(0))
    l.llama_backend_init()
    params = l.llama_model_default_params()
    params.use_extra_bufts = False  # no repacking: the weights are used as they are mapped
    model = l.llama_model_load_from_file(a.model.encode(), params)
    if not model:
        sys.exit("llama.cpp cannot load " + a.model)
    context = l.llama_context_default_params()
    context.n_ctx = (a.prompt + a.tokens + 8) * a.sequences
    context.n_batch = context.n_ubatch = max(512, a.sequences)
    context.n_seq_max = a.sequences
    context.n_threads = context.n_threads_batch = a.threads
    ctx = l.llama_init_from_model(model, context)

    def decode(rows):  # rows: (token, position, sequence, wants logits)
        batch = l.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wants
            batch.seq_id[i][0] = sequence
        if l.llama_decode(ctx, batch) != 0:
            sys.exit("llama_decode failed")
        if rows[-1][3]:
            l.llama_get_logits_ith(ctx, len(rows) - 1)
        l.llama_batch_free(batch)

    def read_prompts():
        rows = [(1 + p % 1000, p, sequence, p == a.prompt - 1) for sequence in range(a.sequences) for p in range(a.prompt)]
        for first in range(0, len(rows), 512):
            decode(rows[first:first + 512])

    if a.warm:
        read_prompts()
        l.llama_memory_clear(l.llama_get_memory(ctx), True)
    clock = Clock(a.ticks)
    read_prompts()
    clock.mark()
    for step in range(a.tokens):
        decode([(7 + sequence + step, a.prompt + step, sequence, 1) for sequence in range(a.sequences)])
        clock.mark()
    return clock.result(a.prompt, a.sequences)


def torch_model(a):
    import torch  # pylint: disable=import-outside-toplevel
    torch.set_num_threads(a.threads)
    ids = torch.tensor([[1 + p % 1000 for p in range(a.prompt)]])
    if a.peer == "airllm":
        import types  # pylint: disable=import-outside-toplevel
        for name in ("optimum", "optimum.bettertransformer"):  # imported by airllm, never used on a CPU
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["optimum.bettertransformer"].BetterTransformer = object
        from airllm import AutoModel  # pylint: disable=import-outside-toplevel
        model = AutoModel.from_pretrained(a.model, device="cpu", layer_shards_saving_path=a.work)
    else:
        from transformers import AutoModelForCausalLM  # pylint: disable=import-outside-toplevel
        how = {}
        if a.peer == "accelerate":
            how = {"device_map": "auto", "max_memory": {"cpu": a.memory}, "offload_folder": a.work,
                   "offload_state_dict": True}
        model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.bfloat16, **how)
    with torch.inference_mode():
        if a.warm:
            model(ids, use_cache=False)
        clock = Clock(a.ticks)
        out = model(ids, use_cache=True)
        clock.mark()
        for step in range(a.tokens):
            out = model(torch.tensor([[7 + step]]), past_key_values=out.past_key_values, use_cache=True)
            clock.mark()
    return clock.result(a.prompt, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["llama", "transformers", "accelerate", "airllm"])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", type=int, help="accelerate: bytes of weights to keep in memory")
    parser.add_argument("--warm", type=int, default=0, help="1: read the prompt once before the clock starts")
    parser.add_argument("--ticks", type=int, default=0, help="1: a line of output for every token")
    parser.add_argument("--work", default=tempfile.gettempdir())
    a = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    result = llama(a) if a.peer == "llama" else torch_model(a)
    result["peak_rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
