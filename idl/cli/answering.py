"""The answers of a study on the terminal."""

from collections.abc import Sequence

import click

from idl.figures import squared
from idl.study.cells import COMMON_NULL
from idl.study.run import Study
from idl.study.wording import meaning


def say(found: Study) -> None:
    """Write the answers, and the losses that they rest on."""
    click.echo()
    for line in _table(found):
        click.echo(line)
    for question, verdict in zip(found.questions, found.verdicts, strict=True):
        click.echo(f"\n{question.name}: {verdict.outcome}")
        click.echo(f"  {meaning(found, question, verdict)}\n  {verdict.reason}")


def _table(found: Study) -> list[str]:
    rows: list[Sequence[str]] = [("encoder, k", "test loss", "interval", "/ null", "/ common null", "/ pixels")]
    for question, verdict in zip(found.questions, found.verdicts, strict=True):
        result = found.results[question.encoder]
        arms = {arm.name: arm.mse for arm in verdict.description.arms} if verdict.description else {}
        loss = arms["trained"]
        ratios = [
            f"{loss.estimate / arms[name].estimate:.3f}" if name in arms and arms[name].estimate > 0 else "-"
            for name in ("null", COMMON_NULL, "pixels")
        ]
        interval = f"{loss.low:.4g} to {loss.high:.4g}"
        rows.append((question.name, f"{loss.estimate:.4g} {squared(result.unit)}".strip(), interval, *ratios))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
