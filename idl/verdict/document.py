"""Verdicts as plain JSON: the fields of `Verdict` and of what it holds, whose docstrings say what each is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from idl.verdict.config import VerdictConfig
from idl.verdict.result import Verdict

# 2: the digest covers `fixed` too. 3: each arm's loss after alignment. 4: what the clusters are; recovered; forms
# by cross-validated loss.
SCHEMA_VERSION = 4


def document(verdicts: Sequence[Verdict], config: VerdictConfig, fixed: Mapping[str, object]) -> dict[str, object]:
    """Return what `json.dumps` writes: one of `Verdict` a cell, the rules, and what was fixed besides.

    fixed: as in `VerdictConfig.digest`. A number that is infinite (no bound; the logarithm of a loss of exactly 0) is
    null.
    """
    cells = [
        {**asdict(verdict), "smallest_detectable": verdict.smallest_detectable, "caution": verdict.caution}
        for verdict in verdicts
    ]
    content = {
        "schema_version": SCHEMA_VERSION,
        "digest": config.digest(fixed),
        "fixed": fixed,
        "config": config.to_dict(),
        "cells": cells,
    }
    return {name: plain(value) for name, value in content.items()}


def plain(value: object) -> object:
    """Bring nested mappings, sequences and numbers into what JSON holds: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value
