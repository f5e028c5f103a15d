import threading
from pathlib import Path

import pytest
import torch

from maeast_upstream import load_model
from maeast_upstream.engines.selection import attach
from maeast_upstream.engines.streams import shared_threads, stream_pool, streams_on
from maeast_upstream.extract.api import embed_files

pytestmark = pytest.mark.slow

AUDIO = Path(__file__).parents[2] / "data" / "audio"


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "streams"),
    [(1, 1), (2, 2), (7, 7), (8, 8), (9, 4), (12, 6), (64, 8), (96, 8)],
)
def test_a_cpu_has_a_stream_for_each_thread_up_to_eight(threads, streams):
    torch.set_num_threads(threads)
    assert streams_on(torch.device("cpu")) == streams
    assert streams_on(torch.device("cuda")) == 1


def test_torch_gets_a_streams_share_of_threads_and_all_back_after_a_fault():
    torch.set_num_threads(4)
    inside = []

    def fail():
        with shared_threads(2):
            inside.append(torch.get_num_threads())
            raise RuntimeError("fault")

    with pytest.raises(RuntimeError, match="fault"):
        fail()
    assert inside == [2]
    assert torch.get_num_threads() == 4


def test_calls_run_at_the_same_time_and_each_gives_its_own_result():
    both = threading.Barrier(2, timeout=20)

    def meet(number):
        both.wait()  # breaks if the other call does not run now
        return number

    with stream_pool(2) as submit:
        waits = [submit(meet, number) for number in (1, 2)]
        assert [wait() for wait in waits] == [1, 2]


@pytest.mark.parametrize("streams", [1, 2])
def test_a_fault_reaches_the_one_who_waits(streams):
    with stream_pool(streams) as submit, pytest.raises(ZeroDivisionError):
        submit(divmod, 1, 0)()


def test_what_has_not_begun_is_given_up_with_its_pool():
    begun, go = threading.Event(), threading.Event()

    def wait():
        begun.set()
        go.wait(20)

    late = []
    with stream_pool(2) as submit:
        for _ in range(2):
            submit(wait)
        submit(late.append, 1)
        begun.wait(20)
        threading.Timer(0.2, go.set).start()
    assert not late


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx"])
def test_streams_change_no_row(engine):
    inputs = sorted(AUDIO.glob("*.opus"))[:6]
    rows = {}
    for streams in (1, 2):
        encoder = load_model()
        torch.set_num_threads(2)
        assert attach(encoder, engine, streams=streams).engine == engine
        rows[streams] = list(embed_files(inputs, encoder))
        assert torch.get_num_threads() == 2
    assert [row["path"] for row in rows[1]] == [row["path"] for row in rows[2]]
    for one, two in zip(rows[1], rows[2], strict=True):
        torch.testing.assert_close(*(torch.from_numpy(row["vector"]) for row in (one, two)), atol=1e-5, rtol=0)
