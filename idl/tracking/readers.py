"""How often test images were read before: every look at them makes a later one less of a test."""

from collections.abc import Iterator
from typing import Any

from idl.data.splits import EVERYTHING
from idl.tracking.quiet import quiet

# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")
_RUNS_PER_PAGE = 1000


def count_test_readers(dataset_digest: str, split_digest: str, test_digest: str) -> int:
    """Count the runs of this tracking store, in all experiments, that read these test images or were about to.

    Those are the runs that tested the same scenes, however the others were divided, or measured the whole dataset.
    split_digest: of the split, by which alone runs are known that were logged before test digests were.
    """
    import mlflow
    from mlflow.entities import ViewType

    with quiet():
        client = mlflow.MlflowClient()
        # Deleted ones have been looked at all the same.
        experiments = [each.experiment_id for each in mlflow.search_experiments(view_type=ViewType.ALL)]
        # MLflow's search has no "or".
        searched = [("test_digest", test_digest), ("split_digest", split_digest)]
        searched += [(tag, EVERYTHING) for tag, _ in searched]
        found = {
            run.info.run_id: run
            for tag, value in searched
            for run in _runs(
                client, experiments, f"tags.dataset_digest = '{dataset_digest}' and tags.{tag} = '{value}'"
            )
        }
    return sum(_has_read(run) for run in found.values())


def _runs(client: Any, experiments: list[str], condition: str) -> Iterator[Any]:
    from mlflow.entities import ViewType

    token = None
    while True:
        page = client.search_runs(experiments, condition, ViewType.ALL, max_results=_RUNS_PER_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _has_read(run: Any) -> bool:
    # Children are parts of their parent's look; they have no entry point.
    is_reader = run.data.tags.get("idl.entry_point") in READERS
    # An older run without a test digest may have measured validation or training images of that split.
    return is_reader and ("test_digest" in run.data.tags or run.data.params.get("part", "test") in ("test", "all"))
