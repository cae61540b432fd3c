"""What runs give: tokens, text, JSON and logits, the same whatever the budget and switches."""
import array
import json
import os
import pathlib
import signal
import subprocess
import time

from cli_checks import Checks, tokens
from cli_support import (GOLDEN, MIB, Case, Watch, end, environment, experts, files_under, large,
                         read_npy, run, snapshot, start)
import cli_support

MODEL = GOLDEN / "llama-float32"
MODELS = sorted(p for p in GOLDEN.iterdir() if p.is_dir())


def ids_of(model):
    return json.loads((model / "expected.json").read_text())["prompt"]


def joined(ids):
    return ",".join(map(str, ids))


class Contract(Checks):
    def test_generate(self):
        out = self.run_json("generate", MODEL, "--ids", "1,2,3", "-n", "5", "--ignore-eos")
        self.check_run(out)
        self.assertEqual(out["usage"], {"prompt_tokens": 3, "completion_tokens": 5})
        self.assertEqual(out["timings"]["passes"], 5)
        self.assertEqual(out["outputs"][0]["finish_reason"], "length")

    def test_nothing_to_generate(self):
        out = self.run_json("generate", MODEL, "--ids", "1,2,3", "-n", "0")
        self.check_run(out)
        self.assertEqual(tokens(out), [[]])
        self.assertEqual(out["outputs"][0]["text"], "")
        self.assertEqual(out["outputs"][0]["finish_reason"], "length")
        self.assertEqual(out["usage"], {"prompt_tokens": 3, "completion_tokens": 0})

    def test_stop(self):
        """The end token ends the text, is counted, and is no part of the text."""
        free = self.run_json("generate", MODEL, "--ids", "1,2,3", "-n", "9", "--ignore-eos")
        ids = tokens(free)[0]
        last = next(i for i in range(2, 9) if ids[i] not in ids[:i])
        model = self.copy_model(MODEL)
        path = model / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [299, ids[last]]}))
        out = self.run_json("generate", model, "--ids", "1,2,3", "-n", "9")
        self.assertEqual(tokens(out)[0], ids[:last + 1])
        self.assertEqual(out["outputs"][0]["finish_reason"], "stop")
        self.assertEqual(out["usage"]["completion_tokens"], last + 1)
        text = self.run_json("detokenize", model, "--ids", joined(ids[:last]))["text"]
        self.assertEqual(out["outputs"][0]["text"], text)
        self.assertEqual(self.ok("generate", model, "--ids", "1,2,3", "-n", "9").text, text + "\n")
        again = self.run_json("generate", model, "--ids", "1,2,3", "-n", "9", "--ignore-eos")
        self.assertEqual(tokens(again)[0], ids)

    def test_length_of_the_model_ends_it(self):
        out = self.run_json("generate", MODEL, "--ids", joined([1] * 510), "-n", "9", "--ignore-eos")
        self.assertEqual(out["usage"]["completion_tokens"], 2)
        self.assertEqual(out["outputs"][0]["finish_reason"], "length")

    def test_doctor(self):
        out = self.run_json("doctor")
        self.assertIsInstance(out["name"], str)
        cpu = out["cpu"]
        self.assertGreater(cpu["threads"], 0)
        for value in (cpu["matmul_flops"]["bfloat16"], cpu["matmul_flops"]["float32"],
                      cpu["memory_read_Bps"]):
            self.assertGreater(value, 1e6)
        self.check_number(cpu["adamw_Bps"])
        tiers = {t["name"]: t["capacity_bytes"] for t in out["tiers"]}
        self.assertGreater(tiers["host"], 0)
        self.assertGreater(tiers["disk"], 0)
        edges = {(e["from"], e["to"]) for e in out["edges"]}
        self.assertLessEqual({("disk", "host"), ("host", "disk")}, edges)
        for edge in out["edges"]:
            self.check_number(edge["Bps"])
            self.check_number(edge["latency_s"])
            self.assertIsInstance(edge["shared_with"], list)
        self.assertRegex(out["measured"]["date"], r"^\d{4}-\d\d-\d\d")
        self.assertGreater(len(out["measured"]["how"]), 10)
        self.assertIn("memory", self.ok("doctor").text)

    def test_inspect(self):
        for model in MODELS:
            out = self.run_json("inspect", model)
            self.assertIs(out["runs"], True)
            self.assertEqual(list(out["dtypes"]), [model.name.split("-")[1]])
            self.assertGreater(out["weights_bytes"], 0)
            self.assertIn("runs", self.ok("inspect", model).text)
        listed = self.run_json("inspect", MODEL, "--tensors")
        self.assertEqual(len(listed["tensor_list"]), listed["tensors"])


class Prompts(Case):
    def test_ways_to_give_a_prompt(self):
        text = "the quick brown fox"
        path = self.folder / "prompt.txt"
        path.write_text(text)
        common = ("generate", MODEL, "-n", "6", "--ignore-eos")
        by_flag = self.run_json(*common, "-p", text)
        ids = self.run_json("tokenize", MODEL, "-p", text)["ids"]
        self.assertEqual(by_flag["usage"]["prompt_tokens"], len(ids))
        for flags, stdin in ((("-f", path), b""), ((), text.encode()), (("--ids", joined(ids)), b"")):
            self.assertEqual(tokens(self.run_json(*common, *flags, stdin=stdin)), tokens(by_flag))

    def test_several_prompts(self):
        common = ("generate", MODEL, "-n", "6", "--ignore-eos")
        texts = ["one", "two three", "four five six seven"]
        alone = [tokens(self.run_json(*common, "-p", t))[0] for t in texts]
        flags = [word for t in texts for word in ("-p", t)]
        together = self.run_json(*common, *flags)
        self.assertEqual(tokens(together), alone)
        self.assertEqual([o["index"] for o in together["outputs"]], [0, 1, 2])
        out = self.ok(*common, *flags).text
        for one in together["outputs"]:
            self.assertIn(one["text"], out)

    def test_streamed_text_is_the_text(self):
        for model in MODELS[:6:2]:
            for prompt in ("hello", "Füße 漢字"):
                flags = ("generate", model, "-p", prompt, "-n", "40", "--ignore-eos")
                text = self.run_json(*flags)["outputs"][0]["text"]
                self.assertEqual(self.ok(*flags).text, text + "\n")

    def test_tokenize_and_back(self):
        for model in MODELS[::2]:
            for text in ("hello world", " two  spaces\n\nlines\t", "naïve café 漢字 🙂"):
                out = self.run_json("tokenize", model, "-p", text, "--no-special")
                self.assertEqual(len(out["ids"]), len(out["tokens"]))
                back = self.run_json("detokenize", model, "--ids", joined(out["ids"]))
                self.assertEqual(back, {"text": text})
                plain = self.ok("tokenize", model, "-p", text, "--no-special")
                self.assertEqual(plain.text.strip(), joined(out["ids"]))

    def test_special_tokens(self):
        model = experts()
        config = json.loads((model / "config.json").read_text())
        special = self.run_json("tokenize", model, "-p", "hello")["ids"]
        bare = self.run_json("tokenize", model, "-p", "hello", "--no-special")["ids"]
        self.assertIn(special, (bare, [config["bos_token_id"], *bare]))
        self.assertNotIn(config["bos_token_id"], bare)


class Numbers(Case):
    """Against the golden files, at budgets close to the smallest."""

    def test_greedy_tokens(self):
        for model in MODELS:
            expected = json.loads((model / "expected.json").read_text())
            flags = ("generate", model, "--ids", joined(expected["prompt"]), "--ignore-eos", "-n",
                     len(expected["greedy"]))
            error = run(*flags, "--memory", "1MiB", "--json").json["error"]
            out = self.run_json(*flags, "--memory", error["required_bytes"])
            with self.subTest(model=model.name):
                self.assertEqual(tokens(out), tokens(self.run_json(*flags)))
                # In bfloat16 the two differ by their roundings, and near ties go either way.
                if not model.name.endswith("-bfloat16"):
                    self.assertEqual(tokens(out), [expected["greedy"]])

    def test_logits(self):
        path = self.folder / "logits.npy"
        for model in MODELS:
            golden = array.array("f", (model / "logits.f32").read_bytes())
            ids = ids_of(model)
            self.ok("logits", model, "--ids", joined(ids), "-o", path)
            shape, values = read_npy(path)
            vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
            self.assertEqual(shape, (len(ids), vocabulary))
            limit = 2e-5 if model.name.endswith("-float32") else 3e-2
            largest = max(map(abs, golden))
            worst = max(abs(a - b) for a, b in zip(values, golden)) / largest
            with self.subTest(model=model.name):
                self.assertLess(worst, limit)
        self.assertEqual(files_under(self.folder), ["logits.npy"])

    def test_logits_do_not_depend_on_the_budget(self):
        path, text = self.folder / "x.npy", self.folder / "text"
        text.write_text("some text to score")
        ids = joined(self.run_json("tokenize", large(), "-f", text)["ids"])
        flags = ("logits", large(), "-o", path, "-f", text)
        out = self.run_json(*flags)
        free = path.read_bytes()
        self.assertEqual(out["tokens"], ids.count(",") + 1)
        required = self.required(*flags)
        for more in (("--memory", required), ("--memory", required + 8 * MIB, "--policy", "stream"),
                     ("--threads", "1")):
            self.ok(*flags, *more)
            self.assertEqual(path.read_bytes(), free)
        self.ok("logits", large(), "-o", path, "--ids", ids)
        self.assertEqual(path.read_bytes(), free)
        piped = self.ok("logits", large(), "--ids", ids, "-o", "/dev/stdout", "--quiet")
        self.assertEqual(piped.out, free)


    def test_encoding_a_text_is_planned(self):
        short, text = self.folder / "short", self.folder / "text"
        short.write_text("word")
        text.write_text("one word and another " * 20)
        for command in (("generate", large(), "-n", "1"), ("perplexity", large()),
                        ("logits", large(), "-o", self.folder / "x.npy")):
            base = [self.run_json(*command, "-f", f)["plan"]["memory"]["base"]
                    for f in (short, text)]
            self.assertGreaterEqual(base[1] - base[0], 20 * 21 * 28 - 4096)

    def test_outputs_are_planned(self):
        flags = ("generate", large(), "--ids", "1,2,3", "-n", "20", "--ignore-eos")
        many = (*flags, "--num-return-sequences", "8", "--logprobs", "90")
        few = self.run_json(*flags)["plan"]["memory"]["base"]
        required = self.required(*many)
        out = self.run_json(*many, "--memory", required)
        self.assertGreater(out["plan"]["memory"]["base"], few + 8 * 20 * 91 * 320 - MIB)
        self.assertLessEqual(out["memory"]["peak_rss"], required)
        self.assertEqual(len(out["outputs"][7]["logprobs"][19]["top"]), 90)

    def test_a_text_too_large_to_encode_is_refused_within_the_budget(self):
        text = self.folder / "text"
        text.write_text("words of a text " * 1_000_000)
        for command in (("generate", large(), "-n", "1"), ("perplexity", large()),
                        ("logits", large(), "-o", self.folder / "x.npy")):
            command += ("-f", text, "--memory", 150 * MIB)
            error = self.refused(3, *command, names=["memory"])
            self.assertGreater(error["required_bytes"], 16_000_000 * 28)
            _, _, usage = os.wait4(start(*command).pid, 0)
            self.assertLess(usage.ru_maxrss * 1024, 150 * MIB)


class SameTokens(Checks):
    """Switches change speed, never tokens; and every byte that moves was predicted."""

    def check_switches(self, model, floor):
        flags = ("generate", model, "--ids", "5,6,7,8,9", "-n", "12", "--ignore-eos")
        free = self.run_json(*flags)
        required = run(*flags, "--memory", "1MiB", "--json").json["error"]["required_bytes"]
        self.assertLess(required, floor)
        switches = [("--memory", required), ("--memory", required + 5 * MIB),
                    ("--memory", "90%"), ("--threads", "1"), ("--threads", "3"),
                    ("--io-engine", "pread", "--memory", required + 2 * MIB)]
        for policy in ("stream", "sync", "pin", "lru"):
            switches.append(("--policy", policy, "--memory", required + 12 * MIB))
        for depth in (1, 2, 5):
            switches.append(("--prefetch-depth", depth, "--memory", required + 16 * MIB))
        switches.append(("--device-memory", "24MiB", "--memory", required + 40 * MIB))
        switches.append(("--device-memory", "12MiB", "--memory", required + 20 * MIB,
                         "--policy", "stream"))
        moved = 0
        for more in switches:
            with self.subTest(switches=more):
                out = self.run_json(*flags, *more)
                self.assertEqual(tokens(out), tokens(free))
                self.check_run(out)
                moved += out["plan"]["bytes"]
        self.assertGreater(moved, 0, "no budget made weights move")

    def test_dense(self):
        self.check_switches(large(), 48 * MIB)

    def test_experts(self):
        self.check_switches(experts(), 48 * MIB)

    def test_seeds(self):
        flags = ("generate", MODEL, "--ids", "5,6", "-n", "24", "--ignore-eos", "--temperature",
                 "1.5", "--top-k", "50", "--top-p", "0.95")
        first = tokens(self.run_json(*flags, "--seed", "1"))
        self.assertEqual(tokens(self.run_json(*flags, "--seed", "1", "--threads", "1")), first)
        self.assertNotEqual(tokens(self.run_json(*flags, "--seed", "2")), first)
        self.assertEqual(tokens(self.run_json(*flags, "--seed", 2 ** 64 - 1)),
                         tokens(self.run_json(*flags, "--seed", 2 ** 64 - 1)))
        greedy = tokens(self.run_json(*flags[:7]))
        self.assertEqual(tokens(self.run_json(*flags[:7], "--temperature", "2", "--top-k", "1")),
                         greedy)
        self.assertEqual(tokens(self.run_json(*flags[:7], "--temperature", "0")), greedy)

    def test_sampling_of_generation_config(self):
        model = self.copy_model(MODEL)
        path = model / "generation_config.json"
        flags = ("--ids", "5,6", "-n", "24", "--ignore-eos", "--seed", "9")
        settings = {"do_sample": True, "temperature": 1.7, "top_k": 40, "top_p": 0.9}
        path.write_text(json.dumps(settings))
        configured = tokens(self.run_json("generate", model, *flags))
        by_flags = tokens(self.run_json("generate", MODEL, *flags, "--temperature", "1.7", "--top-k",
                                        "40", "--top-p", "0.9"))
        greedy = tokens(self.run_json("generate", MODEL, *flags))
        self.assertEqual(configured, by_flags)
        self.assertNotEqual(configured, greedy)
        self.assertEqual(tokens(self.run_json("generate", model, *flags, "--temperature", "0")),
                         greedy)
        path.write_text(json.dumps(settings | {"do_sample": False}))
        self.assertEqual(tokens(self.run_json("generate", model, *flags)), greedy)

    def test_settings_that_are_left_out_are_said(self):
        model = self.copy_model(MODEL)
        (model / "generation_config.json").write_text(
            '{"no_repeat_ngram_size": 3, "num_beams": 1, "repetition_penalty": 1.2}')
        lines = self.ok("generate", model, "--ids", "5", "-n", "1").err.splitlines()
        warned = [line for line in lines if "warning" in line]
        self.assertEqual(len(warned), 1, lines)
        self.assertIn("no_repeat_ngram_size", warned[0])

    def test_route_trace(self):
        path = self.folder / "routes.jsonl"
        config = json.loads((experts() / "config.json").read_text())
        self.ok("generate", experts(), "--ids", "5,6,7", "-n", "3", "--ignore-eos", "--route-trace",
                path)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([line["pass"] for line in lines], list(range(len(lines))))
        self.assertEqual(len(lines), 3)
        for index, line in enumerate(lines):
            self.assertEqual(len(line["layers"]), config["num_hidden_layers"])
            for rows in line["layers"]:
                self.assertEqual(len(rows), 3 if index == 0 else 1)
                for row in rows:
                    self.assertEqual(len(set(row)), config["num_experts_per_tok"])
                    self.assertTrue(all(0 <= e < config["num_local_experts"] for e in row))

    def test_a_route_trace_that_cannot_be_written(self):
        flags = ("generate", experts(), "--ids", "5,6,7", "-n", "3")
        self.ok(*flags)
        for path in ("/dev/full", "/no/such/routes.jsonl"):
            result = run(*flags, "--route-trace", path, "--quiet")
            self.assertEqual(result.code, 1, path)
            self.assertRegex(result.err, f"^headrace: error: {path}: [^\n]+; [^\n]+\n$")
        store = self.folder / "stores"  # learnt before hours of preparing, not after
        self.refused(1, *flags, "--store", store, "--route-trace", path, names=[path])
        self.assertFalse(store.exists())

    def test_experts_that_were_there(self):
        """Hits and misses are what the routers picked, each once a pass and layer."""
        path = self.folder / "routes.jsonl"
        flags = ("--ids", "5,6,7", "-n", "9", "--ignore-eos")
        for memory in ("45MiB", "1GiB"):
            with self.subTest(memory=memory):
                run = self.run_json("generate", experts(), *flags, "--memory", memory,
                                    "--route-trace", path)
                picked = sum(len(set(sum(rows, []))) for line in path.read_text().splitlines()
                             for rows in json.loads(line)["layers"])
                seen = run["experts"]
                self.assertEqual(seen["hits"] + seen["misses"], picked)
                self.assertAlmostEqual(seen["hit_rate"], seen["hits"] / picked)
                planned = self.run_json("plan", experts(), "--memory", memory)["experts"]
                if memory == "1GiB":
                    self.assertEqual(seen["misses"], 0)
                    self.assertIsNone(planned)
                else:
                    self.assertGreater(seen["misses"], 0)
                    self.assertTrue(0 <= planned["expected_hit_rate"] < 1, planned)
        self.assertIsNone(self.run_json("generate", MODEL, "--ids", "5", "-n", "2")["experts"])


class Streams(Case):
    def test_stdin_is_read_within_the_budget(self):
        """And no further than a text may go, though its writer never ends."""
        for count, code in ((60_000_000, 3), (None, 1)):
            feed = ["yes", "words"] if count is None else ["head", "-c", str(count), "/dev/zero"]
            with subprocess.Popen(feed, stdout=subprocess.PIPE) as writer:
                process = start("generate", MODEL, "-n", "1", "--memory", 150 * MIB,
                                stdin=writer.stdout)
                writer.stdout.close()
                _, status, usage = os.wait4(process.pid, 0)
                err = process.stderr.read().decode()
                process.returncode = os.waitstatus_to_exitcode(status)
                process.stdout.close()
                process.stderr.close()
            self.assertEqual(process.returncode, code, err)
            self.assertRegex(err, cli_support.ERROR)
            self.assertLess(usage.ru_maxrss * 1024, 150 * MIB)

    def test_a_signal_ends_reading(self):
        """Text that was cut off by Ctrl-C is no text."""
        for command in ("generate", "tokenize"):
            for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
                process = start(command, MODEL, stdin=subprocess.PIPE)
                process.stdin.write(b"half of it")
                process.stdin.flush()
                deadline = time.monotonic() + 20
                state = pathlib.Path(f"/proc/{process.pid}/wchan")
                while "pipe" not in state.read_text() and time.monotonic() < deadline:
                    time.sleep(.01)
                result = end(process, number)
                self.assertEqual((result.code, result.out), (code, b""))
                self.assertRegex(result.err, r"^headrace: error: interrupted: [^\n]+; [^\n]+\n$")

    def test_a_prompt_from_a_pipe(self):
        flags = ("generate", MODEL, "-n", "3", "--ignore-eos")
        plain = self.run_json(*flags, "-p", "some words")
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        with subprocess.Popen(["sh", "-c", f"printf 'some words' > {pipe}"]):
            piped = self.run_json(*flags, "-f", pipe)
        self.assertEqual(piped["outputs"], plain["outputs"])

    def test_closed_stdout(self):
        for flags in (("--json",), ()):
            with subprocess.Popen([cli_support.binary, "generate", MODEL, "--ids", "1", "-n", "300",
                                   "--ignore-eos", *flags], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, env=environment()) as process:
                process.stdout.close()
                err = process.stderr.read().decode()
            self.assertEqual(process.returncode, 1, err)
            lines = [line for line in err.splitlines() if "error" in line]
            self.assertEqual(len(lines), 1, err)
            self.assertIn("stdout", lines[0])

    def test_streams_that_are_shut_from_the_start(self):
        """No file takes the number of a closed stream; what stderr loses ends nothing."""
        def shell(redirect, *args):
            return subprocess.run(["sh", "-c", f'exec "$0" "$@" {redirect}', cli_support.binary,
                                   *map(str, args)], capture_output=True, env=environment(),
                                  timeout=60, check=False)
        run_flags = ("generate", MODEL, "--ids", "1", "-n", "2", "--ignore-eos")
        plain = self.ok(*run_flags).out
        for redirect in ("2>&-", "2>/dev/full"):
            done = shell(redirect, *run_flags)
            self.assertEqual((done.returncode, done.stdout), (0, plain), redirect)
            self.assertEqual(shell(redirect, "generate", MODEL, "--unknown").returncode, 2)
        requests, results = self.folder / "in.jsonl", self.folder / "out.jsonl"
        requests.write_text('{"id": 1, "ids": [1], "max_tokens": 2}\n')
        for redirect, flags, code in ((">&-", ("--json",), 1), ("2>&-", (), 0),
                                      ("<&- >&- 2>&-", (), 0), (">/dev/full", ("--json",), 1)):
            results.unlink(missing_ok=True)
            done = shell(redirect, "generate", MODEL, "-i", requests, "-o", results, *flags)
            self.assertEqual(done.returncode, code, (redirect, done.stderr))
            self.assertEqual([json.loads(line)["id"] for line in results.read_text().splitlines()],
                             [1], redirect)
        self.assertEqual(shell(">/dev/full", "--help").returncode, 1)
        self.assertEqual(shell("<&-", "generate", MODEL).returncode, 1)

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([cli_support.binary, "version", "--json"], stdout=full,
                                  stderr=subprocess.PIPE, env=environment(), check=False)
        self.assertEqual(done.returncode, 1)

    def test_model_folder_is_never_written(self):
        model = self.copy_model(MODEL)
        before = snapshot(model)
        with Watch(model) as watch:
            for args in (("generate", model, "--ids", "1", "-n", "2"), ("inspect", model),
                         ("logits", model, "--ids", "1", "-o", self.folder / "x.npy"),
                         ("tokenize", model, "-p", "x"), ("plan", model, "--prompt-len", "4")):
                self.ok(*args)
        self.assertEqual(snapshot(model), before)
        wrote = Watch.MODIFY | Watch.CREATE | Watch.DELETE | Watch.ATTRIB
        self.assertEqual(watch.touched(wrote, ""), [])
