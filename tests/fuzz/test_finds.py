"""What fuzzing found, given to its entry again, and a short search that no coverage guides."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.entries import ENTRIES
from tests.fuzz.seeds import seeds

FINDS = sorted((Path(__file__).parent / "finds").glob("*/*"))
SEEDS = seeds()


@pytest.mark.parametrize("find", FINDS, ids=lambda find: f"{find.parent.name}-{find.name}")
def test_what_was_found_once_ends_well(find: Path) -> None:
    ENTRIES[find.parent.name](find.read_bytes())


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_it_starts_from_ends_well(entry: str) -> None:
    for seed in SEEDS[entry]:
        ENTRIES[entry](seed)


@pytest.mark.parametrize(("entry", "examples"), [("table", 40), ("source", 100), ("grid", 100), ("sql", 20)])
def test_edits_of_right_inputs_end_well(entry: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(data=st.data())
    def search(data: st.DataObject) -> None:
        whole = data.draw(st.sampled_from(SEEDS[entry]))
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, min(start + 8, len(whole))))
        put = data.draw(st.one_of(st.binary(max_size=4), st.text(max_size=4).map(str.encode)))
        ENTRIES[entry](whole[:start] + put + whole[end:])

    search()
