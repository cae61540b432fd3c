"""Batch files: what a line may say, what comes of bad ones, and that no way to stop a batch loses a finished line."""
import json
import os
import random
import signal
import time

from cli_support import GOLDEN, MIB, Case, end, experts, large, run, start
import cli_support

MODEL = GOLDEN / "llama-float32"  # has a tokenizer
VOCAB = json.loads((MODEL / "config.json").read_text())["vocab_size"]
SEED = int(os.environ.get("HEADRACE_TEST_SEED", "0")) or int(time.time())


def lines_of(path):
    data = path.read_bytes()
    assert not data or data.endswith(b"\n"), data[-80:]
    return data.splitlines()


def by_id(path):
    out = {}
    for line in lines_of(path):
        value = json.loads(line, object_pairs_hook=cli_support.without_repeats)
        key = json.dumps(value["id"]) if "error" not in value else ("error", value["error"]["line"])
        assert key not in out, f"twice: {key}"
        out[key] = value
    return out


class BatchCase(Case):
    def write(self, lines, name="in.jsonl"):
        path = self.folder / name
        path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n"
                                  for x in lines))
        return path

    def batch(self, lines, *flags, model=MODEL, out="out.jsonl", **more):
        """The results by id and the summary."""
        source = lines if not isinstance(lines, list) else self.write(lines)
        target = self.folder / out
        summary = self.run_json("generate", model, "-i", source, "-o", target, *flags, **more)
        return by_id(target), summary

    def single(self, line, *flags, model=MODEL):
        """The same request alone, from the command line."""
        out = self.run_json("generate", model, "--ids", ",".join(map(str, line["ids"])),
                            "-n", line.get("max_tokens", 8), *flags)
        return out["outputs"][0]


def random_lines(rng, count, vocabulary, tokens=12):
    head = [rng.randrange(vocabulary) for _ in range(70)]
    lines = []
    for i in range(count):
        ids = head[:rng.randrange(60)] + [rng.randrange(vocabulary) for _ in range(rng.randrange(1, 30))]
        line = {"id": i if i % 3 else f"r{i}", "ids": ids, "max_tokens": rng.randrange(1, tokens)}
        if rng.random() < .5:
            line.update(temperature=.9, top_k=40)
        if rng.random() < .3:
            line["ignore_eos"] = True
        lines.append(line)
    return lines


class Batches(BatchCase):
    def test_results_are_those_of_each_request_alone(self):
        rng = random.Random(SEED)
        lines = [{"id": i, "ids": [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 40))],
                  "max_tokens": rng.randrange(1, 10)} for i in range(9)]
        for flags in ([], ["--max-num-seqs", "2"], ["--memory", "64MiB", "--policy", "stream"]):
            results, summary = self.batch(lines, *flags, out=f"out{len(flags)}.jsonl")
            self.assertEqual(len(results), len(lines))
            for line in lines:
                result, alone = results[json.dumps(line["id"])], self.single(line)
                self.assertEqual(list(result), ["id", "text", "token_ids", "finish_reason", "logprobs", "usage"])
                for key in ("text", "token_ids", "finish_reason", "logprobs"):
                    self.assertEqual(result[key], alone[key], (SEED, line, key))
                self.assertEqual(result["usage"], {"prompt_tokens": len(line["ids"]),
                                                   "completion_tokens": len(result["token_ids"])})
            self.assertEqual(summary["usage"], {
                "prompt_tokens": sum(len(x["ids"]) for x in lines),
                "completion_tokens": sum(len(r["token_ids"]) for r in results.values())})
            self.assertEqual(summary["batch"], {"requests": 9, "finished": 9, "kept": 0, "errors": 0})
            for key in ("timings", "memory", "plan", "swap", "stall"):
                self.assertIn(key, summary)
            for row in summary["swap"]:
                self.assertEqual(row["predicted_bytes"], row["counted_bytes"])

    def test_text_prompts_equal_the_command_line(self):
        results, _ = self.batch([{"id": "a", "prompt": "the cat sat"}, {"id": "b", "prompt": "über 1 dog\n"}],
                                "-n", "6")
        for key, text in (('"a"', "the cat sat"), ('"b"', "über 1 dog\n")):
            alone = self.run_json("generate", MODEL, "-p", text, "-n", "6")
            self.assertEqual(results[key]["token_ids"], alone["outputs"][0]["token_ids"])
            self.assertEqual(results[key]["usage"]["prompt_tokens"], alone["usage"]["prompt_tokens"])

    def test_null_is_not_given(self):
        line = {"ids": [1, 2], "max_tokens": 3}
        results, _ = self.batch([{"id": "a", **line}, {"id": "b", **line, "prompt": None, "messages": None,
                                                        "stop": None, "seed": None}])
        self.assertEqual(results['"a"']["token_ids"], results['"b"']["token_ids"])

    def test_a_bad_line_is_its_own_error(self):
        good = {"id": "good", "ids": [1, 2], "max_tokens": 3}
        bad = [b"{", b"[1]", b'{"id": 1, "ids": [1], "id": 2}', {"ids": [1]}, {"id": None, "ids": [1]},
               {"id": 1.5, "ids": [1]}, {"id": "b1"}, {"id": "b2", "ids": [1], "prompt": "x"},
               {"id": "b3", "ids": []}, {"id": "b4", "ids": [VOCAB]}, {"id": "b5", "ids": [-1]},
               {"id": "b6", "ids": ["x"]}, {"id": "b7", "prompt": 5}, {"id": "b8", "ids": [1], "frobnicate": 1},
               {"id": "b9", "ids": [1], "temperature": "hot"}, {"id": "b10", "ids": [1], "top_p": 7},
               {"id": "b11", "ids": [1], "n": 0}, {"id": "b12", "ids": [1] * 100000}, b'{"id": "\xff", "ids": [1]}',
               {"id": "b13", "ids": [1], "max_tokens": -1}, {"id": "good", "ids": [3]}, {"id": "b14", "messages": 3}]
        lines = [good]
        for line in bad:
            lines += [b"", line, b"  \t"]
        lines += [{"id": "last", "ids": [5], "max_tokens": 2}]
        results, summary = self.batch(lines)
        self.assertEqual(len(results), len(bad) + 2)
        self.assertEqual(results['"good"']["token_ids"], self.single(good)["token_ids"])
        self.assertEqual(len(results['"last"']["token_ids"]), 2)
        self.assertEqual(summary["batch"], {"requests": len(bad) + 2, "finished": 2, "kept": 0, "errors": len(bad)})
        for i, line in enumerate(bad):
            answer = results["error", 3 * i + 3]
            self.assertEqual(list(answer), ["id", "error"])
            self.assertGreater(len(answer["error"]["message"]), 10)
            given = line.get("id") if isinstance(line, dict) else None
            self.assertEqual(answer["id"], given if isinstance(given, str) else None, line)
        before = (self.folder / "out.jsonl").read_bytes()
        again, summary = self.batch(self.folder / "in.jsonl")
        self.assertEqual((self.folder / "out.jsonl").read_bytes(), before)
        self.assertEqual(summary["usage"], {"prompt_tokens": 0, "completion_tokens": 0})
        self.assertEqual(summary["batch"]["kept"], len(bad) + 2)
        self.assertEqual((summary["timings"]["passes"], summary["stall"]["seconds"], summary["swap"]), (0, 0, []))
        self.assertLessEqual(summary["memory"]["peak_rss"], summary["memory"]["budget"])

    def test_n_choices_differ_and_the_first_is_the_one_alone(self):
        line = {"id": 1, "ids": list(range(1, 70)), "max_tokens": 6, "temperature": 1.5, "seed": 5, "ignore_eos": True}
        results, summary = self.batch([{**line, "n": 4}, {**line, "id": 2}])
        outputs = results["1"]["outputs"]
        self.assertEqual([list(o) for o in outputs],
                         [["index", "text", "token_ids", "finish_reason", "logprobs"]] * 4)
        self.assertEqual([o["index"] for o in outputs], [0, 1, 2, 3])
        self.assertGreater(len({tuple(o["token_ids"]) for o in outputs}), 1)
        self.assertEqual(outputs[0]["token_ids"], results["2"]["token_ids"])
        self.assertEqual(results["1"]["usage"], {"prompt_tokens": 69, "completion_tokens": 24})
        timings = summary["timings"]
        self.assertEqual(timings["reused_tokens"], 4 * 64)
        self.assertAlmostEqual(timings["prefill_tokens_per_second"] * timings["prefill_s"], 5 * 69 - 4 * 64, places=3)
        greedy, _ = self.batch([{**line, "n": 3, "temperature": 0}], out="greedy.jsonl")
        self.assertEqual(len({tuple(o["token_ids"]) for o in greedy["1"]["outputs"]}), 1)

    def test_logprobs(self):
        line = {"id": 1, "ids": [1, 2, 3], "max_tokens": 4, "ignore_eos": True}
        results, _ = self.batch([{**line, "logprobs": 3}, {**line, "id": 2}, {**line, "id": 3, "logprobs": 0}])
        self.assertIsNone(results["2"]["logprobs"])
        for key, k in (("1", 3), ("3", 0)):
            self.assertEqual([p["id"] for p in results[key]["logprobs"]], results[key]["token_ids"])
            for p in results[key]["logprobs"]:
                self.assertEqual(list(p), ["id", "logprob", "top"])
                self.assertLess(p["logprob"], 0)
                self.assertEqual(len(p["top"]), k)
                if k:  # greedy: the first is the one that was taken
                    self.assertEqual(p["top"][0], {"id": p["id"], "logprob": p["logprob"]})
                    self.assertEqual(p["top"], sorted(p["top"], key=lambda t: -t["logprob"]))

    def test_stop_strings_and_tokens(self):
        line = {"id": 1, "ids": [1, 2, 3], "max_tokens": 12, "ignore_eos": True}
        whole = self.batch([line], out="whole.jsonl")[0]["1"]
        self.assertEqual((whole["finish_reason"], len(whole["token_ids"])), ("length", 12))
        text = whole["text"]
        at = len(text) // 2
        stop = text[at:at + 2]
        token = whole["token_ids"][4]
        results, _ = self.batch([{**line, "stop": stop}, {**line, "id": 2, "stop": ["\x00never", stop]},
                                 {**line, "id": 3, "stop_token_ids": [token]},
                                 {**line, "id": 4, "stop_token_ids": [token], "min_tokens": 8}])
        for key in ("1", "2"):
            self.assertEqual(results[key]["text"], text[:text.index(stop)])
            self.assertEqual(results[key]["finish_reason"], "stop")
            n = len(results[key]["token_ids"])
            self.assertLess(n, 12)
            self.assertEqual(results[key]["token_ids"], whole["token_ids"][:n])
        first = whole["token_ids"].index(token)
        self.assertEqual(results["3"]["token_ids"], whole["token_ids"][:first + 1])
        self.assertEqual(results["3"]["finish_reason"], "stop")
        self.assertGreaterEqual(len(results["4"]["token_ids"]), 8)
        self.assertNotIn(token, results["4"]["token_ids"][:8])

    def test_the_least_budget_of_a_batch_is_enough_for_it(self):
        lines = [{"id": i, "ids": [1, 2], "max_tokens": 1} for i in range(3000)]
        flags = ("generate", MODEL, "-i", self.write(lines), "-o", self.folder / "out.jsonl", "--memory")
        for little in ("1", "1MiB"):
            least = self.refused(3, *flags, little)["required_bytes"]
            self.refused(3, *flags, least - 1)
            self.assertLessEqual(self.run_json(*flags, least)["memory"]["peak_rss"], least)
            (self.folder / "out.jsonl").unlink()

    def test_a_bad_line_is_read_within_the_budget(self):
        bad = b'{"id": 0, "ids": [' + b"1," * 1_000_000 + b"-1]}"
        source = self.write([bad, {"id": 1, "ids": [1, 2], "max_tokens": 1}])
        flags = ("generate", MODEL, "-i", source, "-o", self.folder / "out.jsonl", "--memory")
        least = self.refused(3, *flags, "1MiB")["required_bytes"]
        summary = self.run_json(*flags, least)
        self.assertLessEqual(summary["memory"]["peak_rss"], least)
        self.assertEqual(summary["batch"], {"requests": 2, "finished": 1, "kept": 0, "errors": 1})

    def test_nothing_asked_gives_an_empty_file(self):
        results, summary = self.batch([])
        self.assertEqual((results, summary["batch"]["requests"]), ({}, 0))

    def test_a_draw_depends_on_seed_and_id_alone(self):
        rng = random.Random(SEED)
        lines = [{"id": f"x{i}", "ids": [7, 8, 9], "max_tokens": 6, "temperature": 1.5, "ignore_eos": True}
                 for i in range(6)]
        first, _ = self.batch(lines, "--seed", "3")
        self.assertGreater(len({tuple(r["token_ids"]) for r in first.values()}), 1)
        rng.shuffle(lines)
        second, _ = self.batch(lines[:4], "--seed", "3", "--max-num-seqs", "2", out="second.jsonl")
        for key, result in second.items():
            self.assertEqual(result["token_ids"], first[key]["token_ids"])

    def test_refusals(self):
        good = self.write([{"id": 1, "ids": [1], "max_tokens": 1}])
        out = self.folder / "o"
        self.refused(2, "generate", MODEL, "-i", good, names=["-i", "-o"])
        self.refused(2, "generate", MODEL, "-o", out, names=["-o", "-i"])
        self.refused(2, "generate", MODEL, "-i", good, "-o", out, "-p", "x", names=["-p"])
        self.refused(1, "generate", MODEL, "-i", self.folder / "none", "-o", out, names=["none"])
        self.refused(2, "generate", MODEL, "-i", self.folder, "-o", out, names=["regular"])
        self.refused(1, "generate", MODEL, "-i", good, "-o", self.folder / "no" / "o", names=["no/o"])
        self.refused(3, "generate", MODEL, "-i", good, "-o", out, "--memory", "1MiB")
        self.assertFalse(out.exists())
        before = good.read_bytes()
        self.refused(2, "generate", MODEL, "-i", good, "-o", good, names=["input as well"])
        copy = self.folder / "copy"
        copy.write_bytes(before)
        self.refused(1, "generate", MODEL, "-i", good, "-o", copy, names=["not a batch's result"])
        self.assertEqual(copy.read_bytes(), before)
        for content in (b"my notes\n", b'{"id": 1}\n', b'{"a": 1}\nx', b"notes", b'{"id":7,"ids":[1]}'):
            out.write_bytes(content)
            self.refused(1, "generate", MODEL, "-i", good, "-o", out, names=["line 1"])
            self.assertEqual(out.read_bytes(), content)
        self.assertEqual(good.read_bytes(), before)


class Flags(BatchCase):
    """What a line may say can be said by flags too, and means the same."""

    def test_flags_mean_what_fields_do(self):
        line = {"id": 1, "ids": [4, 5, 6], "max_tokens": 6, "temperature": 1.3, "top_k": 50, "min_p": .01,
                "repetition_penalty": 1.2, "seed": 9, "n": 3, "logprobs": 2, "ignore_eos": True}
        results, _ = self.batch([line])
        out = self.run_json("generate", MODEL, "--ids", "4,5,6", "-n", "6", "--temperature", "1.3", "--top-k", "50",
                            "--min-p", ".01", "--repetition-penalty", "1.2", "--seed", "9",
                            "--num-return-sequences", "3", "--logprobs", "2", "--ignore-eos")
        self.assertEqual(out["outputs"], results["1"]["outputs"])
        self.assertEqual(out["usage"], results["1"]["usage"])
        # Flags stand where a line says nothing; a line's own field stands over them.
        flags = ("-n", "4", "--ignore-eos", "--logprobs", "1")
        results, _ = self.batch([{"id": 1, "ids": [4, 5, 6]}, {"id": 2, "ids": [4], "max_tokens": 2}], *flags,
                                out="flags.jsonl")
        self.assertEqual([len(results[k]["token_ids"]) for k in "12"], [4, 2])
        self.assertEqual(len(results["1"]["logprobs"]), 4)

    def test_a_stop_string_ends_the_streamed_text(self):
        flags = ("generate", MODEL, "-p", "the cat sat", "-n", "12", "--ignore-eos", "--quiet")
        text = self.ok(*flags).text
        self.assertTrue(text.endswith("\n"))
        stop = text[len(text) // 2:][:2]
        self.assertEqual(self.ok(*flags, "--stop", stop).text, text[:text.index(stop)] + "\n")
        out = self.run_json(*flags, "--stop", stop)["outputs"][0]
        self.assertEqual((out["text"], out["finish_reason"]), (text[:text.index(stop)], "stop"))

    def test_several_prompts_and_outputs_are_labelled(self):
        one = self.ok("generate", MODEL, "-p", "a", "-n", "3", "--quiet").text
        two = self.ok("generate", MODEL, "-p", "a", "-p", "b", "-n", "3", "--quiet").text
        self.assertTrue(two.startswith("[0] " + one), (one, two))
        self.assertIn("\n[1] ", two)
        many = self.ok("generate", MODEL, "-p", "a", "-n", "3", "--num-return-sequences", "2", "--quiet").text
        self.assertTrue(many.startswith("[0.0] " + one))
        self.assertIn("\n[0.1] ", many)


class Resuming(BatchCase):
    def undisturbed(self, lines, *flags, model):
        return self.batch(lines, *flags, model=model, out="whole.jsonl")[0]

    def test_a_torn_tail_is_dropped_and_whole_lines_stay(self):
        lines = [{"id": i, "ids": [i + 1, 5], "max_tokens": 4} for i in range(6)]
        whole = self.undisturbed(lines, model=MODEL)
        data = (self.folder / "whole.jsonl").read_bytes()
        rows = data.splitlines(keepends=True)
        for cut in [0, 1, 5, len(rows[0]) - 1, len(rows[0]), len(rows[0]) + 3, len(data) - 1, len(data)]:
            out = self.folder / "out.jsonl"
            out.write_bytes(data[:cut])
            kept = data[:data.rfind(b"\n", 0, cut) + 1]
            results, summary = self.batch(self.folder / "in.jsonl")
            self.assertTrue(out.read_bytes().startswith(kept), cut)
            self.assertEqual(results, whole)
            left = [x for x in lines if json.dumps(x["id"]) not in
                    {json.dumps(json.loads(r)["id"]) for r in kept.splitlines()}]
            self.assertEqual(summary["usage"], {
                "prompt_tokens": 2 * len(left),
                "completion_tokens": sum(len(whole[json.dumps(x["id"])]["token_ids"]) for x in left)})
            self.assertEqual(summary["batch"]["kept"], len(lines) - len(left))

    def test_an_error_answers_only_what_cannot_be_asked(self):
        good = [{"id": i, "ids": [i + 1, 5], "max_tokens": 3} for i in range(4)]
        bad = {**good[2], "top_p": 7}
        whole = self.undisturbed(good, model=MODEL)
        out = self.folder / "out.jsonl"
        self.batch([good[0], good[1], bad, good[3]])
        before = out.read_bytes()
        for kept, finished in ((3, 1), (4, 0)):  # mended, and once more
            results, summary = self.batch(good)
            self.assertTrue(out.read_bytes().startswith(before))
            self.assertIn("top_p", results.pop(("error", 3))["error"]["message"])
            self.assertEqual(results, whole)
            self.assertEqual(summary["batch"], {"requests": 4, "finished": finished, "kept": kept, "errors": 0})
            before = out.read_bytes()
        # Stopped after the error; then the bad line goes, and a good one has its number.
        out.unlink()
        self.batch([good[0], b"{}", bad])
        good.pop(2)
        results, summary = self.batch(good)
        self.assertEqual(summary["batch"], {"requests": 3, "finished": 2, "kept": 1, "errors": 0})
        self.assertEqual({k: r for k, r in results.items() if k[0] != "error"}, {k: whole[k] for k in "013"})
        # Still bad, in another way: the old answer stays.
        before = out.read_bytes()
        _, summary = self.batch([good[0], good[1], {"id": 9}])
        self.assertEqual(out.read_bytes(), before)
        self.assertEqual(summary["batch"], {"requests": 3, "finished": 0, "kept": 3, "errors": 0})

    def test_kill_at_any_moment_loses_only_what_was_not_finished(self):
        rng = random.Random(SEED)
        model = large()
        lines = random_lines(rng, 40, 256, tokens=30)
        flags = ["--memory", f"{40 * MIB}", "--max-num-seqs", "3"]
        begin = time.monotonic()
        whole = self.undisturbed(lines, *flags, model=model)
        seconds = time.monotonic() - begin
        source, out = self.folder / "in.jsonl", self.folder / "out.jsonl"
        kept, kills, ended = b"", 0, False
        while not ended and kills < 25:
            process = start("generate", model, "-i", source, "-o", out, *flags, "--quiet")
            try:
                process.communicate(timeout=rng.uniform(.05, .4) * seconds)
                ended = process.returncode == 0
                self.assertTrue(ended, process.returncode)
            except cli_support.subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
            data = out.read_bytes() if out.exists() else b""
            self.assertTrue(data.startswith(kept), f"seed {SEED}: a finished line was changed")
            kept = data[:data.rfind(b"\n") + 1]
        self.assertGreater(kills, 0)
        results, _ = self.batch(source, *flags, model=model)
        self.assertTrue(out.read_bytes().startswith(kept))
        self.assertEqual(results, whole, f"seed {SEED}")

    def test_signals_leave_whole_lines(self):
        rng = random.Random(SEED)
        model = large()
        lines = random_lines(rng, 30, 256, tokens=30)
        flags = ["--memory", f"{40 * MIB}", "--max-num-seqs", "2", "--disk-rate", "200MB"]
        whole = self.undisturbed(lines, *flags[:4], model=model)
        out = self.folder / "out.jsonl"
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = start("generate", model, "-i", self.folder / "in.jsonl", "-o", out, *flags)
            have = out.stat().st_size if out.exists() else 0
            give_up = time.monotonic() + 20
            while (not out.exists() or out.stat().st_size == have) and time.monotonic() < give_up:
                time.sleep(.01)
            result = end(process, number)
            self.assertEqual(result.code, code, result.err)
            self.assertTrue(by_id(out))
            self.assertLess(len(lines_of(out)), len(lines))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["in.jsonl", "out.jsonl", "whole.jsonl"])
        results, _ = self.batch(self.folder / "in.jsonl", *flags[:4], model=model)
        self.assertEqual(results, whole)

    def test_two_runs_do_not_share_an_output(self):
        lines = random_lines(random.Random(SEED), 30, 256, tokens=30)
        source, out = self.write(lines), self.folder / "out.jsonl"
        process = start("generate", large(), "-i", source, "-o", out, "--memory", f"{40 * MIB}",
                        "--disk-rate", "100MB")
        try:
            while not out.exists():
                time.sleep(.01)
            time.sleep(.1)
            self.refused(1, "generate", large(), "-i", source, "-o", out, names=["another run"])
        finally:
            end(process, signal.SIGKILL)


    def test_errors_of_any_line_can_be_gone_on_from(self):
        wide = "k" * 119 + "é" * 3
        long = "x" * (8 * MIB - 100)
        bad = [f'{{"id": 1, "ids": [1], "{wide}": 1, "{wide}": 2}}'.encode(), {"id": 2, "ids": [long]},
               {"id": long, "prompt": 1}]
        results, summary = self.batch(bad)
        self.assertEqual(len(results), 3)
        self.assertEqual(summary["batch"]["errors"], 3)
        self.assertLess((self.folder / "out.jsonl").stat().st_size, 1000)
        again, summary = self.batch(bad)
        self.assertEqual(again, results)
        self.assertEqual(summary["batch"]["kept"], 3)

    def test_a_prompt_that_the_tokenizer_refuses_is_its_lines_error(self):
        model = self.copy_model(MODEL)
        file = json.loads((model / "tokenizer.json").read_text())
        grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64}
        file["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 5}
        (model / "tokenizer.json").write_text(json.dumps(file))
        good = {"id": "good", "ids": [1, 2], "max_tokens": 2, "ignore_eos": True}
        results, _ = self.batch([{"id": "bad", "prompt": "aaaa"}, good], model=model)
        self.assertIn("tokenizer", results[("error", 1)]["error"]["message"])
        self.assertEqual(len(results['"good"']["token_ids"]), 2)


class Experts(BatchCase):
    def test_any_budget_and_number_at_a_time(self):
        rng = random.Random(SEED)
        lines = random_lines(rng, 12, 256, tokens=6)
        whole, _ = self.batch(lines, model=experts(), out="a.jsonl")
        for flags in (["--memory", "30MiB", "--max-num-seqs", "5"], ["--memory", "40MiB", "--policy", "lru"]):
            results, summary = self.batch(lines, *flags, model=experts(), out=f"{flags[1]}.jsonl")
            self.assertEqual(results, whole, (SEED, flags))
            for row in summary["swap"]:
                self.assertEqual(row["predicted_bytes"], row["counted_bytes"])
