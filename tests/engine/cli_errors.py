"""Exit codes, the one line of an error, and what is refused: usage, damaged files, budgets."""
import json
import os
import unittest

from cli_support import GOLDEN, MIB, Case, files_under, large, root, run, write_safetensors

MODEL = GOLDEN / "llama-float32"
COMMANDS = ["generate", "logits", "tokenize", "detokenize", "plan", "inspect", "synth", "doctor",
            "profile", "store", "bench", "version"]


class Usage(Case):
    def test_unknown_words_name_the_nearest(self):
        self.refused(2, "generate", MODEL, "--ids", "1", "--memry", "1GiB", names=["--memory"])
        self.refused(2, "generate", MODEL, "--ids", "1", "--temprature=2", names=["--temperature"])
        self.refused(2, "gnerate", MODEL, names=["gnerate", "generate"])
        self.refused(2, "store", "lst", names=["lst", "list"])
        self.refused(2, "plan", MODEL, "extra", names=["extra"])

    def test_missing_words(self):
        self.refused(2, names=["generate"])
        self.refused(2, "store", names=["list", "verify", "remove"])
        self.refused(2, "generate", names=["MODEL"])
        self.refused(2, "logits", MODEL, "--ids", "1", names=["--output"])
        self.refused(2, "logits", MODEL, "-o", self.folder / "x.npy", names=["--ids"])
        self.refused(2, "synth", names=["OUT"])
        self.refused(2, "detokenize", MODEL, names=["--ids"])
        self.refused(2, "profile", names=["profile"])
        self.refused(2, "profile", "--", "version", names=["version"])

    def test_a_flag_twice_or_without_its_value(self):
        self.refused(2, "generate", MODEL, "--ids", "1", "--seed", "1", "--seed", "2",
                     names=["--seed", "more than once"])
        self.refused(2, "generate", MODEL, "--ids", "1", "--memory", names=["--memory", "no value"])

    def test_bad_values_name_their_flag(self):
        values = {"--memory": ["12XB", "-5", "", "110%", "GiB", "1e9999"], "-n": ["-1", "x", "1.5"],
                  "--temperature": ["-1", "nan", "inf", "hot", "101"], "--top-p": ["0", "1.5", "x"],
                  "--top-k": ["-1", "x"], "--seed": ["x", "-1", "18446744073709551616"], "--threads": ["-1", "5000", "x"],
                  "--prefetch-depth": ["-2", "5000", "x"], "--policy": ["fast", "naive"],
                  "--isa": ["sse"], "--io-engine": ["mmap"], "--device": ["tpu", "cuda", "cuda:0"],
                  "--device-memory": ["lots"], "--kv-memory": ["x"], "--disk-memory": ["x"],
                  "--disk-rate": ["fast"], "--ids": ["", "a", "1,,2", "1 2", "-1", "99999999999"],
                  "--log-format": ["xml"], "--log-level": ["loud"], "--color": ["red"]}
        for flag, items in values.items():
            for value in items:
                if flag == "--memory" and value == "":
                    continue  # an empty value is no flag at all
                with self.subTest(flag=flag, value=value):
                    ids = () if flag == "--ids" else ("--ids", "1")
                    spelled = {"-n": ("-n", "max-tokens"), "--isa": ("isa", "instruction set")}
                    result = self.refused(2, "generate", MODEL, *ids, f"{flag}={value}"
                                          if flag != "-n" else f"-n{value}")
                    line = result["message"] + result.get("field", "")
                    self.assertTrue(any(n in line for n in spelled.get(flag, (flag,))), line)

    def test_ids_and_prompts_that_do_not_fit_the_model(self):
        self.refused(2, "generate", MODEL, "--ids", "300", names=["300", "vocabulary", "299"])
        self.refused(2, "logits", MODEL, "--ids", "1,300", "-o", self.folder / "x", names=["300"])
        self.refused(2, "detokenize", MODEL, "--ids", "1,300", names=["300"])
        ids = ",".join(["1"] * 513)
        self.refused(2, "generate", MODEL, "--ids", ids, names=["513", "512"])
        self.refused(2, "logits", MODEL, "--ids", ids, "-o", self.folder / "x", names=["513"])
        self.refused(2, "plan", MODEL, "--prompt-len", "512", "--gen-len", "1", names=["513", "512"])
        self.refused(2, "generate", MODEL, "-p", "", names=["prompt"])
        self.refused(2, "generate", MODEL, names=["prompt"])
        self.assertEqual(files_under(self.folder), [])

    def test_later_versions_are_named_as_such(self):
        for command in ("train", "export", "merge", "serve"):
            self.refused(2, command, "x", names=[command, "not in this version"])
        self.refused(2, "bench", "train", "x", names=["train", "not in this version"])
        self.refused(2, "bench", names=["bench", "kernels"])
        self.refused(2, "bench", "kernels", "--isa", "sse9", names=["sse9"])
        self.refused(2, "bench", "generate", MODEL, "-r", "0", names=["repetitions"])
        generate = {"--pin": "group=4"}
        for flag, value in generate.items():
            self.refused(2, "generate", MODEL, "--ids", "1", flag, value,
                         names=[flag, "not in this version"])
        # Without weights nobody knows where in their files they begin.
        self.refused(2, "plan", MODEL / "config.json", "--store", "none", names=["--store none"])
        self.refused(1, "bench", "io", "--path", self.folder / "none", names=[self.folder / "none"])
        self.refused(2, "bench", "io", "--path", self.folder, "--chunk", "1000", names=["--chunk"])
        self.refused(2, "tokenize", MODEL, "--tools", "x", names=["--tools", "--messages"])
        for one, other in (("--prompt", "--file"), ("--prompt", "--messages"), ("--file", "--messages")):
            self.refused(2, "tokenize", MODEL, one, "x", other, "y", names=[one, other])
        for flag in ("--train", "--micro-batches=2", "--optimizer=adamw", "--pin=group=4"):
            self.refused(2, "plan", MODEL, flag, names=["not in this version"])
        self.refused(1, "profile", "-o", "r.html", "report", "no-such-trace", names=["no-such-trace"])

    def test_help_shows_defaults_and_variables(self):
        text = self.ok("--help").text
        for command in COMMANDS:
            self.assertIn(command, text)
            self.assertIn("Usage: headrace", self.ok(command, "--help").text)
        text = self.ok("generate", "--help").text
        for words in ("HEADRACE_MEMORY", "HEADRACE_TEMPERATURE", "HEADRACE_SEED", "256",
                      "80% of what is available", "--policy TEXT=auto"):
            self.assertIn(words, text)
        self.assertNotIn("--pin", text)

    def test_version(self):
        out = self.run_json("version")
        self.assertRegex(out["version"], r"^\d+\.\d+\.\d+$")
        self.assertIn("cpu", out["backends"])
        self.assertIn("scalar", out["isa"])
        self.assertIsInstance(out["compiler"], str)
        self.assertIsInstance(out["store_format"], int)
        self.assertIn(out["version"], self.ok("version").text)
        self.assertIn(out["version"], self.ok("--version").text)


class Files(Case):
    def test_missing_files(self):
        for args in (("generate", "/no/model", "--ids", "1"), ("inspect", "/no/model"),
                     ("plan", "/no/config.json"), ("tokenize", "/no/model", "-p", "x"),
                     ("logits", "/no/model", "--ids", "1", "-o", "x"),
                     ("profile", "report", "/no/trace.json"), ("synth", "/proc/no/such")):
            error = self.refused(1, *args, names=["/"])
            self.assertIn("path", error)
        self.refused(1, "generate", MODEL, "-f", "/no/prompt", names=["/no/prompt"])
        self.refused(1, "plan", MODEL, "--gen-len", "9", "--prompt-len", "9", "--machine", "/no/m",
                     names=["/no/m"])
        self.refused(1, "generate", MODEL, "--ids", "1", "--plan", "/no/plan", names=["/no/plan"])
        self.refused(1, "logits", MODEL, "--ids", "1", "-o", "/no/x.npy", names=["/no/x.npy"])
        self.refused(1, "store", "verify", "/no/store", names=["/no/store"])
        self.refused(2, "store", "remove", "/no/store", names=["/no/store"])

    def test_no_tokenizer(self):
        model = self.copy_model(MODEL)
        (model / "tokenizer.json").unlink()
        self.refused(2, "generate", model, "-p", "x", names=["tokenizer.json", "--ids"])
        self.refused(1, "tokenize", model, "-p", "x", names=["tokenizer.json"])
        out = self.run_json("generate", model, "--ids", "1,2", "-n", "3", "--ignore-eos")
        self.assertEqual(len(out["outputs"][0]["token_ids"]), 3)

    def test_tokenizers_that_are_not_supported(self):
        model = self.copy_model(MODEL)
        file = json.loads((model / "tokenizer.json").read_text())
        ids = ("generate", model, "--ids", "1,2", "-n", "3", "--ignore-eos")
        wanted = self.run_json(*ids)["outputs"][0]["token_ids"]
        why = [model / "tokenizer.json", "Unigram", "not supported"]
        (model / "tokenizer.json").write_text(json.dumps(file | {"model": {"type": "Unigram", "vocab": [["a", -1.5]]}}))
        result = self.ok(*ids, "--json")
        self.assertEqual(result.json["outputs"][0]["token_ids"], wanted)
        warnings = [line for line in result.err.splitlines() if "warning" in line]
        self.assertEqual(len(warnings), 1, result.err)
        for args in (("-p", "x"), ("--ids", "1", "--stop", "x")):
            self.refused(1, "generate", model, *args, names=why)
        self.refused(1, "tokenize", model, "-p", "x", names=why)
        out = self.run_json("inspect", model)
        self.assertIsNone(out["tokenizer"])
        for text in (warnings[0], out["tokenizer_error"], self.ok("inspect", model).text):
            for name in why:
                self.assertIn(str(name), text)
        lines, results = self.folder / "in.jsonl", self.folder / "out.jsonl"
        lines.write_text('{"id": 1, "ids": [1, 2], "max_tokens": 3, "ignore_eos": true}\n{"id": 2, "prompt": "x"}\n')
        self.ok("generate", model, "-i", lines, "-o", results)
        answers = {a["id"]: a for a in map(json.loads, results.read_text().splitlines())}
        self.assertEqual(answers[1]["token_ids"], wanted)
        self.assertIn("Unigram", answers[2]["error"]["message"])

    def damage(self, change, *names, code=1):
        model = self.copy_model(MODEL, f"model{len(list(self.folder.iterdir()))}")
        change(model)
        for command in (("generate", model, "--ids", "1"), ("inspect", model),
                        ("logits", model, "--ids", "1", "-o", self.folder / "x.npy")):
            self.refused(code, *command, names=names)

    def test_truncated_and_hostile_shards(self):
        shard = "model.safetensors"
        whole = (MODEL / shard).read_bytes()
        for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
            self.damage(lambda m, n=size: (m / shard).write_bytes(whole[:n]), shard)
        tensor = {"dtype": "F32", "shape": [300, 36], "data_offsets": [0, 43200]}
        hostile = [
            {"header": {}, "length": (1 << 64) - 1}, {"header": {}, "length": 1 << 40},
            {"header": b"[1,2]"}, {"header": b"{"}, {"header": b"\xff\xfe{}"},
            {"header": b"[" * 5000}, {"header": b'{"a":{},"a":{}}'},
            {"header": {"model.embed_tokens.weight": tensor | {"dtype": "F128"}}},
            {"header": {"model.embed_tokens.weight": tensor | {"shape": [-1, 36]}}},
            {"header": {"model.embed_tokens.weight": tensor | {"shape": [1 << 62, 36]}}},
            {"header": {"model.embed_tokens.weight": tensor | {"data_offsets": [43200, 0]}}},
            {"header": {"model.embed_tokens.weight": tensor | {"data_offsets": [0, 1 << 60]}}},
            {"header": {"a": tensor, "b": tensor}}, {"header": {"../../x\n\x1b[31m": tensor}}]
        for item in hostile:
            self.damage(lambda m, i=item: write_safetensors(m / shard, **i, data=bytes(43200)))
        self.damage(lambda m: (m / shard).unlink())

    def test_damaged_tokenizers(self):
        whole = (MODEL / "tokenizer.json").read_bytes()
        file = json.loads(whole)
        file["model"]["merges"].append("no token")
        for n, text in enumerate((b"", b"{", b"[]", b"{}", b"\xff", whole[:len(whole) // 2],
                                  whole + b"x", json.dumps(file).encode())):
            model = self.copy_model(MODEL, f"model{n}")
            (model / "tokenizer.json").write_bytes(text)
            for command in (("generate", model, "--ids", "1"), ("inspect", model),
                            ("tokenize", model, "-p", "x"), ("detokenize", model, "--ids", "1")):
                error = self.refused(1, *command, names=[model / "tokenizer.json"])
                self.assertEqual(error["path"], str(model / "tokenizer.json"))

    def test_configs_that_cannot_run(self):
        config = json.loads((MODEL / "config.json").read_text())

        def write(**changes):
            return lambda m: (m / "config.json").write_text(json.dumps(config | changes))
        self.damage(write(architectures=["GrokForCausalLM"], model_type="grok"), "rok")
        self.damage(write(hidden_size=-1), "hidden_size")
        self.damage(write(hidden_size="x"), "hidden_size")
        self.damage(write(num_hidden_layers=1 << 40), "num_hidden_layers")
        self.damage(write(vocab_size=301), "config.json")
        self.damage(write(num_hidden_layers=3), "layers.2")
        self.damage(write(hidden_act="tanh"), "hidden_act")
        self.damage(lambda m: (m / "config.json").write_text("{"), "config.json")
        self.damage(lambda m: (m / "config.json").write_text("[]"), "config.json")
        self.damage(lambda m: (m / "config.json").unlink(), "config.json")

    def test_bad_generation_config(self):
        for text, name in (("[]", "generation_config.json"), ("{", "generation_config.json"),
                           ('{"max_new_tokens": "many"}', "max_new_tokens"),
                           ('{"max_new_tokens": -1}', "max_new_tokens"),
                           ('{"max_new_tokens": 1e30}', "max_new_tokens"),
                           ('{"do_sample": true, "top_k": 1.5}', "top_k"),
                           ('{"do_sample": true, "temperature": -1}', "temperature")):
            model = self.copy_model(MODEL, f"m{len(text)}{name}")
            (model / "generation_config.json").write_text(text)
            with self.subTest(text=text):
                self.refused(1, "generate", model, "--ids", "1", names=[name])

    def test_bad_machine_and_plan_files(self):
        bad = self.folder / "bad"
        plan = ("plan", MODEL, "--prompt-len", "9", "--gen-len", "9")
        for text in ("{", "[]", "{}", '{"cpu": 1}', '{"cpu":{"threads":1}}'):
            bad.write_text(text)
            self.refused(1, *plan, "--machine", bad, names=[bad])
        for text in ("", "plan", "headrace-plan 1\nx", "\0" * 100):
            bad.write_text(text)
            self.refused(1, "generate", MODEL, "--ids", "1", "--plan", bad, names=[bad])


class Budgets(Case):
    def test_required_bytes_is_enough_and_less_is_refused(self):
        for args in (("generate", large(), "--ids", "1,2,3", "-n", "3", "--ignore-eos"),
                     ("logits", large(), "--ids", "1,2,3", "-o", self.folder / "x.npy")):
            required = self.required(*args)
            out = self.run_json(*args, "--memory", required)
            self.assertEqual(out["memory"]["budget"], required)
            self.assertLessEqual(out["memory"]["peak_rss"], required)
            error = self.refused(3, *args, "--memory", required - 4 * MIB)
            self.assertEqual(error["required_bytes"], required)
            self.refused(3, *args, "--memory", required - 1)

    def test_plan_needs_what_the_run_needs(self):
        required = self.required("generate", large(), "--ids", "1,2,3", "-n", "5")
        plan = self.required("plan", large(), "--prompt-len", "3", "--gen-len", "5")
        self.assertEqual(plan, required)

    def test_disk_memory_too_small(self):
        args = ("generate", large(), "--ids", "1", "-n", "1", "--store", self.folder)
        error = self.refused(3, *args, "--disk-memory", "1MiB", names=["--disk-memory"])
        required = error["required_bytes"]
        self.assertEqual(files_under(self.folder), [])
        self.refused(3, *args, "--disk-memory", required - 1)
        self.ok(*args, "--disk-memory", required)
        held = sum((self.folder / f).stat().st_size for f in files_under(self.folder))
        self.assertLessEqual(held, required)
        for _ in range(2):  # holds for a store that is there, too
            self.ok(*args, "--disk-memory", required)
            self.assertEqual(self.refused(3, *args, "--disk-memory", "1MiB")["required_bytes"], required)
        self.ok(*args, "--disk-memory", "90%")
        self.refused(3, *args, "--disk-memory", "0%")

    def test_kv_memory_too_small(self):
        args = ("generate", large(), "--ids", "1", "-n", "40", "--kv-memory")
        error = self.refused(3, *args, "1KiB", names=["kv"])
        out = self.run_json(*args, error["required_bytes"])
        self.assertLessEqual(out["plan"]["memory"]["kv"], error["required_bytes"])


class Config(Case):
    def completion(self, model, *flags, env=None):
        out = self.run_json("generate", model, "--ids", "1,2", "--ignore-eos", *flags, env=env)
        return out["usage"]["completion_tokens"]

    def test_precedence(self):
        model = self.copy_model(MODEL)
        self.assertEqual(self.completion(model), 256)
        generation = model / "generation_config.json"
        generation.write_text(json.dumps(json.loads(generation.read_text()) |
                                         {"max_new_tokens": 6}))
        config = self.folder / "c.yaml"
        config.write_text("max_tokens: 5\nseed: 3  # any\n")
        env = {"HEADRACE_MAX_TOKENS": "4"}
        self.assertEqual(self.completion(model), 6)
        self.assertEqual(self.completion(model, "--config", config), 5)
        self.assertEqual(self.completion(model, "--config", config, env=env), 4)
        self.assertEqual(self.completion(model, env={"HEADRACE_CONFIG": str(config)}), 5)
        self.assertEqual(self.completion(model, "--config", config, "-n", "3", env=env), 3)
        self.assertEqual(self.completion(model, "--config", config,
                                         env={"HEADRACE_MAX_TOKENS": ""}), 5)

    def test_precedence_of_the_budget(self):
        def budget(*flags, env=None):
            out = self.run_json("generate", MODEL, "--ids", "1", "-n", "1", *flags, env=env)
            return out["plan"]["budget"]
        config = self.folder / "c.yaml"
        config.write_text("memory: 100MiB\n")
        env = {"HEADRACE_MEMORY": "200000000"}
        self.assertGreater(budget(), 100 * MIB)
        self.assertEqual(budget("--config", config), 100 * MIB)
        self.assertEqual(budget("--config", config, env=env), 200000000)
        self.assertEqual(budget("--config", config, "--memory", "0.25GiB", env=env), 256 * MIB)

    def test_variables_wait_for_the_runs_that_they_suit(self):
        env = {"HEADRACE_CHAT_TEMPLATE": "/none", "HEADRACE_INPUT": "/none", "HEADRACE_TOOLS": "x",
               "HEADRACE_MESSAGES": "/none", "HEADRACE_NO_GENERATION_PROMPT": "1"}
        self.assertEqual(self.completion(MODEL, "-n", "2", env=env), 2)
        self.run_json("tokenize", MODEL, "-p", "x", env=env)
        self.refused(1, "generate", MODEL, "--chat", "-p", "x", names=["/none"], env=env)
        self.refused(2, "generate", MODEL, "-p", "x", "--chat-template", "/none",
                     names=["--chat-template", "--chat"])

    def test_sizes(self):
        def budget(text):
            return self.run_json("plan", MODEL, "--prompt-len", "3", "--gen-len", "3", "--memory",
                                 text)["plan"]["budget"]
        for text, size in (("2GiB", 2 << 30), ("500MB", 500_000_000), ("123456789", 123456789),
                           ("1.5GiB", 3 << 29), ("1GB", 10 ** 9), ("64MiB", 64 * MIB)):
            self.assertEqual(budget(text), size)
        whole = budget("100%")
        self.assertAlmostEqual(budget("50%") / whole, 0.5, delta=0.1)

    def test_config_values(self):
        config = self.folder / "c.yaml"
        config.write_text("ids: [1, 2, 3]\nignore-eos: yes\nmax_tokens: 4\nlog_format: json\n")
        out = self.run_json("generate", MODEL, "--config", config)
        self.assertEqual(out["usage"], {"prompt_tokens": 3, "completion_tokens": 4})
        config.write_text("prompt: [a, b]\nmax_tokens: 1\n")
        self.assertEqual(len(self.run_json("generate", MODEL, "--config", config)["outputs"]), 2)
        config.write_text("")
        self.ok("generate", MODEL, "--ids", "1", "-n", "1", "--config", config)

    def test_bad_configs(self):
        config = self.folder / "c.yaml"
        args = ("generate", MODEL, "--ids", "1", "--config", config)
        for text, name in (("memry: 1GiB", "memory"), ("config: x", "config"), ("- a", "mapping"),
                           ("a: [", "YAML"), ("memory: {a: 1}", "memory"), ("? [a]\n: b", "key"),
                           ("ignore_eos: perhaps", "ignore_eos"), ("pin: a=b", "--pin"),
                           ("threads: many", "threads"), ("memory: lots", "memory")):
            config.write_text(text)
            with self.subTest(text=text):
                self.refused(2, *args, names=[name])
        for text in ("n: 3", "help: true", "a: 1"):  # no short flag is proposed, and no way in a circle
            config.write_text(text)
            message = self.refused(2, *args, names=["unknown key"])["message"]
            self.assertNotRegex(message, r"did you mean (\?|help|config)")
        config.write_text("seed: -1")
        self.refused(2, *args, names=["--seed: -1 is not a whole number"])
        self.refused(1, "generate", MODEL, "--ids", "1", "--config", self.folder / "none",
                     names=["none"])
        self.refused(2, "generate", MODEL, "--ids", "1", names=["HEADRACE_THREADS"],
                     env={"HEADRACE_THREADS": "many"})


class Logs(Case):
    def test_quiet(self):
        result = self.ok("generate", MODEL, "--ids", "1", "-n", "2", "--quiet")
        self.assertEqual(result.err, "")
        self.assertNotEqual(result.out, b"")
        self.assertEqual(self.ok("store", "list", "--quiet").err, "")

    def test_json_lines(self):
        result = self.ok("generate", MODEL, "--ids", "1", "-n", "2", "--log-format", "json")
        lines = [json.loads(line) for line in result.err.splitlines()]
        self.assertGreater(len(lines), 0)
        for line in lines:
            self.assertIn(line["level"], ("debug", "info", "warning"))
            self.assertIsInstance(line["message"], str)
        result = run("generate", MODEL, "--ids", "999", "--log-format", "json")
        line = json.loads(result.err)
        self.assertEqual((result.code, line["level"]), (2, "error"))

    def test_levels_and_colors(self):
        out = self.ok("generate", MODEL, "--ids", "1", "-n", "1", "--log-level", "error")
        self.assertEqual(out.err, "")
        self.assertIn("\x1b[", run("nothing", "--color", "always").err)
        self.assertNotIn("\x1b[", run("nothing", "--color", "never").err)
        self.assertNotIn("\x1b[", run("nothing").err)

    def test_says_why_it_runs_on_the_cpu(self):
        lines = self.ok("generate", MODEL, "--ids", "1", "-n", "1").err.splitlines()
        self.assertEqual(len([line for line in lines if "CPU" in line]), 1, lines)
        self.assertNotIn("GPU", self.ok("generate", MODEL, "--ids", "1", "-n", "1", "--device",
                                        "cpu").err)

    @unittest.skipIf(os.geteuid() == 0 and not os.access("/proc/self", os.R_OK), "no /proc")
    def test_unwritable_cache(self):
        env = {"XDG_CACHE_HOME": "/proc/nowhere"}
        result = run("generate", MODEL, "--ids", "1", "-n", "1", env=env)
        self.check_refusal(result, 1, ("generate",), ["/proc/nowhere"])

    def test_names_that_are_no_text_are_json_all_the_same(self):
        for name in (b"a\xffb", b"a\xed\xa0\x80b", b"a\xe0\x80\x80b", b"a\xf4\x90\x80\x80b"):
            result = run("inspect", os.fsdecode(name), "--json")
            self.assertEqual(result.code, 1)
            self.assertRegex(json.loads(result.out.decode("utf-8"))["error"]["path"], "^a\ufffd+b$")

    def test_names_with_newlines_stay_on_one_line(self):
        self.refused(1, "inspect", str(root / "a\nb"))
