"""What is declared of each route: the rest of its description follows from path and method."""

from __future__ import annotations

from dataclasses import dataclass

_PAGE = ("limit", "marker")
_MANAGED_VERSIONS = "/mgmt/datastore-versions"
_VERSION = "/datastores/{datastore}/versions/{version}"
_CONFIGURATION = "/configurations/{id}"
_MANAGED_PARAMETERS = "/mgmt/datastores/versions/{version}/parameters"
_DATABASES = "/instances/{id}/databases"
_DATABASE = "{database:[^/]+}"
_USERS = "/instances/{id}/users"
_USER = f"{_USERS}/{{user:[^/]+}}"
_ROOT = "/instances/{id}/root"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One route. Bodies and answers are names in `schemas.SCHEMAS`; "" is none."""

    summary: str
    body: str = ""
    answer: str = ""
    status: int = 200
    query: tuple[str, ...] = ()
    # Other statuses of success, each without a body.
    also: tuple[int, ...] = ()
    # Whether the answer names an operation that goes on (X-Trove-Operation-Id).
    starts_operation: bool = False
    # What the answer is, where it is neither JSON nor XML.
    media_type: str = ""


def _read(summary: str, answer: str, *query: str) -> Described:
    return Described(summary=summary, answer=answer, query=query)


def _accepted(summary: str, body: str = "") -> Described:
    return Described(summary=summary, body=body, status=202)


# Below /v1.0/{project}. One line for each route; a test demands them.
ROUTES: dict[tuple[str, str], Described] = {
    ("POST", "/instances"): Described(
        summary="Create an instance",
        body="InstanceCreate",
        answer="Instance",
        starts_operation=True,
    ),
    ("GET", "/instances"): _read("List instances", "Instances", *_PAGE),
    ("GET", "/instances/detail"): _read("List instances in detail", "Instances", *_PAGE),
    ("GET", "/instances/{id}"): Described(
        summary="Show an instance", answer="Instance", also=(304,)
    ),
    ("PUT", "/instances/{id}"): Described(
        summary="Change an instance", body="InstanceReplace", status=202
    ),
    ("PATCH", "/instances/{id}"): Described(
        summary="Change parts of an instance", body="InstanceEdit", status=202
    ),
    ("DELETE", "/instances/{id}"): Described(
        summary="Delete an instance", status=202, starts_operation=True
    ),
    ("POST", "/instances/{id}/action"): Described(
        summary="Act on an instance: restart, resize, reset its status",
        body="InstanceAction",
        status=202,
        starts_operation=True,
    ),
    ("GET", "/instances/{id}/operations"): _read(
        "List an instance's operations, newest first", "Operations", *_PAGE
    ),
    ("GET", "/operations/{id}"): _read("Show an operation with its steps", "Operation"),
    ("GET", "/operations/{id}/events"): Described(
        summary="Follow an operation: server-sent events, resumed by Last-Event-ID",
        answer="Event",
        media_type="text/event-stream",
        also=(204,),
    ),
    ("GET", _DATABASES): _read("List an instance's databases", "Databases", *_PAGE),
    ("POST", _DATABASES): _accepted("Create databases", "DatabasesCreate"),
    ("GET", f"{_DATABASES}/{_DATABASE}"): Described(
        summary="Refused: the list shows all there is"
    ),
    ("DELETE", f"{_DATABASES}/{_DATABASE}"): _accepted("Delete a database"),
    ("GET", _USERS): _read("List an instance's users", "Users", *_PAGE),
    ("POST", _USERS): _accepted("Create users", "UsersCreate"),
    ("PUT", _USERS): _accepted("Change users' passwords", "UsersCreate"),
    ("GET", _USER): _read("Show a user", "User"),
    # As openstacksdk asks for a new user.
    ("POST", _USER): _accepted("Create a user", "Any"),
    ("PUT", _USER): _accepted("Change a user", "UserUpdate"),
    ("DELETE", _USER): _accepted("Delete a user"),
    ("GET", f"{_USER}/databases"): _read("List what a user may use", "Databases"),
    ("PUT", f"{_USER}/databases"): _accepted("Let a user use databases", "AccessGrant"),
    ("DELETE", f"{_USER}/databases/{_DATABASE}"): _accepted("Take a database from a user"),
    ("GET", _ROOT): _read("Tell whether root was enabled", "RootEnabled"),
    ("POST", _ROOT): Described(summary="Enable root, with a new password", answer="Root"),
    ("DELETE", _ROOT): Described(summary="Disable root", status=204),
    ("GET", "/mgmt/instances/{id}/root"): _read("Tell who enabled root (administrators)", "Any"),
    ("GET", "/instances/{id}/configuration"): _read("Show an instance's defaults", "Any"),
    ("GET", "/configurations"): _read("List configuration groups", "Configurations", *_PAGE),
    ("POST", "/configurations"): Described(
        summary="Create a configuration group", body="ConfigurationCreate", answer="Configuration"
    ),
    ("GET", _CONFIGURATION): _read("Show a configuration group", "Configuration"),
    ("PUT", _CONFIGURATION): _accepted("Replace a group's values", "ConfigurationUpdate"),
    ("PATCH", _CONFIGURATION): Described(
        summary="Change some of a group's values", body="ConfigurationUpdate"
    ),
    ("DELETE", _CONFIGURATION): _accepted("Delete a configuration group"),
    ("GET", f"{_CONFIGURATION}/instances"): _read(
        "List the instances of a group", "ConfigurationInstances", *_PAGE
    ),
    ("GET", f"{_VERSION}/parameters/{{name}}"): _read("Show a parameter", "Any"),
    ("GET", "/datastores/versions/{version}/parameters/{name}"): _read(
        "Show a parameter of a version by id", "Any"
    ),
    ("GET", _MANAGED_PARAMETERS): _read("List parameters (administrators)", "Parameters"),
    ("POST", _MANAGED_PARAMETERS): Described(
        summary="Add a parameter (administrators)", body="Any", answer="Any"
    ),
    ("GET", f"{_MANAGED_PARAMETERS}/{{name}}"): _read("Show a parameter", "Any"),
    ("PUT", f"{_MANAGED_PARAMETERS}/{{name}}"): Described(
        summary="Change a parameter (administrators)", body="Any", answer="Any"
    ),
    ("DELETE", f"{_MANAGED_PARAMETERS}/{{name}}"): Described(
        summary="Remove a parameter (administrators)", status=204
    ),
    ("GET", "/limits"): _read("List the project's limits", "Limits"),
    ("GET", "/mgmt/quotas/{id}"): _read("Show a project's quotas", "Quotas"),
    ("PUT", "/mgmt/quotas/{id}"): Described(
        summary="Set a project's quotas (administrators)", body="QuotasUpdate", answer="Any"
    ),
    ("GET", "/flavors"): _read("List flavors", "Flavors"),
    ("GET", "/flavors/{id}"): _read("Show a flavor", "Flavor"),
    ("GET", "/datastores"): _read("List datastores", "Datastores"),
    ("GET", "/datastores/{datastore}"): _read("Show a datastore", "Datastore"),
    ("GET", "/datastores/{datastore}/versions"): _read(
        "List a datastore's versions", "DatastoreVersions"
    ),
    ("GET", _VERSION): _read("Show a version of a datastore", "DatastoreVersion"),
    ("GET", "/datastores/versions/{version}"): _read("Show a version by id", "DatastoreVersion"),
    ("GET", f"{_VERSION}/flavors"): _read("List the flavors of a version", "Flavors"),
    ("GET", f"{_VERSION}/volume-types"): _read(
        "List the volume types of a version", "VolumeTypes"
    ),
    ("GET", f"{_VERSION}/parameters"): _read("List a version's parameters", "Parameters"),
    ("GET", "/datastores/versions/{version}/parameters"): _read(
        "List the parameters of a version by id", "Parameters"
    ),
    ("GET", "/modules"): _read("List modules", "Modules", "datastore", *_PAGE),
    ("POST", "/modules"): Described(
        summary="Create a module", body="ModuleCreate", answer="Module"
    ),
    ("GET", "/modules/{id}"): _read("Show a module", "Module"),
    ("PUT", "/modules/{id}"): Described(
        summary="Change a module", body="ModuleUpdate", answer="Module"
    ),
    ("DELETE", "/modules/{id}"): Described(summary="Delete a module"),
    ("DELETE", "/datastores/{datastore}"): _accepted("Delete a datastore (administrators)"),
    ("GET", _MANAGED_VERSIONS): _read("List every datastore version", "ManagedVersions"),
    ("POST", _MANAGED_VERSIONS): _accepted("Add a datastore version", "ManagedVersionCreate"),
    ("GET", f"{_MANAGED_VERSIONS}/{{id}}"): _read("Show any datastore version", "ManagedVersion"),
    ("PATCH", f"{_MANAGED_VERSIONS}/{{id}}"): _accepted("Change a datastore version", "Any"),
    ("DELETE", f"{_MANAGED_VERSIONS}/{{id}}"): _accepted("Delete a datastore version"),
    ("GET", "/mgmt/instances"): _read(
        "List every project's instances", "Instances", "deleted", "project_id", *_PAGE
    ),
    ("GET", "/mgmt/instances/{id}"): _read("Show any project's instance", "Instance", "deleted"),
    ("GET", "/mgmt/instances/{id}/diagnostics"): _read("Not told by any agent", "Any"),
    ("GET", "/mgmt/instances/{id}/hwinfo"): _read("Not told by any agent", "Any"),
    ("GET", "/mgmt/instances/{id}/rpc_ping"): Described(
        summary="Ask whether an instance's agent answers (administrators)", status=204
    ),
    ("POST", "/mgmt/instances/{id}/action"): _accepted("Act on any project's instance", "Any"),
    ("GET", "/clusters"): _read("List clusters: none", "Any"),
    ("POST", "/clusters"): Described(summary="Refused: there are no clusters", body="Any"),
    ("GET", "/mgmt/clusters"): _read("List every project's clusters: none", "Any"),
    ("GET", "/backup_strategies"): _read("List backup strategies: none", "Any"),
    ("POST", "/backup_strategies"): Described(
        summary="Refused: there are no backup strategies", body="Any"
    ),
    ("DELETE", "/backup_strategies"): Described(summary="Not found: there are none"),
    **{
        (method, f"{place}/clusters/{{id}}{part}"): Described(
            summary="Not found: there are no clusters"
        )
        for place, part, methods in (
            ("", "", ("GET", "POST", "DELETE")),
            ("", "/instances/{instance}", ("GET",)),
            ("", "/root", ("GET", "POST", "DELETE")),
            ("/mgmt", "", ("GET",)),
            ("/mgmt", "/action", ("POST",)),
        )
        for method in methods
    },
}
