"""`python -m study.atlas STORAGE`: the picture of every layer of every set, of the runs of study/atlas.yaml.

`results/layers.csv` has a row a model, set and layer; without STORAGE the picture is drawn from it as it stands.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import polars as pl

from storage.layout import Layout
from storage.results import query

RESULTS = Path(__file__).parent / "results" / "layers.csv"
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "study" / "atlas.svg"
_ASKED = """SELECT short_name(model_id) AS model, short_name(dataset_id) AS dataset, family, kind, classes,
    round(text_tokens, 1) AS text_tokens, layer, layers, accuracy, is_chosen, is_best, is_turning, n_test
    FROM atlas WHERE is_answer ORDER BY ALL"""
# Points of gain over the last layer, a step each; beyond the last step a cell has its colour too.
_STEPS = 5
_COLOURS = ("paper", "ink", "soft", "even", "up", "down")
_LIGHT = dict(zip(_COLOURS, ("#ffffff", "#1c1e21", "#5c6066", "#ecebe6", "#0068a6", "#c25100"), strict=True))
_DARK = dict(zip(_COLOURS, ("#15171a", "#eceae5", "#a3a6ab", "#2b2e33", "#62b8ee", "#f0a34a"), strict=True))
_KINDS = ("two classes", "few classes", "many classes")
_NAMES, _PANEL, _TOLD, _ROW, _TOP, _FOOT = 128, 310, 52, 18, 62, 50


def main(storage: str | None = None, results: Path = RESULTS, image: Path = IMAGE) -> None:
    """Write the table from a storage folder, or read it; and draw it."""
    if storage is not None:
        layers = query(Layout(storage).results, _ASKED)
        results.parent.mkdir(parents=True, exist_ok=True)
        layers.write_csv(results, float_precision=5)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_text(draw(pl.read_csv(results)), encoding="utf-8")


def draw(layers: pl.DataFrame) -> str:
    """An SVG: a panel a model, a row a data set, a cell a layer, coloured by its accuracy less the last layer's.

    Args:
        layers: rows of `results/layers.csv`.
    """
    models = layers.sort("layers", "model")["model"].unique(maintain_order=True).to_list()
    sets = _rows_of(layers)
    width = _NAMES + max(len(models), 2) * (_PANEL + _TOLD)
    height = _TOP + sum(_ROW if name else _ROW + 4 for _, name in sets) + _FOOT
    shapes: dict[str, list[str]] = {}
    words = [_text(_NAMES + n * (_PANEL + _TOLD), 36, "b", model) for n, model in enumerate(models)]
    for n in range(len(models)):
        left = _NAMES + n * (_PANEL + _TOLD)
        words += [_text(left, 53, "s", "embeddings"), _text(left + _PANEL, 53, "s e", "last layer")]
    y = _TOP
    for kind, name in sets:
        if name is None:
            words.append(_text(0, y + 15, "s", kind))
            y += _ROW + 4
            continue
        words.append(_text(_NAMES - 8, y + 13, "e", name))
        for n, model in enumerate(models):
            own = layers.filter(model=model, dataset=name).sort("layer")
            if own.height:
                left = _NAMES + n * (_PANEL + _TOLD)
                words.append(_row(own, left, y, shapes))
        y += _ROW
    title = "Accuracy of every layer of a frozen model, against its last layer, on many data sets"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 0 {width + 24} {height}" width="{width + 24}" '
            f'height="{height}" role="img" aria-labelledby="t">',
            f'<title id="t">{title}</title>',
            f"<style>{_style()}</style>",
            f'<rect class="paper" x="-12" width="{width + 24}" height="{height}"/>',
            _text(
                0,
                16,
                "b",
                "Points of accuracy of every layer over the last one; at the right, those of the chosen layer",
            ),
            *(f'<path class="{name}" d="{"".join(found)}"/>' for name, found in sorted(shapes.items())),
            *words,
            *_legend(y + 30),
            "</svg>\n",
        ]
    )


def _rows_of(layers: pl.DataFrame) -> list[tuple[str, str | None]]:
    """(kind, data set) in the order of kinds and text lengths; before each kind a row for its name alone."""
    lengths = (
        layers.group_by("kind", "dataset").agg(pl.col("text_tokens").mean()).sort("text_tokens", "dataset")
    )
    found: list[tuple[str, str | None]] = []
    for kind in _KINDS:
        own = lengths.filter(kind=kind)["dataset"].to_list()
        found += [(kind, None), *((kind, name) for name in own)] if own else []
    return found


def _row(own: pl.DataFrame, left: float, y: float, shapes: dict[str, list[str]]) -> str:
    """Put the cells of one curve where others of their colour are; what stands beside them."""
    last = own.row(-1, named=True)["accuracy"]
    cell = _PANEL / own.height
    told = ""
    for n, layer in enumerate(own.to_dicts()):
        gain = layer["accuracy"] - last
        step = max(-_STEPS, min(_STEPS, round(100 * gain)))
        x, wide = left + n * cell, cell - 1
        name = f"u{step}" if step > 0 else f"d{-step}" if step < 0 else "even"
        shapes.setdefault(name, []).append(f"M{x:.1f} {y}h{wide:.1f}v{_ROW - 2}h-{wide:.1f}z")
        if layer["is_chosen"]:
            shapes.setdefault("y", []).append(f"M{x:.1f} {y}h{wide:.1f}v{_ROW - 2}h-{wide:.1f}z")
            told = _text(left + _PANEL + 6, y + 13, "", _signed(gain))
        if layer["is_best"]:
            shapes.setdefault("z", []).append(f"M{x + wide / 2 - 2.6:.1f} {y + 8}a2.6 2.6 0 1 1 0 .1z")
    return told


def _legend(y: float) -> Iterator[str]:
    x = 0.0
    for step in range(-_STEPS, _STEPS + 1):
        name = f"u{step}" if step > 0 else f"d{-step}" if step < 0 else "even"
        yield f'<rect class="{name}" x="{x + 16 * (step + _STEPS)}" y="{y - 12}" width="15" height="14"/>'
    x = 16 * (2 * _STEPS + 1) + 8
    yield _text(x, y, "s", f"−{_STEPS} points or less … +{_STEPS} or more")
    yield f'<path class="y" d="M{x + 205} {y - 12}h15v14h-15z"/>' + _text(
        x + 226, y, "s", "chosen from train rows"
    )
    yield f'<path class="z" d="M{x + 380} {y - 5}a2.6 2.6 0 1 1 0 .1z"/>' + _text(
        x + 392, y, "s", "best on test rows"
    )


def _text(x: float, y: float, name: str, words: str) -> str:
    return f'<text x="{x:g}" y="{y:g}"{f" class={chr(34)}{name}{chr(34)}" if name else ""}>{escape(words)}</text>'


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def _style() -> str:
    fixed = (
        "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif}"
        ".b{font-weight:600;font-size:13px}.e{text-anchor:end}.y{fill:none;stroke-width:2}.z{stroke-width:1.2}"
    )
    return f"{fixed}{_colours(_LIGHT)}@media(prefers-color-scheme:dark){{{_colours(_DARK)}}}"


def _colours(of: dict[str, str]) -> str:
    """The rules of one mode. Every pair of paper and ink comes together, so that no viewer mixes them."""
    rules = [
        f".paper{{fill:{of['paper']}}}text{{fill:{of['ink']}}}.s{{fill:{of['soft']}}}.even{{fill:{of['even']}}}"
    ]
    rules.append(f".y{{stroke:{of['ink']}}}.z{{fill:{of['ink']};stroke:{of['paper']}}}")
    for name, end in (("u", of["up"]), ("d", of["down"])):
        for step in range(1, _STEPS + 1):
            rules.append(f".{name}{step}{{fill:{_mixed(of['even'], end, step / _STEPS)}}}")
    return "".join(rules)


def _mixed(start: str, end: str, share: float) -> str:
    def channels(colour: str) -> Iterable[int]:
        return bytes.fromhex(colour.removeprefix("#"))

    both = zip(channels(start), channels(end), strict=True)
    return "#" + "".join(f"{round(one + share * (other - one)):02x}" for one, other in both)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
