"""Made-up Debian packages, game archives and sound fonts of real clips."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

AUDIO = Path(__file__).parent / "data" / "audio"
LIST = "package\tversion\tlicence\tkind\tlanguage\tkinds_by_path\tskip\n"


def clips(prefix, count):
    """Bytes of real clips."""
    return [path.read_bytes() for path in sorted(AUDIO.glob(f"{prefix}*.opus"))[:count]]


def tar_of(files, links=()):
    """A tar.xz of name -> bytes, then links (name, target, type)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:xz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    return file.getvalue()


def write_deb(folder, name, files, version="1.0-1", links=()):
    """An `ar` as dpkg-deb writes it; its maintainer script would leave a mark."""
    folder.mkdir(parents=True, exist_ok=True)
    control = tar_of({"./postinst": b"#!/bin/sh\ntouch /tmp/maeast-was-run\n"})
    path = folder / f"{name}_{version.replace(':', '%3a')}_all.deb"
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", control), ("data.tar.xz", tar_of(files, links))]
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for member, data in members:
            file.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


def zip_of(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def font_of(recordings):
    """A SoundFont of (name, (S,) int16, rate, type)."""
    samples, headers, at = b"", b"", 0
    for name, data, rate, kind in recordings:
        headers += struct.pack("<20sIIIIIBbHH", name.encode(), at, at + len(data), 0, 0, rate, 60, 0, 0, kind)
        samples, at = samples + data.astype("<i2").tobytes(), at + len(data)
    headers += struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0)
    sdta = b"sdta" + _chunk(b"smpl", samples)
    pdta = b"pdta" + _chunk(b"shdr", headers)
    return _chunk(b"RIFF", b"sfbk" + _chunk(b"LIST", sdta) + _chunk(b"LIST", pdta))


def _chunk(tag, data):
    return tag + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def note(hz, rate=22_050, seconds=0.5):
    time = np.arange(int(rate * seconds)) / rate
    return (20_000 * np.sin(2 * np.pi * hz * time) * np.exp(-3 * time)).astype(np.int16)
