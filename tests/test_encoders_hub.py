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
from encoder_contract import CPU, images
from huggingface_hub import constants
from safetensors.torch import save_file

from idl.encoders import EncoderConfig, build, hub, shipped
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

    def do_CONNECT(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        is_there = self.path.endswith("/resolve/main/model.safetensors") or self.path.endswith(
            f"/resolve/{COMMIT}/model.safetensors"
        )
        self.send_response(self.status if self.status != 200 or is_there else 404)
        if self.status == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if with_body and is_there:
            self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Answers], str]]:
    class Own(Answers):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield Own, f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def put_into_cache(cache: Path, name: str, content: bytes) -> None:
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    (repository / "snapshots" / COMMIT / name).write_bytes(content)


@pytest.mark.usefixtures("hanging")
def test_a_name_server_that_hangs_costs_less_than_five_seconds() -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match="no answer within") as caught:
        build(CONFIG, CPU)
    assert time.monotonic() - start < 5
    assert all(told in str(caught.value) for told in ("huggingface.co", "weights=PATH", "weights=random"))


@pytest.mark.usefixtures("hanging")
def test_auto_falls_back_to_random_weights_and_says_so() -> None:
    start = time.monotonic()
    fallen = build(replace(CONFIG, weights="auto"), CPU)
    assert time.monotonic() - start < 5
    random = build(replace(CONFIG, weights="random"), CPU)
    assert (fallen.origin.weights, fallen.origin.task, fallen.origin.seed) == ("random", "none", 0)
    assert fallen.digest == random.digest
    assert "RANDOM" in (fallen.origin.warning or "")
    assert "\n" not in (fallen.origin.warning or "")
    assert random.origin.warning is None


@pytest.mark.usefixtures("hanging")
def test_convnext_falls_back_to_the_shipped_one_within_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "FOLDER", shipped_files.ship(tmp_path / "package"))
    start = time.monotonic()
    fallen = build(EncoderConfig(arithmetic="float32"), CPU)
    assert time.monotonic() - start < 5
    assert (fallen.origin.architecture, fallen.origin.weights) == ("convnext_atto", "shipped")
    assert "no answer within" in (fallen.origin.warning or "")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("wanted", ["imagenet", "auto"])
def test_cached_weights_are_taken_without_any_network(
    name: str, wanted: str, weights: Path, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = weights
    if name.endswith(".bin"):
        torch.manual_seed(11)
        content = tmp_path / name
        torch.save(timm.create_model("test_convnext").state_dict(), content)
    put_into_cache(empty_cache, name, content.read_bytes())

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(socket.socket, "connect", forbidden)
    encoder = build(replace(CONFIG, weights=wanted), CPU)
    local = build(replace(CONFIG, weights=str(weights)), CPU)
    assert (encoder.origin.weights, encoder.origin.task) == ("imagenet", "imagenet")
    assert REPOSITORY in encoder.origin.source
    assert encoder.origin.warning is None
    assert encoder.digest == local.digest
    assert torch.equal(encoder(images()), local(images()))


@pytest.mark.parametrize("wanted", ["imagenet", "auto"])
def test_damaged_cached_weights_are_an_error_and_no_fallback(wanted: str, weights: Path, empty_cache: Path) -> None:
    put_into_cache(empty_cache, "model.safetensors", weights.read_bytes()[:4000])
    with pytest.raises(InputError, match="test_convnext") as caught:
        build(replace(CONFIG, weights=wanted), CPU)
    assert "model.safetensors" in str(caught.value)


def test_weights_are_downloaded_once(
    weights: Path, server: tuple[type[Answers], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, address = server
    answers.content = weights.read_bytes()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    first = build(CONFIG, CPU)
    answers.status = 500
    second = build(CONFIG, CPU)
    assert first.digest == second.digest == build(replace(CONFIG, weights=str(weights)), CPU).digest


def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "why_unreachable", lambda url: pytest.fail("the hub was asked"))
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        build(CONFIG, CPU)


@pytest.mark.parametrize(("status", "answers_us"), [(200, True), (302, True), (401, True), (403, False), (503, False)])
def test_what_counts_as_an_answer(status: int, answers_us: bool, server: tuple[type[Answers], str]) -> None:
    answers, address = server
    answers.status = status
    reason = hub.why_unreachable(f"{address}/timm/x/resolve/main/model.safetensors")
    assert (reason is None) == answers_us
    if reason is not None:
        assert str(status) in reason


def test_a_proxy_that_refuses_is_no_answer(server: tuple[type[Answers], str], monkeypatch: pytest.MonkeyPatch) -> None:
    answers, address = server
    answers.status = 403
    monkeypatch.setenv("https_proxy", address)
    reason = hub.why_unreachable("https://hub.invalid/timm/x/resolve/main/model.safetensors")
    assert reason is not None
    assert "403" in reason


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
