"""shapes10: a small data set drawn by code, for runs that must not wait for a download.

32x32 RGB images of ten shapes at random places, sizes and angles. The shape alone decides the class. Colour
and texture only hint at it (every class has a favourite of each, used in a share of its images); small shapes
lie about, a bar may cover part of the shape, and the image is noisy. Some classes resemble each other on
purpose (a disc under a small shape looks like a ring, a hexagon almost like a disc), so that a network's
second guess carries information.

All arithmetic is IEEE add, multiply, divide, square root and comparison on the raw bits of numpy's PCG64,
whose stream is fixed: the same seed gives the same bytes on every machine.
"""

import numpy as np

from .errors import DataError

CLASSES = ("disc", "ring", "crescent", "hexagon", "square", "diamond", "triangle", "cross", "star", "heart")
SIZE = 32  # pixels
CHUNK = 500  # images drawn at once; each chunk has its own generator, so fewer images are a prefix of more
TEXTURES = 4  # plain, gradient, stripes, checks

_F = np.float32
# cosine and sine of whole degrees on a grid of 1/4096: no last digits, in which math libraries differ
_COS, _SIN = (np.round(f(np.radians(np.arange(360))) * 4096).astype(_F) / _F(4096) for f in (np.cos, np.sin))


def make_shapes10(
    n_train: int = 10_000,
    n_test: int = 2_000,
    seed: int = 0,
    *,
    clutter: int = 2,
    occlusion: float = 0.3,
    noise: float = 0.2,
    contrast: float = 0.35,
    hint: float = 0.3,
    turn: int = 30,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the data set -> train images, train labels, test images, test labels.

    Images are uint8 (N, 32, 32, 3), labels uint8 (N,). The last six settings are how hard it is. Classes are balanced within
    every 500 images.

    Args:
        n_train: images to learn from.
        n_test: images to be measured on.
        seed: of all that is drawn.
        clutter: largest number of small shapes lying about.
        occlusion: share of images in which a bar covers part of the shape.
        noise: strongest noise of a pixel, as a share of the full range; images differ in strength.
        contrast: smallest difference in brightness between shape and ground, as a share of the full range.
        hint: share of images in which colour and texture are the favourite ones of the class.
        turn: largest angle in whole degrees by which a shape is turned to either side.

    Raises:
        DataError: a setting outside its range.
    """
    limits = {
        "n_train": (n_train, 1, 10**7),
        "n_test": (n_test, 1, 10**7),
        "seed": (seed, 0, 2**63),
        "clutter": (clutter, 0, 20),
        "occlusion": (occlusion, 0, 1),
        "noise": (noise, 0, 1),
        "contrast": (contrast, 0, 0.5),
        "hint": (hint, 0, 1),
        "turn": (turn, 0, 180),
    }
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise DataError(f"shapes10 {name}={value!r}: expected {low} to {high}")
    arrays = []
    for split, n in enumerate((n_train, n_test)):
        chunks = [
            _draw(np.random.PCG64([seed, split, chunk]), clutter, occlusion, noise, contrast, hint, turn)
            for chunk in range(-(-n // CHUNK))
        ]
        arrays += [np.concatenate(parts)[:n] for parts in zip(*chunks, strict=True)]
    return tuple(arrays)


def _draw(
    bits: np.random.PCG64,
    clutter: int,
    occlusion: float,
    noise: float,
    contrast: float,
    hint: float,
    turn: int,
) -> tuple[np.ndarray, np.ndarray]:
    """One chunk: images uint8 (CHUNK, 32, 32, 3) and labels uint8 (CHUNK,)."""

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        raw = bits.random_raw((CHUNK, *shape) if shape else (CHUNK, 1)) >> np.uint64(40)
        return raw.astype(_F) * _F((high - low) / 2**24) + _F(low)

    def whole(n: int, *shape: int) -> np.ndarray:
        return (uniform(0, 1, *shape) * n).astype(np.int64).clip(0, n - 1)

    labels = np.argsort(bits.random_raw(CHUNK), kind="stable") % len(CLASSES)
    hinted = uniform(0, 1)[:, 0] < hint

    # brightness of ground and shape keep their distance, on either side; hue and saturation are free
    gap = uniform(contrast, contrast + 0.35)
    ground_light = uniform(0.15, 0.85)
    lighter = ((uniform(0, 1) < 0.5) & (ground_light + gap < 0.95)) | (ground_light - gap < 0.05)
    shape_light = (ground_light + np.where(lighter, gap, -gap)).clip(0.05, 0.95)
    favourite = (labels * 3 % 10).astype(_F)[:, None] / _F(10)
    hue = np.where(hinted[:, None], favourite + uniform(-0.06, 0.06), uniform(0, 1))
    kind = np.where(hinted, labels % TEXTURES, whole(TEXTURES)[:, 0])
    shape_colour = _colour(hue, uniform(0.3, 0.9), shape_light)
    ground_colour = _colour(uniform(0, 1), uniform(0, 0.8), ground_light)

    x, y = _pixels()
    ground = _texture(x, y, whole(TEXTURES)[:, 0], uniform(6, 14), whole(360))
    image = _paint(ground_colour, ground, uniform(0, 0.5))

    # the shape
    radius = uniform(6.5, 11.5)
    centre = uniform(-1, 1, 2) * (_F(15) - radius * _F(0.9))
    u, v = _turn(x - centre[:, :1], y - centre[:, 1:], (whole(2 * turn + 1) - turn) % 360)
    squeeze = uniform(0.8, 1)
    distance = _distance(u / radius, v / (radius * squeeze), labels) * radius * squeeze
    pattern = _texture(u, v, kind, uniform(3.5, 7), whole(4) * 45)
    _cover(image, distance, _paint(shape_colour, pattern, uniform(0.2, 0.6)))

    # clutter: small discs and bars, some of them on the shape
    shown = whole(clutter + 1)
    for i in range(clutter):
        place = uniform(-16, 16, 2)
        u, v = _turn(x - place[:, :1], y - place[:, 1:], whole(360))
        small, flat = uniform(1, 3.2), np.where(whole(2) == 0, _F(1), uniform(0.25, 0.6))
        box = np.maximum(np.abs(u) - small, np.abs(v) - small * flat)
        round_ = np.sqrt(u * u + v * v) - small
        distance = np.where(whole(2) == 0, box, round_) + np.where(shown > i, _F(0), _F(99))
        _cover(image, distance, _colour(uniform(0, 1), uniform(0.2, 0.9), uniform(0.1, 0.9))[:, :, None])

    # occlusion: a bar across the image, close to the middle of the shape
    u, _ = _turn(x - centre[:, :1], y - centre[:, 1:], whole(360))
    distance = np.abs(u - uniform(-0.9, 0.9) * radius) - uniform(0.12, 0.35) * radius
    distance += np.where(uniform(0, 1) < occlusion, _F(0), _F(99))
    _cover(image, distance, _colour(uniform(0, 1), uniform(0, 0.8), uniform(0.1, 0.9))[:, :, None])

    # noise: the sum of two uniform bytes, a triangle around 0
    grain = bits.random_raw(CHUNK * 3 * SIZE * SIZE // 4).astype("<u8").view(np.uint8)
    grain = grain.reshape(CHUNK, 3, -1, 2)
    grain = (grain[..., 0].astype(_F) + grain[..., 1].astype(_F)) * _F(1 / 255) - _F(1)
    image += grain * (uniform(0.2, 1) * _F(noise))[:, :, None]
    pixels = (image.clip(0, 1) * _F(255) + _F(0.5)).astype(np.uint8)
    return pixels.reshape(CHUNK, 3, SIZE, SIZE).transpose(0, 2, 3, 1), labels.astype(np.uint8)


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixel centres, (1, 1024) each, in pixels from the middle of the image."""
    side = np.arange(SIZE, dtype=_F) - _F(SIZE / 2 - 0.5)
    return np.tile(side, SIZE)[None], np.repeat(side, SIZE)[None]


def _turn(x: np.ndarray, y: np.ndarray, degrees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    cos, sin = _COS[degrees], _SIN[degrees]
    return x * cos + y * sin, y * cos - x * sin


def _cover(image: np.ndarray, distance: np.ndarray, paint: np.ndarray) -> None:
    """Paint where the distance (pixels, negative inside) says so, with a soft edge one pixel wide."""
    image += (_F(0.5) - distance).clip(0, 1)[:, None] * (paint - image)


def _colour(hue: np.ndarray, saturation: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Hue in turns, saturation and lightness 0..1, all (B, 1) -> RGB (B, 3)."""
    turn = (hue + np.array([0, 2 / 3, 1 / 3], _F)) % _F(1) * _F(6)
    pure = (np.abs(turn - _F(3)) - _F(1)).clip(0, 1)
    return light + saturation * (_F(1) - np.abs(_F(2) * light - _F(1))) * (pure - _F(0.5))


def _paint(colour: np.ndarray, texture: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Colour (B, 3), darker where the texture (B, 1024) is high -> (B, 3, 1024)."""
    return colour[:, :, None] * (_F(1) - strength * texture)[:, None]


def _texture(
    x: np.ndarray, y: np.ndarray, kind: np.ndarray, period: np.ndarray, degrees: np.ndarray
) -> np.ndarray:
    """Pattern 0..1 at (B, 1024) positions in pixels; kind (B,): 0 plain, 1 gradient, 2 stripes, 3 checks."""
    u, v = _turn(x, y, degrees)
    gradient = (u * _F(1 / 24) + _F(0.5)).clip(0, 1)
    waves = [(np.abs((w / period) % _F(1) - _F(0.5)) - _F(0.25)) * period for w in (u, v)]
    wave_u, wave_v = (wave.clip(-0.5, 0.5) for wave in waves)  # borders one pixel wide
    stripes, checks = wave_u + _F(0.5), _F(2) * wave_u * wave_v + _F(0.5)
    return np.select([(kind == k)[:, None] for k in (1, 2, 3)], [gradient, stripes, checks], _F(0))


def _distance(x: np.ndarray, y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """About the signed distance to each image's shape, of radius 1 around the origin; negative inside."""
    out = np.empty_like(x)
    for label, name in enumerate(CLASSES):
        mine = labels == label
        out[mine] = _SHAPES[name](x[mine], y[mine])
    return out


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def _polygon(*corners: tuple[float, float]):
    """Distance to a polygon: nearest edge, sign by crossings (Inigo Quilez, "2D distance functions")."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest, sign = np.full_like(x, 99), np.ones_like(x)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
            ex, ey, wx, wy = _F(ax - bx), _F(ay - by), x - _F(bx), y - _F(by)
            along = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clip(0, 1)
            dx, dy = wx - ex * along, wy - ey * along
            nearest = np.minimum(nearest, dx * dx + dy * dy)
            above, below, left = y >= _F(by), y < _F(ay), ex * wy > ey * wx
            sign = np.where((above & below & left) | ~(above | below | left), -sign, sign)
        return sign * np.sqrt(nearest)

    return distance


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - _F(1), y - _F(0.36)), np.maximum(x - _F(0.36), y - _F(1)))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its tip and two half discs on its upper sides."""
    x, y = np.abs(x), y + _F(0.1)
    tip = x + np.abs(y) - _F(0.8)
    return np.minimum(tip * _F(0.70710678), _length(x - _F(0.4), y + _F(0.4)) - _F(0.5657))


def _ngon(corners: int, inner: float | None = None) -> list[tuple[float, float]]:
    """Corners of a regular polygon, or of a star whose inner corners are at radius `inner`."""
    step = 360 // corners if inner is None else 180 // corners
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(360 // step)]
    return [(float(_SIN[i * step]) * r, -float(_COS[i * step]) * r) for i, r in enumerate(radii)]


_SHAPES = {
    "disc": lambda x, y: _length(x, y) - _F(0.9),
    "ring": lambda x, y: np.abs(_length(x, y) - _F(0.68)) - _F(0.26),
    "crescent": lambda x, y: np.maximum(_length(x, y) - _F(0.95), _F(0.75) - _length(x - _F(0.5), y)),
    "hexagon": _polygon(*_ngon(6)),
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - _F(0.78),
    "diamond": _polygon((0, -1), (0.62, 0), (0, 1), (-0.62, 0)),
    "triangle": _polygon(*_ngon(3)),
    "cross": _cross,
    "star": _polygon(*_ngon(5, 0.45)),
    "heart": _heart,
}
