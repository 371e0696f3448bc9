"""Whether a GPU computes what the CPU does, and how fast: one JSON record, on standard output.

    PYTHONPATH=. python benchmarks/gpu_check.py > benchmarks/gpu_NAME.json

Needs torch, timm, h5py and numpy, with what these bring, and less than eight minutes; weights and images are random.
Progress goes to standard error. Ends with 1 where a figure is beyond its limit. Without a GPU it compares the CPU with
itself (`--device cpu --quick`): for tests of this script.
"""

import argparse
import json
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from typing import Any

try:
    import jaxtyping  # noqa: F401
except ImportError:
    # Shapes in signatures: for readers and type checkers, so that nothing is missed without them.
    stand_in = types.ModuleType("jaxtyping")
    shape = type("Shape", (), {"__class_getitem__": classmethod(lambda cls, item: Any)})
    for name in ("Bool", "Float", "Float16", "Float32", "Float64", "Int", "Int64", "Shaped", "UInt8", "UInt16"):
        setattr(stand_in, name, shape)
    sys.modules["jaxtyping"] = stand_in

import torch
from record import record
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn

from idl.distributed import World
from idl.encoders import Encoder, EncoderConfig, build
from idl.probes.basis import Basis, Columns, null_map
from idl.probes.exact import PENALTIES, fit
from idl.probes.gradient_fit import Trial, fit_by_gradient
from idl.probes.image_statistics import ImageGrams
from idl.probes.statistics import FoldedStatistics, Statistics

CPU = torch.device("cpu")
# Of the CPU's own numbers: a root mean square for features, the largest relative difference for losses.
LIMITS = {"features": 1e-4, "losses": 1e-4, "descent": 1e-3, "ranks": 1e-9}
NUM_TRIALS = 100


def say(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def allow_tf32(is_allowed: bool) -> None:
    """Let float32 products and convolutions be rounded to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_allowed


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of `repeats` calls, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        action()
        synchronise(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def drawn(num_images: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return RGB (batch, 3, side, side) that is smooth, a target (batch, 1, side, side) from it, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_images, 3, side // 16, side // 16, generator=generator)
    rgb = nn.functional.interpolate(coarse, (side, side), mode="bilinear").contiguous()
    truth = rgb.mean(dim=1, keepdim=True) + 0.1 * torch.rand(num_images, 1, side, side, generator=generator)
    return rgb, truth, torch.rand(num_images, side, side, generator=generator) > 0.1


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the root mean square of the difference, as a share of what is expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def equality(encoder: Encoder, device: torch.device, side: int, num_images: int) -> dict[str, float]:
    """Return by how much features, the exact probe's losses and descent's differ from the CPU's."""
    data = [drawn(num_images, side, seed) for seed in (0, 1)]
    features: dict[torch.device, Tensor] = {}
    losses: dict[torch.device, Tensor] = {}
    descents: dict[torch.device, Tensor] = {}
    basis: Basis | None = None
    index: list[int] = []
    for place in (CPU, device):
        network = encoder.to(place)
        parts, images = [], []
        for rgb, truth, valid in data:
            with torch.inference_mode():
                maps = network(rgb.to(place))
                null = null_map(rgb.to(place), *maps.shape[2:])
            features[place] = maps.cpu()
            # The CPU's for both: vectors of nearly equal eigenvalues turn with rounding.
            basis = basis or Basis.fit([maps], [null], most=64)
            columns = Columns(basis.num_components)
            cells = columns.assemble(basis.to(place).project(maps, null))
            arguments = (cells, truth.to(place), valid.to(place))
            parts.append((Statistics.empty(columns.total).accumulate(*arguments),))
            index = columns.of_arm("probe")
            images.append(ImageGrams.of(cells[:, torch.tensor(index).to(place)], *arguments[1:]))
        folds = FoldedStatistics(*parts).subset(torch.tensor(index))
        solution = fit(folds, num_fixed=1, k=8, penalties=PENALTIES).solution
        losses[place] = torch.tensor([solution.train_loss, solution.val_loss])
        trials = [Trial(k=8, lr=1e-2, epochs=10, batch_size=8, solver=each) for each in ("adam", "sgd")]
        results = fit_by_gradient(images[0], folds, trials)
        descents[place] = torch.tensor([each.val_loss for each in results])
    return {
        "features": relative(features[device], features[CPU]),
        "losses": float((losses[device] / losses[CPU] - 1).abs().max()),
        "descent": float((descents[device] / descents[CPU] - 1).abs().max()),
    }


def throughput(
    device: torch.device, architecture: str, batch_size: int, side: int, repeats: int, *, is_quick: bool
) -> dict[str, float | None]:
    """Return images a second: the bare network in each arithmetic and layout, the encoder, and the pass around it.

    None: it failed. is_quick: in float32 alone, and nothing is compiled.
    """
    drawn_rgb, truth, valid = drawn(batch_size, side)
    rgb, raw = drawn_rgb.to(device), (drawn_rgb * 255).byte()
    found: dict[str, float | None] = {}

    def measured(name: str, action: Callable[[], object]) -> None:
        try:
            with torch.inference_mode():
                found[name] = rate = batch_size / seconds(action, device, repeats)
            say(f"{name}: {rate:.0f} images/s")
        except RuntimeError as error:
            # For want of a C compiler, say: the rest is worth having.
            say(f"{name}: {str(error).splitlines()[0]}")
            found[name] = None

    for arithmetic in ("float32",) if is_quick else ("float32", "tf32", "bfloat16"):
        allow_tf32(arithmetic == "tf32")
        own = "bfloat16" if arithmetic == "bfloat16" else "float32"
        encoder = build(EncoderConfig(architecture, weights="random", arithmetic=own), device)
        dtype = torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
        plain = build(EncoderConfig(architecture, weights="random"), device).network.to(dtype)
        x = rgb.to(dtype)
        eager = plain.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        measured(f"{arithmetic} bare", lambda net=eager, x=x: net(x))
        last, x_last = plain.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        measured(f"{arithmetic} bare channels_last", lambda net=last, x=x_last: net(x))
        measured(f"{arithmetic} encoder", lambda net=encoder: net(rgb))
        if not is_quick:
            compiled = torch.compile(encoder, dynamic=False)
            measured(f"{arithmetic} encoder compiled", lambda net=compiled: net(rgb))
        with torch.inference_mode():
            basis = Basis.fit([encoder(rgb)], [null_map(rgb, *encoder(rgb).shape[2:])])
        columns, on_device = Columns(basis.num_components), basis.to(device)

        def whole(net: Encoder = encoder, columns: Columns = columns, basis: Basis = on_device) -> None:
            images = raw.to(device).float() / 255
            maps = net(images)
            stored = basis.project(maps, null_map(images, *maps.shape[2:])).cpu()
            empty = Statistics.empty(columns.total)
            empty.accumulate(columns.assemble(stored.to(device)), truth.to(device), valid.to(device))

        measured(f"{arithmetic} whole pass", whole)
    allow_tf32(False)
    return found


def tf32_effect(architecture: str, device: torch.device, side: int, num_images: int) -> dict[str, float]:
    """Return by how much features and the exact probe's losses move with TF32: it may be the default below 0.1 %."""
    encoder = build(EncoderConfig(architecture, weights="random"), device)
    rgb, truth, valid = drawn(num_images, side)
    made = []
    basis: Basis | None = None
    for is_allowed in (False, True):
        allow_tf32(is_allowed)
        with torch.inference_mode():
            maps = encoder(rgb.to(device))
            null = null_map(rgb.to(device), *maps.shape[2:])
        allow_tf32(False)
        basis = basis or Basis.fit([maps], [null], most=64)
        columns = Columns(basis.num_components)
        cells = columns.assemble(basis.to(device).project(maps, null))
        total = Statistics.empty(columns.total).accumulate(cells, truth.to(device), valid.to(device))
        folds = FoldedStatistics((total,), (total,)).subset(torch.tensor(columns.of_arm("probe")))
        made.append((maps, fit(folds, num_fixed=1, k=8, penalties=PENALTIES).solution.train_loss))
    (before, loss), (after, moved) = made
    return {"features": relative(after, before), "loss": abs(moved / loss - 1)}


def trials_as_one(device: torch.device, num_images: int, k: int, epochs: int, repeats: int) -> dict[str, float]:
    """Return the seconds of one trial of gradient descent, and of a hundred as one."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(num_images, 1 + k, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    columns[:, 0] = 1
    data = (columns, torch.rand(num_images, 1, 32, 32, generator=generator), torch.ones(num_images, 32, 32).bool())
    total = Statistics.empty(1 + k).accumulate(*data)
    images, folds = ImageGrams.of(*data).to(device), FoldedStatistics((total,), (total,))
    trials = [Trial(k=k, lr=1e-3 * 1.03**each, epochs=epochs, patience=epochs) for each in range(NUM_TRIALS)]
    return {
        f"{count} trials s": seconds(lambda some=trials[:count]: fit_by_gradient(images, folds, some), device, repeats)
        for count in (1, NUM_TRIALS)
    }


def rank(number: int, size: int, address: str, encoder: Encoder, side: int, results: Any) -> None:
    """Accumulate this rank's share of the images on its own GPU, or on the CPU, and add them up."""
    has_gpu = torch.cuda.device_count() >= size
    device = torch.device("cuda", number) if has_gpu else CPU
    backend = "nccl" if has_gpu else "gloo"
    torch.distributed.init_process_group(backend, init_method=address, rank=number, world_size=size)
    # Added up by the backend itself: `World` would do it on the CPU.
    total = statistics_of(encoder.to(device), device, side, World(number, size)).to(device)
    torch.distributed.all_reduce(total)
    if number == 0:
        results.put(total.cpu().numpy())
    torch.distributed.destroy_process_group()


def statistics_of(encoder: Encoder, device: torch.device, side: int, world: World) -> Tensor:
    """Return X'X of a rank's share of eight images on the first eight channels."""
    rgb, truth, valid = drawn(8, side)
    share = world.share(len(rgb), 1)
    part = slice(share.start, share.stop)
    with torch.inference_mode():
        maps = encoder(rgb[part].to(device))[:, :8]
    return Statistics.empty(8).accumulate(maps, truth[part].to(device), valid[part].to(device)).xtx


def two_ranks(encoder: Encoder, device: torch.device, side: int) -> float | None:
    """Return by how much the sums of two processes differ from one's; None where there are no two GPUs."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return None
    alone = statistics_of(encoder.to(device), device, side, World())
    results = get_context("spawn").SimpleQueue()
    address = f"tcp://127.0.0.1:{29500 + os.getpid() % 1000}"
    spawn(rank, (2, address, encoder.to(CPU), side, results), nprocs=2)
    return relative(torch.from_numpy(results.get()), alone)


def main() -> int:
    """Write the record; return 1 where something is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--architecture", default="timm:convnext_tiny")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--no-ranks", action="store_true", help="leave the two processes out")
    parser.add_argument("--quick", action="store_true", help="a few small images: for tests of this script")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        say("--device cuda: torch finds no GPU. Pass --device cpu to try the script.")
        return 2
    side, batch_size, repeats = (64, 2, 1) if given.quick else (256, given.batch_size, given.repeats)
    allow_tf32(False)
    encoder = build(EncoderConfig(given.architecture, weights="random"), CPU)
    start = time.perf_counter()
    say("the same as on the CPU")
    differences: dict[str, float | None] = {**equality(encoder, device, side, 8 if given.quick else 32)}
    differences["ranks"] = None if given.no_ranks else two_ranks(encoder, device, side)
    made = {
        "machine": record(),
        "architecture": given.architecture,
        "batch_size": batch_size,
        "image_side": side,
        "differences": differences,
        "limits": LIMITS,
        "tf32": tf32_effect(given.architecture, device, side, 8 if given.quick else 64),
        "images_per_s": throughput(device, given.architecture, batch_size, side, repeats, is_quick=given.quick),
        "descent": trials_as_one(device, *((16, 4, 2, 1) if given.quick else (1200, 64, 50, 5))),
        "seconds": time.perf_counter() - start,
    }
    beyond = {name: found for name, found in differences.items() if found is not None and not found <= LIMITS[name]}
    print(json.dumps(made, indent=1))
    for name, found in beyond.items():
        say(f"{name}: differs by {found:.2g}, more than {LIMITS[name]:g}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
