"""Every reason that the source gives an error or a load, found by reading it: a new one cannot be forgotten."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Functions whose argument is a reason.
BUILDERS = {
    "Finished",
    "_finish",
    "_refused",
    "refused",
    "_superseded",
    "_try_to_fail",
    "_try_to_finish",
    "_unavailable",
}
WORD = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
IN_SQL = re.compile(r"reason = '([A-Z_]+)'")


def raised_in(paths: Iterable[Path]) -> Iterator[tuple[str, str, Path]]:
    """Every reason in the source files, with what is called with it."""
    for path in paths:
        tree = ast.parse(path.read_text())
        names = dict(_constants(tree))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                callee = ast.unparse(node.func).rpartition(".")[2]
                for keyword in node.keywords:
                    if keyword.arg == "reason":
                        yield from ((reason, callee, path) for reason in _texts(keyword.value, names))
                if callee in BUILDERS:
                    yield from ((reason, callee, path) for one in node.args for reason in _texts(one, names))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from ((reason, "SQL", path) for reason in IN_SQL.findall(node.value))


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from ((ast.unparse(target), node.value.value) for target in node.targets)


def _texts(node: ast.expr, names: dict[str, str]) -> list[str]:
    text = node.value if isinstance(node, ast.Constant) else names.get(ast.unparse(node))
    return [text] if isinstance(text, str) and WORD.fullmatch(text) else []


def source_files(path: Path) -> list[Path]:
    """The Python files of a folder, or the file itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
