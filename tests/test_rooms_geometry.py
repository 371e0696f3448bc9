"""The truth of the rooms dataset, against routes that share nothing with the renderer's."""

import numpy as np
import pytest
import trimesh

from idl.data.reader import Sample
from idl.data.rooms import KINDS, RoomsRecipe, render_scene
from idl.data.rooms.furniture import ball, piece, solid
from idl.data.rooms.geometry import CLEARANCE_M, Camera, Geometry, draw_camera, look_at
from idl.data.rooms.layout import Placed, Room, draw_room
from idl.data.rooms.render import Lights, draw_lights, render_view
from idl.data.rooms.surfaces import draw_surface

SIDE = 40
Rendered = tuple[Room, Geometry, Camera, Sample]


def taken(geometry: Geometry, lights: Lights, camera: Camera, resolution: int) -> Sample:
    return Sample("image", "scene", **render_view(geometry, lights, camera, resolution, 0.3))


@pytest.fixture(scope="module", params=range(4))
def rendered(request: pytest.FixtureRequest) -> Rendered:
    rng = np.random.default_rng(request.param)
    room = draw_room(rng)
    geometry = Geometry(room)
    camera = draw_camera(rng, geometry, room.size_m, 0.7, np.empty((0, 3)))
    lights = draw_lights(rng, geometry, room.size_m)
    return room, geometry, camera, taken(geometry, lights, camera, SIDE)


def pixel_rays(camera: Camera) -> np.ndarray:
    """World directions with a part of 1 along the axis, by the pinhole model written out pixel by pixel."""
    middles = [(2 * (pixel + 0.5) / SIDE - 1) * camera.tan_half_view for pixel in range(SIDE)]
    return np.array([[camera.axes.T @ (x, y, 1.0) for x in middles] for y in middles])


def test_depth_equals_a_brute_force_ray_caster(rendered: Rendered):
    """Every triangle against every ray, by Moeller and Trumbore (1997) in float64: no tree, no float32."""
    _, geometry, camera, sample = rendered
    rays = pixel_rays(camera)[::3, ::3].reshape(-1, 3)
    corner = geometry.corners[:, 0]
    first, second = geometry.corners[:, 1] - corner, geometry.corners[:, 2] - corner
    away = camera.position_m - corner
    across = np.cross(away, first)
    expected = []
    for ray in rays:
        p = np.cross(ray, second)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 1 / np.einsum("ti,ti->t", first, p)
            u = np.einsum("ti,ti->t", away, p) * scale
            v = across @ ray * scale
            z = np.einsum("ti,ti->t", second, across) * scale
        expected.append(z[(u >= 0) & (v >= 0) & (u + v <= 1) & (z > 0)].min())
    found = sample.depth_m[::3, ::3].ravel()
    # A ray within 1e-7 of an outline may pass it on either side; all others agree to the last bit of float32.
    np.testing.assert_allclose(np.sort(np.abs(found / expected - 1))[:-2], 0.0, atol=2e-7)


def test_back_projected_walls_lie_on_the_rooms_planes(rendered: Rendered):
    room, _, camera, sample = rendered
    points = camera.position_m + sample.depth_m[..., None].astype(float) * pixel_rays(camera)
    planes = [(2, 0.0), (1, 0.0), (0, room.size_m[0]), (1, room.size_m[1]), (0, 0.0), (2, room.size_m[2])]
    seen = 0
    for number, (axis, value) in enumerate(planes, start=1):
        on = sample.layers["objects"] == number
        # 3e-6: float32 rounds a coordinate of 6.5 m, and a depth of 8 m, by up to 5e-7 m.
        np.testing.assert_allclose(points[on][:, axis], value, atol=3e-6)
        seen += on.sum()
    assert seen > 0
    inside = (points > -1e-5) & (points < np.array(room.size_m) + 1e-5)
    assert inside.all()


def test_normals_are_unit_face_the_camera_and_belong_to_the_depth(rendered: Rendered):
    _, _, camera, sample = rendered
    normals = sample.layers["normals"].astype(float)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=2e-3)  # float16: 1 part in 2048
    in_camera = sample.depth_m[..., None] * (pixel_rays(camera) @ camera.axes.T)
    toward = np.einsum("hwi,hwi->hw", normals, in_camera)
    assert (toward < 2e-3 * sample.depth_m).all()
    # On a wall, the plane equation n . P is the same number at all its pixels.
    for number in range(1, 7):
        on = sample.layers["objects"] == number
        if on.sum() > 10:
            assert np.ptp(toward[on]) < 4e-3 * sample.depth_m[on].max()


def bare_room(furniture: tuple[Placed, ...] = ()) -> Room:
    rng = np.random.default_rng(5)
    surfaces = tuple(draw_surface(rng) for _ in range(6))
    return Room((4.0, 5.0, 2.5), furniture, surfaces, tuple((surfaces[0],) for _ in furniture))


def render(room: Room, camera: Camera, resolution: int) -> Sample:
    geometry = Geometry(room)
    return taken(geometry, draw_lights(np.random.default_rng(0), geometry, room.size_m), camera, resolution)


def test_a_ball_on_the_axis_has_the_size_and_depth_that_analysis_gives_it():
    """Diameter 0.6 m, 2 m away: depth 1.7 m in the middle, outline of radius r / sqrt(d^2 - r^2) at z = 1."""
    ball_here = Placed(piece("ball", [ball(0.6)]), (2.0, 3.0, 0.0), 0.0)
    camera = look_at(np.array([2.0, 1.0, 0.3]), np.array([2.0, 3.0, 0.3]), 0.0, 0.4)
    sample = render(bare_room((ball_here,)), camera, 201)
    # A facet of a ball of 1280 lies at most 0.6 % of the radius, 2 mm, inside it.
    assert 1.7 <= sample.depth_m[100, 100] + 1e-6 < 1.702
    share = (sample.layers["objects"] == 7).mean()
    radius = 0.3 / np.sqrt(2.0**2 - 0.3**2)
    assert share == pytest.approx(np.pi * radius**2 / 0.8**2, rel=0.015)
    assert set(sample.layers["kinds"][sample.layers["objects"] == 7].tolist()) == {KINDS.index("ball")}


def test_shadows_fall_where_a_lamp_is_hidden():
    """With one white lamp over a white floor and no ambient light, only the drum's shadow is black."""
    drum = Placed(piece("cylinder", [solid("cylinder", (0.6, 0.6, 0.8), detail=64)]), (2.0, 2.5, 0.0), 0.0)
    geometry = Geometry(bare_room((drum,)))
    lamp = np.array([[1.0, 2.5, 2.0]])
    lights = Lights(np.zeros(3), np.zeros(3), lamp, np.ones((1, 3)))
    x = np.linspace(0.1, 3.9, 77)
    points = np.stack([x, np.full_like(x, 2.5), np.full_like(x, 1e-3)]).astype(np.float32)
    facing, floor = geometry.normals, np.zeros(len(x), np.intp)
    light = lights.irradiance(geometry, facing, floor, points)[0]
    # The rim at x = 2.3, 0.8 m high, throws its shadow to x = 1 + 1.3 * 2 / 1.2.
    dark = (x > 1.7) & (x < 1 + 1.3 * 2 / 1.2)
    near = np.min(np.abs(x[:, None] - (1.7, 1 + 1.3 * 2 / 1.2)), axis=1) < 0.01
    assert (light[dark & ~near] == 0).all()
    cosine = 2.0 / np.hypot(x - 1.0, 2.0)
    np.testing.assert_allclose(light[~dark & ~near], cosine[~dark & ~near], rtol=2e-3)


def test_furniture_stands_on_something_and_in_nothing_else():
    """Bounding boxes of floor-standing pieces are apart; each thing above them stands on a level top."""
    for seed in range(60):
        room = draw_room(np.random.default_rng(seed))
        size = np.array(room.size_m)
        bounds = np.stack([placed.bounds for placed in room.furniture])
        assert (bounds[:, 0] > -1e-9).all()
        assert (bounds[:, 1] < size + 1e-9).all()
        standing = [p for p in room.furniture if p.position_m[2] == 0 and p.piece.kind not in ("rug", "door")]
        for i, one in enumerate(standing):
            for other in standing[:i]:
                low, high = np.maximum(one.bounds[0], other.bounds[0]), np.minimum(one.bounds[1], other.bounds[1])
                assert (low > high).any()
        tops = [p.piece.top_m for p in standing if p.piece.top_m is not None]
        for placed in room.furniture:
            hangs = placed.piece.kind in ("picture", "window") or placed.bounds[1, 2] > size[2] - 1e-6
            if placed.position_m[2] > 0 and not hangs:
                assert np.min(np.abs(np.array(tops) - placed.position_m[2])) < 1e-9


def test_cameras_keep_clear_of_every_triangle(rendered: Rendered):
    _, geometry, camera, _ = rendered
    position = np.broadcast_to(camera.position_m, (len(geometry.corners), 3))
    nearest = trimesh.triangles.closest_point(geometry.corners, position)
    # The shell, too; 1e-6 for float32 corners.
    assert np.linalg.norm(nearest - position, axis=1).min() > CLEARANCE_M - 1e-6


def test_brightness_says_next_to_nothing_of_depth():
    """Brightness explains less than a hundredth of log depth's variance: |mean correlation| < 0.1.

    Scenes are independent, so the mean of their correlations has the standard error std / sqrt(scenes), about 0.024
    here; that of fog, -0.6 and more, would lie twenty of these outside.
    """
    found = []
    for scene in range(100):
        samples = render_scene(RoomsRecipe(views=2, resolution=24, seed=11), scene)
        depth = np.log(np.stack([sample.depth_m for sample in samples]).ravel())
        rgb = np.stack([sample.rgb for sample in samples]).reshape(-1, 3) / 255
        found.append([np.corrcoef(column, depth)[0, 1] for column in (*rgb.T, rgb.mean(1))])
    assert (np.abs(np.mean(found, 0)) < 0.1).all()
