"""Bad input of the two trainings: one line, exit code 2, and neither a run nor a dataset is begun."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import run
from planted import write_pairs
from training_commands import NARROW, PRETRAIN, ROOMS, SMALL, all_runs

BAD: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no_latents": (("autoencoder", *ROOMS, "--latent-channels", "0"), "latent_channels=0: "),
    "latents": (("autoencoder", *ROOMS, *NARROW, "--latent-channels", "33"), "above the 32 channels"),
    "width": (("autoencoder", *ROOMS, "--n-hid", "6"), "n_hid=6: must be a multiple of 4. Pass 8."),
    "stride": (("autoencoder", *ROOMS, "--crop", "60"), "crop=60: "),
    "stride_32": (("pretrain", *ROOMS, "--crop", "72"), "crop=72: "),
    "stride_store": (("autoencoder", *SMALL, "--dataset", "odd.h5", "--crop", "0"), "60 x 60 pixels"),
    # The crop would suit: looks at the validation split and the encoder see whole images.
    "stride_32_store": (("pretrain", *SMALL, "--dataset", "odd.h5", "--crop", "32"), "60 x 60 pixels"),
    "crop": (("autoencoder", *ROOMS, "--crop", "264"), "crop=264: the images have 256 x 256 pixels"),
    "crop_store": (("autoencoder", *SMALL, "--crop", "72"), "crop=72: the images have 64 x 64 pixels"),
    "batch": (("autoencoder", *ROOMS, "--batch-size", "17"), "batch_size=17: the training split has 16 images"),
    "batch_store": (("pretrain", *PRETRAIN[1:], "--batch-size", "17"), "the training split has 16 images"),
    "scenes": (("autoencoder", *ROOMS, "--num-scenes", "2"), "only 2 scenes"),
    "split_file": (("autoencoder", *ROOMS, "--split", "gone.json"), "gone.json: no such split file"),
    "accumulate": (("autoencoder", *ROOMS, "--accumulate", "3"), "accumulate=3: does not divide"),
    "out": (("autoencoder", *ROOMS, "--out", "gone/a.safetensors"), "out=gone/a.safetensors: gone is no folder"),
    "out_name": (("autoencoder", *ROOMS, "--out", "a.pt"), "out=a.pt: must end in .safetensors"),
    "out_folder": (("autoencoder", *ROOMS, "--out", "d.safetensors"), "out=d.safetensors: is a folder"),
    "device": (("autoencoder", *ROOMS, "--device", "cuda:99"), "device=cuda:99: no such CUDA device here"),
    "labels": (("pretrain", *PRETRAIN[1:], "--dataset", "unlabelled.h5"), "unlabelled.h5: no layer 'kinds'"),
    "labels_folder": (("pretrain", *ROOMS, "--dataset", "folder", "--data", "walk"), "no layer 'kinds'"),
    "model": (("pretrain", *ROOMS, "--model", "convnxt"), "model=convnxt: timm has no such ConvNeXt"),
    "resume": (("autoencoder", *ROOMS, "--resume", "0" * 32), "0: no checkpoint to resume from"),
    "lr": (("autoencoder", *ROOMS, "--lr", "0"), "lr=0.0: expected more than 0"),
    "dataset": (("pretrain", *ROOMS, "--dataset", "roms"), "Did you mean rooms"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_before_there_is_a_run_or_a_dataset(
    folder: Path, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    (folder / "d.safetensors").mkdir()
    write_pairs(folder / "walk", num=12)
    arguments, message = BAD[case]
    assert run(*arguments) == 2
    err = capfd.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.strip()]
    assert message in err
    assert not (folder / "cache").exists()
    assert not all_runs()
