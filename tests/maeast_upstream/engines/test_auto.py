"""``auto``: a short job is torch's, a long one takes what is measured as the fastest and is close enough to float32."""

import json
import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from maeast_upstream.engines import selection, timing, trial
from maeast_upstream.engines.memory import Memory
from maeast_upstream.engines.names import OFFERS
from maeast_upstream.engines.policy import Cost
from maeast_upstream.engines.selection import Choice, attach
from maeast_upstream.engines.sound import make_sound
from maeast_upstream.engines.trial import least_cosine

LONG = 1e7
PACES = {"torch fp32": 8e-3, "torch bf16": 6e-3, "openvino fp32": 5e-3, "openvino bf16": 3e-3, "onnx fp32": 7e-3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "maeast" / "engines.json"


class Engines:
    """Engines that are torch in disguise, with the speeds and the errors that a test gives them."""

    def __init__(self, monkeypatch):
        self.paces, self.noise, self.started, self.measured = dict(PACES), {}, [], []
        self.broken = set()
        monkeypatch.setattr(selection, "find_spec", lambda name: name)
        monkeypatch.setattr(selection, "_started", self.start)
        monkeypatch.setattr(timing, "measure", self.measure)
        monkeypatch.setattr(timing, "instruction_sets", lambda: {"avx512_bf16", "avx512_vnni"})

    def start(self, encoder, engine, precision, keep):
        self.started.append(f"{engine} {precision}")
        if self.started[-1] in self.broken:
            return None
        noise = self.noise.get(f"{engine} {precision}", 0.0)

        def run(patches, padding, layers):
            generator = torch.Generator().manual_seed(1)
            return [
                x + noise * torch.randn(x.shape, generator=generator)
                for x in encoder.network.features(patches, padding, layers)
            ]

        return run

    def measure(self, works, clock, rounds=5):
        self.measured.append(sorted(works))
        return {name: self.paces.get(name, 9e-3) for name in works}


@pytest.fixture
def engines(monkeypatch):
    return Engines(monkeypatch)


def test_a_short_job_is_torchs_and_loads_and_measures_nothing(make_encoder, engines, cache):
    choice = attach(make_encoder(), "auto", audio_seconds=60.0)
    assert choice == Choice("torch", "fp32", "too little audio for another engine to pay")
    assert attach(make_encoder(), "auto", "auto", audio_seconds=60.0).engine == "torch"
    assert (engines.started, engines.measured, cache.exists()) == ([], [], False)


@pytest.mark.slow
def test_a_short_job_imports_no_engine(tmp_path):
    code = (
        "import sys; from maeast_upstream import load_model; from maeast_upstream.engines import attach\n"
        "choices = [attach(load_model(), 'auto', precision, audio_seconds=60) for precision in ('fp32', 'auto')]\n"
        "print([choice.engine for choice in choices], {'openvino', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['torch', 'torch'] set()\n"


def test_a_long_job_takes_the_fastest_and_measures_once(make_encoder, engines, caplog):
    caplog.set_level(logging.INFO)
    encoder = make_encoder()
    choice = attach(encoder, "auto", audio_seconds=LONG)
    assert choice == Choice("openvino", "fp32", "1.60 times as fast as torch fp32 here")
    assert encoder.runtime.transformer is not None
    assert engines.measured == [["torch fp32"], ["openvino fp32", "torch fp32"]]
    assert engines.started == ["openvino fp32"]
    assert attach(make_encoder(), "auto", audio_seconds=LONG) == choice
    assert attach(make_encoder(), "auto") == choice
    assert len(engines.measured) == 2
    assert caplog.messages == [f"engine openvino, fp32: {choice.why}"] * 3


def test_what_was_measured_for_another_model_thread_count_or_layer_does_not_count(make_encoder, engines, cache):
    attach(make_encoder(), "auto")
    attach(make_encoder("frame"), "auto")
    attach(make_encoder(), "auto", layers=[1])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        attach(make_encoder(), "auto")
    finally:
        torch.set_num_threads(threads)
    assert engines.started == ["openvino fp32"] * 4
    assert len(json.loads(cache.read_text())) == 4


def test_every_engine_that_may_be_faster_is_tried_for_a_long_job(make_encoder, engines):
    engines.paces |= {"openvino fp32": 7.5e-3, "onnx fp32": 6e-3}
    choice = attach(make_encoder(), "auto")
    assert str(choice) == "engine onnx, fp32: 1.33 times as fast as torch fp32 here (openvino fp32 1.07)"


def test_a_remembered_start_decides_how_long_a_job_must_be(make_encoder, engines):
    encoder = make_encoder()
    memory = Memory(encoder, [3])
    memory.add_cost(("torch", "fp32"), Cost(0.0, 0.02))
    memory.add_cost(("openvino", "fp32"), Cost(2.0, 0.01))  # even at 200 s
    memory.add_cost(("onnx", "fp32"), Cost(2.0, 0.02))
    assert attach(make_encoder(), "auto", audio_seconds=201.0).engine == "openvino"
    memory.add_cost(("openvino", "fp32"), Cost(2.0, 0.01))  # the start above took less, and was remembered
    assert attach(make_encoder(), "auto", audio_seconds=199.0).engine == "torch"
    assert engines.started == ["openvino fp32"]
    assert engines.measured == []


def test_a_start_is_measured_and_the_shortest_is_remembered(make_encoder, engines, monkeypatch):
    clock = iter([10.0, 13.0, 20.0, 21.0, 30.0, 35.0])
    monkeypatch.setattr(timing, "clock_of", lambda device, threads: lambda: next(clock))
    for expected in (3.0, 1.0, 1.0):  # the engine is started once in each process
        encoder = make_encoder()
        attach(encoder, "auto", audio_seconds=LONG)
        assert Memory(encoder, [3]).costs()["openvino", "fp32"].start == expected


def test_what_is_not_clearly_faster_is_not_taken(make_encoder, engines):
    engines.paces |= {"openvino fp32": 7.6e-3, "onnx fp32": 9e-3}
    encoder = make_encoder()
    choice = attach(encoder, "auto")
    assert choice.engine == "torch"
    assert choice.why == "nothing here is clearly faster (openvino fp32 1.05 times, onnx fp32 0.89 times)"
    assert encoder.runtime.transformer is None


def test_an_engine_that_fails_is_tried_again_by_the_next_job(make_encoder, engines):
    engines.broken = {"openvino fp32"}
    assert attach(make_encoder(), "auto").engine == "onnx"
    engines.broken = set()
    assert attach(make_encoder(), "auto").engine == "openvino"


def test_an_engine_that_fails_while_it_is_measured_leaves_torch(make_encoder, engines, monkeypatch, caplog):
    def measure(works, clock, rounds=5):
        for name, work in works.items():
            if name != "torch fp32":
                raise RuntimeError("out of\nmemory")
            work()
        return dict.fromkeys(works, 0.008)

    monkeypatch.setattr(timing, "measure", measure)
    encoder = make_encoder()
    assert str(attach(encoder, "auto")) == "engine torch, fp32: nothing else here works"
    assert encoder.runtime.transformer is None
    assert caplog.messages == [
        "engine openvino failed, torch replaces it: out of memory",
        "engine onnx failed, torch replaces it: out of memory",
    ]


HOSTILE = [
    "",
    "[]",
    '{"half',
    "[" * 100_000,
    '{"KEY": 3}',
    '{"KEY": {"torch fp32": "fast", "openvino fp32": 1}}',
    '{"KEY": {"torch fp32": [0.0, 1e999], "openvino fp32": [NaN, 0.1]}}',
    '{"KEY": {"torch fp32": [0.0, -1.0], "openvino fp32": [-1.0, 1.0], "": [1.0, 1.0, 1.0]}}',
    '{"KEY": {"torch fp32": [true, 0.1], "openvino fp32": [0.0, 0.0], "rm -rf": [0.0, 1e-9], "onnx": null}}',
    '{"KEY": {}}',
    "\x00" * 100,
    " " * (1 << 20) + "{}",
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_or_hostile_cache_is_measured_again(make_encoder, engines, cache, content):
    encoder = make_encoder()
    cache.parent.mkdir()
    cache.write_text(content.replace("KEY", Memory(encoder, [3])._costs_key))
    assert attach(encoder, "auto").engine == "openvino"
    assert engines.measured[-1] == ["openvino fp32", "torch fp32"]
    assert Memory(encoder, [3]).costs()["torch", "fp32"] == Cost(0.0, pytest.approx(8e-3 / 10))


def test_a_cache_that_is_no_file_or_cannot_be_written_is_no_error(make_encoder, engines, cache):
    cache.mkdir(parents=True)
    assert attach(make_encoder(), "auto").engine == "openvino"
    cache.rmdir()
    cache.parent.rmdir()
    cache.parent.write_text("a file where the folder should be")
    assert attach(make_encoder(), "auto").engine == "openvino"


@pytest.mark.parametrize("variable", ["unset", "empty"])
def test_without_a_home_auto_measures_and_keeps_nothing(make_encoder, engines, monkeypatch, variable):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    if variable == "empty":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(timing.Path, "home", no_home)
    assert attach(make_encoder(), "auto").engine == "openvino"


def test_the_cache_keeps_what_was_used_last_of_a_bounded_number_of_models(cache, monkeypatch):
    monkeypatch.setattr(timing, "MAX_KEYS", 3)
    for key in "abcdb":
        timing.remember(key, {"torch fp32": [0.0, 1.0]})
    assert list(json.loads(cache.read_text())) == ["c", "d", "b"]


def test_precision_auto_takes_the_fastest_that_is_close_to_float32_and_names_the_cosine(make_encoder, engines):
    engines.paces |= {"openvino int8": 2e-3}
    encoder = make_encoder()
    choice = attach(encoder, "auto", "auto")
    assert (choice.engine, choice.precision) == ("openvino", "int8")
    assert choice.why.endswith("; cosine with float32 1.00000")


@pytest.mark.parametrize(("noise", "taken"), [(0.02, True), (0.06, False)])
def test_precision_auto_refuses_vectors_that_are_too_far_from_float32(make_encoder, engines, noise, taken):
    engines.paces |= {"openvino int8": 2e-3}
    engines.noise["openvino int8"] = noise  # 1 / sqrt(1 + noise ** 2) is 0.9998 and 0.998
    encoder = make_encoder()
    choice = attach(encoder, "auto", "auto")
    assert (choice.precision == "int8") == taken
    if not taken:
        assert (choice.engine, choice.precision) == ("openvino", "bf16")
        assert "too far from float32: openvino int8 0.99" in choice.why
        engines.started.clear()
        again = attach(make_encoder(), "auto", "auto")
        assert (again.engine, again.precision) == ("openvino", "bf16")
        assert engines.started == ["openvino bf16"]


def test_weights_that_were_cast_for_a_comparison_are_freed(make_encoder, engines):
    engines.broken = {"openvino fp32", "openvino bf16", "openvino int8", "onnx fp32"}
    engines.paces["torch bf16"] = 7.9e-3
    encoder = make_encoder()
    assert attach(encoder, "auto", "auto").precision == "fp32"
    assert "torch bf16" in {name for names in engines.measured for name in names}
    assert encoder._half_weights._made is None


def test_a_cosine_belongs_to_the_weights(make_encoder, engines):
    engines.paces |= {"openvino int8": 2e-3}
    engines.noise["openvino int8"] = 0.06
    assert attach(make_encoder(), "auto", "auto").precision == "bf16"
    engines.noise.clear()
    other = make_encoder()
    with torch.no_grad():
        other.network.patch_embed.weight[0, 0] += 1
    assert attach(other, "auto", "auto").precision == "int8"


def test_a_cosine_that_is_not_a_number_is_refused(make_encoder, engines):
    engines.paces |= {"openvino int8": 2e-3}
    engines.noise["openvino int8"] = float("nan")
    assert attach(make_encoder(), "auto", "auto").precision == "bf16"


def test_every_layer_that_is_needed_is_compared(make_encoder, engines, monkeypatch):
    seen = []
    monkeypatch.setattr(trial, "least_cosine", lambda *both: seen.append([len(x.hidden_states) for x in both]) or 1.0)
    attach(make_encoder(), "auto", "auto", layers=[1, 3])
    assert seen[0] == [2, 2]


def test_precision_auto_stays_with_the_engine_that_is_named(make_encoder, engines):
    for engine, offers in OFFERS.items():
        choice = attach(make_encoder(), engine, "auto")
        assert choice.engine == engine
        assert choice.precision in offers


def test_a_named_precision_is_not_compared(make_encoder, engines):
    engines.noise["openvino bf16"] = 0.06
    assert attach(make_encoder(), "auto", "bf16").engine == "openvino"


def test_the_least_cosine_is_over_time_steps_of_all_layers_without_padding(make_encoder, clips):
    encoder = make_encoder()
    one, other = (encoder.encode([clips[0][:24000], clips[1][:9000]], mel="mean", hop_ms=40.0) for _ in range(2))
    other.hidden_states[1][1, int(other.lengths[1]) :] = 7.0
    assert least_cosine(one, other) == pytest.approx(1.0)
    other.hidden_states[1][0, 2] += torch.randn(other.hidden_states[1].shape[-1])
    expected = F.cosine_similarity(one.hidden_states[1][0, 2], other.hidden_states[1][0, 2], dim=0)
    assert least_cosine(one, other) == pytest.approx(float(expected), abs=1e-6)


def test_the_sound_is_the_same_every_time_has_loud_and_silent_parts_and_is_not_random():
    sound = make_sound(10.0)
    assert torch.equal(sound, make_sound(10.0))
    assert torch.equal(sound[:40000], make_sound(2.5))
    assert sound.abs().max() <= 1
    levels = sound.unfold(0, 8000, 8000).pow(2).mean(1).sqrt()
    assert levels.max() > 0.1
    assert levels.min() < 1e-2
    assert (sound.unfold(0, 1600, 1600).abs().amax(1) == 0).any()  # digital silence


def test_an_interrupted_trial_leaves_what_was_attached(make_encoder, engines, monkeypatch):
    encoder = make_encoder()
    attach(encoder, "openvino")
    runtime = encoder.runtime

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        attach(encoder, "auto", "auto")
    assert encoder.runtime is runtime


@pytest.mark.slow
def test_auto_measures_the_engines_that_are_installed(make_encoder, clips):
    pytest.importorskip("openvino")
    encoder = make_encoder()
    expected = encoder.embed(clips[:2])
    choice = attach(encoder, "auto", "auto", streams=2)
    assert choice.engine in OFFERS
    assert F.cosine_similarity(expected, encoder.embed(clips[:2])).min() > 0.999
    assert choice.engine == "torch" or "times as fast as torch fp32 here" in choice.why
