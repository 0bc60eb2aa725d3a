"""Export, the artifact of the export stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from slm_model.artifact import Artifact, Facts
from slm_model.manifest import OBSERVATIONS

PARITY = f"{OBSERVATIONS}/parity.json"


class ExportFacts(Facts):
    """A model in another system's format."""

    format: str  # gguf-q8_0, for instance
    num_bytes: int  # of its files
    num_stories: int  # on which it was compared with the model


@dataclass(frozen=True)
class Export(Artifact):
    """The files of the format with README.md, the model card; ``observations/parity.json``: how it was compared."""

    facts: ExportFacts

    stage: ClassVar[str] = "export"
    facts_type: ClassVar[type[Facts]] = ExportFacts
