"""What a flow run can be found by in the UI."""

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run


def tag_flow_run(*own: str) -> None:
    """Tag this flow run with the product's name and these, beside the tags of its deployment.

    Prefect's own `tags` would tag every task run as well, and each would then ask the server whether there is a limit
    on that tag, and wait for the answer (docs/performance.md, Choosing).
    """
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags={*flow_run.tags, "layerscout", *own})
