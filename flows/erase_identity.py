"""erase-identity: everything derived from one person goes, with a receipt."""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows.documented import documented
from flows.parameters import Root
from flows.stage_tables import publish_receipt
from tasks.erase_identity import erase_task
from tasks.workspace import check_root, default_root


@flow(name="erase-identity", log_prints=True)
@documented
def erase_identity(
    identity_id: Annotated[
        str, Field(description="Name of the identity to erase", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    ],
    reason: Annotated[
        str, Field(description="Why, without naming the person; kept in the receipt", min_length=1, max_length=200)
    ],
    root: Root = None,
    delete_original: Annotated[
        bool, Field(description="Also delete the photographs it was made from, wherever they lie")
    ] = False,
    delete_runs: Annotated[
        bool, Field(description="Delete Prefect's runs that name it, with their logs, instead of blanking parameters")
    ] = False,
) -> dict[str, Any]:
    """Remove photograph, maps, embeddings, weights, previews and edits of an identity, and refuse whoever is late."""
    place = check_root(root or default_root())
    erased = erase_task(place, identity_id, reason, delete_original, delete_runs)
    publish_receipt(erased)
    return {
        "receipt": erased.uri,
        "objects_removed": erased.receipt.objects_removed,
        "remaining": erased.receipt.remaining,
    }
