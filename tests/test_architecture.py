"""The house: floors, dependencies, and a docstring on all that is public."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import recurrent_jax

ROOT = Path(__file__).parent.parent
PACKAGE = "recurrent_jax"
# A module imports only from its own floor or below.
FLOORS = {
    "recurrent_jax.cells": 1,
    "recurrent_jax.kernels": 2,
    "recurrent_jax.arguments": 3,
    "recurrent_jax.unroll": 3,
    "recurrent_jax.check_cell": 4,
    "recurrent_jax.layers": 4,
    "recurrent_jax.attention": 4,
    "recurrent_jax.attentive": 4,
    "recurrent_jax.decode": 4,
    "recurrent_jax.flax_calls": 4,
    "recurrent_jax.linen": 4,
    "recurrent_jax.nnx": 4,
}
TOP = 5
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
# What it measures lies within a kernel.
INSIDE = {ROOT / "benchmarks" / "hopper.py", ROOT / "benchmarks" / "__main__.py"}
OUTSIDE = sorted(path for folder in ("experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
OUTSIDE = [path for path in OUTSIDE if path not in INSIDE]


def floor(module: str) -> int:
    """The floor of a module; the package itself, and what is new and not on the list, is at the top."""
    parts = module.split(".")
    return FLOORS.get(".".join(parts[:2]), TOP)


def imports(path: Path) -> list[tuple[str, str | None]]:
    """Every import of a file, at any depth: the module and, of `from`, the name."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [(str(node.module), alias.name) for alias in node.names]
    return found


def imported_modules(path: Path) -> list[str]:
    """Modules of this package that a file imports; `from package import module` counts as the module."""
    modules = []
    for module, name in imports(path):
        if module.split(".")[0] == PACKAGE:
            modules.append(f"{module}.{name}" if name and f"{module}.{name}" in FILES else module)
    return modules


@pytest.mark.parametrize("module", FILES)
def test_module_imports_only_from_lower_floors(module: str) -> None:
    above = [other for other in imported_modules(FILES[module]) if floor(other) > floor(module)]
    assert not above, f"{module} (floor {floor(module)}) imports {above}"


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_floor(module: str) -> None:
    assert module == PACKAGE or floor(module) < TOP


@pytest.mark.parametrize("module", FILES)
def test_module_imports_nothing_beyond_jax_numpy_and_flax_in_its_shells(module: str) -> None:
    allowed = {"jax", "numpy", PACKAGE} | sys.stdlib_module_names
    if module == "recurrent_jax.kernels.mosaic_gpu.block":
        allowed |= {"jaxlib"}  # has instructions that JAX has no name for
    if module in ("recurrent_jax.linen", "recurrent_jax.nnx"):
        allowed |= {"flax"}
    assert {name.split(".")[0] for name, _ in imports(FILES[module])} <= allowed


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_experiments_and_benchmarks_use_only_public_names(path: Path) -> None:
    for module, name in imports(path):
        if module.split(".")[0] == PACKAGE:
            assert module == PACKAGE, f"{module} is not public"
            assert name is None or name in recurrent_jax.__all__, f"{name} is not public"
    tree = ast.parse(path.read_text())
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == PACKAGE
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            assert node.attr in (*recurrent_jax.__all__, "__version__"), f"{node.attr} is not public"


def test_import_pulls_in_no_framework() -> None:
    code = "import sys, recurrent_jax; print(sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert "jax" in loaded
    assert loaded.isdisjoint({"flax", "haiku", "optax", "tensorflow", "torch", "onnx", "pytest", "tests"})


def test_all_lists_every_public_name_once_and_in_order() -> None:
    names = recurrent_jax.__all__
    assert len(set(names)) == len(names)
    modules = {"cells", "kernels", "arguments", "attention", "attentive", "layers", "flax_calls", "linen", "nnx"}
    public = {name for name in vars(recurrent_jax) if not name.startswith("_")} - modules
    assert public == set(names)


@pytest.mark.parametrize("name", recurrent_jax.__all__)
def test_public_name_has_a_docstring_of_its_own(name: str) -> None:
    value = getattr(recurrent_jax, name)
    text = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    assert text
    # What a dataclass or a NamedTuple writes by itself is no docstring.
    assert not text.startswith(f"{name}(")


@pytest.mark.parametrize("module", FILES)
def test_public_functions_and_methods_have_docstrings(module: str) -> None:
    missing = []

    def visit(node: ast.AST, where: str) -> None:
        for child in getattr(node, "body", []):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    missing.append(f"{where}.{child.name}")
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{where}.{child.name}")

    tree = ast.parse(FILES[module].read_text())
    assert ast.get_docstring(tree), f"{module} has no docstring"
    visit(tree, module)
    assert not missing


CELLS = ("RNN", "LSTM", "PeepholeLSTM", "CoupledLSTM", "GRU", "PointwiseCell")


@pytest.mark.parametrize("name", [*CELLS, "unroll", "explain", "check_cell"])
def test_docstring_has_the_parts_of_the_house_style(name: str) -> None:
    text = inspect.getdoc(getattr(recurrent_jax, name)) or ""
    assert "Raises:" in text
    assert ">>> " in text
    assert ("Attributes:" in text) if name[0].isupper() else ("Args:" in text and "Returns:" in text)


def test_modules_are_those_on_disk() -> None:
    for module in FILES:
        assert importlib.import_module(module).__file__ == str(FILES[module])
