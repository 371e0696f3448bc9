"""A report as plain JSON, with a schema that is tested to name every field and no other."""

from collections.abc import Mapping
from dataclasses import asdict

from idl.study.fixed import SCHEMA as FIXED_SCHEMA
from idl.study.page.content import Answer, EncoderCues, EncoderPart, PageContent, ShownImage
from idl.verdict import SCHEMA as VERDICT_SCHEMA
from idl.verdict import document as verdict_document
from idl.verdict.document import INTERVAL, plain, under

SCHEMA: Mapping[str, str] = {
    **VERDICT_SCHEMA,
    **{f"fixed.{path}": words for path, words in FIXED_SCHEMA.items()},
    "feature": "name of the target",
    "kind": "of the target: depth, field or normals",
    "unit": 'of the target; "1": none. Losses are in its square',
    "notes[]": "what a reader must know, a sentence each",
    "cells[].encoder": "its name",
    "cells[].k": "components that the probe reads at a cell",
    "cells[].is_all": "true: all that the encoder has",
    "cells[].meaning": "the answer in plain words",
    "cells[].fits[]": "every arm before it saw the test split",
    "cells[].fits[].name": "of the arm",
    "cells[].fits[].k": "components of the features that it reads",
    "cells[].fits[].train_loss": "mean squared error, target units squared",
    "cells[].fits[].val_loss": "the same on the validation split",
    "cells[].fits[].cv_loss": "the same, cross-validated over the scenes of both",
    "cells[].typical_errors[]": "roots of mean squared errors on the test split",
    "cells[].typical_errors[].name": "arm; untrained+pixels: geometric mean over the deciding form's seeds",
    "cells[].typical_errors[].value": "target units",
    "encoders[]": "one each",
    "encoders[].name": "as on the command line",
    "encoders[].task": "what it was trained for",
    "encoders[].architecture": "of the network",
    "encoders[].weights": "kind of weights",
    "encoders[].source": "where they came from",
    "encoders[].digest": "of network, weights and normalisation",
    "encoders[].stride": "pixels a cell",
    "encoders[].channels": "numbers a cell",
    "encoders[].curves[]": "losses over k: of the encoder, and means over the seeds of each untrained form",
    "encoders[].curves[].name": "trained, untrained-random or untrained-permuted",
    "encoders[].curves[].k[]": "components read",
    "encoders[].curves[].train_loss[]": "one a k, target units squared",
    "encoders[].curves[].val_loss[]": "the same on the validation split",
    "images[]": "the test images that are shown",
    "images[].role": "best, median or worst for the last encoder's probe at its largest k",
    "images[].name": "of the image",
    "images[].errors[]": "of each encoder's probe, null among them",
    "images[].errors[].encoder": "its name",
    "images[].errors[].typical_error": "root of the mean squared error there, target units; null: not known",
    "cues[]": "what each probe reads; empty where it was not measured",
    "cues[].encoder": "its name",
    "cues[].sentences[]": "derived from the figures",
    "cues[].clean_loss": "on the images as they are, target units squared",
    "cues[].num_images": "that were measured",
    "cues[].edits[]": "the probe on images that were edited; the best constant is the last",
    "cues[].edits[].name": "of the edit",
    "cues[].edits[].removed": "the cue that is gone, in words",
    "cues[].edits[].loss": "mean squared error, target units squared",
    **under("cues[].edits[].log_ratio", "ln(loss / loss on the images as they are)", INTERVAL),
    "cues[].edits[].lost": "share of the lead over a constant that is lost; null: there is none",
    "cues[].edits[].reading": "read, not read, implied or undecided; empty: the edit decides about no cue",
    "cues[].correlations[]": "with luminance",
    "cues[].correlations[].name": "of what",
    **under("cues[].correlations[].value", "Pearson's", INTERVAL),
    "provenance": "where the figures come from",
    "provenance.dataset": "its name",
    "provenance.source": "path or recipe in words",
    "provenance.splits[]": "one each",
    "provenance.splits[].name": "train, val or test",
    "provenance.splits[].num_images": "in it",
    "provenance.splits[].num_scenes": "in it",
    "provenance.digests": "by what they are of",
    "provenance.digests.*": "16 hex digits and more",
    "provenance.versions": "by package",
    "provenance.versions.*": "its version",
    "provenance.command": "that gives these figures again",
    "provenance.made_at": "UTC",
    "provenance.test_reads": "runs that had read at least one of these test scenes before",
}
"""Every field by its path, as in `idl.verdict.SCHEMA`; "*" stands for any name."""


def document(content: PageContent) -> dict[str, object]:
    """Return what `json.dumps` writes, described by `SCHEMA`."""
    answers = content.answers
    verdicts = verdict_document([answer.verdict for answer in answers], content.rules, content.fixed)
    cells = verdicts["cells"]
    assert isinstance(cells, list)
    owners = [encoder.name for encoder in content.encoders for _ in encoder.answers]
    return verdicts | {
        "cells": [
            {**cell, **_answer(owner, answer)} for cell, owner, answer in zip(cells, owners, answers, strict=True)
        ],
        "feature": content.feature,
        "kind": content.kind,
        "unit": content.unit,
        "notes": list(content.notes),
        "encoders": [_encoder(encoder) for encoder in content.encoders],
        "images": [_image(image) for image in content.images],
        "cues": [_cues(cues) for cues in content.cues],
        "provenance": plain(asdict(content.provenance)),
    }


def _answer(encoder: str, answer: Answer) -> Mapping[str, object]:
    return {
        "encoder": encoder,
        "k": answer.k,
        "is_all": answer.is_all,
        "meaning": answer.meaning,
        "fits": plain([asdict(arm) for arm in answer.fits]),
        "typical_errors": plain([asdict(each) for each in answer.typical]),
    }


def _encoder(encoder: EncoderPart) -> object:
    return plain({name: value for name, value in asdict(encoder).items() if name != "answers"})


def _image(image: ShownImage) -> object:
    errors = [{"encoder": each.encoder, "typical_error": each.typical} for each in image.predictions]
    return plain({"role": image.role, "name": image.name, "errors": errors})


def _cues(cues: EncoderCues) -> object:
    return plain(
        {
            "encoder": cues.encoder,
            "clean_loss": cues.clean_loss,
            "num_images": cues.num_images,
            "sentences": cues.sentences,
            "edits": [asdict(edit) for edit in cues.edits],
            "correlations": [asdict(each) for each in cues.correlations],
        }
    )
