"""Delete an instance: guest first, then its identity, then the record.

In this order nothing is stranded: as long as anything is left, the record still names it, and
every step may be repeated.
"""

from __future__ import annotations

from taskmanager.flows import Flow, StepFailedError
from taskmanager.operations import Input, OperationRun, Services


async def delete_instance(flow: Flow, services: Services) -> None:
    run = OperationRun(flow, services)
    try:
        await run.step("remove_guest", remove_guest)
        await run.step("retire_identity", retire_identity)
    except StepFailedError as failure:
        await run.fail(
            failure,
            "the instance could not be deleted",
            ("repeat `openstack database instance delete INSTANCE`: every step may be repeated",),
            "",
        )
        return
    await run.finish()


async def remove_guest(run: OperationRun, given: Input) -> None:
    await run.services.compute.remove_guest(given.operation.instance_id)


async def retire_identity(run: OperationRun, given: Input) -> None:
    await run.services.issuer.retire_subject(
        given.operation.instance_id, f"operation {given.operation.id} ({given.operation.kind})"
    )
