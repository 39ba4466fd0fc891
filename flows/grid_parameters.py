"""What a grid is asked to do: one frozen model, read from a YAML file."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from flows.parameters import DEFAULT_STORAGE, SweepParameters
from storage.errors import UserError
from storage.sources.grammar import parse_source
from tasks.vocabulary import NO_PROMPT

# What a pair is, and where all pairs lie, is said elsewhere in the file.
NAMED_ELSEWHERE = {"model": "`models`", "dataset": "`datasets`", "storage": "`storage` beside `blocks`"}


def _of_every_pair(asked: dict[str, Any]) -> dict[str, Any]:
    for name, place in NAMED_ELSEWHERE.items():
        if name in asked:
            raise ValueError(f"{name} belongs into {place}, not here")
    return asked


SharedParameters = Annotated[dict[str, Any], AfterValidator(_of_every_pair)]


class GridBlock(BaseModel):
    """Every model with every data set, all looked at in the same way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(title="Models", description="Sources of models.", min_length=1)
    datasets: tuple[str, ...] = Field(title="Data sets", description="Sources of data sets.", min_length=1)
    sweep: SharedParameters = Field(
        {}, title="Sweep", description="Parameters of these sweeps, over those of the whole grid."
    )


class GridParameters(BaseModel):
    """Many models × many data sets, one sweep a pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[GridBlock, ...] = Field(title="Blocks", description="Models × data sets.", min_length=1)
    sweep: SharedParameters = Field(
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
    deployment: str | None = Field(
        None,
        title="Deployment",
        description="FLOW/DEPLOYMENT of layer-sweep, such as layer-sweep/sweep: its workers sweep the pairs, each on a "
        "machine that reaches the storage. When left out, this process does, one after the other.",
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
        counted = Counter(pair_name(pair) for pair in found)
        if doubled := min((name for name, times in counted.items() if times > 1), default=None):
            raise UserError(f"The grid holds {doubled} more than once. Leave one of them out.")
        return found


def pair_name(pair: SweepParameters) -> str:
    """Such as `wheel:minilm-l6 × wheel:reuters-r8`, and with which prompt."""
    prompt = "" if pair.prompt == NO_PROMPT else f" with {pair.prompt}"
    return f"{pair.model} × {pair.dataset}{prompt}"


def locate_dataset(spec: str, data_root: str | None) -> str:
    """Where a grid's data set is read from: below `data_root` where that applies, else as it is written."""
    source = parse_source(spec, "dataset")
    return spec if data_root is None else source.below(Path(data_root))


class _Loader(yaml.SafeLoader):
    """Of a key that stands twice, YAML's own would take the second without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As it is written: merges (<<) are put into a mapping later, and may bring what it has a value for.
        node = super().compose_mapping_node(anchor)
        assert isinstance(node, yaml.MappingNode)
        counted = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in counted.items():
            if times > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found the key {key!r} more than once", node.start_mark
                )
        return node


def read_grid(
    file: str, *, data_root: str | None = None, storage: str | None = None, deployment: str | None = None
) -> GridParameters:
    """A grid from a YAML file of `blocks` and `sweep`; the arguments, where given, over what it says.

    Raises:
        UserError: no such file, not YAML, or not a grid; each wrong key is named.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"There is no grid file {file}. deployments/paper.yaml shows what one looks like.")
    try:
        # Of bytes: YAML knows UTF-16 by its first two. What the loader makes is what safe_load makes.
        content = yaml.load(path.read_bytes(), _Loader)  # it is a SafeLoader
    except yaml.reader.ReaderError as error:
        raise UserError(f"{file} cannot be read as text ({error.reason}): save it as UTF-8.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    except (ValueError, LookupError, AttributeError) as error:
        # YAML's makers of days, numbers and truths trust that what looks like one, or is tagged as one, is one.
        raise UserError(
            f"{file} holds a value that is not what it looks like ({error}): quote it."
        ) from error
    except RecursionError as error:
        raise UserError(f"{file} holds no grid: its brackets are nested too deep.") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds no grid: `blocks` with `models` and `datasets` are needed.")
    if odd := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"{file} is not a grid: {odd[0]!r} is a key that is no word.")
    given = {"data_root": data_root, "storage": storage, "deployment": deployment}
    try:
        grid = GridParameters(
            **{**content, **{key: value for key, value in given.items() if value is not None}}
        )
        grid.pairs()
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, each['loc'])) or 'sweep'}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors(include_url=False)
        ]
        raise UserError(f"{file} is not a grid: {'; '.join(wrong)}.") from error
    return grid
