"""What the tests of the command line share: running the program, checking its errors, small files.

Plain Python 3.11. Every run gets a cache folder of its own and no variable of the caller's.
"""
import array
import atexit
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models"
MIB = 1 << 20
ERROR = re.compile(r"^headrace: error: [^\n]+: [^\n]+; [^\n]+$")
TRACES = re.compile(r"terminate called|what\(\):|Assertion|backtrace|Sanitizer|core dumped|#0 ")

binary = os.environ.get("HEADRACE", "")
root = pathlib.Path(tempfile.mkdtemp(prefix="headrace-cli-"))
atexit.register(shutil.rmtree, root, ignore_errors=True)


def environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE")}
    env.update({"XDG_CACHE_HOME": str(root / "cache"), "HOME": str(root)})
    env.update(extra or {})
    return env


class Result:
    def __init__(self, code, out, err):
        self.code, self.out, self.raw_err = code, out, err
        self.err = err.decode("utf-8", "replace")

    @property
    def text(self):
        return self.out.decode("utf-8")

    @property
    def json(self):
        return json.loads(self.out, object_pairs_hook=without_repeats)


def without_repeats(pairs):
    keys = [k for k, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice: {keys}"
    return dict(pairs)


def run(*args, env=None, stdin=b"", timeout=60):
    done = subprocess.run([binary, *map(str, args)], input=stdin, capture_output=True,
                          env=environment(env), timeout=timeout, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def start(*args, env=None, **more):
    return subprocess.Popen([binary, *map(str, args)],
                            stdin=more.pop("stdin", subprocess.DEVNULL), stdout=more.pop("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
                            env=environment(env), **more)


class Case(unittest.TestCase):
    """A test with a folder of its own, `self.folder`."""

    maxDiff = 2000

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="case-", dir=root))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def ok(self, *args, **more):
        result = run(*args, **more)
        self.assertEqual(result.code, 0, f"{args}: {result.err}{result.out[:300]}")
        return result

    def run_json(self, *args, **more):
        """Exactly one JSON object on stdout, a line, and nothing else."""
        result = self.ok(*args, "--json", **more)
        self.assertEqual(result.out.count(b"\n"), 1, result.out)
        self.assertIsInstance(result.json, dict)
        return result.json

    def refused(self, code, *args, names=(), env=None, stdin=b""):
        """Fails with `code` and one line on stderr; under --json says the same as an object."""
        plain = run(*args, env=env, stdin=stdin)
        self.check_refusal(plain, code, args, names)
        self.assertEqual(plain.out, b"", args)
        result = run("--json", *args, env=env, stdin=stdin)
        self.check_refusal(result, code, args, names)
        error = result.json["error"]
        self.assertEqual(list(result.json), ["error"])
        self.assertEqual(result.out.count(b"\n"), 1)
        self.assertIsInstance(error["type"], str)
        self.assertIn(error["message"], result.err)
        self.assertLessEqual(set(error), {"type", "message", "path", "field", "required_bytes"})
        self.assertEqual(code == 3, "required_bytes" in error, error)
        return error

    def check_refusal(self, result, code, args, names):
        where = f"{args}: {result.code} {result.err}"
        self.assertEqual(result.code, code, where)
        lines = result.err.splitlines()
        self.assertEqual(len(lines), 1, where)
        self.assertRegex(lines[0], ERROR)
        self.assertNotRegex(result.err, TRACES)
        for name in names:
            self.assertIn(str(name), lines[0])

    def required(self, *args):
        """The smallest budget of a command, from its own refusal."""
        error = self.refused(3, *args, "--memory", "1MiB")
        self.assertIn(str(error["required_bytes"]), error["message"])
        return error["required_bytes"]

    def copy_model(self, source, name="model"):
        target = self.folder / name
        shutil.copytree(source, target)
        for path in target.iterdir():
            path.chmod(0o644)
        return target


_models = {}


def synth(name, *flags):
    """A model made once for all tests."""
    if name not in _models:
        path = root / "models" / name
        result = run("synth", path, *flags)
        assert result.code == 0, result.err
        _models[name] = path
    return _models[name]


def large():
    """Weights that do not fit the smaller budgets of the tests."""
    return synth("large", "--family", "llama", "--size", "48MiB", "--seed", "7")


def experts():
    return synth("experts", "--family", "mixtral", "--size", "32MiB", "--seed", "8")


def read_npy(path):
    data = pathlib.Path(path).read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:16]
    size = struct.unpack("<H", data[8:10])[0]
    assert (10 + size) % 64 == 0 and data[9 + size:10 + size] == b"\n"
    header = eval(data[10:10 + size].decode("ascii"), {"__builtins__": {}})  # a literal
    assert header["descr"] == "<f4" and header["fortran_order"] is False, header
    values = array.array("f", data[10 + size:])
    assert len(values) == header["shape"][0] * header["shape"][1], header
    return header["shape"], values


def write_safetensors(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def snapshot(folder):
    """All that writing to a folder would change."""
    entries = [pathlib.Path(folder), *sorted(pathlib.Path(folder).rglob("*"))]
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in entries]


def files_under(folder):
    return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*") if p.is_file())


class Watch:
    """Which files of a folder were opened, read or written while the block ran (inotify)."""

    ACCESS, MODIFY, OPEN, CREATE, DELETE, ATTRIB = 0x1, 0x2, 0x20, 0x100, 0x200, 0x4

    def __init__(self, folder):
        self.folder, self.events = str(folder), []

    def __enter__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        mask = (self.ACCESS | self.MODIFY | self.OPEN | self.CREATE | self.DELETE | self.ATTRIB)
        if self.fd < 0 or libc.inotify_add_watch(self.fd, self.folder.encode(), mask) < 0:
            raise unittest.SkipTest("inotify is not to be had here")
        return self

    def __exit__(self, *_):
        try:
            data = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            data = b""
        os.close(self.fd)
        at = 0
        while at < len(data):
            _, mask, _, size = struct.unpack_from("iIII", data, at)
            name = data[at + 16:at + 16 + size].rstrip(b"\0").decode()
            self.events.append((mask & 0x3ff, name))
            at += 16 + size

    def touched(self, mask, suffix):
        return [name for m, name in self.events if m & mask and name.endswith(suffix)]


def end(process, number, timeout=20):
    """Sends a signal and waits; the exit code as a shell would say it."""
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=timeout)
    code = process.returncode
    return Result(128 - code if code < 0 else code, out or b"", err)
