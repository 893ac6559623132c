"""`.pt2` files written by torch.export.save."""

from __future__ import annotations

from pathlib import Path

import torch

from ullage.errors import CaptureError
from ullage.frontends.convert import Names, flat_input_names, from_exported
from ullage.frontends.export import decompose, reason
from ullage.frontends.lean import lean
from ullage.frontends.quiet import quiet
from ullage.graph.captured import CapturedModel


def capture_pt2(path: Path) -> CapturedModel:
    """Load and convert a `.pt2` file; its shapes and bounds are those it was exported with. Raises CaptureError."""
    try:
        with quiet(), lean():
            exported = torch.export.load(path)
    except Exception as error:
        raise CaptureError(f"{path} cannot be loaded by torch.export.load: {reason(error)}") from error
    names = Names(flat_input_names(exported))
    return from_exported(*decompose(exported), names, {}, {})
