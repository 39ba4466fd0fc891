"""A head is worth what it was audited for, and a choice that its norm spoils is not exported in silence."""

import pytest

from storage.errors import UserError
from tasks.exporting.linear_head import refuse_worse
from tasks.exporting.recorded_run import Cut
from tasks.vocabulary import NormState, Pooling


def test_a_choice_that_is_worse_behind_the_norm_is_refused_with_two_ways_out() -> None:
    cut = Cut(7, Pooling.MEAN, NormState.AS_RETURNED, NormState.FINAL_NORM)
    with pytest.raises(UserError, match=r"−3\.0 points.*--norm-state final_norm.*--layer 7"):
        refuse_worse(cut, 0.9, (-0.03, -0.05, -0.01, 0.002))
    refuse_worse(cut, 0.9, (-0.03, -0.07, 0.01, 0.2))
