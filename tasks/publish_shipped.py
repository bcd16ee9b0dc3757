"""The stage-1 model that lies in the repository, as a finished result of a store."""

from models.tiny.shipped import STAGE1, shipped_folder
from storage.records import commit_record
from storage.stores import open_store
from tasks.assets import weights_digest

SHIPPED = "shipped"
"""What stands for the shipped model where a URI is asked for."""


def publish_shipped(root: str) -> str:
    """Commit the shipped model below `<root>/stage1/`, once; returns its URI.

    Its record has no losses: the run that it comes from is not in this store.

    Raises:
        DamagedWeights: a file is missing or is not the one that was committed to the repository.
    """
    folder = shipped_folder(STAGE1)
    digest = weights_digest(folder)
    home = open_store(root).child(f"stage1/{SHIPPED}-{digest[:12]}")
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }
    facts = {"step": 0, "losses": [], "config": {"model": "tiny"}, "lineage": {"start": digest}, "features": ""}
    return commit_record(home, files, facts).uri
