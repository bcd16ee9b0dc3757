"""What a protocol asks for, as files for another system: so that its pictures can be compared with ours."""

from pathlib import Path

import numpy as np

from models.images import encode_png
from tasks.evaluation_people import Preparation
from tasks.evaluation_protocols import build_manifest, protocol_of
from tasks.preset import Preset
from tasks.rows import RowFailed

README = """# {count} pictures to be made

`manifest.json` lists {count} entries. For each, take `sources/<person>.png`, apply what is asked, and write the picture as
`<entry>.png` ({side}×{side}, the crop of the source) into one folder. Then

    instaface evaluate --protocol {protocol} --manifest {manifest} --images NAME=FOLDER

| field of an entry | meaning |
|---|---|
| `name` | the file name of the picture to be made |
| `person` | whose source it is |
| `mode` | pose, expression or light: what may change |
| `edit` | the change in numbers, relative to the source (fields of FaceEdit, docs/identities.md), or null |
| `driver`, `take` | a person whose pose, expression or light is taken: `sources/<driver>.png`, or null |

`asked/<entry>.png` is a render of the 3D head that is asked for, `asked/<entry>.params.npy` its parameters: a driver image for
systems that take one. A picture that is not there counts as a failure.
{refused}"""


def export_manifest(
    preset: Preset,
    protocol: str,
    out: Path,
    *,
    source: str | None = None,
    people: int | None = None,
    each: int | None = None,
) -> int:
    """Write manifest, aligned sources and renders of what is asked; returns how many pictures are to be made.

    Raises:
        ValueError, NoPhotos: no such protocol or source.
    """
    manifest = build_manifest(protocol_of(protocol, people=people, each=each), source)
    preparation = Preparation(preset, "true")
    for folder in ("sources", "asked"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    refused = []
    for person in manifest.people:
        try:
            subject = preparation.subject(manifest, person, truths=False)
        except RowFailed as error:
            refused.append(f"* {person.id}: {error}")
            continue
        (out / "sources" / f"{person.id}.png").write_bytes(encode_png(subject.image))
        for entry, maps, parameters in zip(subject.entries, subject.wanted, subject.asked, strict=True):
            render = (np.clip(maps.render, 0, 1) * 255 + 0.5).astype(np.uint8)
            (out / "asked" / f"{entry.name}.png").write_bytes(encode_png(render))
            (out / "asked" / f"{entry.name}.params.npy").write_bytes(parameters.to_npy())
    (out / "manifest.json").write_bytes(manifest.to_json())
    told = (
        "\nPhotographs that cannot be used, whose entries count as refused:\n\n" + "\n".join(refused) if refused else ""
    )
    text = README.format(
        count=len(manifest.entries), side=preset.shard.size, protocol=manifest.protocol,
        manifest=out / "manifest.json", refused=told,
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")
    return len(manifest.entries)
