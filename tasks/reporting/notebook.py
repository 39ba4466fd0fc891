"""An answer as a notebook shows it: the sentence, the layer curve, and the model as a strip of layers."""

from html import escape

from tasks.reporting.answer import answer_sentence
from tasks.reporting.figure import answer_svg
from tasks.reporting.layer_curves import Tables, answer_curves
from tasks.reporting.report_parts import strip

_CELL = "display:inline-block;width:{width:.2f}%;height:1.2em;background:rgb(0 114 178 / {shade:.2f});{mark}"


def answer_html(tables: Tables) -> str:
    """A fragment of HTML without scripts, styles of its own alone, whatever the theme around it.

    Raises:
        ValueError: the tables hold no scored run, or more than one.
    """
    curves = answer_curves(tables)
    drawing = answer_svg(tables).decode()
    parts = [
        f"<p>{escape(answer_sentence(tables))}</p>",
        # What the figure is drawn on is white, also where the page is dark.
        f'<div style="max-width:46em;background:white">{drawing[drawing.index("<svg") :]}</div>',
    ]
    shades = strip(curves)
    if shades is not None:
        cells = "".join(
            f'<span title="layer {layer}" style="'
            + _CELL.format(
                width=100 / len(shades["cells"]),
                shade=0.08 + 0.92 * shade,
                mark="outline:2px solid currentColor;" if layer == curves.chosen else "",
            )
            + '"></span>'
            for layer, shade in shades["cells"]
        )
        words = f"{shades['what']}, {shades['low']} to {shades['high']}"
        parts.append(
            f'<div style="max-width:46em;font-size:0">{cells}</div>'
            f"<p><small>Layers 0 to {curves.deepest}, the darker the better ({escape(words)}); framed: layer "
            f"{curves.chosen}.</small></p>"
        )
    return "\n".join(parts)
