"""The hub: known within seconds whether it answers, never asked for what the cache holds."""

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import shipped_files
import timm
import torch
from encoder_contract import CPU
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from idl.encoders import EncoderConfig, build
from idl.encoders import weights as weights_module
from idl.errors import InputError

REPOSITORY = "timm/test_convnext.r160_in1k"
CONFIG = EncoderConfig(name="timm:test_convnext", weights="imagenet", arithmetic="float32")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return cache


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    path = tmp_path / "local.safetensors"
    save_file(timm.create_model("test_convnext").state_dict(), path)
    return path


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A name server that does not answer."""
    release = threading.Event()

    def hang(*_: object, **__: object) -> None:
        release.wait(60)
        raise OSError("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    release.set()


class Answers(BaseHTTPRequestHandler):
    """Serves `content` as the hub does, or answers all with `status`."""

    status = 200
    content = b""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        is_there = self.path.endswith(("/resolve/main/model.safetensors", f"/resolve/{COMMIT}/model.safetensors"))
        self.send_response(self.status if self.status != 200 or is_there else 404)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if with_body and is_there:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    """The hub, on this machine."""

    class Own(Answers):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{running.server_address[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield Own
        running.shutdown()
        thread.join()


def put_into_cache(cache: Path, name: str, content: bytes) -> None:
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / name).write_bytes(content)


@pytest.mark.usefixtures("hanging")
def test_a_name_server_that_hangs_costs_less_than_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "SHIPPED_FOLDER", shipped_files.ship(tmp_path / "package"))
    start = time.monotonic()
    fallen = build(EncoderConfig(arithmetic="float32"), CPU)
    assert time.monotonic() - start < 5
    assert (fallen.origin.architecture, fallen.origin.weights) == ("convnext_atto", "shipped")
    assert "no answer within" in (fallen.origin.warning or "")
    with pytest.raises(InputError, match="no answer within") as caught:
        build(CONFIG, CPU)
    assert all(part in str(caught.value) for part in ("huggingface.co", "weights=PATH", "weights=random"))


@pytest.mark.parametrize(
    ("name", "requested"),
    [("model.safetensors", "imagenet"), ("model.safetensors", "auto"), ("pytorch_model.bin", "imagenet")],
)
def test_cached_weights_are_taken_without_any_network(
    name: str, requested: str, weights: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = weights
    if name.endswith(".bin"):
        content = tmp_path / name
        torch.save(load_file(weights), content)
    put_into_cache(empty_cache, name, content.read_bytes())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was asked"))
    encoder = build(replace(CONFIG, weights=requested), CPU)
    assert (encoder.origin.weights, encoder.origin.task) == ("imagenet", "imagenet")
    assert REPOSITORY in encoder.origin.source
    assert encoder.origin.warning is None
    assert encoder.digest == build(replace(CONFIG, weights=str(weights)), CPU).digest


def test_damaged_cached_weights_are_an_error_and_no_fallback(weights: Path, empty_cache: Path) -> None:
    put_into_cache(empty_cache, "model.safetensors", weights.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"test_convnext.*model\.safetensors"):
        build(replace(CONFIG, weights="auto"), CPU)


def test_weights_are_downloaded_once(weights: Path, server: type[Answers]) -> None:
    server.content = weights.read_bytes()
    first = build(CONFIG, CPU)
    server.status = 500
    second = build(CONFIG, CPU)
    assert first.digest == second.digest == build(replace(CONFIG, weights=str(weights)), CPU).digest


@pytest.mark.parametrize("status", [401, 503])
def test_a_hub_that_refuses_is_named_with_what_it_answers(status: int, server: type[Answers]) -> None:
    server.status = status
    with pytest.raises(InputError, match=rf"{REPOSITORY}.*127\.0\.0\.1.* does not give it.*{status}") as caught:
        build(CONFIG, CPU)
    assert "\n" not in str(caught.value)


def test_a_model_without_weights_on_the_hub_is_an_error_or_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    card = timm.models.get_pretrained_cfg("test_convnext")
    assert card is not None
    unpublished = replace(card, hf_hub_id=None)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: unpublished)
    with pytest.raises(InputError, match="no weights for it on the hub"):
        build(CONFIG, CPU)
    fallen = build(replace(CONFIG, weights="auto"), CPU)
    assert fallen.origin.weights == "random"
    assert "no weights for it on the hub" in (fallen.origin.warning or "")
