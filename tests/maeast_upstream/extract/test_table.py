import numpy as np
import pyarrow as pa
import pytest
from small import small_config

from maeast_upstream.config import EncoderConfig
from maeast_upstream.extract.table import Embedded, EmbeddingSpec, make_schema, make_table
from maeast_upstream.readout import Readout

CONFIG = EncoderConfig(model=small_config())


def clip(name, layers, steps, width=3):
    vectors = np.arange(layers * steps * width, dtype=np.float32).reshape(layers, steps, width)
    return Embedded(name, 7, 500.0, 1500.0, vectors, 500 + 40.0 * np.arange(steps))


def test_a_scene_has_a_row_for_each_layer_with_its_times():
    wanted = EmbeddingSpec(readouts=(Readout(layer=2), Readout(layer="last")))
    rows = make_table([clip("a", 2, 1), clip("b", 2, 1)], wanted, make_schema(wanted, 3)).to_pylist()
    assert [(row["path"], row["layer"]) for row in rows] == [
        ("a", "2"),
        ("a", "last"),
        ("b", "2"),
        ("b", "last"),
    ]
    assert rows[1] == {
        "path": "a",
        "segment": 7,
        "start_ms": 500.0,
        "end_ms": 1500.0,
        "layer": "last",
        "vector": [3.0, 4.0, 5.0],
    }


def test_frames_have_a_row_for_each_step_with_its_centre():
    wanted = EmbeddingSpec(kind="frames", readouts=(Readout(layer=1), Readout(layer=2)))
    rows = make_table([clip("a", 2, 3), clip("b", 2, 1)], wanted, make_schema(wanted, 3)).to_pylist()
    assert [row["time_ms"] for row in rows] == [500.0, 540.0, 580.0] * 2 + [500.0] * 2
    assert [row["layer"] for row in rows] == ["1"] * 3 + ["2"] * 3 + ["1", "2"]
    assert rows[4]["vector"] == [12.0, 13.0, 14.0]


def test_vectors_are_fixed_size_lists_of_the_width_asked_for():
    wanted = EmbeddingSpec(vectors="float16")
    table = make_table([clip("a", 1, 1)], wanted, make_schema(wanted, 3))
    assert table.schema.field("vector").type == pa.list_(pa.field("element", pa.float16(), nullable=False), 3)
    assert table["vector"].to_pylist() == [[0.0, 1.0, 2.0]]


def test_widths_follow_layer_mel_and_pool():
    def width(kind="scene", **readout):
        return EmbeddingSpec(kind=kind, readouts=(Readout(**readout),)).width(CONFIG)

    assert width(mel="mean", pool="mean") == 32
    assert width(mel="concat", pool="mean_std") == 2 * 8 * 32
    assert width(layer="all", mel="mean", pool="mean") == 3 * 32
    assert width("frames", mel="concat", pool="mean_std") == 8 * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "words"}, "kind must be scene or frames, got 'words'"),
        ({"vectors": "int4"}, "vectors must be float32, float16, int8, got 'int4'"),
        ({"readouts": ()}, "each layer once"),
        ({"readouts": (Readout(layer=1), Readout(layer=1))}, "each layer once, got"),
    ],
)
def test_wrong_wishes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingSpec(**settings)


def test_layers_that_are_not_there_or_do_not_go_together_are_named():
    with pytest.raises(ValueError, match="counted from 1 to 3, got 4"):
        EmbeddingSpec(readouts=(Readout(layer=4),)).width(CONFIG)
    with pytest.raises(ValueError, match="layer all gives longer vectors"):
        EmbeddingSpec(readouts=(Readout(layer=1), Readout(layer="all"))).width(CONFIG)
