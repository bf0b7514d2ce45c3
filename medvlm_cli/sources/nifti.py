"""Slices of NIfTI volumes, turned to where the patient's parts are and shown as radiologists look at them.

The volume is turned to the nearest of the canonical orientations (x to the patient's right, y to the front, z to the
head).  Then, as on a light box, the patient's right is on the left of the picture: axial slices have the front on top,
coronal ones the head on top, sagittal ones the head on top and the front on the left.  One voxel is one pixel: where
slices are thick, coronal and sagittal pictures are flat.

Values are scaled by the header.  Without a window, what looks like CT is shown in the soft-tissue window, everything
else from the 0.5th to the 99.5th percentile of its volume.  The header's texts are never read.
"""

import gzip
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from medvlm_cli.core.config import WINDOWS
from medvlm_cli.core.images import MAX_PIXELS
from medvlm_cli.sources.greyscale import looks_like_ct, percentiles, png, windowed
from medvlm_cli.sources.scans import Choice, Picture, ScanError, WindowFrom, need

MAX_VOLUME_BYTES = 1 << 30
"""Largest volume that is held, of a series of volumes one."""
MAX_UNPACKED_BYTES = 4 << 30
"""Most bytes that a compressed file is unpacked to, up to the end of the volume asked for."""
_SAMPLE = 1 << 21
"""About how many voxels of a volume its percentiles are taken from."""
_CHUNK = 1 << 20
_Stream = IO[bytes] | gzip.GzipFile
_ACROSS = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True, slots=True)
class _Volume:
    """Voxels turned to the canonical orientation, before scaling."""

    voxels: np.ndarray
    slope: float
    intercept: float

    def scaled(self, voxels: np.ndarray) -> np.ndarray:
        return voxels.astype(np.float64) * self.slope + self.intercept

    def window(self, choice: Choice) -> tuple[tuple[float, float], WindowFrom]:
        """The window of all slices of the volume, and whose it is."""
        step = max(1, round((self.voxels.size / _SAMPLE) ** (1 / 3)))
        sample = self.scaled(self.voxels[::step, ::step, ::step])
        is_ct = looks_like_ct(sample)
        if choice.window is not None and (is_ct or not choice.preset):
            return choice.window, "asked"
        return (WINDOWS["soft-tissue"], "preset") if is_ct else (percentiles(sample), "range")


def read_nifti(path: Path, choice: Choice) -> list[Picture]:
    """The slices chosen of one volume.

    Args:
        path: a file that may be opened.
        choice: volume, axis, frames and window.

    Raises:
        ScanError: not a volume, damaged, too large, or without the slice asked for.
    """
    need("nibabel", "NIfTI")
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not packed:
                volume = _volume(file, choice.volume)
            else:
                with gzip.open(file) as unpacked:
                    volume = _volume(unpacked, choice.volume)
        return _slices(volume, choice)
    except ScanError:
        raise
    except MemoryError:
        raise ScanError("image_too_big", "not enough memory for the volume") from None
    except Exception:  # zlib, struct and nibabel raise whatever they like, and quote what they read
        raise ScanError("corrupt_image", "the NIfTI file is damaged, or not NIfTI") from None


def _volume(file: _Stream, number: int) -> _Volume:
    """One volume of the series in a file.

    Raises:
        ScanError: it is not there, cut short, or too large.
    """
    nibabel: Any = need("nibabel", "NIfTI")
    header = _header(file)
    dimensions = [int(part) for part in header["dim"]]
    if not 2 <= dimensions[0] <= 7 or min(dimensions[1 : dimensions[0] + 1]) < 1:
        raise ScanError("corrupt_image", "the NIfTI file says that it has no voxels")
    shape = (*dimensions[1 : dimensions[0] + 1], 1, 1)
    count = math.prod(shape[3:])
    if number >= count:
        raise ScanError("bad_row", f"volume {number} was asked for, the file has 0 to {count - 1}")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iufV" or (dtype.kind == "V" and dtype.names is None):
        raise ScanError("corrupt_image", "voxels of this type are not read: save them as whole or real numbers")
    size = math.prod(shape[:3]) * dtype.itemsize
    start = int(header["vox_offset"]) + number * size
    if size > MAX_VOLUME_BYTES or not 0 <= start <= MAX_UNPACKED_BYTES - size:
        raise ScanError("image_too_big", f"a volume of {size:,} bytes, over the limit of {MAX_VOLUME_BYTES:,}")
    _skip(file, start - file.tell())
    voxels = np.frombuffer(_exactly(file, size), dtype).reshape(shape[:3], order="F")
    turn = nibabel.orientations.io_orientation(header.get_best_affine())
    if np.isfinite(turn).all():  # an affine without an inverse says nothing about where things are
        voxels = nibabel.orientations.apply_orientation(voxels, turn)
    slope, intercept = header.get_slope_inter()
    return _Volume(voxels, 1.0 if slope is None else float(slope), float(intercept or 0.0))


def _header(file: _Stream) -> Any:
    """The header, of version 1 or 2 and either byte order.

    Raises:
        ScanError: it is none.
    """
    nibabel: Any = need("nibabel", "NIfTI")
    block = file.read(348)
    if block[344:348] == b"n+1\0":
        return nibabel.Nifti1Header(block, check=False)
    if block[344:348] == b"ni1\0":
        raise ScanError("corrupt_image", "the NIfTI file is half of a .hdr and .img pair: save it as one .nii")
    if block[4:12] == b"n+2\0\r\n\x1a\n":
        return nibabel.Nifti2Header(block + file.read(192), check=False)
    raise ScanError("corrupt_image", "the file is not NIfTI: its magic number is not there")


def _skip(file: _Stream, size: int) -> None:
    if size < 0:
        raise ScanError("corrupt_image", "the NIfTI file says that its voxels begin in its header")
    while size and (read := file.read(min(size, _CHUNK))):
        size -= len(read)


def _exactly(file: _Stream, size: int) -> bytearray:
    """``size`` bytes, asked for in pieces, so that a small file which claims to be large costs little."""
    data = bytearray()
    while len(data) < size and (read := file.read(min(size - len(data), _CHUNK))):
        data += read
    if len(data) < size:
        raise ScanError("corrupt_image", "the NIfTI file is cut short")
    return data


def _slices(volume: _Volume, choice: Choice) -> list[Picture]:
    axis = _ACROSS[choice.axis]
    planes = np.moveaxis(volume.voxels, axis, 0)  # then what remains of x, y, z, in this order
    indices = choice.frames(len(planes))
    if planes[0].size * len(indices) > (MAX_PIXELS if len(indices) == 1 else 8 * MAX_PIXELS):
        raise ScanError("image_too_big", f"{len(indices)} slices are too many pixels to take at once: name one")
    in_colour = volume.voxels.dtype.names is not None
    window, source = (None, None) if in_colour else volume.window(choice)
    made = []
    for index in indices:
        plane = planes[index][::-1, ::-1].T  # the last axis left runs down, the first one to the right, both backwards
        if window is None:
            pixels = np.stack([plane[name] for name in ("R", "G", "B")], axis=-1)
        else:
            pixels = windowed(volume.scaled(plane), window)
        digest = hashlib.sha256(np.ascontiguousarray(plane).tobytes()).hexdigest()
        height, width = pixels.shape[:2]
        chosen: dict[str, Any] = {"frame": index, "frames": len(planes), "window": window, "window_from": source}
        made.append(Picture(png(pixels), width, height, pixels=digest, **chosen))
    return made
