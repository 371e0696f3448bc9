"""Registered probes: listed, used on photographs, measured on another dataset, served."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from command_line import register_strangers, run, working_folder
from mlflow.entities import Run
from PIL import Image
from planted import write_pairs

from idl.errors import InputError
from idl.tracking.registry import list_probes, load_probe

DEPTH = "models:/idl-depth-null@champion"
SMALL = ("--workers", "1", "--cache", "cache")


def walk(command: str, *arguments: str, data: str = "walk") -> tuple[str, ...]:
    return (command, "--dataset", "folder", "--data", data, *SMALL, *arguments)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """A working folder with a registered probe of `walk`, models that are none, and a second dataset, `other`."""
    folder = tmp_path_factory.mktemp("registry")
    with working_folder(folder, template):
        write_pairs(folder / "walk", num=60)
        write_pairs(folder / "other", num=60, size=(40, 60), seed=1)
        assert run(*walk("probe", "--device", "cpu", "--encoder", "null")) == 0
        register_strangers()
    return folder


@pytest.fixture
def here(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(registry)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{registry}/mlflow.db")
    yield registry
    shutil.rmtree(registry / "out", ignore_errors=True)


def newest_run() -> Run:
    found = mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time DESC"]
    )
    return found[0]  # pyright: ignore[reportReturnType, reportIndexIssue]


def test_probes_alone_are_listed(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    out = capfd.readouterr().out
    assert "idl-depth-null/1" in out
    assert "@champion @champion-walk" in out
    assert "idl-encoder" not in out
    assert "somebody" not in out
    assert run("models", "--target", "depth", "--sort", "test_rmse", "--json") == 0
    (listed,) = json.loads(capfd.readouterr().out)
    tags = mlflow.MlflowClient().get_model_version("idl-depth-null", "1").tags
    assert listed["test_rmse"] == float(tags["test_rmse"])
    assert (listed["uri"], listed["dataset"]) == ("models:/idl-depth-null/1", "walk")
    assert listed["aliases"] == ["champion", "champion-walk"]
    assert listed["dataset_digest"] == tags["dataset_digest"]


def test_a_folder_without_a_store_lists_nothing_and_stays_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert (run("models", "--json"), json.loads(capfd.readouterr().out)) == (0, [])
    with pytest.raises(InputError, match="there is no"):
        load_probe(DEPTH)
    assert not list(tmp_path.iterdir())


def test_photographs_are_predicted_once(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("predict", "--model", DEPTH, "--images", "walk/rgb/000[01].png", "other/rgb/0000.png", "--out", "out")
    assert run(*arguments) == 0
    captured = capfd.readouterr()
    shown = mlflow.MlflowClient().get_model_version("idl-depth-null", "1").tags["shown_range"].partition(",")[2]
    # The planted depth ends at 3 m.
    assert 1 < float(shown) <= 5
    assert f"colours: bright 0 m to dark {shown} m" in captured.out
    assert "predict: 3/3 img" in captured.err
    made = sorted(str(path.relative_to(here / "out")) for path in (here / "out").rglob("*.png"))
    stems = ["0001", "other/rgb/0000", "walk/rgb/0000"]
    assert made == sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("colour", "depth"))
    depth_m = np.asarray(Image.open(here / "out" / "walk/rgb/0000_depth.png")) / 1000
    assert depth_m.shape == (48, 40)
    # Green makes the depth that was planted, from 1 to 3 m, and the probe can read it.
    green = np.asarray(Image.open(here / "walk/rgb/0000.png"))[..., 1] / 255
    assert np.corrcoef(depth_m.ravel(), green.ravel())[0, 1] > 0.9

    times = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*.png")}
    (here / "out" / "0001_depth.png").unlink()
    assert run(*arguments) == 0
    assert "of 1 image, 2 were there" in capfd.readouterr().out
    changed = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert changed == {"0001_depth.png", "0001_colour.png"}
    assert run(*arguments, "--format", "npy") == 2
    assert "Pass --overwrite" in capfd.readouterr().err
    assert run(*arguments, "--format", "npy", "--overwrite") == 0
    np.testing.assert_allclose(np.load(here / "out" / "walk/rgb/0000_depth.npy"), depth_m, atol=0.00051)
    assert run(*arguments, "--depth-scale", "40000", "--overwrite", "true") == 0
    assert "images are beyond 1.63835 m" in capfd.readouterr().err


def test_its_own_test_split_gives_the_registered_figures(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*walk("evaluate", "--model", DEPTH)) == 0
    captured = capfd.readouterr()
    assert "its own test split" in captured.err
    left = newest_run()
    tags = mlflow.MlflowClient().get_model_version("idl-depth-null", "1").tags
    for name in ("rmse", "abs_rel", "delta1"):
        # The probe's run reads features in half precision.
        assert left.data.metrics[f"test_{name}"] == pytest.approx(float(tags[f"test_{name}"]), rel=2e-3)
    assert left.data.metrics["test_r2"] == pytest.approx(float(tags["test_r2"]), abs=2e-3)
    assert left.data.tags["split_digest"] == tags["split_digest"]
    probed = mlflow.get_run(mlflow.MlflowClient().get_model_version("idl-depth-null", "1").run_id or "")
    assert left.data.tags["test_digest"] == probed.data.tags["test_digest"]
    assert tags["dataset_digest"] in captured.out


def test_a_probe_is_tested_on_crops_and_measured_on_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A registry of its own: what it registers is no other test's business.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    write_pairs(tmp_path / "large", num=40, size=(260, 300))
    crops = ("--test-images", "9", "--test-seed", "4")
    arguments = walk("probe", "--device", "cpu", "--encoder", "null", "--stride", "32", *crops, data="large")
    assert run(*arguments) == 0
    probed = newest_run()
    assert (probed.data.params["num_test"], probed.data.params["test_seed"]) == ("9", "4")
    versions = mlflow.MlflowClient().search_model_versions("name = 'idl-depth-null'")
    tags = next(version.tags for version in versions if version.run_id == probed.info.run_id)
    model = next(f"models:/{version.name}/{version.version}" for version in versions if version.tags == tags)
    assert run(*walk("evaluate", "--model", model, *crops, data="large")) == 0
    left = newest_run()
    assert left.data.metrics["test_rmse"] == pytest.approx(float(tags["test_rmse"]), rel=2e-3)
    assert left.data.tags["split_digest"] == tags["split_digest"] != tags["scenes_digest"]
    assert left.data.tags["test_digest"] == probed.data.tags["test_digest"]
    # Its whole test images were not seen either.
    assert run(*walk("evaluate", "--model", model, data="large")) == 0
    assert newest_run().data.tags["split_digest"] == tags["scenes_digest"]
    # They show what the crops do: who has read the ones has read the others.
    assert newest_run().data.tags["test_digest"] == probed.data.tags["test_digest"]


def test_an_encoder_of_one_size_sees_no_squeezed_photograph(tmp_path: Path, template: Path) -> None:
    """What lies beside a square does not change what is predicted in it."""
    tiny = '{"patch_size": 14, "embed_dim": 12, "depth": 1, "num_heads": 2}'
    with working_folder(tmp_path, template):
        write_pairs(tmp_path / "walk", num=30)
        encoder = ("--encoder", "timm:vit_tiny_patch16_224", "--weights", "random", "--encoder-args", tiny)
        assert run(*walk("probe", "--device", "cpu", *encoder)) == 0
        (model,) = list_probes()
        wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 341, 3), np.uint8))
        wide.save("wide.png")
        wide.crop((0, 0, 256, 256)).save("left.png")
        wide.crop((85, 0, 341, 256)).save("right.png")
        wide.resize((640, 480)).save("photograph.png")
        pictures = ("wide.png", "left.png", "right.png", "photograph.png")
        assert run("predict", "--model", model.uri, "--out", "out", "--format", "npy", *pictures) == 0
        whole, left, right = (np.load(f"out/{name}_depth.npy") for name in ("wide", "left", "right"))
        np.testing.assert_allclose(whole[:, :85], left[:, :85], atol=1e-5)
        np.testing.assert_allclose(whole[:, -85:], right[:, -85:], atol=1e-5)
        large = Image.fromarray(np.load("out/photograph_depth.npy"))
        assert large.size == (640, 480)
        assert np.corrcoef(np.asarray(large.resize((341, 256))).ravel(), whole.ravel())[0, 1] > 0.95


def test_another_dataset_is_measured_whole(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(*walk("evaluate", "--model", DEPTH, "--part", "all", data="other")) == 0
    assert "all_rmse" in capfd.readouterr().out
    left = newest_run()
    assert left.info.status == "FINISHED"
    assert left.data.metrics["all_num_images"] == 60
    assert (left.data.tags["split_digest"], left.data.tags["test_digest"]) == ("all", "all")
    assert left.data.tags["fitted_on_digest"] != left.data.tags["dataset_digest"]
    assert left.inputs is not None
    (measured,) = left.inputs.dataset_inputs
    assert measured.dataset.name == "other-test"
    assert len(left.data.tags["test_scenes"].split()) == json.loads(measured.dataset.profile or "")["num_scenes"] > 1
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(left.info.run_id)}
    assert {"per_scene.png", "per_image.json", "images"} <= files


@pytest.mark.slow
def test_a_served_model_answers_to_a_picture(here: Path) -> None:
    """The lines of the README: a picture as JSON, sent to `mlflow models serve`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_RUN_ID": ""}
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", DEPTH, "--env-manager", "local"]
    picture = np.asarray(Image.open("walk/rgb/0000.png").convert("RGB").resize((320, 256))) / 255
    body = json.dumps({"inputs": picture.transpose(2, 0, 1)[None].round(4).tolist()}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    # The server has a process of its own under the command's.
    server = subprocess.Popen(
        [*command, "--port", str(port)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 180
        while True:
            assert server.poll() is None
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    depth_m = np.array(json.load(answer)["predictions"])
                break
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.2)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    assert depth_m.shape == (1, 1, 256, 320)
    assert ((depth_m >= 0.001) & (depth_m <= 10)).all()
