"""Pictures for quant_data.py: photographs and mosaics of them, rendered text, captchas, pages."""

from __future__ import annotations

import importlib.util
import pathlib
import random
import string
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

PHOTOGRAPHS = {
    "calib": (
        "skimage/data/astronaut.png",
        "skimage/data/coffee.png",
        "skimage/data/motorcycle_left.png",
        "ultralytics/assets/bus.jpg",
    ),
    "test": (
        "ultralytics/assets/zidane.jpg",
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "skimage/data/chelsea.png",
        "skimage/data/rocket.jpg",
    ),
}
"""Photographs that lie in packages; none calibrates and measures."""
PEOPLE = {"calib": (0, 3), "test": (0, 1)}
"""Which of them show people."""
LATIN, CJK = "matplotlib/mpl-data/fonts/ttf", "mplfonts/fonts"
FONTS = {
    "calib": (
        f"{LATIN}/DejaVuSans.ttf",
        f"{CJK}/NotoSansCJKsc-Regular.otf",
        f"{LATIN}/DejaVuSerif-Bold.ttf",
        f"{CJK}/SimHei.ttf",
    ),
    "test": (
        f"{LATIN}/DejaVuSans-Oblique.ttf",
        f"{CJK}/NotoSerifCJKsc-Regular.otf",
        f"{LATIN}/DejaVuSerif.ttf",
        f"{CJK}/SourceHanSerifSC-Regular.otf",
    ),
}
"""Fonts; every other one writes Chinese, too."""
CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分"
    "对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经"
)
"""Frequent characters."""


def inside(path: str) -> pathlib.Path:
    """Return the path of a file given by package and place in it; the package is not imported."""
    package, _, place = path.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"no package {package!r} here: make bench-quant sets up what this needs")
    return pathlib.Path(spec.submodule_search_locations[0]) / place


def photographs(part: str, *, people: bool = False) -> list[Image.Image]:
    images = [Image.open(inside(each)).convert("RGB") for each in PHOTOGRAPHS[part]]
    return [images[at] for at in PEOPLE[part]] if people else images


def crops(
    images: Sequence[Image.Image], size: tuple[int, int], count: int, generator: np.random.Generator, least: float = 0.4
) -> Iterator[Image.Image]:
    """Yield pieces of photographs at random, of at least the share `least` of an edge, mirrored, brighter or darker."""
    for index in range(count):
        image = images[index % len(images)]
        share = generator.uniform(least, 1.0)
        width = share * min(image.width, image.height * size[0] / size[1])
        height = width * size[1] / size[0]
        left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
        piece = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        if generator.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        lit = np.asarray(piece, np.float32) * generator.uniform(0.7, 1.2, 3)
        lit += generator.normal(0, 2, (size[1], size[0], 1))
        yield Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def mosaics(tiles: Pixels, edge: int, count: int) -> Pixels:
    """Return images made of pictures of 32 x 32 at their own size, shape [count, edge, edge, 3]."""
    side = edge // 32
    chosen = tiles[: count * side * side].reshape(count, side, side, 32, 32, 3)
    return chosen.transpose(0, 1, 3, 2, 4, 5).reshape(count, edge, edge, 3)


def words(generator: np.random.Generator, *, chinese: bool) -> str:
    """Return a line as prints and forms have it: words, numbers, codes, or Chinese."""
    kind = generator.integers(0, 4)
    letters = np.array(list(string.ascii_lowercase + "eeeaaoottninsrh"))
    if chinese and kind < 2:
        return "".join(generator.choice(list(CHINESE), generator.integers(4, 12)))
    if kind == 3:
        signs = list(string.digits + string.ascii_uppercase + "-./:")
        return "".join(generator.choice(signs, generator.integers(6, 16)))
    parts = ["".join(generator.choice(letters, generator.integers(2, 9))) for _ in range(generator.integers(1, 4))]
    return " ".join(part.capitalize() if generator.random() < 0.3 else part for part in parts)


def line(part: str, generator: np.random.Generator) -> Image.Image:
    """Return a line of text as a text detector cuts it out: tight, on plain or photographed ground."""
    chosen = FONTS[part][int(generator.integers(0, len(FONTS[part])))]
    font = ImageFont.truetype(str(inside(chosen)), int(generator.integers(22, 44)))
    text = words(generator, chinese=chosen.startswith(CJK))
    left, top, right, bottom = font.getbbox(text)
    size = (int(right - left) + 12, int(bottom - top) + 10)
    dark = generator.random() < 0.7
    ground = tuple(int(each) for each in generator.integers(170, 256, 3))
    ink = tuple(int(each) for each in generator.integers(0, 90, 3))
    if not dark:
        ground, ink = ink, ground
    image = Image.new("RGB", size, ground)
    if generator.random() < 0.3:
        piece = next(crops(photographs(part), size, 1, generator))
        image = Image.blend(image, piece, 0.35)
    ImageDraw.Draw(image).text((6 - left, 5 - top), text, fill=ink, font=font)
    return _scanned(image, generator)


def page(part: str, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Return a page, poster or photograph with lines of text at random places."""
    if generator.random() < 0.5:
        image = next(crops(photographs(part), size, 1, generator))
    else:
        image = Image.new("RGB", size, tuple(int(each) for each in generator.integers(200, 256, 3)))
    top = 8
    while top < size[1] - 50:
        piece = line(part, generator)
        scale = generator.uniform(0.5, 1.3)
        piece = piece.resize((max(8, int(piece.width * scale)), max(8, int(piece.height * scale))))
        if piece.width < size[0] - 16:
            piece = piece.rotate(generator.normal(0, 2), expand=True, fillcolor=piece.getpixel((0, 0)))
            image.paste(piece, (int(generator.integers(4, size[0] - piece.width)), top))
        top += piece.height + int(generator.integers(4, 60))
    return _scanned(image, generator)


def _scanned(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    if generator.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.2)))
    noisy = np.asarray(image, np.float32) + generator.normal(0, generator.uniform(0, 6), np.asarray(image).shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


class _Drawn:
    """What the module ``secrets`` offers to captcha, from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.choice, self.randbits = self._random.choice, self._random.getrandbits
        self.randbelow = self._random.randrange


def captchas(part: str, count: int, seed: int, sizes: Sequence[tuple[int, int]]) -> Iterator[Image.Image]:
    """Yield captchas of four to six letters and digits."""
    import captcha.image

    drawn: Any = _Drawn(seed)
    captcha.image.secrets = drawn
    generator = np.random.default_rng(seed)
    fonts = [str(inside(each)) for each in FONTS[part][0::2]] + [str(inside("captcha/data/DroidSansMono.ttf"))]
    for _ in range(count):
        width, height = sizes[int(generator.integers(0, len(sizes)))]
        font = fonts[int(generator.integers(0, len(fonts)))]
        heights = tuple(int(height * share) for share in (0.7, 0.83, 0.93))
        maker = captcha.image.ImageCaptcha(width, height, [font], heights)
        text = generator.choice(list(string.ascii_uppercase + string.digits), generator.integers(4, 7))
        yield maker.generate_image("".join(text))


def click_captcha(part: str, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """Return a photograph with turned characters on it, to be clicked in order: what such detectors are for."""
    image = next(crops(photographs(part), size, 1, generator))
    taken: list[tuple[int, int]] = []
    for _ in range(int(generator.integers(3, 7))):
        chosen = FONTS[part][1 + 2 * int(generator.integers(0, 2))]
        font = ImageFont.truetype(str(inside(chosen)), int(size[1] * generator.uniform(0.2, 0.32)))
        character = str(generator.choice(list(CHINESE if generator.random() < 0.7 else string.ascii_uppercase)))
        _, _, width, height = (int(each) for each in font.getbbox(character))
        glyph = Image.new("RGBA", (width + 12, height + 12))
        ink = tuple(int(each) for each in generator.integers(0, 256, 3))
        edge = tuple(255 - each for each in ink)
        ImageDraw.Draw(glyph).text((6, 6), character, fill=ink, font=font, stroke_width=2, stroke_fill=edge)
        glyph = glyph.rotate(generator.uniform(-45, 45), Image.Resampling.BILINEAR, expand=True)
        room = size[0] - glyph.width, max(1, size[1] - glyph.height)
        at = int(generator.integers(0, room[0])), int(generator.integers(0, room[1]))
        if all(abs(at[0] - x) > glyph.width or abs(at[1] - y) > glyph.height for x, y in taken):
            image.paste(glyph, at, glyph)
            taken.append(at)
    return image


def letterbox(image: Image.Image, edge: int, ground: int = 114) -> Floats:
    """Return an image in the upper left of a square, proportions kept, BGR from 0 to 255, shape [3, edge, edge]."""
    ratio = min(edge / image.width, edge / image.height)
    size = (int(image.width * ratio), int(image.height * ratio))
    square = Image.new("RGB", (edge, edge), (ground,) * 3)
    square.paste(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), (0, 0))
    return np.ascontiguousarray(np.asarray(square, np.float32)[:, :, ::-1].transpose(2, 0, 1))


def strip(image: Image.Image, height: int, width: int) -> Floats:
    """Return a line as PP-OCR takes it: of that height, BGR from -1 to 1, zeros on its right, [3, height, width].

    Source: rapidocr-onnxruntime 1.4.4, ``resize_norm_img`` of text_recognize.py and text_cls.py.
    """
    wide = min(width, -(-height * image.width // image.height))
    pixels = np.asarray(image.resize((wide, height), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1]
    padded = np.zeros((3, height, width), np.float32)
    padded[:, :, :wide] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return padded
