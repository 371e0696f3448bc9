"""`idl autoencoder` and `idl pretrain` on a few rooms, for the tests of the command line."""

import mlflow
from mlflow.entities import Run

# 12 rooms of 2 views: 8 rooms to train on, 4 steps an epoch.
SMALL = ("--dataset", "tiny.h5", "--split", "8:2:2", "--batch-size", "4", "--device", "cpu", "--workers", "1")
NARROW = ("--n-hid", "4", "--num-blocks", "1", "--latent-channels", "2", "--crop", "16")
AUTOENCODER = ("autoencoder", *SMALL, *NARROW, "--epochs", "3", "--validate-every", "4", "--arithmetic", "float32")
PRETRAIN = ("pretrain", *SMALL, "--crop", "0", "--epochs", "1", "--lr", "2e-4", "--arithmetic", "float32")
ROOMS = ("--dataset", "rooms", "--num-scenes", "12", "--views", "2", *SMALL[2:])


def all_runs() -> list[Run]:
    return mlflow.search_runs(search_all_experiments=True, output_format="list")  # pyright: ignore[reportReturnType]
