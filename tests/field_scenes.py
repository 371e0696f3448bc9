"""RGB-D pairs that the figures of the field's cases are of."""

import numpy as np


def scene(number: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB and depth in metres: a tilted floor with five boxes, warm where near."""
    near, far = 1.0, 4.0
    generator = np.random.default_rng(number)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    depth = far - (far - near) * (0.85 * y / height + 0.15 * x / width * generator.uniform(0, 1))
    waves = (
        120 + 40 * np.sin(x / width * 6 + number),
        100 + 60 * y / height,
        80 + 30 * np.cos(y / height * 5 + number),
    )
    rgb = np.stack(waves, -1)
    for _ in range(5):
        centre_y, centre_x = generator.uniform(0.1, 0.9) * height, generator.uniform(0.1, 0.9) * width
        size = generator.uniform(0.08, 0.2) * height
        box = (abs(y - centre_y) < size) & (abs(x - centre_x) < size)
        z = generator.uniform(near, far)
        depth[box] = np.minimum(depth[box], z)
        share = (z - near) / (far - near)
        rgb[box] = np.array([255 * (1 - share), generator.uniform(50, 200), 255 * share])
    return (rgb + generator.normal(0, 4, rgb.shape)).clip(0, 255).astype(np.uint8), depth.astype(np.float32)
