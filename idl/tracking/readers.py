"""How often a test split was read before: every look at it makes a later one less of a test."""

from idl.tracking.quiet import quiet

# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")
_RUNS_PER_PAGE = 1000


def count_test_readers(dataset_digest: str, split_digest: str) -> int:
    """Count the runs of this tracking store, in all experiments, that read this test split or were about to."""
    import mlflow
    from mlflow.entities import ViewType

    condition = f"tags.dataset_digest = '{dataset_digest}' and tags.split_digest = '{split_digest}'"
    with quiet():
        client = mlflow.MlflowClient()
        # Deleted ones have been looked at all the same.
        experiments = [each.experiment_id for each in mlflow.search_experiments(view_type=ViewType.ALL)]
        count, token = 0, None
        while True:
            page = client.search_runs(
                experiments, condition, ViewType.ALL, max_results=_RUNS_PER_PAGE, page_token=token
            )
            # Children are parts of their parent's look; they have no entry point.
            count += sum(
                run.data.tags.get("idl.entry_point") in READERS and run.data.params.get("part", "test") == "test"
                for run in page
            )
            token = page.token
            if not token:
                return count
