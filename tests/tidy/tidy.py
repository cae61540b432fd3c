#!/usr/bin/env python3
"""The house rules that a program can check: docs/style.md says why. Plain Python, no dependencies.

    python3 tests/tidy/tidy.py            checks the tree; one line a finding, exit 1 if there is one
    python3 tests/tidy/tidy.py --headers  also compiles every header on its own (slower)
"""
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLOORS = ["core", "kernels", "swap", "scheduler", "parallel", "models", "engine"]
MAY_INCLUDE = {
    "core": set(),
    "kernels": {"core"},
    "swap": {"core"},
    "scheduler": {"core"},
    "parallel": {"core", "kernels"},
    "models": {"core", "kernels", "parallel"},
    "engine": {"core", "kernels", "swap", "scheduler", "parallel", "models"},
}
COLUMNS, FUNCTION, HEADER, SOURCE, TEST = 100, 70, 300, 500, 900
BANNED = [  # pattern, floors that may not (None: all libraries), what to do instead
    (r"\bstd::cout\b", None, "return a value or text; only engine/cli writes to stdout"),
    (r"\bstd::cerr\b|\bfprintf\(stderr", None, "give the caller a note; only engine/cli logs"),
    (r"(?<![\w.>:])exit\(", None, "throw Error (core/error.h)"),
    (r"\bgetenv\(", {"core", "kernels", "swap", "scheduler", "models"}, "read the environment in engine"),
    (r"(?<![\w.>:])s?rand\(", None, "use core/random.h"),
    (r"\busing namespace std\b", None, "name what you use"),
    (r"\bassert\(", None, "HEADRACE_ASSERT (core/error.h)"),
    (r"\b(TODO|FIXME|XXX|HACK)\b", None, "finish it, or refuse the case with a clear error"),
]
findings = []


def found(path, line, text):
    findings.append(f"{path.relative_to(ROOT)}:{line}: {text}")


def tracked(*suffixes):
    names = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split("\n")
    paths = [ROOT / n for n in names if n.endswith(suffixes)]
    return sorted(p for p in paths if p.exists())


def floor_of(path):
    return path.relative_to(ROOT).parts[0]


def without_comments(text):
    """Comments and literals blanked, lines kept."""
    pattern = re.compile(r'R"(\w*)\(.*?\)\1"|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.S)
    return pattern.sub(lambda m: "".join(c if c == "\n" else " " for c in m.group(0)), text)


def ratchet():
    """tests/tidy/debt.txt: lines 'PATH RULE VALUE' of old debt; a value may only shrink."""
    debt = {}
    path = ROOT / "tests/tidy/debt.txt"
    for line in path.read_text().splitlines() if path.exists() else []:
        if line and not line.startswith("#"):
            name, rule, value = line.split()
            debt[name, rule] = int(value)
    return debt


def check_size(path, rule, value, most, debt, line=1):
    allowed = max(most, debt.get((str(path.relative_to(ROOT)), rule), 0))
    if value > allowed:
        found(path, line, f"{rule}: {value}, at most {allowed}; cut it where the code asks for it")


def functions(code):
    """(line, length) of every brace block that follows a parameter list: functions, crudely."""
    depth, start, opened = 0, None, []
    statement = ""
    line = 1
    for c in code:
        if c == "\n":
            line += 1
        if c == "{":
            head = statement.strip()
            is_function = bool(re.search(r"\)\s*(const|noexcept|override|final|mutable|->[^{;]*|:[^{;]*|\s)*$", head)) and \
                not re.match(r"^(if|for|while|switch|else|do|catch|namespace|try)\b", head)
            opened.append((line, is_function))
            statement = ""
        elif c == "}":
            if opened:
                begin, is_function = opened.pop()
                if is_function:
                    yield begin, line - begin + 1
            statement = ""
        elif c == ";":
            statement = ""
        else:
            statement += c


def check_source(path, debt):
    text = path.read_text()
    lines = text.split("\n")
    code = without_comments(text)
    floor = floor_of(path)
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS and "http" not in line:
            found(path, number, f"columns: {len(line)}, at most {COLUMNS}")
        if line.rstrip() != line:
            found(path, number, "blanks at the end of the line")
    most = TEST if floor in ("tests", "examples") else HEADER if path.suffix == ".h" else SOURCE
    check_size(path, "lines", len(lines), most, debt)
    for line, length in functions(code):
        check_size(path, "function", length, FUNCTION if floor != "tests" else 120, debt, line)
    if path.suffix == ".h" and "#pragma once" not in text:
        found(path, 1, "#pragma once is missing")
    if floor in FLOORS:
        check_includes(path, floor, lines)
        check_banned(path, floor, text, code)
        if re.search(r"^\s*#\s*if.*\b(CUDA|NCCL)\b", code, re.M) and "cuda" not in path.parts and "nccl" not in path.parts:
            found(path, 1, "#if on CUDA or NCCL outside a backend folder")


def check_includes(path, floor, lines):
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
        if not match:
            continue
        target = match.group(1)
        to = target.split("/")[0]
        if to not in FLOORS:
            found(path, number, f'"{target}": includes start at the root, with a floor\'s name')
        elif to != floor and to not in MAY_INCLUDE[floor]:
            found(path, number, f'"{target}": {floor} may not include {to}')
        elif to != floor and target.count("/") > 1:
            found(path, number, f'"{target}": a sub-folder is private to its floor')
        elif not (ROOT / target).exists():
            found(path, number, f'"{target}": no such file')


def check_banned(path, floor, text, code):
    program = "cli" in path.parts
    for pattern, floors, instead in BANNED:
        if (floors is None and program and "TODO" not in pattern) or (floors is not None and floor not in floors):
            continue
        if "stderr" in pattern and path.name == "error.cpp":
            continue  # a failed assertion has nobody left to return to
        haystack = text if "TODO" in pattern else code
        for match in re.finditer(pattern, haystack):
            found(path, haystack.count("\n", 0, match.start()) + 1, f"{match.group(0).strip()}: {instead}")


def check_links():
    """CMake links equal the table."""
    for floor in FLOORS:
        cmake = ROOT / floor / "CMakeLists.txt"
        if not cmake.exists():
            continue
        match = re.search(r"headrace_library\(\w+.*?LINKS([^)]*?)(PRIVATE|\))", cmake.read_text(), re.S)
        links = set(match.group(1).split()) if match else None
        built = {f for f in MAY_INCLUDE[floor] if (ROOT / f / "CMakeLists.txt").exists()}
        if links != built:
            found(cmake, 1, f"links {sorted(links or [])} are not the table's {sorted(built)}")


def check_built(sources, headers):
    """No file that nothing includes or builds."""
    texts = {p: p.read_text() for p in sources + headers}
    cmake = "\n".join(p.read_text() for p in ROOT.glob("**/CMakeLists.txt") if "build" not in p.parts)
    for names, pattern in re.findall(r"foreach\(name ([\w ]+)\)(.*?)endforeach", cmake, re.S):
        cmake += "".join(pattern.replace("${name}", name) for name in names.split())
    included = set()
    for text in texts.values():
        included.update(re.findall(r'#\s*include\s+"([^"]+)"', text))
    for path in headers:
        if str(path.relative_to(ROOT)) not in included:
            found(path, 1, "nothing includes this header")
    for path in sources:
        listed = path.name in cmake or path.stem in cmake
        globbed = floor_of(path) in FLOORS and "GLOB" in (ROOT / floor_of(path) / "CMakeLists.txt").read_text()
        if not listed and not globbed:
            found(path, 1, "nothing builds this file")


def check_markdown():
    for path in tracked(".md"):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", line):
                if "://" not in target and not (path.parent / target).exists():
                    found(path, number, f"link to {target}: no such file")


def check_headers(headers):
    """Every header compiles on its own."""
    with tempfile.TemporaryDirectory() as folder:
        for path in headers:
            if floor_of(path) not in FLOORS:
                continue
            unit = pathlib.Path(folder) / "one.cpp"
            unit.write_text(f'#include "{path.relative_to(ROOT)}"\n')
            flags = ["-mavx512f", "-mavx512bf16", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"] \
                if "cpu" in path.parts else []
            run = subprocess.run(["g++", "-std=c++20", "-fsyntax-only", f"-I{ROOT}", *flags, str(unit)],
                                 capture_output=True, text=True)
            if run.returncode != 0:
                found(path, 1, "does not compile on its own: " + run.stderr.split("\n")[0])


def main():
    debt = ratchet()
    sources = [p for p in tracked(".cpp", ".cu") if "golden" not in p.parts]
    headers = [p for p in tracked(".h", ".cuh")]
    for path in sources + headers:
        check_source(path, debt)
    check_links()
    check_built(sources, headers)
    check_markdown()
    if "--headers" in sys.argv:
        check_headers(headers)
    lines = {}
    for path in sources + headers:
        lines[floor_of(path)] = lines.get(floor_of(path), 0) + len(path.read_text().split("\n"))
    print("lines: " + ", ".join(f"{f} {n}" for f, n in sorted(lines.items())))
    for text in findings:
        print(text)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
