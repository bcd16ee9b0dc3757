"""The table of every sentence with which the system refuses or fails, read from the syntax trees of the four packages."""

import ast
import html
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("flows", "tasks", "models", "storage")
BUILT_IN = ("ValueError", "RuntimeError", "TypeError", "TimeoutError", "OSError", "FileNotFoundError", "BadParameter")
"""Exceptions that are not ours and carry a sentence for a person."""


@dataclass(frozen=True, slots=True, order=True)
class Sentence:
    kind: str
    """Name of the exception; of the built-in ones with the package, because they are said of everything."""
    text: str
    """Values that are put in while running are written ‹so›."""
    place: str
    """Module that says it."""


def sentences(root: Path) -> list[Sentence]:
    """All of them, sorted by exception; a sentence that one module says twice is there once."""
    trees = {path: ast.parse(path.read_text()) for name in PACKAGES for path in sorted((root / name).rglob("*.py"))}
    kinds = {*BUILT_IN, *exceptions(list(trees.values()))}
    found: set[Sentence] = set()
    for path, tree in trees.items():
        place = path.relative_to(root)
        for kind, call in _calls(tree, kinds):
            named = f"{kind} in {place.parts[0]}" if kind in BUILT_IN else kind
            for text in _said(call):
                if re.search(r"[a-zA-Z]{2,}", re.sub(r"‹[^›]*›", "", text)):
                    found.add(Sentence(named, " ".join(text.split()), str(place)))
    return sorted(found)


def _calls(tree: ast.Module, kinds: set[str]) -> Iterator[tuple[str, ast.Call]]:
    """Where an exception is made, and where one makes up its own sentence: `super().__init__(f"…")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and _name(node.func) in kinds:
            yield _name(node.func), node
        elif isinstance(node, ast.ClassDef) and node.name in kinds:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Call) and inner.args and ast.unparse(inner.func) == "super().__init__":
                    yield node.name, inner


def exceptions(trees: Sequence[ast.Module]) -> set[str]:
    """Names of the exception classes that the trees define: those that derive, however far, from a known one."""
    bases = {
        node.name: {_name(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    known, before = {"Exception", "ValueError", "RuntimeError", "OSError", "KeyError"}, -1
    while before != len(known):
        before = len(known)
        known |= {name for name, above in bases.items() if above & known}
    return known - {"Exception", "KeyError"}


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _said(call: ast.Call) -> list[str]:
    """An exception with a status and a sentence says both."""
    first, second = _texts(call.args[0]), _texts(call.args[1]) if len(call.args) > 1 else []
    return [f"{status}: {text}" for status in first for text in second] or first


def _texts(node: ast.expr) -> list[str]:
    """What an expression can say: one text, or one for each branch of a condition."""
    if isinstance(node, ast.Constant):
        return [str(node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(map(_part, node.values))]
    if isinstance(node, ast.IfExp):
        return _texts(node.body) + _texts(node.orelse)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in _texts(node.left) for right in _texts(node.right)]
    return []


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.FormattedValue)
    if isinstance(node.value, ast.Constant):
        return str(node.value.value)
    words = re.findall(r"[A-Za-z_]+", ast.unparse(node.value))
    said = [
        word for word in words if word not in ("self", "str", "len", "repr", "join", "sorted", "map", "f", "r", "n")
    ]
    return f"‹{(said or ['value'])[-1].strip('_').replace('_', ' ')}›"


def page(root: Path, remedies: Mapping[str, str]) -> str:
    """Markdown of the tables, one for each exception, with its remedy. Raises KeyError for one without a remedy."""
    by_kind: dict[str, list[Sentence]] = defaultdict(list)
    for one in sentences(root):
        by_kind[one.kind].append(one)
    parts = []
    for kind in sorted(by_kind, key=str.lower):
        parts += [f"### {kind}", "", remedies[kind], "", "| sentence | said by |", "|---|---|"]
        parts += [f"| {_cell(one.text)} | `{one.place}` |" for one in by_kind[kind]]
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    escaped = html.escape(text, quote=False).replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]])", r"\\\1", escaped)
