import errno

import httpx
import pytest
from prefect.states import Failed

from storage.errors import UnreachableError, UserError
from tasks.choosing.curve_choice import audit_task, choose_layer_task
from tasks.data.dataset import prepare_dataset_task
from tasks.embedding.embedding_set import embed_shard_task, plan_embedding_set_task
from tasks.embedding.model import resolve_model_task
from tasks.reporting.run_record import summarise_task
from tasks.retries import waiting_helps
from tasks.scoring.layer_scores import score_layer_task


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (FileNotFoundError("the disk is not mounted"), True),
        (ConnectionResetError(), True),
        (httpx.ReadTimeout("slow"), True),
        (UnreachableError("the hub answered 503"), True),
        (UserError("no column 'words'"), False),
        (ValueError("a bug"), False),
        (MemoryError(), False),
    ],
)
def test_every_task_is_tried_again_where_waiting_helps_and_nowhere_else(
    error: Exception, helps: bool
) -> None:
    assert waiting_helps(error) is helps
    state = Failed(message=str(error), data=error)
    tasks = [prepare_dataset_task, resolve_model_task, plan_embedding_set_task, embed_shard_task]
    tasks += [score_layer_task, choose_layer_task, audit_task, summarise_task]
    for each in tasks:
        assert each.retries == 3
        assert each.timeout_seconds is not None
        assert each.retry_condition_fn is not None
        assert each.retry_condition_fn(each, None, state) is helps
