"""The whole DAG, as a user starts it: real Prefect, Ray and S3 (SeaweedFS), real photographs."""

import json
import re
from pathlib import Path

from tests.instaface_command import run_instaface


def test_photographs_in_edits_out_and_a_second_run_redoes_nothing(album: Path, tmp_path: Path) -> None:
    first = run_instaface("demo", "--photos", str(album), "--preset", "debug", "--out", "report", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "report" / "report.html").read_text()
    for status in ("no_face", "corrupt"):
        assert f"<td>{status}</td>" in page
    assert page.count("<figure>") == 12
    assert "the generated edits are noise" in page
    # The page stands alone: every picture is inside it, nothing is loaded from elsewhere.
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert (tmp_path / "report" / "edits.png").stat().st_size > 10_000

    second = run_instaface("demo", "--photos", str(album), "--preset", "debug", "--out", "report", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "nothing was redone" in second.stderr
    assert second.stderr.count("finished before, nothing redone") == 7

    # A fresh run in another place and another kind of store gives the same bytes: manifests name the sha256 of shards.
    on_s3 = dict(re.findall(r"<td>(images|maps|features)</td><td><code>([^<]+)</code>", page))
    fresh = run_instaface(
        "run",
        "preprocess-ffhq",
        "-p",
        f"source={album}",
        "-p",
        f"root={tmp_path / 'folder'}",
        "-p",
        "preset=debug",
        cwd=tmp_path,
    )
    assert fresh.returncode == 0, fresh.stderr
    stages = json.loads(fresh.stdout)
    assert set(stages) == {"images", "maps", "features"}
    for name, stage in stages.items():
        # The folder's name is the digest of the input: for maps and features, of the manifest of the stage before.
        assert stage["uri"].rsplit("/", 1)[1] == on_s3[name].rsplit("/", 1)[1]
    assert stages["images"]["counts"] == {"corrupt": 2, "no_face": 1, "ok": 2}
    assert stages["features"]["counts"] == {"ok": 2}
