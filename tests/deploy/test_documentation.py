"""The documentation against the code: examples run, names exist, every error has a remedy, the site builds and stands alone."""

import ast
import functools
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# Errors and their remedies


@pytest.fixture(scope="module")
def said() -> list[Any]:
    """Every sentence of the four packages."""
    return list(hook("error_page").sentences(ROOT))


def test_every_kind_of_error_has_a_remedy(said: list[Any]) -> None:
    kinds = {one.kind for one in said}
    missing = kinds - set(hook("remedies").REMEDIES)
    assert not missing, f"write in docs/hooks/remedies.py what to do about {', '.join(sorted(missing))}"


def test_sentences_are_read_as_they_are_said(tmp_path: Path) -> None:
    page = hook("error_page")
    for name in page.PACKAGES:
        (tmp_path / name).mkdir()
    (tmp_path / "storage" / "a.py").write_text(
        "class Full(ValueError): pass\n"
        "class Fuller(Full): pass\n"
        "def f(name, wanted, soft):\n"
        "    raise Fuller(f'{name!r} has {wanted.size:,} bytes; ' 'at most 3 | four')\n"
        "def g(status, soft):\n"
        "    return Full('no_face', 'nobody ' 'is there') if soft else ValueError('one way' if soft else 'the other')\n"
    )
    (tmp_path / "tasks" / "b.py").write_text("def h(error, why):\n    raise RuntimeError(why)\n")
    found = [(one.kind, one.text) for one in page.sentences(tmp_path)]
    assert found == [
        ("Full", "no_face: nobody is there"),
        ("Fuller", "‹name› has ‹size› bytes; at most 3 | four"),
        ("ValueError in storage", "one way"),
        ("ValueError in storage", "the other"),
    ]
    remedies = {"Full": "Empty it.", "Fuller": "Empty it more.", "ValueError in storage": "Mend it."}
    text = page.page(tmp_path, remedies)
    assert "### Fuller\n\nEmpty it more.\n\n| sentence | said by |\n" in text
    assert "at most 3 &#124; four | `storage/a.py` |" in text
    with pytest.raises(KeyError, match="Fuller"):
        page.page(tmp_path, {"Full": ""})


def test_it_finds_what_this_program_is_known_to_say() -> None:
    said = {one.text for one in hook("error_page").sentences(ROOT)}
    assert any(text.startswith("no credentials for ‹what›; set AWS_ACCESS_KEY_ID") for text in said), (
        "returned, not raised"
    )
    assert any("was erased; nothing may be stored under it" in text for text in said)
    assert any(text.startswith("preset=‹name›: choose one of") for text in said)


# Names in the pages


def definitions(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_paper_page_names_what_is_there() -> None:
    text = (DOCS / "paper.md").read_text()
    named = re.findall(r"`((?:models|tasks|flows|storage)/[\w/]+\.py)`(?:: ((?:`[\w.]+`(?:, )?)+))?", text)
    assert len(named) > 30
    for path, symbols in named:
        assert (ROOT / path).is_file(), path
        for symbol in re.findall(r"`([\w.]+)`", symbols or ""):
            for part in symbol.split("."):
                assert part in definitions(ROOT / path), f"{path} has no {part}"
    config = (ROOT / "models/diffusion/config.py").read_text()
    choices = text.split("## What the text leaves open")[1].split("##")[0]
    for field, value in re.findall(
        r"`(\w+)(?:=\"(\w+)\")?`", "\n".join(re.findall(r"\| [^|]* \|$", choices, re.MULTILINE))
    ):
        assert re.search(rf"^    {field}: ", config, re.MULTILINE) or field in ("root", "reference_scale", "guidance_scale"), field
        assert f'"{value}"' in config or not value, value


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_files_and_variables_that_a_page_names_are_there(page: str) -> None:
    text = (DOCS / page).read_text()
    for path in re.findall(
        r"`((?:deploy|tests|models|tasks|flows|storage|docs)/[\w./-]+\.(?:py|md|yaml|json|sh))`", text
    ):
        assert (ROOT / path).is_file(), f"{page}: {path}"
    for variable in set(re.findall(r"\bINSTAFACE_[A-Z0-9_]+\b", text)):
        assert variable in source(), f"{page}: {variable}"


@functools.cache
def source() -> str:
    folders = (ROOT / name for name in ("flows", "tasks", "models", "storage", "tests"))
    return "".join(path.read_text() for folder in folders for path in folder.rglob("*.py"))


# Examples

EXAMPLES = re.findall(
    r"^## (.*?)$.*?```python\n(.*?)```", (DOCS / "extending.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_each_extension_has_an_example() -> None:
    assert [name for name, _ in EXAMPLES] == ["An estimator", "An encoder", "A metric", "A store"]


@pytest.mark.parametrize(
    ("name", "code"), [pytest.param(*one, marks=pytest.mark.slow if "estimator" in one[0] else ()) for one in EXAMPLES]
)
def test_examples_run(name: str, code: str) -> None:
    exec(compile(code, f"extending.md: {name}", "exec"), {"__name__": "example"})


# The site


class Links(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.ids.add(value)
            elif name in ("src", "href") and value:
                (self.linked if tag == "a" else self.loaded).append(value)


def read(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text())
    return links


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_and_every_link_leads_somewhere(site: Path) -> None:
    pages = {path: read(path) for path in site.rglob("*.html")}
    assert len(pages) >= 22
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute: it is served for any address
        for target in page.loaded + page.linked:
            address, fragment = urldefrag(unquote(target))
            if re.match(r"[a-z]+:", address):
                continue
            found = (path.parent / address).resolve() if address else path
            assert found.is_file(), f"{path.relative_to(site)} → {target}"
            if fragment and found.suffix == ".html":
                assert fragment in pages[found].ids, f"{path.relative_to(site)} → {target}"


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        for target in read(path).loaded:
            assert not re.match(r"(https?:)?//", target), f"{path.name}: {target}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", path.read_text()), path.name
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
def test_generated_pages_say_what_the_code_says(site: Path) -> None:
    deployments = (site / "deployments.html").read_text()
    for one in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        assert f'id="{one["name"]}"' in deployments
    for parameter in ("image_uri", "reference_scale", "consent", "workers"):
        assert f"<code>{parameter}</code>" in deployments
    assert "a deployment may require one" in deployments, "descriptions come from the flows' types"
    troubles = (site / "troubleshooting.html").read_text()
    assert troubles.count("<tr>") > 400
    assert "was erased; nothing may be stored under it" in troubles
