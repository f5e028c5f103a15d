"""Downloads .deb files with apt-get, which checks their signatures; nothing is installed."""

import logging
import shutil
import subprocess
import tempfile
from pathlib import Path

from pretrain.corpora.debian.packages import Package

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1800
OPTIONS = ("-q", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30")


class FetchError(RuntimeError):
    """A package that cannot be had, with its name and the reason."""


def fetch(package: Package, folder: Path) -> Path:
    """The package's .deb in ``folder``, downloaded if it is not there yet; whole or not at all.

    The listed version where it is there or the archive still has it, else another, which a warning names.

    Raises:
        FetchError: no apt-get, no network, a package that the archive does not have.
    """
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(folder.glob(f"{package.package}_*.deb"))
    for path in there:
        if version_of(path) == package.version:
            return path
    try:
        return _download(f"{package.package}={package.version}", package.package, folder)
    except FetchError:
        path = there[-1] if there else _download(package.package, package.package, folder)
    logger.warning("%s: took version %s, the list has %s", package.package, version_of(path), package.version)
    return path


def version_of(deb: Path) -> str:
    """The version in the file name that apt-get gives: ``NAME_VERSION_ARCHITECTURE.deb``, a colon as %3a."""
    return deb.name.split("_")[1].replace("%3a", ":") if deb.name.count("_") >= 2 else ""


def _download(wanted: str, name: str, folder: Path) -> Path:
    if not shutil.which("apt-get"):
        raise FetchError(f"{name}: no apt-get here; run this on Debian, or put {name}_VERSION_all.deb into {folder}")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        command = ["apt-get", "download", *OPTIONS, wanted]
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FetchError(f"{name}: no download within {TIMEOUT_SECONDS // 60} minutes") from None
        found = sorted(Path(scratch).glob("*.deb"))
        if done.returncode or not found:
            said = [line[2:].strip() for line in done.stderr.splitlines() if line.startswith("E:")]
            reason = said[0] if said else "apt-get gave nothing"
            raise FetchError(f"{name}: no download ({reason}); `apt-get update` may help")
        return found[0].replace(folder / found[0].name)
