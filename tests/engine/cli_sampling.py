"""Sampling and scoring on the command line: flags, the distribution's edges, perplexity."""
import json
import math

from cli_support import GOLDEN, MIB, Case, large, read_npy

MODEL = GOLDEN / "llama-float32"
SCORES = json.loads((GOLDEN.parent / "perplexity.json").read_text())


class Perplexity(Case):
    def score(self, model, *flags):
        return self.run_json("perplexity", model, *flags)

    def test_windows_slide_as_in_transformers(self):
        text = self.folder / "text"
        text.write_text(SCORES["text"])
        for case in SCORES["cases"]:
            model = GOLDEN / case["model"]
            whole = case["window"] == 512
            flags = () if whole else ("--window", case["window"], "--stride", case["stride"])
            out = self.score(model, "-f", text, *flags)
            with self.subTest(**case):
                self.assertEqual(out["tokens"], case["tokens"])
                self.assertAlmostEqual(out["nll"], case["nll"], delta=2e-5 * case["nll"])
                self.assertAlmostEqual(out["perplexity"], math.exp(out["nll"]),
                                       delta=1e-9 * out["perplexity"])
                self.assertEqual(out["window"], case["window"])

    def test_the_score_does_not_depend_on_the_budget(self):
        ids = ",".join(str(7 * i % 1000) for i in range(90))
        flags = ("perplexity", large(), "--ids", ids, "--window", "40", "--stride", "30")
        free = self.run_json(*flags)
        self.assertEqual(free["tokens"], 89)
        required = self.required(*flags)
        for more in (("--memory", required), ("--memory", required + 8 * MIB, "--policy", "stream"),
                     ("--threads", "1")):
            out = self.run_json(*flags, *more)
            self.assertEqual(out["nll"], free["nll"])
            self.assertLessEqual(out["memory"]["peak_rss"], out["memory"]["budget"])
            for row in out["swap"]:
                self.assertEqual(row["predicted_bytes"], row["counted_bytes"], row)

    def test_a_text_is_as_long_as_the_scaled_rope(self):
        model = self.copy_model(MODEL)
        config = json.loads((model / "config.json").read_text())
        config["rope_parameters"] = {"rope_type": "linear", "factor": 1.5, "rope_theta": 10000.0}  # 512 to 768
        (model / "config.json").write_text(json.dumps(config))
        ids = ",".join(str(i % 300) for i in range(769))
        self.assertEqual(self.score(model, "--ids", ids)["window"], 512)
        self.assertEqual(self.score(model, "--ids", ids, "--window", "768")["window"], 768)
        self.refused(2, "perplexity", model, "--ids", ids, "--window", "769", names=["--window", "768"])
        self.refused(2, "generate", model, "--ids", ids, names=["769", "768"])
        out = self.run_json("generate", model, "--ids", ids[:ids.rindex(",", 0, ids.rindex(","))], "-n", "9",
                            "--ignore-eos")
        self.assertEqual(len(out["outputs"][0]["token_ids"]), 1)
        plan = ("plan", model, "--prompt-len", "700", "--gen-len")
        self.run_json(*plan, "68")
        self.refused(2, *plan, "69", names=["--prompt-len", "768"])

    def test_text_for_people(self):
        out = self.ok("perplexity", MODEL, "--ids", "5,6,7", "--quiet")
        self.assertRegex(out.text, r"^perplexity \d[\d.e+]*, mean negative log-likelihood [\d.]+, 2 tokens\n$")
        self.assertEqual(out.err, "")

    def test_refusals(self):
        empty = self.folder / "empty"
        empty.write_text("")
        self.refused(2, "perplexity", MODEL, names=["-f"])
        self.refused(2, "perplexity", MODEL, "--ids", "5", names=["--ids"])
        self.refused(2, "perplexity", MODEL, "-f", empty, names=["-f"])
        self.refused(2, "perplexity", MODEL, "--ids", "5,299,300", names=["300"])
        self.refused(1, "perplexity", MODEL, "-f", self.folder / "none", names=["none"])
        for stride in ("0", "513", "-1", "x"):
            self.refused(2, "perplexity", MODEL, "--ids", "5,6", "--stride", stride, names=["--stride"])
        for window in ("1", "513"):
            self.refused(2, "perplexity", MODEL, "--ids", "5,6", "--window", window, names=["--window"])
        self.refused(2, "perplexity", MODEL, "--ids", "5,6", "--window", "8", "--stride", "9",
                     names=["--stride", "1 to 8"])


def log_softmax(row):
    top = max(row)
    total = math.log(math.fsum(math.exp(x - top) for x in row)) + top
    return [x - total for x in row]


class Sampling(Case):
    IDS = "5,6,7,8"

    def generate(self, *flags, model=MODEL, ids=IDS):
        return self.run_json("generate", model, "--ids", ids, *flags)

    def rows_before(self, ids, output):
        """Logits that each token of `output` was taken from."""
        path = self.folder / "x.npy"
        prompt = [int(i) for i in ids.split(",")]
        self.ok("logits", MODEL, "--ids", ",".join(map(str, prompt + output)), "-o", path)
        (rows, width), values = read_npy(path)
        self.assertEqual(rows, len(prompt) + len(output))
        return [values[r * width:(r + 1) * width] for r in range(len(prompt) - 1, rows - 1)]

    def test_penalties_and_bias_change_what_is_greedy(self):
        bias = {9: 2.5, 17: -3.0, 5: 1.0}
        flags = ["--ignore-eos", "-n", "24", "--repetition-penalty", "1.3", "--presence-penalty",
                 "0.4", "--frequency-penalty", "0.3"]
        for token, value in bias.items():
            flags += ["--logit-bias", f"{token}={value}"]
        output = self.generate(*flags)["outputs"][0]["token_ids"]
        prompt = [int(i) for i in self.IDS.split(",")]
        for step, row in enumerate(self.rows_before(self.IDS, output)):
            row, before = list(row), output[:step]
            for token, value in bias.items():
                row[token] += value
            for token in set(prompt + before):
                row[token] = row[token] / 1.3 if row[token] > 0 else row[token] * 1.3
            for token in set(before):
                row[token] -= 0.4 + 0.3 * before.count(token)
            best = max(row)
            self.assertGreater(row[output[step]], best - 1e-4 * abs(best), step)
        self.assertNotEqual(output, self.generate(*flags[:3])["outputs"][0]["token_ids"])

    def test_logprobs_are_of_the_raw_logits(self):
        out = self.generate("-n", "6", "--ignore-eos", "--logprobs", "3", "--temperature", "1.5",
                            "--repetition-penalty", "1.5", "--seed", "3")["outputs"][0]
        self.assertEqual([e["id"] for e in out["logprobs"]], out["token_ids"])
        for entry, row in zip(out["logprobs"], self.rows_before(self.IDS, out["token_ids"])):
            want = log_softmax(row)
            self.assertAlmostEqual(entry["logprob"], want[entry["id"]], delta=1e-4)
            best = sorted(range(len(want)), key=lambda i: (-want[i], i))[:3]
            self.assertEqual([t["id"] for t in entry["top"]], best)
            for t in entry["top"]:
                self.assertAlmostEqual(t["logprob"], want[t["id"]], delta=1e-4)
        out = self.generate("-n", "2", "--logprobs", "0", "--ignore-eos")["outputs"][0]
        self.assertEqual([e["top"] for e in out["logprobs"]], [[], []])
        self.assertIsNone(self.generate("-n", "1")["outputs"][0]["logprobs"])

    def test_stop_strings_end_the_text_at_the_earliest_match(self):
        free = self.generate("-n", "20", "--ignore-eos")["outputs"][0]
        text = free["text"]
        stop = next(text[i:i + 3] for i in range(4, len(text) - 3)
                    if text[i:i + 3].isascii() and text[i:i + 3].isprintable())
        out = self.generate("-n", "20", "--ignore-eos", "--stop", "never there", "--stop", stop)
        result = out["outputs"][0]
        self.assertEqual(result["text"], text[:text.index(stop)])
        self.assertEqual(result["finish_reason"], "stop")
        count = len(result["token_ids"])
        self.assertEqual(result["token_ids"], free["token_ids"][:count])
        self.assertEqual(out["usage"]["completion_tokens"], count)
        told = self.run_json("detokenize", MODEL, "--ids",
                             ",".join(map(str, result["token_ids"][:-1])))["text"]
        self.assertNotIn(stop, told)  # no token more than it took
        plain = self.ok("generate", MODEL, "--ids", self.IDS, "-n", "20", "--ignore-eos", "--stop",
                        stop)
        self.assertEqual(plain.text, result["text"] + "\n")

    def test_stop_ids_and_min_tokens(self):
        free = self.generate("-n", "12", "--ignore-eos")["outputs"][0]["token_ids"]
        at = next(i for i in range(3, 12) if free[i] not in free[:i])
        flags = ("-n", "12", "--ignore-eos", "--stop-token-ids", f"299,{free[at]}")
        out = self.generate(*flags)["outputs"][0]
        self.assertEqual(out["token_ids"], free[:at + 1])
        self.assertEqual(out["finish_reason"], "stop")
        longer = self.generate(*flags, "--min-tokens", at + 2)["outputs"][0]["token_ids"]
        self.assertEqual(longer[:at], free[:at])
        self.assertNotIn(free[at], longer[:at + 2])
        self.assertGreaterEqual(len(longer), at + 2)

    def test_several_outputs_of_a_prompt(self):
        flags = ("-n", "10", "--ignore-eos", "--temperature", "1.5", "--seed", "4")
        one = self.generate(*flags)["outputs"]
        out = self.generate(*flags, "--num-return-sequences", "3")
        texts = [o["token_ids"] for o in out["outputs"]]
        self.assertEqual([o["index"] for o in out["outputs"]], [0, 1, 2])
        self.assertEqual(texts[0], one[0]["token_ids"])
        self.assertEqual(len(set(map(tuple, texts))), 3)
        self.assertEqual(out["usage"]["completion_tokens"], 30)

    def test_settings_of_the_model_are_those_of_the_flags(self):
        model = self.copy_model(MODEL)
        (model / "generation_config.json").write_text(json.dumps(
            {"do_sample": True, "temperature": 1.6, "min_p": 0.02, "typical_p": 0.97,
             "repetition_penalty": 1.2, "top_k": 90}))
        flags = ("-n", "16", "--seed", "8", "--ignore-eos")
        configured = self.generate(*flags, model=model)["outputs"]
        by_flags = self.generate(*flags, "--temperature", "1.6", "--min-p", "0.02", "--typical-p",
                                 "0.97", "--repetition-penalty", "1.2", "--top-k", "90")["outputs"]
        self.assertEqual(configured, by_flags)
        self.assertNotEqual(configured, self.generate(*flags, "--repetition-penalty", "1",
                                                      model=model)["outputs"])

    def test_values_out_of_range_are_refused_by_flag(self):
        refused = {"--temperature": ("-1", "nan", "hot"), "--top-p": ("0", "1.5"),
                   "--min-p": ("-0.1", "2"), "--typical-p": ("0", "1.1"), "--top-k": ("-1", "1.5"),
                   "--repetition-penalty": ("0", "-1"), "--presence-penalty": ("1e9", "x"),
                   "--frequency-penalty": ("inf",), "--min-tokens": ("-1", "99999999"),
                   "--logit-bias": ("5", "5=", "=1", "x=1", "5=nan", "-1=2", "300=1", "5=1x"),
                   "--stop-token-ids": ("x", "300", "1,,2"), "--logprobs": ("-1", "99999"),
                   "--num-return-sequences": ("0", "99999"), "--stop": ("x" * 5000,)}
        for flag, values in refused.items():
            for value in values:
                with self.subTest(flag=flag, value=value[:20]):
                    self.refused(2, "generate", MODEL, "--ids", "1", f"{flag}={value}", names=[flag])
        self.refused(2, "generate", MODEL, "--ids", "1", "--logit-bias", "5=1", "--logit-bias", "5=2",
                     names=["--logit-bias", "5"])
