"""Sound events: a classifier of time steps whose output becomes onsets and offsets."""

from maeast_upstream.events.detector import EventDetector
from maeast_upstream.events.smoothing import Event, Smoothing

__all__ = ["Event", "EventDetector", "Smoothing"]
