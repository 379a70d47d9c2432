"""Trove's words for people: what a task is, and what an agent's report means."""

from __future__ import annotations

from conductor.status import Task

_TASKS = {
    Task.NONE: "No tasks for the instance.",
    Task.DELETING: "Deleting the instance.",
    Task.REBOOTING: "Rebooting the instance.",
    Task.RESIZING: "Resizing the instance.",
    Task.BUILDING: "The instance is building.",
    Task.MIGRATING: "Migrating the instance.",
    Task.RESTART_REQUIRED: "Instance requires a restart.",
    Task.PROMOTING: "Promoting the instance to replica source.",
    Task.EJECTING: "Ejecting the replica source.",
    Task.LOGGING: "Transferring guest logs.",
    Task.DETACHING: "Detaching the instance from replica source.",
    Task.UPDATING: "Updating the instance.",
    Task.UPGRADING: "Upgrading the instance.",
    Task.BUILDING_ERROR_DNS: "Build error: DNS.",
    Task.BUILDING_ERROR_SERVER: "Build error: Server.",
    Task.BUILDING_ERROR_VOLUME: "Build error: Volume.",
    Task.BUILDING_ERROR_SEC_GROUP: "Build error: Secgroup or rule.",
    Task.BUILDING_ERROR_REPLICA: "Build error: Replica.",
    Task.BUILDING_ERROR_TIMEOUT_GA: "Build error: guestagent timeout.",
    Task.BUILDING_ERROR_PORT: "Build error: Management port.",
    Task.BUILDING_ERROR_ACCESS: "Build error: Access.",
    Task.PROMOTION_ERROR: "Replica Promotion Error.",
    Task.EJECTION_ERROR: "Replica Source Ejection Error.",
    Task.GROWING_ERROR: "Growing Cluster Error.",
    Task.SHRINKING_ERROR: "Shrinking Cluster Error.",
    Task.UPGRADING_ERROR: "Upgrading Error.",
    Task.DELETING_ERROR: "Deleting Error.",
}
_SERVICE_STATUSES = {
    "NEW": "new",
    "BUILD": "building",
    "HEALTHY": "healthy",
    "BLOCKED": "blocked",
    "SHUTDOWN": "shutdown",
    "FAILED": "failed to spawn",
    "ERROR": "guestagent error",
    "DELETED": "deleted",
    "RESTART_REQUIRED": "restart required",
}


def describe_task(task: str) -> str:
    known = _TASKS.get(Task(task))
    return known or f"{task.replace('_', ' ').capitalize()}."


def describe_service_status(word: str) -> str:
    return _SERVICE_STATUSES.get(word, word.replace("_", " ").lower())
