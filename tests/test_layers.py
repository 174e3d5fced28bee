"""A module imports only lower levels: never up, never sideways, never hidden in a function."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "mpo"

LEVELS = [
    "redaction operational",
    "errors",
    "records rubric",
    "sanitize data",
    "chat task store",
    "judge",
    "evolve",
    "watch",
    "reward",
    "service evaluation importers",
    "integrations",
    "training",
    "report config",
    "cli",
]
RANK = {name: rank for rank, level in enumerate(LEVELS) for name in level.split()}
ALLOWED_SIDEWAYS = {
    ("records", "rubric"),  # a record holds rubrics; both are content and import nothing else
}
ENTRY = {"__init__", "__main__"}


def imports(path: Path, root: Path) -> list[tuple[str, bool]]:
    """Top-level modules of the package that `path` imports, and whether inside a function."""
    depth = len(path.relative_to(root).parts)
    tree = ast.parse(path.read_text())
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        hidden = id(node) in inner
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= depth, f"{path.name}: relative import leaves the package"
            if node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found += [(name.split(".")[0], hidden) for name in names]
            elif hidden:
                found.append((path.relative_to(root).parts[0], hidden))
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        own = [name for name in names if name.split(".")[0] == "mpo"]
        assert not own, f"{path.name}: use relative imports inside mpo, not {own[0]!r}"
    return found


def check(path: Path, root: Path) -> None:
    here = path.relative_to(root).parts[0].removesuffix(".py")
    if here in ENTRY:
        return
    assert here in RANK, f"{here} has no level: add it to LEVELS"
    for there, hidden in imports(path, root):
        assert not hidden, f"{path.relative_to(root)}: imports {there} inside a function"
        if there == here or (here, there) in ALLOWED_SIDEWAYS:
            continue
        assert there in RANK, f"{path.relative_to(root)} imports unknown {there}"
        assert RANK[there] < RANK[here], (
            f"{path.relative_to(root)}: {here} (level {RANK[here]}) must not import "
            f"{there} (level {RANK[there]})"
        )


MODULES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    check(path, SRC)


@pytest.mark.parametrize(
    ("where", "statement"),
    [
        ("rubric.py", "from .store import Store"),
        ("rubric.py", "from mpo.store import Store"),
        ("rubric.py", "from mpo import Store"),
        ("rubric.py", "import mpo.store"),
        ("rubric.py", "from . import store"),
        ("task.py", "from .store import Store"),
        ("evolve.py", "def f():\n    from .rubric import Rubric"),
        ("training/run.py", "from ..report import page"),
        ("training/run.py", "from .. import config"),
        ("training/run.py", "def f():\n    from . import trl"),
        ("reward.py", "from .cli import main"),
        ("novelty.py", "from .errors import MPOError"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, where: str, statement: str) -> None:
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_text(statement + "\n")
    with pytest.raises(AssertionError):
        check(path, tmp_path)


def test_importing_the_package_loads_no_heavy_module() -> None:
    import subprocess
    import sys

    code = (
        "import sys, mpo; mpo.Rubric; "
        "print([m for m in ('torch', 'transformers', 'aiohttp', 'bokeh') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_sandbox_is_reached_by_name_alone() -> None:
    named = [str(path) for path in MODULES if "mpo_sandbox" in path.read_text("utf-8")]
    assert named == []


PUBLIC = {"chat", "config", "errors", "judge", "records", "rubric", "sanitize", "task"}


def test_the_sandbox_uses_public_parts_of_mpo() -> None:
    for path in sorted((SRC.parent / "mpo_sandbox").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if module.split(".")[0] == "mpo":
                assert module.split(".")[1] in PUBLIC, f"{path.name} imports {module}"
                assert not any(alias.name.startswith("_") for alias in node.names)


def test_sandbox_parts_do_not_know_each_other() -> None:
    """Rule 2 of docs/sandbox.md: RM, MRM and gold do not import each other, nor bad_styles."""
    allowed = {
        "simulated_rm": {"words"},
        "simulated_mrm": {"words"},
        "plan_execute": {"simulated_rm"},
        "gold": {"words", "corpus", "topics"},
        # Texts and gold of the other tasks. Which habits spoil a text is decided in `texts`.
        "ethics": {"texts", "words"},
        "math": {"texts", "words"},
        "summarization": {"texts", "words"},
    }
    for name, may in allowed.items():
        tree = ast.parse((SRC.parent / "mpo_sandbox" / f"{name}.py").read_text())
        inside = {
            part
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.level == 1
            for part in ([node.module] if node.module else [a.name for a in node.names])
        }
        assert inside <= may, f"{name} imports {inside - may}"


def test_public_names_are_sorted_and_real() -> None:
    import mpo

    assert list(mpo.__all__) == sorted(mpo.__all__)
    for name in mpo.__all__:
        assert getattr(mpo, name) is not None
