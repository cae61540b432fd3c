"""What a run's JSON must have: section 4 of the contract, every field, its type, and the sums that hold."""
from cli_support import Case

MEMORY = ["base", "resident_weights", "stream_ring", "kv", "activations", "gradients", "optimizer",
          "workspace", "io", "slack"]
EDGES = {"disk->host", "host->disk", "host->device", "device->host", "disk->device"}
KINDS = {"weights", "gradients", "optimizer", "activations", "activation_gradients", "kv",
         "adapters", "retries", "metadata"}
NUMBER = (int, float)


def tokens(out):
    return [o["token_ids"] for o in out["outputs"]]


class Checks(Case):
    def check_number(self, value, whole=False):
        self.assertIsInstance(value, int if whole else NUMBER)
        self.assertNotIsInstance(value, bool)
        self.assertGreaterEqual(value, 0)

    def check_plan(self, plan):
        self.assertEqual(list(plan["memory"]), MEMORY)
        for value in plan["memory"].values():
            self.check_number(value, whole=True)
        self.assertEqual(sum(plan["memory"].values()), plan["budget"])
        for key in ("weights_bytes", "bytes", "bound_bytes"):
            self.check_number(plan[key], whole=True)
        for key in ("predicted_s", "planning_ms"):
            self.check_number(plan[key])
        self.assertLessEqual(plan["bound_bytes"], plan["bytes"])
        self.assertIsInstance(plan["policy"], str)
        self.assertGreater(len(plan["why"]), 10)

    def check_swap(self, out, phases=False):
        rows = out["swap"]
        for row in rows:
            self.assertIn(row["edge"], EDGES)
            self.assertIn(row["kind"], KINDS)
            self.check_number(row["predicted_bytes"], whole=True)
            self.check_number(row["operations"], whole=True)
            if phases:
                self.assertIn(row["phase"], ("first", "steady"))
                continue
            self.assertEqual(row["predicted_bytes"], row["counted_bytes"], row)
            if "predicted_least_bytes" in row:
                self.assertLessEqual(row["predicted_least_bytes"], row["counted_bytes"])
                self.assertLessEqual(row["counted_bytes"], row["predicted_most_bytes"])
        keys = [(r["edge"], r["kind"], r.get("phase")) for r in rows]
        self.assertEqual(len(keys), len(set(keys)), rows)

    def check_run(self, out):
        self.assertIsInstance(out["model"], str)
        for index, one in enumerate(out["outputs"]):
            self.assertEqual(one["index"], index)
            self.assertIsInstance(one["text"], str)
            self.assertTrue(all(type(i) is int for i in one["token_ids"]))
            self.assertIn(one["finish_reason"], ("stop", "length"))
            self.assertIsNone(one["logprobs"])
        usage = out["usage"]
        self.assertEqual(usage["completion_tokens"], sum(map(len, tokens(out))))
        for key in ("prepare_s", "load_s", "prefill_s", "decode_s", "prefill_tokens_per_second",
                    "decode_tokens_per_second"):
            self.check_number(out["timings"][key])
        self.check_number(out["timings"]["passes"], whole=True)
        memory = out["memory"]
        self.assertEqual(memory["budget"], out["plan"]["budget"])
        self.assertLessEqual(memory["peak_rss"], memory["budget"])
        for tier in memory["tiers"].values():
            self.assertLessEqual(tier["peak"], tier["budget"])
        self.assertIn("host", memory["tiers"])
        self.check_number(out["stall"]["seconds"])
        for seconds in out["stall"]["by_cause"].values():
            self.check_number(seconds)
        self.check_plan(out["plan"])
        self.check_swap(out)
