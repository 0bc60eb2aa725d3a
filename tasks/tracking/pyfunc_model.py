"""The model as MLflow loads and serves it: this file is in the bundle, beside ``code/slm_model`` and the checkpoint.

``predict`` generates stories (column ``prompt``) or, with ``mode="score"``, scores them (column ``text``): both are
brought into the form that stories have, texts to score unless ``normalise`` is false.
It imports nothing of this project but what is in the bundle.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

with warnings.catch_warnings(record=True):  # MLflow warns at its own import, and advises type hints on predict
    warnings.simplefilter("ignore")
    import pandas as pd
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature, set_model
    from mlflow.pyfunc.model import PythonModel
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    MAX_STORIES = 10_000

    class StoryModel(PythonModel):
        """Generates and scores stories."""

        def load_context(self, context: Any) -> None:
            """Open the checkpoint with the code that came with it."""
            folder = Path(context.artifacts["checkpoint"])
            check_code(folder.parent.parent / "code" / "slm_model")
            from slm_model.checkpoint import Checkpoint
            from slm_model.generation.generator import Generator

            checkpoint = Checkpoint.open(folder)
            self.network, self.tokenizer = checkpoint.load(context.model_config["device"])
            self.generator = Generator(self.network, self.tokenizer)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            # No type hints: MLflow would put what it reads from them in place of the signature.
            options = dict(params or {})
            mode, num = options.pop("mode", "generate"), options.pop("num", 1)
            in_form = options.pop("normalise", True)
            if mode == "score":
                from slm_model.evaluation.scoring import score_texts
                from slm_model.text.normalise import normalise

                texts = column(model_input, "text", mode)
                texts = [normalise(text) for text in texts] if in_form else texts
                return pd.DataFrame([asdict(score) for score in score_texts(self.network, self.tokenizer, texts)])
            if mode != "generate":
                raise MlflowException.invalid_parameter_value(f"mode is {mode!r}, wanted 'generate' or 'score'")
            from slm_model.generation.config import SamplingConfig

            prompts = column(model_input, "prompt", mode)
            if not 1 <= num * max(len(prompts), 1) <= MAX_STORIES:
                wanted = f"{len(prompts):,} prompts and num {num:,}: 1 to {MAX_STORIES:,} stories a request"
                raise MlflowException.invalid_parameter_value(wanted)
            try:
                stories = self.generator.generate(prompts, SamplingConfig(**options), num)
            except ValueError as error:  # a setting out of bounds: the caller's mistake, not the server's
                raise MlflowException.invalid_parameter_value(str(error)) from None
            return pd.DataFrame([{"prompt": s.prompt, "story": s.text, "ended": s.ended} for s in stories])


def column(model_input: pd.DataFrame, name: str, mode: str) -> list[str]:
    """A column's texts. Raises MlflowException if there is none of that name, or a row of it holds no text."""
    if name not in model_input.columns:
        found = ", ".join(map(str, model_input.columns)) or "none"
        raise MlflowException.invalid_parameter_value(f"mode {mode!r} reads the column {name!r}; columns: {found}")
    texts = list(model_input[name])
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            found = "is missing" if pd.api.types.is_scalar(text) and pd.isna(text) else f"is a {type(text).__name__}"
            what = f"row {row}: the {name} {found}: mode {mode!r} wants a text in each row"
            raise MlflowException.invalid_parameter_value(what)
    return texts


def check_code(own: Path) -> None:
    """Raise RuntimeError if this process has other code of slm_model loaded than the bundle's: Python keeps it."""
    import slm_model

    loaded = Path(str(slm_model.__file__)).parent
    if loaded == own:
        return
    for path in sorted(own.rglob("*.py")):
        other = loaded / path.relative_to(own)
        if not other.is_file() or other.read_bytes() != path.read_bytes():
            raise RuntimeError(
                f"this process has slm_model from {loaded}, whose {path.name} is not the one that this model was made "
                "with: load the model in a process that has not imported slm_model"
            )


def signature() -> ModelSignature:
    """What predict takes and returns. MLflow drops a parameter that is not named here."""
    from slm_model.generation.config import SamplingConfig

    kinds = {"int": "long", "float": "double", "str": "string"}
    specs = [
        ParamSpec("mode", "string", "generate"),
        ParamSpec("num", "long", 1),
        ParamSpec("normalise", "boolean", True),
    ]
    for name, field in SamplingConfig.model_fields.items():
        if isinstance(field.default, tuple):
            specs.append(ParamSpec(name, "string", list(field.default), (-1,)))
        else:
            kind = str(SamplingConfig.__annotations__[name]).partition(" |")[0]
            specs.append(ParamSpec(name, kinds[kind], field.default))
    columns = Schema([ColSpec("string", name, required=False) for name in ("prompt", "text")])
    stories = Schema([ColSpec("string", name) for name in ("prompt", "story", "ended")])
    return ModelSignature(columns, stories, ParamSchema(specs))


set_model(StoryModel())
