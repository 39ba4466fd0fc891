"""layerscout in Python: which layer of a frozen language model separates my labels best, before I train anything?

    import layerscout

    answer = layerscout.sweep("wheel:smollm2-135m", texts, labels)
    answer.layer, answer.accuracy, answer.curve
    answer.encode(["a new text"])
    answer.export("my-model")

The functions are those of the command line: what they leave in a storage folder, `layerscout sql`, `report` and `ui`
read, and what those have left, `open` gives back.
"""

from typing import TYPE_CHECKING, Any

from flows.answer import Answer
from flows.api import choose, open, search, sweep
from storage.errors import UserError

if TYPE_CHECKING:
    from flows.embedder import LayerEmbedder

__all__ = ["Answer", "LayerEmbedder", "UserError", "choose", "open", "search", "sweep"]


def __getattr__(name: str) -> Any:
    if name == "LayerEmbedder":  # scikit-learn is slow to import
        from flows.embedder import LayerEmbedder

        return LayerEmbedder
    raise AttributeError(f"module 'layerscout' has no attribute {name!r}")
