"""A piece of audio in a file: what the listing of inputs gives to the processes that decode."""

from dataclasses import dataclass, field

from maeast_upstream.display import as_name


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of audio to embed, and where its bytes are stored."""

    path: str
    """Name in the table: the file, ``shard.tar/member.opus``, or the name of a packed clip."""
    number: int = 0
    """Row of a manifest or number of a packed clip, counted from 0; for a member of a tar the number of those before it
    with the same name; 0 for whole files."""
    start_ms: float | None = None
    """Start of the segment in the file; None for the beginning of the file."""
    end_ms: float | None = None
    """Its end; None for the end of the file."""
    offset: int | None = None
    """Position of its first byte in ``file``, for members of tars and packed clips."""
    size: int | None = None
    """Number of bytes, where the listing knows it."""
    file: str = ""
    """File to open, if it is not ``path``: the tar, the samples of the packed corpus, or an address with a password."""
    packed: bool = False
    """Whether the bytes are 16 kHz int16 samples."""
    error: str | None = None
    """Reason why it cannot be read, found while listing, such as a tar cut short; it goes to the list of errors."""
    notes: tuple[str, ...] = ()
    """What was noticed while it was listed or decoded, such as audio that ends before its manifest's row; each in one
    line without the path. They go to the list of warnings."""
    name: str = field(default="", repr=False)
    """Name in the table, if it is not ``path``: relative to a folder, see `relative_names.Root`."""

    @property
    def table_name(self) -> str:
        """The ``path`` of its rows in a table."""
        return as_name(self.name or self.path)
