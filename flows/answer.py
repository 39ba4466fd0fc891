"""The answer of a sweep in Python: what it chose, what that was worth, new texts at the layer, the model cut there."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from flows.layer_sweep import SweepOutcome
    from storage.layout import Layout
    from tasks.choosing.prompt_choice import PromptAnswer
    from tasks.exporting.model_card import Evidence
    from tasks.exporting.recorded_run import RecordedRun
    from tasks.reporting.layer_curves import LayerCurves, Tables


class Answer:
    """What a sweep found. Accuracies, gain and confidence are fractions 0–1, of test rows where not said otherwise.

    In a notebook it shows its sentence, the layer curve and the model as a strip of layers.
    """

    def __init__(self, outcome: SweepOutcome, prompts: Sequence[PromptAnswer] = ()) -> None:
        self.run_id: str = outcome.run_id
        self.tables: Tables = outcome.tables
        """Every result table of the run by its name, as a Polars frame; docs/sql.md has their columns."""
        self.layout: Layout = outcome.layout
        self.report: str = outcome.files.html
        """Where the report lies: one page that needs no network."""
        self._prompts = prompts
        self._recorded: RecordedRun | None = None

    @property
    def layer(self) -> int:
        """The layer to take: an index into Hugging Face's `hidden_states`."""
        return int(self._choice["layer"])

    @property
    def pooling(self) -> str:
        """How its token states become one embedding."""
        return str(self._choice["pooling"])

    @property
    def norm_state(self) -> str:
        """`as_returned`, or `final_norm` where the model's final norm is applied to it."""
        return str(self._choice["norm_state"])

    @property
    def layers(self) -> tuple[tuple[int, str, str], ...]:
        """(layer, pooling, norm state) of what stands side by side, the chosen layer first; often that alone."""
        both = self._curves.together
        if both is None:
            return ((self.layer, self.pooling, self.norm_state),)
        return tuple(zip(both["layers"], both["poolings"], both["norm_states"], strict=True))

    @property
    def prompt(self) -> str | None:
        """The template around every text."""
        return self._curves.prompt

    @property
    def prompts(self) -> pl.DataFrame:
        """A row a prompt of a search: layer, pooling, score on train rows, test accuracy, and that over no prompt's.

        Of a race the prompt that won, and none on the same rows; `tables["race_step"]` has how the others stood.
        """
        import polars as pl

        from tasks.choosing.comparison import Comparison

        rows = []
        for each in self._prompts:
            row = asdict(each)
            over = row.pop("over_no_prompt") or dict.fromkeys(each.name for each in fields(Comparison))
            rows.append(row | {f"over_no_prompt_{key}": value for key, value in over.items()})
        return pl.DataFrame(rows, infer_schema_length=None)

    @property
    def accuracy(self) -> float:
        """Of a linear probe on the layer."""
        return float(self._audit["chosen_accuracy"])

    @property
    def gain(self) -> float:
        """The accuracy less that of the last layer."""
        return float(self._audit["gain_over_last"])

    @property
    def gain_interval(self) -> tuple[float, float]:
        """95 % interval of the gain, of the same test rows in pairs: Bonett and Price's; Student's where rows are not
        independent, count differently or may be right in part."""
        return float(self._audit["gain_low"]), float(self._audit["gain_high"])

    @property
    def confidence(self) -> float:
        """How likely the layer is within half a point of the best one, by train rows alone."""
        return float(self._choice["confidence"])

    @property
    def curve(self) -> pl.DataFrame:
        """A row a layer: layer, depth, silhouettes (−1 … 1), accuracy with its 95 % interval, and what the layer is."""
        import polars as pl

        from tasks.reporting.answer import layer_table

        return pl.DataFrame(layer_table(self.tables))

    def figure(self) -> Figure:
        """Accuracy and silhouettes against the layer, a panel for each pooling and norm state."""
        from tasks.reporting.figure import figure

        return figure(self.tables)

    def encode(
        self, texts: Any, *, together: bool = False, trust_remote_code: bool = False
    ) -> NDArray[np.float32]:
        """Embeddings of any texts at the chosen layer, float32 [N, D], in the dtype that the sweep computed in.

        Args:
            texts: a column of strings; where the sweep took the features of text pairs, pairs as it does, and what
                comes is their features, [N, 4·D]; where it tagged words, lists of words, and what comes is of all words
                in turn, [W, D], NaN for one that lies beyond the tokens that are read, or has none.
            together: of the layers side by side (`layers`), [N, S·D], of pairs [N, S·4·D].
            trust_remote_code: run the Python code that the model brings, where the sweep did.

        Raises:
            UserError: the model is not what the run saw, no token is left of a text, or no layers stand side by side.
        """
        from tasks.data.in_memory import as_pairs, as_texts, as_word_lists
        from tasks.embedding.text_pairs import flat
        from tasks.exporting.recorded_run import cut_of, find_recorded_run
        from tasks.exporting.whole_model import embed_cut, load_whole

        if self._recorded is None:  # it verifies what the run has left
            self._recorded = find_recorded_run(self.layout, self.run_id, trust_remote_code=trust_remote_code)
        run = self._recorded
        cut = cut_of(run, together=together)
        as_rows: Callable[[Any], list[Any]] = as_word_lists if run.of_words else as_texts
        own = flat(as_pairs(texts)) if run.of_pairs else as_rows(texts)
        return embed_cut(run, load_whole(run, run.settings.dtype), cut, own)

    def export(
        self,
        folder: str | Path,
        *,
        layer: int | None = None,
        together: bool = False,
        width: int | None = None,
        all_rows: bool = False,
        trust_remote_code: bool = False,
    ) -> Evidence:
        """Write the model, cut after the layer, with a linear head and a model card; see `layerscout export`.

        Args:
            folder: a new one.
            layer: another layer than the chosen one.
            together: the layers side by side (`layers`), in place of the one.
            width: dimensions to which an embedding is reduced, by principal components of the train rows.
            all_rows: fit the head on all train rows of the data set, where the sweep read fewer.
            trust_remote_code: run the Python code that the model brings, where the sweep did.

        Raises:
            UserError: the folder is taken, or the model has changed or cannot be cut; a layer or a width is no integer.
        """
        from flows.export import export_model
        from storage.errors import UserError

        if not isinstance(folder, str | os.PathLike):
            raise UserError(f"folder={folder!r} is no path of a new folder.")
        layer, width = _whole("layer", layer), _whole("width", width)
        return export_model(
            self.layout,
            self.run_id,
            Path(folder).expanduser(),
            layer=layer,
            together=together,
            width=width,
            all_rows=all_rows,
            trust_remote_code=trust_remote_code,
        )

    def __str__(self) -> str:
        from tasks.reporting.answer import answer_sentence

        return answer_sentence(self.tables)

    def __repr__(self) -> str:
        return f"<Answer of run {self.run_id}: {self}>"

    def _repr_html_(self) -> str:
        from tasks.reporting.notebook import answer_html

        return answer_html(self.tables)

    @cached_property
    def _curves(self) -> LayerCurves:
        from tasks.reporting.layer_curves import answer_curves

        return answer_curves(self.tables)

    @property
    def _choice(self) -> dict[str, Any]:
        assert self._curves.choice is not None
        return self._curves.choice

    @property
    def _audit(self) -> dict[str, Any]:
        assert self._curves.audit is not None
        return self._curves.audit


def _whole(name: str, given: Any) -> int | None:
    """An integer of Python's, also of one of NumPy's, such as `argmax` gives."""
    from storage.errors import UserError

    if given is None:
        return None
    try:
        if isinstance(given, bool):
            raise TypeError
        return operator.index(given)
    except TypeError as error:
        raise UserError(f"{name}={given!r} is no integer.") from error
