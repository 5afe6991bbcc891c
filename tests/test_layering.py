"""Which module may import which, what a training node has installed, and how long files and functions may be."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "utils": {"utils"},
    "data_preprocess": {"utils", "data_preprocess"},
    "models": {"utils", "models"},
    "losses": {"utils", "losses"},
}
UTILS_RANKS = {
    "errors": 0,
    "config": 1,
    "runtime": 1,
    "imaging": 2,
    "io": 3,
    "training": 4,
    "reporting": 4,
    "evaluation": 5,
}
"""A part of utils may import parts of a lower rank only; parts of the same rank do not import each other."""

MAX_UTILS_MODULES = 2
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TESTS_OF_SEVERAL_MODULES = {
    "data_preprocess/sources/test_sources.py",
    "data_preprocess/test_bad_input.py",
    "data_preprocess/test_many_cases.py",
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
TRAINING_SCRIPTS = ("train_backbone", "train_SOL", "train_backbone_heatmap", "train_autoencoder", "adv_train")
SIMPLEITK_USERS = ("utils/io/volumes.py", "data_preprocess/resample.py", "data_preprocess/sources/")
IMPORT_NAMES = {"pillow": "PIL", "scikit-image": "skimage", "surface-distance": "surface_distance", "ruff": None}
"""Of packages that are imported under another name than they are installed, or not at all."""

OPENERS_OF_BYTES = {"Image", "gzip", "os", "tarfile", "zipfile"}
COMMANDS = (
    "inference",
    "evaluate",
    "pseudo_labels",
    "data_preprocess.prepare",
    "data_preprocess.export",
    "models.publish",
)
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
UTILS_SOURCES = [path for path in SOURCES if path.is_relative_to(ROOT / "utils") and path.name != "__init__.py"]
MIRRORING_TESTS = sorted(path for package in MAY_IMPORT for path in (ROOT / "tests" / package).rglob("test_*.py"))
ALL_CODE = sorted(
    [
        *SOURCES,
        *ROOT.glob("*.py"),
        *(path for name in ("benchmarks", "docs", "focusnet", "tests") for path in (ROOT / name).rglob("*.py")),
    ]
)

WITH_ENCODING = [path for path in ALL_CODE if path.parent.name != "without_posix"]  # whose probe.py asks what happens


def names_of(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported_modules(path):
    """Everything that a file imports, at its top or anywhere in it; `from a import b` counts as a and as a.b."""
    modules = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def imported_packages(path):
    """First names of everything that a file imports."""
    return {module.split(".")[0] for module in imported_modules(path)}


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_the_test_sees_the_program():
    assert set(TRAINING_SCRIPTS) <= SCRIPTS
    assert len(SOURCES) > 40
    assert imported_packages(ROOT / "adv_train.py") >= {"torch", *MAY_IMPORT}


@pytest.mark.parametrize("path", SOURCES, ids=names_of(SOURCES))
def test_packages_import_only_their_layer(path):
    ours = set(MAY_IMPORT) | SCRIPTS | {"tests", "benchmarks", "focusnet"}
    package = path.relative_to(ROOT).parts[0]
    forbidden = (imported_packages(path) & ours) - MAY_IMPORT[package]
    assert not forbidden, f"{path.relative_to(ROOT)} imports {', '.join(sorted(forbidden))}"


@pytest.mark.parametrize("path", UTILS_SOURCES, ids=names_of(UTILS_SOURCES))
def test_parts_of_utils_import_only_lower_ones(path):
    part = module_name(path).split(".")[1]
    imported = {module.split(".")[1] for module in imported_modules(path) if module.startswith("utils.")} - {part}
    wrong = {other for other in imported if UTILS_RANKS[other] >= UTILS_RANKS[part]}
    assert not wrong, f"{path.relative_to(ROOT)} imports utils.{', utils.'.join(sorted(wrong))}"


def test_utils_is_a_shelf_of_subpackages():
    assert len([path for path in (ROOT / "utils").glob("*.py") if path.name != "__init__.py"]) <= MAX_UTILS_MODULES
    for package in (path for path in (ROOT / "utils").iterdir() if path.is_dir() and any(path.glob("*.py"))):
        assert ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8"))), package.name


def test_no_import_leads_back_to_its_module():
    modules = {module_name(path): path for path in SOURCES}
    graph = {name: imported_modules(path) & set(modules) - {name} for name, path in modules.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the modules of a circle


@pytest.mark.parametrize("path", MIRRORING_TESTS, ids=names_of(MIRRORING_TESTS))
def test_tests_lie_where_their_module_lies(path):
    test = path.relative_to(ROOT / "tests")
    module = ROOT / test.with_name(test.name.removeprefix("test_"))
    assert module.is_file() != (test.as_posix() in TESTS_OF_SEVERAL_MODULES), f"{test}: {module} does not exist"


def test_files_and_functions_are_short():
    too_long = []
    for path in ALL_CODE:
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MAX_FILE_LINES:
            too_long.append(str(path.relative_to(ROOT)))
        functions = [node for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
        long = [f.name for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES]
        too_long += [f"{path.relative_to(ROOT)}: {name}" for name in long]
    assert not too_long, f"files over {MAX_FILE_LINES} lines, or functions over {MAX_FUNCTION_LINES}: {too_long}"


def names_no_encoding(call):
    """Whether a call opens a text file in the system's encoding; a binary one has the constant mode "rb" or "wb"."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    is_method = isinstance(call.func, ast.Attribute)
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name in ("check_output", "run", "Popen"):
        return any(keyword.arg in ("text", "universal_newlines") for keyword in call.keywords)
    owner = getattr(call.func.value, "id", "") if is_method else ""
    if name == "fdopen" or (name == "open" and owner not in OPENERS_OF_BYTES):
        modes = [*call.args[0 if is_method and name == "open" else 1 :], *(keyword.value for keyword in call.keywords)]
        return not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes)
    return is_method and name in ("read_text", "write_text")


@pytest.mark.parametrize(
    ("code", "expected"),
    [("open(p)", 1), ("p.open('w')", 1), ("p.read_text()", 1), ("p.write_text(t)", 1), ("run(c, text=True)", 1)]
    + [("open(p, 'rb')", 0), ("p.open('wb')", 0), ("p.open(encoding='utf-8')", 0), ("run(c, encoding='utf-8')", 0)]
    + [("Image.open(p)", 0), ("write_text(p, t)", 0), ("os.fdopen(f, 'w')", 1), ("os.fdopen(f, 'wb')", 0)],
)
def test_the_encoding_of_a_call_is_found(code, expected):
    assert names_no_encoding(ast.parse(code).body[0].value) == bool(expected)


@pytest.mark.parametrize("path", WITH_ENCODING, ids=names_of(WITH_ENCODING))
def test_text_files_are_utf_8_on_all_systems(path):
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert not [f"line {call.lineno}" for call in calls if names_no_encoding(call)], "encoding=... is missing"


def test_no_script_imports_a_script():
    for path in ROOT.glob("*.py"):
        assert not imported_packages(path) & SCRIPTS, path.name


def test_only_readers_and_resampling_import_simpleitk():
    users = names_of(path for path in [*SOURCES, *ROOT.glob("*.py")] if "SimpleITK" in imported_packages(path))
    assert users
    assert all(user.startswith(SIMPLEITK_USERS) for user in users), users


def required_modules(name):
    """Names under which a requirements file's packages are imported."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    packages = [re.match(r"[\w-]+", line)[0] for line in lines if line and not line.startswith(("#", "-"))]
    return {IMPORT_NAMES.get(package, package) for package in packages} - {None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "file"),
    [(TRAINING_SCRIPTS, "requirements-train.txt"), (COMMANDS, "requirements.txt")],
)
def test_a_requirements_file_is_enough_for_its_commands(modules, file):
    every = set().union(*(required_modules(path.name) for path in ROOT.glob("requirements*.txt")))
    blocked = f"sys.modules.update(dict.fromkeys({every - required_modules(file)}))"  # None: import fails
    code = f"import sys; {blocked}; import {', '.join(modules)}"
    command = [sys.executable, "-c", code]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout + finished.stderr == ""  # importing does nothing that is seen


def test_every_package_that_is_imported_is_required():
    ours = set(MAY_IMPORT) | SCRIPTS | {"tests", "benchmarks", "focusnet"}
    used = set().union(*map(imported_packages, ALL_CODE)) - ours - set(sys.stdlib_module_names)
    required = set().union(*(required_modules(path.name) for path in ROOT.glob("requirements*.txt")))
    assert used <= required
