"""What the frozen tower sees, computed once for every different image and kept on disk: features/1.

The cache is addressed by content: ``<root>/<key>/<set>/``, where the key is of everything that features depend on
except the image, and each set is a finished dataset, never changed after, of the images that no other set of that key
held when it was begun.  One more figure is one more small dataset; an image that is in two figures, in two datasets or
in a benchmark is encoded once.

An image costs T x K x C numbers: 5.6 MB at 729 x 3840 in bfloat16, so 600,000 images are 3.4 TB, and half of it in
int8.  Worth it for small sets, several epochs and sweeps; off by default.

Legend: N images, T tokens of an image, K scales, C channels of the tower.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, Writer, open_dataset
from medvlm_cli.core.errors import DataError, ResourceError
from medvlm_cli.core.images import prepare
from medvlm_cli.core.record import MANIFEST, fingerprint
from medvlm_cli.core.schemas import features_schema
from medvlm_cli.core.tell import Tell

CODE_VERSION = 1
"""Part of the key: raise it when the same image would give other features, by another resampling for example."""
TOGETHER = 32
"""Images that go through the tower in one call."""
SHARD_BYTES = 256 << 20
"""About what a killed run computes again."""
_NAMED = 12  # hex digits of a folder's name


@dataclass(frozen=True)
class Original:
    """An image whose features are wanted: where it lies, and by what it is known."""

    sha256: bytes
    """Of the image file's bytes."""
    name: str
    """Id of the figure, or of the benchmark's image."""
    where: str
    """What to call it in an error."""
    read: Callable[[], bytes]
    """Gives the image file; called only for an image that is encoded."""


class Features:
    """All finished datasets of one key as one, by the SHA-256 of the image; values are mapped, and copied a row a time.

    Stored in int8, they come back in the tower's precision, with the error that their row states.
    """

    def __init__(self, folder: Path, schema: pa.Schema, shape: tuple[int, int], precision: torch.dtype) -> None:
        """Open what is there.

        Args:
            folder: of one key; it need not exist.
            schema: features/1 as this key has it.
            shape: T and K * C.
            precision: the tower's.
        """
        self._folder, self._schema, self._shape, self._precision = folder, schema, shape, precision
        self._opened: set[Path] = set()
        self._places: dict[bytes, tuple[Dataset, int]] = {}
        self._faults: dict[bytes, Path] = {}
        self.refresh()

    def refresh(self) -> None:
        """Open the datasets that were finished since the last look.

        Raises:
            DataError: one of them is not what its manifest says.
        """
        for manifest in sorted(self._folder.glob(f"*/{MANIFEST}")):
            if manifest.parent in self._opened:
                continue
            dataset = open_dataset(manifest.parent, self._schema)
            for row, found in enumerate(dataset.rows(["image_sha256"])):
                self._places.setdefault(found["image_sha256"], (dataset, row))
            for reject in dataset.rejects():
                self._faults.setdefault(bytes.fromhex(reject["raw"]), dataset.folder / "rejects")
            self._opened.add(manifest.parent)

    def __contains__(self, sha256: bytes) -> bool:
        """Whether this image needs no further look: it is encoded, or known to be undecodable."""
        return sha256 in self._places or sha256 in self._faults

    def get(self, sha256: bytes) -> torch.Tensor | None:
        """The features of an image, ``(T, K * C)`` in the tower's precision; None where there are none."""
        if sha256 not in self._places:
            return None
        dataset, row = self._places[sha256]
        values = torch.from_numpy(dataset.values_at(row, "features"))
        if values.dtype == torch.int8:
            scales = torch.from_numpy(dataset.values_at(row, "channel_scales"))
            return _restored(values.view(self._shape), scales, self._precision)
        return values.view(self._precision).view(self._shape)

    def of(self, sha256: bytes, where: str) -> torch.Tensor:
        """As ``get``, for an image that ``Cache.make`` was asked for.

        Raises:
            DataError: the image could not be decoded when the cache was made; ``where`` names it.
        """
        features = self.get(sha256)
        if features is None:
            what = f"{where}: its image could not be decoded, see {self._faults[sha256]}"
            raise DataError(what, "mend the image, or drop what asks for it")
        return features

    def refused(self, sha256: bytes) -> Path | None:
        """The folder of rejects that says why an image could not be decoded; None where it could be."""
        return self._faults.get(sha256)


class Cache:
    """Makes the features that are not there yet, in a folder named by the beginning of its key.

    The key is of the tower's weights and settings, its precision, scales, fit, antialiasing, how features are stored,
    and ``CODE_VERSION``.  Both stages of training and ``eval`` find the same one.  What only rounds otherwise is not in
    it: the device, which stands in ``run.json``, and how the kernels are called.

    Two processes may fill one cache.  Of the same set of images only one can (``BusyError``); of two sets that overlap
    both can at once, and then an image that is in both is encoded twice.
    """

    def __init__(self, root: Path, model: Any, processor: Any, precision: str = "exact") -> None:
        """Say where the features lie, or will lie, and open what is there.

        Args:
            root: folder of all caches.
            model: a ``MedVLMForConditionalGeneration``.
            processor: of the same checkpoint.
            precision: ``exact`` stores the tower's own numbers, ``int8`` an approximation of half their size or less.

        Raises:
            DataError: a finished dataset of the cache is not what its manifest says.
        """
        self._tower, tower = model.model.vision_tower, model.model.vision_tower.config
        self._side, self._fit = processor.image_processor.crop_size["height"], model.config.fit
        own = str(self._tower.dtype).removeprefix("torch.")
        self._config = {
            "tower": _digest(self._tower),
            "precision": own,
            "stored": own if precision == "exact" else precision,
            "scales": list(tower.s2_scales),
            "antialias": tower.s2_antialias,
            "fit": self._fit,
            "tokens": tower.tokens,
            "channels": tower.channels,
            "code_version": CODE_VERSION,
        }
        self.folder = Path(root) / fingerprint(self._config)[:_NAMED]
        shape = tower.tokens, tower.channels
        self._schema = features_schema(*shape, self._config["stored"])
        self.features = Features(self.folder, self._schema, shape, self._tower.dtype)

    def make(self, originals: Iterable[Original], tell: Tell) -> None:
        """Encode every image that is in no finished dataset, each once; those that cannot be decoded become rejects.

        Args:
            originals: what will be asked for; the same image may be there many times.
            tell: told how many images, bytes and which folder, before anything is written; where nothing is missing,
                nothing.

        Raises:
            BusyError: another process is making the same set.
            DataError: an image is not what its hash says, or its dataset cannot be read.
            ResourceError: the disk has not that much room; nothing was written, unless it filled up on the way.
        """
        missing = self._missing(originals)
        if not missing:
            return
        folder = self.folder / fingerprint({"keys": list(missing)})[:_NAMED]
        size = self._row_bytes()
        _announce(folder, len(missing), size * len(missing), tell)
        with Writer(
            folder, self._schema, stage="features", config=self._config, keys=list(missing),
            keys_per_shard=max(1, SHARD_BYTES // size),
        ) as writer:  # fmt: skip
            todo = list(writer.todo())
            done = len(missing) - sum(len(keys) for _, keys in todo)
            for shard, keys in todo:
                tell("features", done, len(missing))
                writer.extra |= {"device": str(self._tower.device), "torch": torch.__version__}
                writer.commit(shard, self._harvests([missing[key] for key in keys], writer.extra))
                done += len(keys)
                tell("features", done, len(missing))
        if "error" in writer.extra:
            error = writer.extra["error"]
            what = f"features in int8: relative error {error['mean']:.1e} on average, {error['max']:.1e} at most"
            tell(what, error["rows"], error["rows"])
        self.features.refresh()

    def _missing(self, originals: Iterable[Original]) -> dict[str, Original]:
        """The images that no finished dataset holds, by a key of hash and name, in the order of their hashes.

        The name belongs to the key, and so to the set: a run that goes on with a set gives its rows the same ids.
        """
        found: dict[bytes, Original] = {}
        names: set[str] = set()
        for original in originals:
            sha256, name = original.sha256, original.name
            if sha256 in found or sha256 in self.features:
                continue
            if name in names:  # the same id in two datasets, for two images
                name = f"{name}@{sha256.hex()[:_NAMED]}"
            names.add(name)
            found[sha256] = dataclasses.replace(original, name=name)
        return {f"{sha256.hex()} {found[sha256].name}": found[sha256] for sha256 in sorted(found)}

    def _row_bytes(self) -> int:
        """Bytes that the features of one image take on disk."""
        values = self._schema.field("features").type
        scales = 4 * self._config["channels"] if self._config["stored"] == "int8" else 0
        return values.list_size * values.value_type.bit_width // 8 + scales

    def _harvests(self, originals: Sequence[Original], told: dict[str, Any]) -> Iterator[Harvest]:
        """What each image gives, ``TOGETHER`` of them encoded in one call; ``told`` gets the error of int8."""
        for start in range(0, len(originals), TOGETHER):
            chosen = originals[start : start + TOGETHER]
            pixels: dict[bytes, np.ndarray] = {}
            rejects: dict[bytes, Reject] = {}
            for original in chosen:
                data = _read(original)
                try:
                    pixels[original.sha256] = prepare(data, original.where, self._side, self._fit)
                except DataError as error:
                    rejects[original.sha256] = Reject(original.name, "bad_image", error.what, original.sha256.hex())
            rows = dict(zip(pixels, self._columns(list(pixels.values())), strict=True)) if pixels else {}
            for original in chosen:
                if original.sha256 in rejects:
                    yield Harvest(1, [], [rejects[original.sha256]])
                    continue
                row = rows.pop(original.sha256)
                if "error" in row:
                    _tally(told, row["error"])
                named = {"figure_id": original.name, "image_sha256": original.sha256}
                tower, scales = self._config["tower"][:_NAMED], self._config["scales"]
                yield Harvest(1, [named | {"tower": tower, "scales": scales} | row], [])

    def _columns(self, pixels: list[np.ndarray]) -> Iterator[dict[str, Any]]:
        """Squares ``(S, S, 3)`` uint8 -> what a row stores of the features of each."""
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(self._tower.device)
        for features in self._tower.encode(stacked).cpu():
            if self._config["stored"] == "int8":
                yield _reduced(features)
            else:
                bits = features.view(torch.uint16) if features.dtype == torch.bfloat16 else features
                yield {"features": bits.flatten().numpy()}


def _read(original: Original) -> bytes:
    """The image file.

    Raises:
        DataError: it is not the one that its hash says, which would be found under that hash for ever.
    """
    data = original.read()
    if hashlib.sha256(data).digest() != original.sha256:
        raise DataError(f"{original.where}: image_sha256 is not that of its image", "make its dataset again")
    return data


def _announce(folder: Path, images: int, size: int, tell: Tell) -> None:
    """Say what will be written where, and refuse what the disk has no room for.

    Raises:
        ResourceError: less is free than is still to be written.
    """
    tell(f"features of {images:,} images: {size:,} bytes, in {folder}", 0, None)
    left = size - sum(path.stat().st_size for path in folder.glob("data/*.arrow"))  # of a run that was cut
    place = next(path for path in folder.absolute().parents if path.is_dir())
    free = shutil.disk_usage(place).free
    if left > free:
        what = f"features of {images:,} images take {left:,} more bytes, and {place} has {free:,} free"
        fix = "free some space, store less with --set cache_precision=int8, or do without: --set cache_features=false"
        raise ResourceError(what, fix)


def _reduced(features: torch.Tensor) -> dict[str, Any]:
    """Features ``(T, K * C)`` in int8, symmetric, each channel by its own scale, with the error this makes.

    The error is ``|restored - features| / |features|`` in the Euclidean norm over the image.
    """
    exact = features.float()
    scales = exact.abs().amax(dim=0) / 127
    values = (exact / scales.where(scales > 0, 1.0)).round().clamp(-127, 127).to(torch.int8)
    restored = _restored(values, scales, features.dtype).float()
    error = (restored - exact).norm().item() / max(exact.norm().item(), torch.finfo(torch.float32).tiny)
    return {"features": values.flatten().numpy(), "channel_scales": scales.numpy(), "error": error}


def _restored(values: torch.Tensor, scales: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    return values.float().mul_(scales).to(precision)


def _tally(told: dict[str, Any], error: float) -> None:
    """Count one more row's error into what ``run.json`` will say."""
    before = told.get("error", {"rows": 0, "mean": 0.0, "max": 0.0})
    rows = before["rows"] + 1
    mean = before["mean"] + (error - before["mean"]) / rows
    told["error"] = {"rows": rows, "mean": mean, "max": max(before["max"], error)}


def _digest(tower: Any) -> str:
    """SHA-256, in hex, of the tower's weights with their names, and of the settings that weights do not show."""
    config = tower.config
    names = ("image_size", "patch_size", "num_attention_heads", "hidden_act", "layer_norm_eps")
    settings = {name: getattr(config, name) for name in (*names, "image_mean", "image_std")}
    digest = hashlib.sha256(json.dumps(settings).encode())
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
