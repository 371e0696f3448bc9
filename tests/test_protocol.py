"""Protocols: digests that do not move, presets that are what they are called, contradictions refused."""

from dataclasses import replace

import pytest

from idl.errors import InputError
from idl.protocol import PRESETS, Protocol, preset

# What stores, caches and champions were made under before there were native protocols.
DIGESTS = {
    "48e6674713e62ea4": Protocol(),
    "70d940f8519f3b2f": Protocol(resolution=64),
    "807b666aa23949cc": Protocol(alignment="median"),
    "b90473fd2fbc3e2f": Protocol(crop=(45, 471, 41, 601)),
}
OLD_JSON = (
    '{"alignment":"none","crop":null,"mask":"sensor","max_depth_m":10.0,"min_depth_m":0.001,'
    '"min_valid_share":0.5,"name":"idl","resolution":256}'
)
NATIVE = preset("nyu-eigen")


@pytest.mark.parametrize("digest", DIGESTS)
def test_digests_are_those_of_earlier_versions(digest: str) -> None:
    assert DIGESTS[digest].digest == digest


def test_json_of_earlier_versions_is_read() -> None:
    assert Protocol.from_json(OLD_JSON) == Protocol()
    assert Protocol.from_json(OLD_JSON.replace("256", "64")).size == (64, 64)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 400},
        {"erosion": 1},
        {"native_size": None},
        {"native_crop": None},
        {"native_crop": (0, 471, 41, 601)},
        {"mask": "inpainted"},
        {"max_depth_m": 9.0},
    ],
)
def test_whatever_changes_a_figure_changes_the_digest(change: dict[str, object]) -> None:
    changed = replace(NATIVE, **change)  # pyright: ignore[reportArgumentType]
    assert changed.digest != NATIVE.digest
    assert Protocol.from_json(changed.to_json()) == changed


def test_presets_are_measured_on_the_sensor_s_own_depth_as_it_was_predicted() -> None:
    """Their frames, crops and ranges are held to what was published in test_native.py."""
    assert {(each.mask, each.alignment) for each in PRESETS.values()} == {("sensor", "none")}
    assert PRESETS["idl"] == Protocol()


def test_what_contradicts_itself_is_refused() -> None:
    assert preset("nyu-eigen", max_depth_m=5.0) == replace(NATIVE, max_depth_m=5.0)
    for bad in (
        lambda: preset("nyu-eigen", 12.0),
        lambda: Protocol(is_native=True, crop=(0, 1, 0, 1)),
        lambda: Protocol(native_crop=(0, 1, 0, 1)),
    ):
        with pytest.raises(InputError):
            bad()


@pytest.mark.parametrize(
    ("protocol", "frame", "message"),
    [
        (NATIVE, (768, 1024), "about frames of 480 x 640"),
        (replace(NATIVE, native_size=None), (480, 600), "and that shape"),
        (replace(NATIVE, native_size=None), (144, 192), "at least 288 x 384"),
        (replace(NATIVE, native_size=None), (432, 576), r"measures rows 45:471 and columns 41:601"),
    ],
)
def test_a_frame_that_does_not_fit_is_named(protocol: Protocol, frame: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=f"^image 3: .*{message}"):
        protocol.require_frame(*frame, where="image 3")
