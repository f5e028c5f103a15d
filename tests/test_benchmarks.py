"""The benchmarks of ``make bench``: what they measure takes long, so only that they can start is tested here."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.s3prl
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_imports_what_exists(name):
    importlib.import_module(name)


def test_every_benchmark_belongs_to_a_group():
    trees = [ast.parse((FOLDER / name).read_text(encoding="utf-8")) for name in ("run.py", "gpu.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.value.id for node in nodes if isinstance(node.value, ast.Name)}
    assert set(NAMES) <= used | {"bench_cpu"}
