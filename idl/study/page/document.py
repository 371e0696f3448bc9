"""A report as plain JSON: the fields of `idl.study.page.content`, whose docstrings say what each is."""

from collections.abc import Mapping
from dataclasses import asdict

from idl.study.page.content import Answer, EncoderCues, EncoderPart, PageContent, ShownImage
from idl.verdict import document as verdict_document
from idl.verdict.document import plain


def document(content: PageContent) -> dict[str, object]:
    """Return what `json.dumps` writes: the verdicts as `idl.verdict.document` gives them, and the rest of the page."""
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
