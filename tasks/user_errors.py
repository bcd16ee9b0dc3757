"""Which errors a user can act on, and their sentence."""

from prefect.exceptions import ParameterTypeError
from pydantic import ValidationError

from storage.errors import StorageError
from tasks.ray_pool import UnitFailed


def sentence(error: BaseException) -> str | None:
    """One sentence for an error that the user can mend, None for one that is ours (it should keep its traceback)."""
    if isinstance(error, ParameterTypeError | ValidationError):
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return "; ".join(line for line in lines if not line.startswith("For further information"))
    if isinstance(
        error, StorageError | UnitFailed | ValueError | FloatingPointError | FileNotFoundError | PermissionError
    ):
        return " ".join(str(error).split())
    return None
