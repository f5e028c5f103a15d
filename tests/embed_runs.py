"""Running `maeast embed` in tests: its tables, its messages, and runs that fail."""

from dataclasses import replace

import pyarrow.parquet as pq

from maeast_upstream.decoding.pool import DecodePool
from maeast_upstream.extract.part_store import PartStore


def rows(path):
    return pq.read_table(path).to_pylist()


def errors(capsys):
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def note(monkeypatch, note_of):
    """The decoding of each segment notices the notes that ``note_of`` gives for its path."""
    stream = DecodePool.stream

    def noting(pool, segments):
        for segment, samples in stream(pool, segments):
            yield replace(segment, notes=segment.notes + tuple(note_of(segment.path))), samples

    monkeypatch.setattr(DecodePool, "stream", noting)


def fail_at(monkeypatch, clip, error):
    """The parts that begin with this clip or a later one fail."""
    write = PartStore.write

    def failing(store, at, schema):
        if at >= clip:
            raise error
        return write(store, at, schema)

    monkeypatch.setattr(PartStore, "write", failing)
