"""How often test scenes were read before: every look at them makes a later one less of a test."""

from collections.abc import Iterator, Mapping
from typing import Any

from idl.data.looks import are_shared
from idl.data.splits import EVERYTHING
from idl.tracking.children import ENTRY_POINT_TAG
from idl.tracking.quiet import quiet

# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")
_RUNS_PER_PAGE = 1000


def count_test_readers(dataset_digest: str, split_digest: str, looks: Mapping[str, str]) -> int:
    """Count the runs of this tracking store, in all experiments, that tested one of these scenes or were about to.

    It counts whatever the resolution, the range of depth and the split were, and as crops or whole.
    looks: the tags of `Split.looks`.
    dataset_digest, split_digest: of the prepared dataset and the split, by which, and by its test digest, a run is
      known that was logged before the tested scenes were: where it tested the same ones, or the whole dataset.
    """
    import mlflow
    from mlflow.entities import ViewType

    with quiet():
        client = mlflow.MlflowClient()
        # Deleted ones have been looked at all the same.
        experiments = [each.experiment_id for each in mlflow.search_experiments(view_type=ViewType.ALL)]
        # MLflow's search has no "or".
        searched = [("test_digest", looks["test_digest"]), ("split_digest", split_digest)]
        searched += [(tag, EVERYTHING) for tag, _ in searched]
        conditions = [f"tags.dataset_digest = '{dataset_digest}' and tags.{tag} = '{value}'" for tag, value in searched]
        found = {run.info.run_id: run for condition in conditions for run in _runs(client, experiments, condition)}
        # Nor has it sets: whoever has tested scenes is looked at.
        found |= {
            run.info.run_id: run
            for run in _runs(client, experiments, "tags.test_scenes LIKE '%'")
            if are_shared(run.data.tags["test_scenes"], looks["test_scenes"])
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
    # Children are parts of their parent's look: a trial's entry point is "trial", others have none.
    is_reader = run.data.tags.get(ENTRY_POINT_TAG) in READERS
    # An older run without a test digest may have measured validation or training images of that split.
    return is_reader and ("test_digest" in run.data.tags or run.data.params.get("part", "test") in ("test", "all"))
