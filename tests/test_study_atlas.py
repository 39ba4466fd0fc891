"""The study's picture shows what its table holds, each cell once."""

import random
import re
from collections import Counter
from xml.etree import ElementTree

import polars as pl

from study.atlas import IMAGE, RESULTS, draw

SVG = "{http://www.w3.org/2000/svg}"


def a_table(draw_from: random.Random) -> pl.DataFrame:
    """Two models, three sets, of which the second model has not seen one; a name that is no markup."""
    rows = []
    for model, layers in (("small", 2), ("large & deep", 5)):
        for dataset, kind in (("a<b", "two classes"), ("c", "many classes"), ("d", "many classes")):
            if (model, dataset) == ("small", "d"):
                continue
            accuracy = [draw_from.randrange(400, 600) / 1000 for _ in range(layers + 1)]
            chosen, best = draw_from.randrange(layers + 1), accuracy.index(max(accuracy))
            rows += [
                {"model": model, "dataset": dataset, "kind": kind, "layer": layer, "layers": layers}
                | {"text_tokens": len(rows) + 1.0, "accuracy": value}
                | {"is_chosen": layer == chosen, "is_best": layer == best}
                for layer, value in enumerate(accuracy)
            ]
    return pl.DataFrame(rows)


def shapes(svg: str) -> Counter[str]:
    paths = ElementTree.fromstring(svg).findall(f"{SVG}path")
    return Counter({path.get("class"): len(re.findall("M", path.get("d", ""))) for path in reversed(paths)})


def test_every_layer_is_a_cell_of_the_colour_of_its_gain() -> None:
    layers = a_table(random.Random(0))
    told: Counter[str] = Counter()
    gains = []
    for _, curve in layers.group_by("model", "dataset"):
        last = curve.filter(pl.col("layer") == pl.col("layers"))["accuracy"].item()
        for row in curve.to_dicts():
            points = max(-5, min(5, round(100 * (row["accuracy"] - last))))
            told["even" if points == 0 else f"u{points}" if points > 0 else f"d{-points}"] += 1
            told["y"] += row["is_chosen"]
            told["z"] += row["is_best"]
            if row["is_chosen"]:
                gains.append(
                    f"{100 * (row['accuracy'] - last):+.1f}".replace("-", "−").replace("+0.0", "0.0")
                )
    svg = draw(layers)
    assert shapes(svg) == told
    words = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert not Counter(gains) - Counter(words)
    assert {"a<b", "c", "d", "small", "large & deep"} <= set(words)


def test_the_picture_is_that_of_the_table() -> None:
    assert IMAGE.read_text(encoding="utf-8") == draw(pl.read_csv(RESULTS))
