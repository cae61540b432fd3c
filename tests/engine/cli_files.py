"""Stores, synthetic models, traces and signals: what runs leave on disk, and what they must not."""
import gzip
import json
import os
import pathlib
import resource
import shutil
import signal
import time

from cli_support import (GOLDEN, MIB, Case, Watch, end, experts, files_under, large, run, snapshot,
                         start)

MODEL = GOLDEN / "llama-float32"
GENERATE = ("--ids", "1,2,3", "-n", "6", "--ignore-eos")


def tokens(out):
    return [o["token_ids"] for o in out["outputs"]]


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


class Stores(Case):
    def make(self, model=MODEL):
        """A store of its own; gives the run's JSON and the store's folder."""
        self.store = self.folder / "stores"
        out = self.run_json("generate", model, *GENERATE, "--store", self.store)
        return out, pathlib.Path(next(self.store.iterdir()))

    def test_list_verify_remove(self):
        _, path = self.make()
        at = ("--store", self.store)
        listed = self.run_json("store", "list", *at)["stores"]
        self.assertEqual(len(listed), 1)
        entry = listed[0]
        self.assertEqual((entry["path"], entry["source"]), (str(path), str(MODEL)))
        held = sum((path / f).stat().st_size for f in files_under(path))
        self.assertGreaterEqual(entry["bytes"], held - 4096)
        self.assertLess(entry["age_s"], 60)
        self.assertIn(str(path), self.ok("store", "list", *at).text)
        for target in (MODEL, path):
            self.ok("store", "verify", target, *at)
            self.run_json("store", "verify", target, *at)
        self.ok("store", "remove", MODEL, *at)
        self.assertFalse(path.exists())
        self.assertEqual(self.run_json("store", "list", *at), {"stores": []})
        self.refused(1, "store", "verify", MODEL, *at, names=[MODEL])
        _, path = self.make()
        self.run_json("store", "remove", path, *at)
        self.assertFalse(path.exists())

    def test_opening_is_counted(self):
        """Super, manifest and the block that tells whether direct reads work; also by the run that makes the store."""
        for _ in range(2):
            out, path = self.make()
            row, = (r for r in out["swap"] if r["kind"] == "metadata")
            self.assertEqual((row["edge"], row["predicted_bytes"]), ("disk->host", row["counted_bytes"]))
            held = sum((path / f).stat().st_size for f in ("super", "manifest.1"))
            self.assertIn(row["counted_bytes"], (held, held + 4096))

    def test_in_place_writes_nothing_but_the_calibration(self):
        out, _ = self.make()
        before = snapshot(MODEL)
        for policy in ("auto", "stream"):
            cache = self.folder / ("cache-" + policy)
            there = self.run_json("generate", MODEL, *GENERATE, "--store", "none", "--policy", policy,
                                  env={"XDG_CACHE_HOME": str(cache)})
            self.assertEqual(tokens(there), tokens(out))
            for row in there["swap"]:
                self.assertEqual(row["predicted_bytes"], row["counted_bytes"])
                self.assertNotEqual(row["kind"], "metadata")
            self.assertLessEqual(set(files_under(cache)), {"headrace/machine.json"})
        self.assertEqual(snapshot(MODEL), before)

    def test_remove_spares_what_is_no_store(self):
        (self.folder / "precious").write_text("x")
        self.refused(2, "store", "remove", self.folder, names=[self.folder])
        self.assertEqual(files_under(self.folder), ["precious"])

    def test_second_start_prepares_nothing_and_reads_no_shard(self):
        model = self.copy_model(MODEL)
        first, path = self.make(model)
        self.assertGreater(first["timings"]["transforms"], 0)
        before = snapshot(path)
        with Watch(model) as watch:
            again = self.run_json("generate", model, *GENERATE, "--store", self.store)
        self.assertEqual(again["timings"]["transforms"], 0)
        self.assertEqual(again["timings"]["prepare_s"], 0)
        self.assertEqual(tokens(again), tokens(first))
        self.assertEqual(watch.touched(Watch.OPEN | Watch.ACCESS, ".safetensors"), [])
        self.assertNotEqual(watch.touched(Watch.OPEN, "config.json"), [])
        self.assertEqual([e[:3] for e in snapshot(path)], [e[:3] for e in before])

    def test_damage_is_found_and_never_computed_with(self):
        first, path = self.make()
        data = path / "data.0"
        at = ("--store", self.store)
        size = data.stat().st_size
        for offset in (0, 1000, size // 2, 3 * size // 4):
            flip(data, offset)
            result = run("store", "verify", MODEL, *at)
            self.assertEqual(result.code, 1, offset)
            self.assertRegex(result.err, r"^headrace: error: .*damaged")
            result = run("store", "verify", MODEL, *at, "--json")
            self.assertEqual(result.code, 1)
            self.assertEqual(result.out.count(b"\n"), 1)
            self.assertEqual(result.json["error"]["type"], "corrupt")
            self.assertEqual(len(result.json["damaged"]), 1)
            result = run("generate", MODEL, *GENERATE, *at, "--json")
            self.assertIn(result.code, (0, 1), result.err)
            if result.code == 0:
                self.assertEqual(tokens(result.json), tokens(first))
            else:
                self.assertIn(result.json["error"]["type"], ("corrupt", "format"))
                self.assertEqual(result.err.count("headrace: error: "), 1, result.err)
            flip(data, offset)
        self.ok("store", "verify", MODEL, *at)

    def test_damaged_metadata(self):
        first, path = self.make()
        for name in files_under(path):
            if name in ("lock", "data.0"):
                continue
            whole = (path / name).read_bytes()
            for damaged in (b"", whole[:100], whole[:40] + b"\xff" * 40 + whole[80:]):
                (path / name).write_bytes(damaged)
                result = run("generate", MODEL, *GENERATE, "--store", self.store, "--json")
                self.assertIn(result.code, (0, 1), result.err)
                if result.code == 0:
                    self.assertEqual(tokens(result.json), tokens(first))
                else:
                    self.assertIn("error", result.json)
                (path / name).write_bytes(whole)

    def test_truncated_data(self):
        first, path = self.make()
        os.truncate(path / "data.0", 4096)
        result = run("generate", MODEL, *GENERATE, "--store", self.store, "--json")
        self.assertIn(result.code, (0, 1), result.err)
        if result.code == 0:
            self.assertEqual(tokens(result.json), tokens(first))
        self.assertEqual(run("store", "verify", path, "--store", self.store).code,
                         result.code and 1)

    def test_changed_source_with_its_times_kept(self):
        model = self.copy_model(MODEL)
        first, _ = self.make(model)
        shard = model / "model.safetensors"
        times = shard.stat()
        other = (GOLDEN / "llama-float32" / "model.safetensors").read_bytes()
        changed = other[:-3000] + bytes(b ^ 0x80 if i % 4 == 3 else b
                                        for i, b in enumerate(other[-3000:]))
        shard.write_bytes(changed)
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
        self.assertEqual(shard.stat().st_mtime_ns, times.st_mtime_ns)
        out = self.run_json("generate", model, *GENERATE, "--store", self.store)
        self.assertGreater(out["timings"]["transforms"], 0)
        fresh = self.run_json("generate", model, *GENERATE, "--store", self.folder / "fresh")
        self.assertEqual(tokens(out), tokens(fresh))
        self.assertEqual(len(self.run_json("store", "list", "--store", self.store)["stores"]), 1)

    def test_same_name_elsewhere_is_another_model(self):
        self.make()
        other = self.copy_model(GOLDEN / "llama_bias-float32", MODEL.name)
        out = self.run_json("generate", other, *GENERATE, "--store", self.store)
        self.assertGreater(out["timings"]["transforms"], 0)
        self.assertEqual(len(self.run_json("store", "list", "--store", self.store)["stores"]), 2)

    def test_two_at_once(self):
        """The second waits for the first; nothing is made twice or torn."""
        store = self.folder / "stores"
        args = ("generate", large(), *GENERATE, "--store", store, "--json", "--quiet")
        running = [start(*args) for _ in range(2)]
        ended = [(p, *p.communicate(timeout=60)) for p in running]
        for process, _, err in ended:
            self.assertEqual(process.returncode, 0, err)
        good = [json.loads(out) for _, out, _ in ended]
        self.assertEqual(sorted(one["timings"]["transforms"] > 0 for one in good), [False, True])
        again = self.run_json(*args[:-2])
        self.assertEqual(again["timings"]["transforms"], 0)
        for one in good:
            self.assertEqual(tokens(one), tokens(again))
        self.ok("store", "verify", large(), "--store", store)

    def test_two_readers_at_once(self):
        self.ok("generate", large(), *GENERATE)
        running = [start("generate", large(), *GENERATE, "--json", "--quiet") for _ in range(2)]
        results = [json.loads(p.communicate(timeout=60)[0]) for p in running]
        self.assertEqual(tokens(results[0]), tokens(results[1]))


class Signals(Case):
    def wait_for(self, found, process, seconds=20):
        deadline = time.monotonic() + seconds
        while not found() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        self.assertIsNone(process.poll(), "it ended before the signal")

    def check(self, result, code):
        self.assertEqual(result.code, code, result.err)
        lines = [line for line in result.err.splitlines() if "error" in line]
        self.assertEqual(len(lines), 1, result.err)
        self.assertRegex(lines[0], r"^headrace: error: interrupted: .*")

    def preparing(self, store, *flags):
        """A run that is making its store; another one when a busy machine let it get ahead."""
        for _ in range(5):
            process = start("generate", large(), *GENERATE, "--store", store, *flags)
            while process.poll() is None:
                if store.exists() and any(store.rglob("data.0")):
                    return process
                time.sleep(0.001)
            process.communicate()
            shutil.rmtree(store)
        return self.fail("every run had made its store before it was seen")

    def test_while_preparing(self):
        store = self.folder / "stores"
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = self.preparing(store, "--json")
            process.send_signal(signal.SIGSTOP)
            result = end(process, number)
            self.check(result, code)
            self.assertEqual(result.json["error"]["type"], "interrupted")
            self.assertEqual(files_under(self.folder), [])

    def test_while_generating(self):
        self.ok("generate", large(), *GENERATE)
        flags = ("generate", large(), "--ids", "1", "-n", "4000", "--ignore-eos", "--policy",
                 "stream", "--disk-rate", "60MB", "--memory")
        traced = ("300MiB", "--trace", self.folder / "t.json")
        for number, code, more in ((signal.SIGINT, 130, ("90MiB",)), (signal.SIGTERM, 143, traced)):
            process = start(*flags, *more)
            process.stdout.read(1)  # the first text
            self.wait_for(lambda: True, process)
            self.check(end(process, number), code)
        self.assertEqual(files_under(self.folder), [])

    def test_while_scoring(self):
        self.ok("generate", large(), *GENERATE)
        ids = ",".join(["1"] * 500)
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            process = start("logits", large(), "--ids", ids, "-o", self.folder / "x.npy",
                            "--memory", "46MiB", "--policy", "stream", "--disk-rate", "20MB")
            self.wait_for(lambda: files_under(self.folder), process)
            time.sleep(0.1)
            self.check(end(process, number), code)
            self.assertEqual(files_under(self.folder), [])

    def test_synth(self):
        out = self.folder / "model"
        process = start("synth", out, "--size", "1GiB")
        self.wait_for(lambda: any(out.glob("*.safetensors")), process)
        self.check(end(process, signal.SIGINT), 130)
        self.assertFalse(out.exists())

    def test_profile_passes_it_on(self):
        self.ok("generate", large(), *GENERATE)
        process = start("profile", "-o", self.folder / "t.json", "--", "generate", large(), "--ids",
                        "1", "-n", "4000", "--ignore-eos", "--memory", "90%", "--policy", "stream",
                        "--disk-rate", "60MB")
        process.stdout.read(1)
        self.check(end(process, signal.SIGTERM), 143)

    def test_killed_with_spilled_keys_and_values_leaves_nothing(self):
        store = self.folder / "stores"
        self.ok("generate", large(), *GENERATE, "--store", store)
        before = files_under(store)
        command = ("generate", large(), "--ids", ",".join(["1"] * 500), "-n", "2000", "--ignore-eos",
                   "--store", store, "--memory", "500MiB", "--kv-memory")
        least = run(*command, "1", "--json").json["error"]["required_bytes"]
        process = start(*command, least, "--disk-rate", "60MB")
        process.stdout.read(1)  # the first text: keys and values are on disk
        process.kill()
        process.communicate()
        self.assertEqual(files_under(store), before)

    def test_killed_while_preparing_leaves_nothing_in_the_way(self):
        store = self.folder / "stores"
        process = self.preparing(store)
        process.kill()
        process.communicate()
        out = self.run_json("generate", large(), *GENERATE, "--store", store)
        self.assertGreater(out["timings"]["transforms"], 0)
        self.assertEqual(len(list(store.iterdir())), 1)
        self.ok("store", "verify", large(), "--store", store)


class Traces(Case):
    def check_trace(self, trace, out):
        events = trace["traceEvents"]
        names = {e["tid"]: e["args"]["name"] for e in events
                 if e["ph"] == "M" and e["name"] == "thread_name"}
        self.assertEqual(len(set(names.values())), len(names))
        self.assertIn("version", trace["otherData"])
        self.assertEqual(trace["otherData"].get("dropped", 0), 0)
        lanes, moved, resident = {}, {}, set()
        for event in events:
            self.assertIn(event["ph"], ("M", "X", "C"))
            if event["ph"] == "C":
                resident.add(event["name"])
            if event["ph"] != "X":
                continue
            self.assertIn(event["tid"], names)
            lanes.setdefault(event["tid"], []).append(
                (round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)))
            if "edge" in event.get("args", {}):
                key = event["args"]["edge"], event["args"]["kind"]
                count, total = moved.get(key, (0, 0))
                moved[key] = count + 1, total + event["args"]["bytes"]
        for lane, spans in lanes.items():
            spans.sort(key=lambda s: (s[0], -s[1]))
            open_ends = []
            for begin, finish in spans:
                while open_ends and open_ends[-1] <= begin + 1:  # a nanosecond of rounding
                    open_ends.pop()
                if open_ends:
                    self.assertLessEqual(finish, open_ends[-1] + 1, f"{names[lane]} crosses")
                open_ends.append(finish)
        counted = {(r["edge"], r["kind"]): (r["operations"], r["counted_bytes"])
                   for r in out["swap"]}
        self.assertEqual({k: v[1] for k, v in moved.items()}, {k: v[1] for k, v in counted.items()})
        return moved, resident

    def test_keys_and_values_on_disk_belong_to_their_layers(self):
        path = self.folder / "t.json"
        command = ("generate", large(), "--ids", ",".join(["1"] * 70), "-n", "3", "--ignore-eos", "--kv-memory")
        least = run(*command, "1", "--json").json["error"]["required_bytes"]
        out = self.run_json("profile", "-o", path, "--", *command, least)
        layers = range(out["plan"]["kv"]["layers"])
        report = self.run_json("profile", "report", path)
        for edge in ("disk->host", "host->disk"):
            rows = [r for r in report["layers"] if r["kind"] == "kv" and r["edge"] == edge]
            self.assertEqual(sorted(r["layer"] for r in rows), list(layers))
            for row in rows:
                self.assertGreater(row["bytes"], 0)
                self.assertEqual(row["bytes"], row["predicted_bytes"])

    def test_profile(self):
        for name, model in (("t.json.gz", large()), ("t.json", experts())):
            path = self.folder / name
            for more in (("--memory", "240MiB", "--policy", "stream"),
                         ("--memory", "260MiB", "--device-memory", "16MiB", "--policy", "stream")):
                result = self.ok("--json", "profile", "-o", path, "--", "generate", model, *GENERATE,
                                 *more)
                self.assertEqual(result.out.count(b"\n"), 1)
                text = path.read_bytes()
                trace = json.loads(gzip.decompress(text) if name.endswith("gz") else text)
                moved, _ = self.check_trace(trace, result.json)
                self.assertGreater(len(moved), 0)
                report = self.run_json("profile", "report", path)
                self.assertEqual({(r["edge"], r["kind"]): r["bytes"] for r in report["swap"]},
                                 {k: v[1] for k, v in moved.items()})
                lanes = {lane["name"]: lane for lane in report["lanes"]}
                self.assertGreater(lanes["compute"]["busy_s"], 0)
                self.assertGreater(report["seconds"], 0)
                self.assertIn("disk->host", self.ok("profile", "report", path).text)
        self.assertEqual(files_under(self.folder), ["t.json", "t.json.gz"])

    def test_bench_leaves_the_calibration_alone(self):
        cache = self.folder / "cache"
        env = {"XDG_CACHE_HOME": str(cache)}
        self.ok("doctor", env=env)
        machine = (cache / "headrace/machine.json").read_bytes()
        out = self.ok("--json", "bench", "generate", MODEL, "-p", "8", "-n", "4", "-r", "2",
                      "--disk-rate", "100MB", env=env).json
        self.assertLessEqual(out["disk_read_Bps"], 100e6)
        self.assertGreater(out["disk_read_Bps"], 0)
        self.assertEqual((cache / "headrace/machine.json").read_bytes(), machine)

    def test_a_torn_trace_is_removed(self):
        path = self.folder / "t.json"
        self.ok("generate", MODEL, *GENERATE)
        limit = (resource.RLIMIT_FSIZE, (2000, 2000))  # the program takes it for a full disk
        process = start("generate", MODEL, *GENERATE, "--trace", path, "--quiet",
                        preexec_fn=lambda: resource.setrlimit(*limit))
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, err)
        self.assertIn(str(path).encode(), err)
        self.assertEqual(files_under(self.folder), [])

    def test_resident_counters(self):
        path = self.folder / "t.json"
        self.ok("generate", large(), *GENERATE, "--trace", path)
        counters = {e["name"] for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "C"}
        self.assertTrue(any(c.startswith("resident") for c in counters), counters)

    def test_report_on_stderr_and_text_on_stdout(self):
        path = self.folder / "t.json.gz"
        plain = self.ok("generate", MODEL, *GENERATE)
        result = self.ok("profile", "-o", path, "--", "headrace", "generate", MODEL, *GENERATE)
        self.assertEqual(result.out, plain.out)
        self.assertIn(str(path), result.err)
        self.assertIn("disk->host", result.err)

    def test_fails_as_the_command_does(self):
        trace = self.folder / "t.json"
        for args, code in ((("--ids", "999"), 2), (("--ids", "1", "--memory", "1MiB"), 3)):
            result = run("profile", "-o", trace, "--", "generate", MODEL, *args)
            self.assertEqual(result.code, code)
            self.assertEqual(len(result.err.splitlines()), 1, result.err)
        self.assertEqual(files_under(self.folder), [])
        self.refused(1, "generate", MODEL, *GENERATE, "--trace", "/no/t.json", names=["/no/t.json"])

    def test_damaged_traces(self):
        path = self.folder / "t.json.gz"
        self.ok("generate", MODEL, *GENERATE, "--trace", path)
        whole = path.read_bytes()
        for text in (b"", b"{}", b"[1]", whole[:len(whole) // 2], b'{"traceEvents": 3}'):
            path.write_bytes(text)
            self.refused(1, "profile", "report", path, names=[path])
        path.write_bytes(b'{"traceEvents": [3, {"ph": 4}, {"ph": "X", "tid": "a"}]}')
        self.run_json("profile", "report", path)


class Synth(Case):
    def test_every_family_and_precision(self):
        for family in ("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "gemma2", "gemma3",
                       "starcoder2", "gpt2", "opt", "gpt_neox", "falcon", "mixtral", "qwen2_moe",
                       "qwen3_moe"):
            for dtype, size in (("float32", 4), ("bfloat16", 2), ("float16", 2)):
                path = self.folder / f"{family}-{dtype}"
                made = self.run_json("synth", path, "--family", family, "--dtype", dtype, "--size",
                                     "2MiB")
                seen = self.run_json("inspect", path, "--tensors")
                self.assertEqual(seen["config"]["family"], family)
                self.assertEqual(seen["config"]["dtype"], dtype)
                self.assertEqual(list(seen["dtypes"]), [dtype])
                self.assertEqual(seen["weights_bytes"], made["weight_bytes"])
                if made["layers"] > 1:  # one layer of a sparse family may be more than was asked for
                    self.assertAlmostEqual(made["weight_bytes"] / (2 * MIB), 1, delta=0.35)
                self.assertEqual(seen["tokenizer"]["vocabulary"], seen["config"]["vocab_size"])
                tensor = seen["tensor_list"][0]
                values = 1
                for dimension in tensor["shape"]:
                    values *= dimension
                self.assertEqual(tensor["bytes"], values * size)
            out = self.run_json("generate", path, "-p", "hello there", "-n", "4", "--ignore-eos")
            self.assertEqual(len(tokens(out)[0]), 4)

    def test_same_seed_same_bytes(self):
        flags = ("--family", "mixtral", "--size", "1MiB")
        for name, seed in (("a", 5), ("b", 5), ("c", 6)):
            self.ok("synth", self.folder / name, *flags, "--seed", seed)
        names = files_under(self.folder / "a")
        self.assertEqual(names, files_under(self.folder / "c"))
        for name in names:
            a, b, c = ((self.folder / m / name).read_bytes() for m in "abc")
            self.assertEqual(a, b)
            self.assertEqual(a != c, name in ("model.safetensors", "tokenizer.json") and a != c)
        self.assertNotEqual(*((self.folder / m / "model.safetensors").read_bytes() for m in "ac"))

    def test_from_and_set(self):
        out = self.folder / "m"
        self.ok("synth", out, "--from", MODEL / "config.json", "--set", "num_hidden_layers=3",
                "--set", "vocab_size=512")
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["num_hidden_layers"], config["vocab_size"]), (3, 512))
        self.assertEqual(config["hidden_size"],
                         json.loads((MODEL / "config.json").read_text())["hidden_size"])
        self.ok("generate", out, *GENERATE)
        self.refused(2, "synth", out, names=["another folder"])

    def test_refusals(self):
        out = self.folder / "m"
        for flags, name in ((("--family", "bert"), "bert"), (("--dtype", "int8"), "int8"),
                            (("--size", "big"), "--size"), (("--size", "0"), "--size"),
                            (("--set", "hidden_size"), "--set"),
                            (("--set", "num_hidden_layers=2", "--size", "1MiB"), "--size"),
                            (("--family", "llama", "--from", MODEL / "config.json"), "--f")):
            self.refused(2, "synth", out, *flags, names=[name])
        self.refused(1, "synth", out, "--set", "hidden_size=-4", names=["hidden_size"])
        self.refused(1, "synth", out, "--from", self.folder / "none.json", names=["none.json"])
        self.refused(1, "synth", out, "--size", "900TiB")
        self.assertFalse(out.exists())
        shutil.rmtree(out, ignore_errors=True)
