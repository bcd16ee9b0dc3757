"""A few photographs through all stages in this process: what a row takes, and how large it becomes."""

import time
from collections.abc import Callable, Mapping

from models.face3d.maps import ConditionMaps
from models.images import BadImage, decode_png
from tasks.aligner import Aligner, with_facts
from tasks.array_bytes import from_npy
from tasks.featurizer import Featurizer
from tasks.mapper import Mapper
from tasks.preset import Preset
from tasks.rows import RowFailed
from tasks.sources import Photo, read_photo


class Shown:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        """Bytes of each sample, 0 for a row that failed."""
        self.seconds: list[float] = []


class Probe:
    """All three stages in this process. The first row of each is not timed: it loads models and compiles."""

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.aligner, self.mapper, self.featurizer = (
            Aligner(preset.shard), Mapper(preset.extract), Featurizer(preset.encode),
        )  # fmt: skip
        self.shown = {stage: Shown() for stage in ("images", "maps", "features")}
        self.failed: dict[str, int] = {}

    def take(self, photo: Photo) -> None:
        try:
            image = self._timed("images", lambda: self._aligned(photo))
            maps = self._timed("maps", lambda: self._mapped(image, photo))
            self._timed("features", lambda: self._encoded(image, maps))
        except (RowFailed, BadImage) as error:
            status = getattr(error, "status", "corrupt")
            self.failed[status] = self.failed.get(status, 0) + 1

    def _timed(self, stage: str, work: Callable[[], Mapping[str, bytes]]) -> Mapping[str, bytes]:
        shown = self.shown[stage]
        shown.sizes.append(0)
        began = time.perf_counter()
        sample = work()
        if len(shown.sizes) > 1:
            shown.seconds.append(time.perf_counter() - began)
        shown.sizes[-1] = sum(map(len, sample.values()))
        return sample

    def _aligned(self, photo: Photo) -> dict[str, bytes]:
        sample = self.aligner.align(read_photo(photo), photo.source, aligned=photo.aligned, landmarks=photo.landmarks)
        return with_facts(sample, photo, self.preset.shard)

    def _mapped(self, image: Mapping[str, bytes], photo: Photo) -> dict[str, bytes]:
        pixels, mesh = decode_png(image["image.png"]), from_npy(image["mesh.npy"])
        return self.mapper.maps(pixels, photo.source, photo.truth, mesh)

    def _encoded(self, image: Mapping[str, bytes], maps: Mapping[str, bytes]) -> dict[str, bytes]:
        mesh = from_npy(maps["landmarks.npy"])
        return self.featurizer.features(decode_png(image["image.png"]), ConditionMaps.decode(maps), mesh)
