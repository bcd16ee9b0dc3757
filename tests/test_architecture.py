"""Holds the import table of docs/architecture.md, over the syntax trees of the four packages."""

import ast
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flows", "tasks", "models", "storage")
FORBIDDEN = {
    "models": {
        "prefect",
        "ray",
        "boto3",
        "botocore",
        "requests",
        "httpx",
        "urllib",
        "socket",
        "storage",
        "tasks",
        "flows",
    },
    "storage": {"prefect", "ray", "diffusers", "transformers", "models", "tasks", "flows"},
    "tasks": {"boto3", "botocore", "flows"},
    "flows": {"torch", "boto3", "botocore", "models", "storage", "ray", "numpy"},
}
# Names that say nothing about what a module holds.
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60


def modules(package: str) -> list[Path]:
    return sorted(p for p in (ROOT / package).rglob("*.py") if "__pycache__" not in p.parts)


ALL_MODULES = [pytest.param(p, id=str(p.relative_to(ROOT))) for name in PACKAGES for p in modules(name)]


def imported_roots(tree: ast.AST) -> set[str]:
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.split(".")[0])
    return roots


@pytest.mark.parametrize("path", ALL_MODULES)
def test_module_keeps_to_the_import_table(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    found = imported_roots(ast.parse(path.read_text()))
    assert not found & FORBIDDEN[package], f"{path.relative_to(ROOT)} imports {sorted(found & FORBIDDEN[package])}"


@pytest.mark.parametrize("path", [p for p in ALL_MODULES if p.id and p.id.startswith("models/")])
def test_models_read_no_environment(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in {"environ", "getenv", "putenv"}, f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("path", ALL_MODULES)
def test_module_is_small_and_named_for_its_subject(path: Path) -> None:
    assert path.stem not in NAMELESS
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, (
                f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"
            )


def test_no_module_shadows_an_installed_distribution() -> None:
    installed = set(packages_distributions()) - set(PACKAGES)
    shadows = [p for name in PACKAGES for p in modules(name) if p.stem in installed and p.stem != "__init__"]
    assert not shadows


def test_exceptions_are_never_caught_bare() -> None:
    for name in PACKAGES:
        for path in modules(name):
            for node in ast.walk(ast.parse(path.read_text())):
                assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"{path}:{node.lineno}"


def test_packages_are_listed_explicitly() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    present = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for n in PACKAGES
        for p in modules(n)
        if p.name == "__init__.py"
    }
    assert listed == present
