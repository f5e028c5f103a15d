"""Adds the folder configs/ as `maeast_upstream.configs` to the packages that setuptools finds; see setup.cfg."""

from setuptools import find_packages, setup

roots = ("maeast_upstream", "hear_api", "pretrain")
found = find_packages(include=[pattern for root in roots for pattern in (root, f"{root}.*")])
setup(packages=[*found, "maeast_upstream.configs"])
