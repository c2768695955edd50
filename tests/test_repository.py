"""Rules of the repository: file size, docstrings, pinned versions with reasons, correct documents."""

from __future__ import annotations

import ast
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest

from service.settings import table

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FILE = 450

# Packages of ModelScope's pipeline that the service must not need.
NOT_NEEDED = ("transformers", "fairseq", "torchvision", "torchaudio", "decord")

# Allowed hosts: this machine, the licence, SVG, papers.
KNOWN_HOSTS = {"127.0.0.1", "0.0.0.0", "localhost", "[::1]", "www.apache.org", "www.w3.org", "arxiv.org"}
KNOWN_HOSTS |= {"prometheus"}  # the service of that name in deploy/compose.yaml
KNOWN_HOSTS |= {"visual_entailment_api;", "visual_entailment_page;"}  # upstreams of deploy/nginx
KNOWN_HOSTS |= {"git-lfs.github.com"}  # in the first line of a Git LFS pointer
URL = re.compile(r"https?://(?:[^\s/@\"'`<>]+@)?(\[[0-9a-f:]+\]|[^\s/:?#@\"'`<>()\[\]{}|,\\]+)")
# Built from parts, so that this file does not match.
MACHINE_PATHS = re.compile("|".join(f"/{name}/" for name in ("home", "root", "Users", "work")))


def tracked(*patterns: str) -> list[Path]:
    """Return existing tracked files as paths from the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[Path, str]]:
    """Return every tracked text file with its content."""
    found = []
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" not in data:
            found.append((path, data.decode("utf-8")))
    return found


def test_no_foreign_host_is_named() -> None:
    named = {
        (str(path), host)
        for path, text in texts()
        for host in URL.findall(text)
        if host not in KNOWN_HOSTS and not host.endswith((".example", ".invalid")) and host[0].isalnum()
    }
    assert not named


def test_no_local_path_is_named() -> None:
    named = [(str(path), found.group()) for path, text in texts() if (found := MACHINE_PATHS.search(text))]
    assert not named


@pytest.mark.parametrize("path", tracked("*.py"), ids=str)
def test_a_python_file_has_a_docstring_and_a_readable_length(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    described = not text.strip() or ast.get_docstring(ast.parse(text)) is not None
    lines = len(text.splitlines())
    assert described, f"{path} begins with no docstring"
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines"


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_requirement_is_pinned_and_has_its_reason(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if not line or line.startswith(("#", "-")):
            continue
        assert re.fullmatch(r"[\w-]+(\[\w+\])?(==[\w.]+)", line), f"{line}: not pinned to one version"
        assert above.startswith("# "), f"{line}: no reason above it"


def test_the_default_install_lacks_the_model_zoo() -> None:
    installed = {distribution.name.lower() for distribution in distributions()}
    assert not installed & set(NOT_NEEDED), "make clean, then make test, gives a fresh environment"
    pins = (ROOT / "requirements.txt").read_text() + (ROOT / "constraints.txt").read_text()
    assert not [name for name in NOT_NEEDED if re.search(rf"^{name}\b", pins, re.MULTILINE)]


def test_installed_versions_are_the_pinned_ones() -> None:
    pinned = dict(
        line.split("==")
        for path in (ROOT / "constraints.txt", *ROOT.glob("requirements*.txt"))
        if path.name != "requirements-modelscope.txt"  # of another environment
        for line in path.read_text().splitlines()
        if "==" in line and not line.startswith("#")
    )
    here = {d.name.lower().replace("_", "-"): d.version.partition("+")[0] for d in distributions()}
    wanted = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    differing = {
        name: (here[name], wanted[name]) for name in here.keys() & wanted if here[name] != wanted[name]
    }
    assert not differing, "installed, pinned"


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_configuration_table_is_the_code_s_own(name: str) -> None:
    kinds = ("| `--", "| – |")  # a secret has no flag
    rows = [line for line in (ROOT / name).read_text(encoding="utf-8").splitlines() if line.startswith(kinds)]
    expected = [line for line in table().splitlines() if line.startswith(kinds)]
    if name == "README.md":
        assert rows == expected, "python -m service.settings prints the table"
    else:  # words are translated, names and values are the same
        assert [re.findall(r"`[^`]+`", row) for row in rows] == [
            re.findall(r"`[^`]+`", row) for row in expected
        ]


def test_both_readmes_have_the_same_structure() -> None:
    shapes = []
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        fences = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
        outside = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        shapes.append((re.findall(r"^#+(?= )", outside, re.MULTILINE), fences))
    (levels, fences), (levels_zh, fences_zh) = shapes
    assert levels == levels_zh
    assert [_commands(block) for block in fences] == [_commands(block) for block in fences_zh]


def _commands(block: str) -> list[str]:
    """Return the lines of a code block without comments, which are translated."""
    stripped = (re.sub(r"(^|\s+)#\s.*", "", line).rstrip() for line in block.splitlines())
    return [line for line in stripped if line]


@pytest.mark.parametrize("path", tracked("*.md"), ids=str)
def test_links_between_documents_lead_to_a_file_and_a_heading(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", text) + re.findall(r'src="([^"]+)"()', text)
    missing = []
    for target, anchor in links:
        if "://" in target:
            continue
        file = ROOT / path.parent / target if target else ROOT / path
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            missing.append(f"{target}#{anchor}")
    assert not missing


def _anchors(document: Path) -> list[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_troubleshooting_explains_every_event_in_the_logs() -> None:
    explained = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    sources = [
        (ROOT / path).read_text(encoding="utf-8")
        for path in tracked("batch/*.py", "cluster/*.py", "ofa/*.py", "service/*.py", "page/*.py")
    ]
    events = {event for source in sources for event in re.findall(r'"([A-Z][A-Z_]{3,})(?: \||%s)', source)}
    assert {event for event in events if f"`{event}" not in explained} == set()


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_architecture_names_every_room() -> None:
    code = [path for path in tracked("*.py", "*.sh") if path.parts[0] not in ("tests", ".ci", "models")]
    entries = {str(path) for path in code if len(path.parts) == 1}
    rooms = {f"{path.parent.as_posix()}/" for path in code if len(path.parts) > 1}
    assert {name for name in entries | rooms if f"`{name}`" not in ARCHITECTURE} == set()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`([\w/]+\.(?:py|sh):[\w.]+)`", ARCHITECTURE))))
def test_a_function_that_the_architecture_names_exists(place: str) -> None:
    file, _, name = place.partition(":")
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".sh"):
        assert f"\n{name}() {{" in text
        return
    scope: list[ast.stmt] = ast.parse(text).body
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [node for node in scope if isinstance(node, kinds) and node.name == part]
        assert found, f"{file} has no {name}"
        scope = found[0].body
