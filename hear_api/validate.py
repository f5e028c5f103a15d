"""``python -m hear_api.validate hear_api [--model CHECKPOINT]``: hear-validator without TensorFlow.

The validator imports TensorFlow only to check whether a model is one of its classes; `stub_tensorflow` replaces it.
"""

import runpy
import sys
from importlib.util import find_spec

from hear_api.heareval.repairs import stub_tensorflow


def main() -> None:
    """Run the validator that is installed, with this command's arguments."""
    if find_spec("hearvalidator") is None:
        sys.exit("error: hear-validator is not installed: pip install --no-deps hearvalidator")
    stub_tensorflow()
    runpy.run_module("hearvalidator.validate", run_name="__main__")


if __name__ == "__main__":
    main()
