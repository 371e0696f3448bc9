"""How often a test split was read before: every look at it makes a later one less of a test."""

from idl.tracking.quiet import quiet

# Entry points that measure on a test split.
READERS = ("probe", "sweep", "verdict", "compare", "main", "evaluate")
_RUNS_PER_PAGE = 1000


def count_test_readers(dataset_digest: str, split_digest: str) -> int:
    """Count the runs of this tracking store, in all experiments, that read the test split of these digests."""
    import mlflow

    condition = f"tags.dataset_digest = '{dataset_digest}' and tags.split_digest = '{split_digest}'"
    with quiet():
        client = mlflow.MlflowClient()
        experiments = [each.experiment_id for each in client.search_experiments()]
        count, token = 0, None
        while True:
            page = client.search_runs(experiments, condition, max_results=_RUNS_PER_PAGE, page_token=token)
            # Children are parts of their parent's look; they have no entry point.
            count += sum(run.data.tags.get("idl.entry_point") in READERS for run in page)
            token = page.token
            if not token:
                return count
