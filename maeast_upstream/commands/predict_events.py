"""The part of ``maeast predict`` that finds events with onsets and offsets."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from maeast_upstream.arguments import UsageError, windows_from
from maeast_upstream.commands.jobs import embed_inputs, start_engine, weights_unset

if TYPE_CHECKING:  # imported when it is needed, so that --help does not import torch
    from maeast_upstream.checkpoint.identity import Identity
    from maeast_upstream.encoder import Encoder
    from maeast_upstream.engines.names import Choice
    from maeast_upstream.extract.outputs import Output


def predict_events(args: argparse.Namespace, output: "Output") -> int:
    """Find the events of the inputs by the options of ``maeast predict``; return the exit status.

    Raises:
        UsageError: An option does not go with events.
        ValueError: The folder holds no detector, or the checkpoint is another one.
    """
    given = {"--top": args.top, "--threshold": args.threshold, "--all-scores": args.all_scores or None}
    given["--window"] = windows_from(args)
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} does not go with events, whose windows and thresholds are those of the fit")
    from maeast_upstream.engines.names import check_names
    from maeast_upstream.events.detector import EventDetector
    from maeast_upstream.events.event_table import EventTableBuilder
    from maeast_upstream.events.steps import step_spec
    from maeast_upstream.extract.job import Job
    from maeast_upstream.extract.survey import Survey
    from maeast_upstream.fingerprint import load_same, place_of

    detector = EventDetector.load(args.model)
    survey = Survey(args.inputs, args.path_column, args.relative_to)
    check_names(args.engine, args.precision)
    spec = step_spec(detector.readout)

    def job_of(model: "Encoder | Identity", engine: "Choice") -> Job:
        return Job(
            survey,
            output,
            model,
            spec,
            engine,
            args.checkpoint or detector.checkpoint,
            args.max_hours,
            make_builder=partial(EventTableBuilder, detector),
            more_settings={"kind": "events", "detector": detector.digest()},
        )

    def start() -> "tuple[Encoder, Choice]":
        with weights_unset():
            encoder = load_same(detector.checkpoint, detector.fingerprint, args.checkpoint, args.device)
        return encoder, start_engine(args, encoder, spec, survey, output)

    checkpoint = place_of(detector.checkpoint, args.checkpoint)
    return embed_inputs(args, survey, output, checkpoint, job_of, start)
