"""The formats of other systems in which a model is written: one config a format, chosen by ``kind``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from slm_model.config import Config


class _FormatConfig(Config):
    kind: str
    num_stories: int = Field(
        32, ge=1, le=10_000, description="Held-out stories on which the written files are compared with the model."
    )
    data_license: str | None = Field(
        None, description="Licence of the stories as the Hugging Face hub names it (cdla-sharing-1.0), for the card."
    )

    @property
    def name(self) -> str:
        """As a user asks for it."""
        return str(self.kind)

    @property
    def exact(self) -> bool:
        """Whether the files hold every bit of the weights."""
        return True


class HuggingFaceConfig(_FormatConfig):
    """A folder that `transformers` opens."""

    module: ClassVar[str | None] = "slm_model.formats.huggingface"
    kind: Literal["huggingface"] = "huggingface"


class GgufConfig(_FormatConfig):
    """A file of llama.cpp and Ollama."""

    module: ClassVar[str | None] = "slm_model.formats.gguf"
    kind: Literal["gguf"] = "gguf"
    type: Literal["f32", "f16", "q8_0"] = Field(
        "f32", description="How matrices are stored: whole, in half precision, or in 8 bits with a scale for 32."
    )

    @property
    def name(self) -> str:
        return self.kind if self.exact else f"{self.kind}-{self.type}"

    @property
    def exact(self) -> bool:
        return self.type == "f32"


class Llama2cConfig(_FormatConfig):
    """The two files of llama2.c's run.c."""

    module: ClassVar[str | None] = "slm_model.formats.llama2c"
    kind: Literal["llama2c"] = "llama2c"


FormatConfig = HuggingFaceConfig | GgufConfig | Llama2cConfig

_ALL = (
    HuggingFaceConfig(),
    GgufConfig(),
    GgufConfig(type="f16"),
    GgufConfig(type="q8_0"),
    Llama2cConfig(),
)
FORMATS: dict[str, FormatConfig] = {one.name: one for one in _ALL}  # what a user may ask for, by name


def format_named(name: str, data_license: str | None = None) -> FormatConfig:
    """The settings of a format, by one of the names of ``FORMATS``."""
    return FORMATS[name].model_copy(update={"data_license": data_license})
