"""Downloads .deb files with apt-get, which verifies the archive's signatures; nothing is installed."""

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
    """A package that cannot be downloaded; the message holds its name and the reason."""


def fetch(package: Package, folder: Path) -> Path:
    """Return the package's .deb in ``folder``; download it if it is missing, whole or not at all.

    The listed version is used if it is in the folder or the archive still has it, otherwise another one, which a
    warning names.

    Raises:
        FetchError: There is no apt-get or no network, or the archive does not have the package.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = sorted(folder.glob(f"{package.package}_*.deb"))
    for path in present:
        if version_of(path) == package.version:
            return path
    try:
        return _download(f"{package.package}={package.version}", package.package, folder)
    except FetchError:
        path = present[-1] if present else _download(package.package, package.package, folder)
    logger.warning("%s: using version %s, the list has %s", package.package, version_of(path), package.version)
    return path


def version_of(deb: Path) -> str:
    """The version in the file name that apt-get chooses: ``NAME_VERSION_ARCHITECTURE.deb`` with %3a for a colon."""
    return deb.name.split("_")[1].replace("%3a", ":") if deb.name.count("_") >= 2 else ""


def _download(specification: str, name: str, folder: Path) -> Path:
    if not shutil.which("apt-get"):
        raise FetchError(f"{name}: no apt-get on this machine; use Debian, or put {name}_VERSION_all.deb into {folder}")
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
        command = ["apt-get", "download", *OPTIONS, specification]
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
        downloaded = sorted(Path(scratch).glob("*.deb"))
        if done.returncode or not downloaded:
            errors = [line[2:].strip() for line in done.stderr.splitlines() if line.startswith("E:")]
            reason = errors[0] if errors else "apt-get downloaded nothing"
            raise FetchError(f"{name}: no download ({reason}); `apt-get update` may help")
        return downloaded[0].replace(folder / downloaded[0].name)
