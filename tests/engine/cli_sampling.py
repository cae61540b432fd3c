"""Sampling and scoring on the command line: flags, the distribution's edges, perplexity."""
import json
import math

from cli_support import GOLDEN, MIB, Case, large

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
