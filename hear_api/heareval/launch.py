"""``python -m hear_api.heareval.launch embeddings|predictions ARGUMENTS``: starts a runner of heareval, repaired."""

import os
import runpy
import sys
import threading
import time

from hear_api.heareval import repairs

POLL_SECONDS = 0.5


def end_with_parent() -> None:
    """End this process soon after its parent ends in any way, so that it does not write beside a restarted command."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(part: str, arguments: list[str]) -> None:
    """Run a runner as ``python -m heareval.PART.runner`` does; it ends the process."""
    end_with_parent()
    repairs.stub_tensorflow()
    repairs.nvml_names_as_bytes()
    if part == "predictions":
        repairs.settable_epoch()
        repairs.lightning_2()
    runner = f"heareval.{part}.runner"
    sys.argv = [runner, *arguments]
    runpy.run_module(runner, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
