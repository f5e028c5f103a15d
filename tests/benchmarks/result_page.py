"""The page of a benchmark: docs/results/benchmarks/PROCESSOR-GROUP.md."""

import datetime
import re
import subprocess
from pathlib import Path

import torch

Rows = list[tuple[str, str, str]]
"""(what, measured, wanted)."""
ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "results" / "benchmarks"


def short_name(device: str) -> str:
    """Name a processor for a file: maker, product and, where known, family and model, as amd-epyc-family-25-model-17.

    A maker's name for a product can cover several generations, whose ratios differ.
    """
    maker, numbers = re.match(r"([^(]*(?:\((?:R|TM)\)[^(]*)*)(?:\((.*?)\))?", device).groups()
    words = re.sub(r"\(.*?\)|[^\w ]", "", maker).lower().split()[:2]
    return "-".join(words + re.sub(r"[^\w ]", "", numbers or "").lower().split())


def page(group: str, device: str, launch: str, rows: Rows) -> str:
    """A table under a line that says where, when and of what it was measured."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
    lines = [
        f"# Benchmarks: {group}",
        "",
        f"{device}; torch {torch.__version__}; {datetime.date.today()}; commit {commit or 'unknown'}; "
        f"`tests/benchmarks/{launch}`.",
        "Ratios are medians of pairs measured in turn.",
        "",
        "| what | measured | wanted |",
        "|---|---|---|",
        *(f"| {what} | {measured} | {wanted} |" for what, measured, wanted in rows),
    ]
    return "\n".join(lines) + "\n"
