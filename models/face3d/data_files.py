"""What the open estimator's results depend on, by name: known without importing a model."""

from pathlib import Path
from typing import Final

DATA_FILE: Final = Path(__file__).parent / "data" / "open_head.npz"
"""The open head."""
MEDIAPIPE_VERSION: Final = "0.10.21"
"""Of the package whose landmark networks are used."""
