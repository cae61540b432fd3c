"""Plans on the command line: what they say, what they need, and that they are what runs."""
import json
import re

from cli_checks import Checks, tokens
from cli_support import GOLDEN, experts, files_under, large, run

MODEL = GOLDEN / "llama-float32"


class Plans(Checks):
    def test_plan(self):
        for model, memory in ((large(), "45MiB"), (experts(), "45MiB"), (MODEL, "1GiB")):
            out = self.run_json("plan", model, "--prompt-len", "8", "--gen-len", "8", "--memory",
                                memory)
            self.check_plan(out["plan"])
            self.check_swap(out, phases=True)
            steady = sum(r["predicted_bytes"] for r in out["swap"] if r["phase"] == "steady")
            self.assertEqual(steady, out["plan"]["bytes"])
            self.assertIsInstance(out["alternatives"], list)
            for lost in out["alternatives"]:
                self.assertIsInstance(lost["policy"], str)
                self.assertGreater(len(lost["why"]), 5)
            self.assertGreater(len(out["alternatives"]), 0)
            text = self.ok("plan", model, "--prompt-len", "8", "--gen-len", "8", "--memory",
                           memory).text
            self.assertIn(out["plan"]["policy"], text)

    def test_plan_of_keys_and_values_that_spill(self):
        flags = ("plan", large(), "--prompt-len", "300", "--gen-len", "100", "--batch", "3",
                 "--memory", "500MiB", "--kv-memory")
        least = run(*flags, "1", "--json").json["error"]["required_bytes"]
        out = self.run_json(*flags, least)
        self.check_swap(out, phases=True)
        steady = [r for r in out["swap"] if r["phase"] == "steady"]
        self.assertEqual(sum(r["predicted_bytes"] for r in steady), out["plan"]["bytes"])
        for name, bound in (("predicted_least_bytes", "least_bytes"),
                            ("predicted_most_bytes", "most_bytes")):
            self.assertEqual(sum(r.get(name, r["predicted_bytes"]) for r in steady),
                             out["plan"][bound])
        rows = {r["edge"]: r for r in steady if r["kind"] == "kv"}
        self.assertEqual(set(rows), {"disk->host", "host->disk"})
        self.assertGreater(rows["disk->host"]["predicted_bytes"],
                           rows["host->disk"]["predicted_bytes"])
        for row in rows.values():
            self.assertEqual(row["operations"], out["plan"]["kv"]["streamed_layers"])
        self.assertIn("keys and values of", self.ok(*flags, least).text)

    def test_plan_needs_nothing_but_a_config(self):
        bare = self.folder / "config.json"
        bare.write_bytes((large() / "config.json").read_bytes())
        flags = ("--prompt-len", "8", "--gen-len", "8", "--memory", "60MiB")
        out = self.run_json("plan", bare, *flags)
        self.check_plan(out["plan"])
        full = self.run_json("plan", large(), *flags)
        self.assertEqual(out["plan"]["weights_bytes"], full["plan"]["weights_bytes"])
        self.run_json("plan", bare)  # its defaults suit every model
        self.run_json("plan", MODEL)
        self.assertEqual(files_under(self.folder), ["config.json"])

    def test_plan_for_a_described_machine(self):
        fast = self.run_json("doctor")
        slow = json.loads(json.dumps(fast))
        for edge in slow["edges"]:
            edge["Bps"] = 1e6
        path = self.folder / "slow.json"
        path.write_text(json.dumps(slow))
        flags = ("plan", large(), "--prompt-len", "8", "--gen-len", "8", "--memory", "45MiB")
        here, there = self.run_json(*flags), self.run_json(*flags, "--machine", path)
        self.assertGreater(there["plan"]["predicted_s"], 2 * here["plan"]["predicted_s"])
        self.assertGreaterEqual(there["plan"]["predicted_s"], there["plan"]["bytes"] / 1.1e6)

    def test_plan_is_what_runs(self):
        plan = self.folder / "plan.txt"
        run_flags = ("generate", large(), "--ids", "1,2,3", "-n", "6", "--ignore-eos")
        free = self.run_json(*run_flags)
        for policy in ("stream", "sync", "pin", "lru"):
            made = self.run_json("plan", large(), "--prompt-len", "3", "--gen-len", "6", "--memory",
                                 "52MiB", "--policy", policy, "-o", plan)
            out = self.run_json(*run_flags, "--plan", plan)
            for key in ("policy", "bytes", "budget", "memory", "bound_bytes"):
                self.assertEqual(out["plan"][key], made["plan"][key])
            self.check_run(out)
            self.assertEqual(tokens(out), tokens(free))
        self.assertEqual(files_under(self.folder), ["plan.txt"])
        self.refused(1, "generate", MODEL, "--ids", "1", "--plan", plan, names=["another model"])
        self.refused(1, *run_flags, "--plan", plan, "--memory", "40MiB", names=["--memory"])

    def test_a_plan_is_held_to_what_runs_and_to_the_machine(self):
        plan, run_flags = self.folder / "plan.txt", ("generate", large(), "--ids", "1,2,3", "-n", "6")
        made = self.run_json("plan", large(), "--prompt-len", "3", "--gen-len", "6", "-o", plan)["plan"]
        text = plan.read_text()
        plan.write_text(re.sub(r"(?m)^numerics .*$", "numerics of another machine", text))
        out = self.run_json(*run_flags, "--plan", plan)
        self.assertEqual(out["plan"]["numerics"], made["numerics"])
        much = 1 << 50
        text = re.sub(r"(?m)^budget \d+", f"budget {much}", text)
        text = re.sub(r" slack \d+", f" slack {much - made['budget'] + made['memory']['slack']}", text)
        plan.write_text(re.sub(r" rows \d+ outputs", " rows 1000000000 outputs", text))
        error = self.refused(3, *run_flags, "--plan", plan, names=[plan, "this machine"])
        self.assertGreater(error["required_bytes"], 4_000_000_000)
