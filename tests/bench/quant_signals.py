"""Signals for quant_data.py: speech among noise, music, brain waves, bytes of files, tokens of texts."""

from __future__ import annotations

import pathlib
import sys
import wave
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.signal
from quant_pictures import inside

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
SPOKEN = {"calib": "0123456789ABCDEFGH", "test": "IJKLMNOPQRSTUVWXYZ"}
"""Letters and digits whose recordings lie in `captcha`."""


def spoken(letter: str) -> Floats:
    """Return a recorded letter or digit at 16 kHz."""
    with wave.open(str(inside(f"captcha/data/{letter}/default.wav"))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.uint8)
    return scipy.signal.resample_poly((samples.astype(np.float32) - 128) / 128, 2, 1).astype(np.float32)


def pink(count: int, generator: np.random.Generator, slope: float = 1.0) -> Floats:
    """Return noise whose power falls with frequency to the power of `slope`, of deviation 1."""
    spectrum = scipy.fft.rfft(generator.normal(size=count))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-slope / 2)
    noise = scipy.fft.irfft(spectrum, count)
    return (noise / noise.std()).astype(np.float32)


def speech(part: str, seconds: float, generator: np.random.Generator) -> Floats:
    """Return letters said one after the other with pauses, among noise, at 16 kHz."""
    count = int(seconds * 16_000)
    sound = pink(count, generator) * 10 ** generator.uniform(-4, -1.7)
    at = int(generator.integers(0, 16_000))
    while at < count:
        letter = spoken(generator.choice(list(SPOKEN[part])))
        pace = generator.integers(85, 116)
        letter = scipy.signal.resample_poly(letter, 100, pace)[: count - at] * generator.uniform(0.2, 1.0)
        sound[at : at + len(letter)] += letter
        at += len(letter) + int(generator.exponential(6_000))
    return sound.clip(-1, 1).astype(np.float32)


def frames(sound: Floats) -> Floats:
    """Return frames of 512 samples, each after the last 64 of the frame before, shape [frames, 576]."""
    whole = sound[: len(sound) // 512 * 512].reshape(-1, 512)
    before = np.concatenate([np.zeros((1, 64), np.float32), whole[:-1, -64:]])
    return np.concatenate([before, whole], axis=1)


def music(seconds: float, rate: int, generator: np.random.Generator) -> Floats:
    """Return chords and melodies of plucked and bowed tones with overtones, and a little noise."""
    count = int(seconds * rate)
    sound = pink(count, generator) * 10 ** generator.uniform(-4, -2.3)
    brightness = generator.uniform(0.8, 2.5)
    for _ in range(int(generator.integers(3, 14))):
        start, length = int(generator.integers(0, count)), int(generator.uniform(0.1, 1.2) * rate)
        time = np.arange(min(length, count - start)) / rate
        pitch = 440 * 2 ** ((generator.integers(36, 90) - 69) / 12)
        vibrato = 1 + generator.choice([0, 0.004]) * np.sin(2 * np.pi * 5.5 * time)
        phase = 2 * np.pi * np.cumsum(pitch * vibrato) / rate
        tone = sum(
            np.sin(overtone * phase) / overtone**brightness for overtone in range(1, 9) if overtone * pitch < rate / 2
        )
        decay = np.exp(-time * generator.uniform(0.3, 6)) * np.minimum(1, time / generator.uniform(0.002, 0.05))
        sound[start : start + len(time)] += generator.uniform(0.05, 0.4) * tone * decay
    return (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32)


def brain_waves(seconds: float, rate: int, generator: np.random.Generator) -> Floats:
    """Return pink noise with an alpha rhythm, sleep spindles (11 to 16 Hz) and now and then a seizure."""
    count = int(seconds * rate)
    time = np.arange(count) / rate
    signal = pink(count, generator, generator.uniform(1.0, 2.2))
    strength, frequency = generator.uniform(0, 0.6), generator.uniform(8, 12)
    signal += strength * np.sin(2 * np.pi * frequency * time) * pink(count, generator, 2.0)
    for _ in range(int(generator.poisson(seconds / 8))):
        centre, width = generator.uniform(0, seconds), generator.uniform(0.2, 0.6)
        bump = np.exp(-(((time - centre) / width) ** 2))
        signal += generator.uniform(0.5, 2.0) * bump * np.sin(2 * np.pi * generator.uniform(11, 16) * time)
    if generator.random() < 0.4:
        start, length = generator.uniform(0, seconds * 0.7), generator.uniform(5, seconds * 0.6)
        during = ((time > start) & (time < start + length)) * np.clip((time - start) / length, 0, 1)
        rhythm = scipy.signal.sawtooth(2 * np.pi * generator.uniform(2.5, 7) * time, 0.2)
        signal += generator.uniform(2, 6) * during * rhythm
    return (50e-6 * signal).astype(np.float32)


def seizure_spectrogram(signal: Floats, rate: int) -> Floats:
    """Return the spectrogram of a signal as the seizure detector takes it, shape [100, time].

    Source: brainmaze-eeg-models 0.1.0, ``preprocess_input``: segments of 1 s every 0.5 s, z-scores of each frequency.
    """
    scaled = (signal - signal.mean()) / signal.std()
    power = scipy.signal.spectrogram(scaled.astype(np.float64), rate, nperseg=rate, noverlap=rate - rate // 2)[2][:100]
    deviation = power.std(axis=1, keepdims=True)
    return ((power - power.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def scalogram(signal: Floats) -> Floats:
    """Return the wavelet transform of 30 s at 250 Hz as the spindle detector takes it, shape [15, 7500].

    Complex Shannon wavelets (bandwidth 6, centre 13) at 15 scales of 135 to 270 samples, sampled at 1,024 points as the
    detector was trained with; amplitudes as z-scores. Source: brainmaze-eeg-models 0.1.0, ``_cwt.py``.
    """
    at = np.linspace(-20, 20, 1024)
    integral = np.conj(np.cumsum(np.sqrt(6) * np.sinc(6 * at) * np.exp(2j * np.pi * 13 * at)) * (at[1] - at[0]))
    rows = []
    for scale in np.geomspace(135, 270, 15):
        chosen = (np.arange(scale * 40 + 1) / (scale * (at[1] - at[0]))).astype(np.int64)
        kernel = integral[chosen[chosen < len(integral)]][::-1]
        whole = np.diff(scipy.signal.fftconvolve(signal - signal.mean(), kernel))
        first = (len(whole) - len(signal)) // 2
        rows.append(np.sqrt(scale) * np.abs(whole[first : first + len(signal)]))
    return standard(np.stack(rows))


def standard(rows: npt.NDArray[np.floating]) -> Floats:
    """Return z-scores along the last axis."""
    return ((rows - rows.mean(axis=-1, keepdims=True)) / rows.std(axis=-1, keepdims=True)).astype(np.float32)


def file_bytes(content: bytes) -> Ints:
    """Return the first and the last 1,024 bytes of a file, 256 where there are none, shape [2048].

    Source: magika 1.0.3, ``_extract_features_from_seekable`` with its standard_v3_3 configuration.
    """
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(first)] = np.frombuffer(first, np.uint8)
    row[2048 - len(last) :] = np.frombuffer(last, np.uint8)
    return row


def files(generator: np.random.Generator) -> Iterator[bytes]:
    """Yield the contents of files of this environment and of the system, no kind more often than 24 times."""
    roots = [pathlib.Path(each) for each in (sys.prefix, "/usr/share", "/usr/lib", "/usr/include")]
    paths = sorted(path for root in roots for path in root.rglob("*.*") if path.is_file() and not path.is_symlink())
    seen: dict[str, int] = {}
    for at in generator.permutation(len(paths)):
        path = paths[at]
        seen[path.suffix] = seen.get(path.suffix, 0) + 1
        if seen[path.suffix] > 24 or path.stat().st_size < 64:
            continue
        with path.open("rb") as file:
            first = file.read(4096)
            file.seek(max(0, path.stat().st_size - 4096))
            yield first if path.stat().st_size <= 4096 else first + file.read()
