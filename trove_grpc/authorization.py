"""One table: full method name -> roles that may call it. Absent means refused.

The same facts stand in each RPC's comment; a test walks every descriptor and compares the two,
so that no method can lack a row and no comment can lie.
"""

from __future__ import annotations

from trove_grpc.errors import PermissionDeniedError
from trove_grpc.names import Identity, Role

_READERS = frozenset({Role.API, Role.OPERATOR})
_API = frozenset({Role.API})
_TASKMANAGER = frozenset({Role.TASKMANAGER})
_GATEWAY = frozenset({Role.GATEWAY})
_GUEST = frozenset({Role.GUEST})
_OPERATOR = frozenset({Role.OPERATOR, Role.LOCAL})
_LOCAL = frozenset({Role.LOCAL})
_ISSUERS_CLIENTS = frozenset({Role.API, Role.CONDUCTOR, Role.TASKMANAGER, Role.GATEWAY})
_SERVICES = _ISSUERS_CLIENTS | {Role.ISSUER}

_CONDUCTOR = "/trove.conductor.v1"
_ISSUER_V1 = "/trove.issuer.v1"
_ISSUER = f"{_ISSUER_V1}.IssuerService"

CALLERS: dict[str, frozenset[Role]] = {
    # Guests: one stream and their own identity.
    "/trove.guest.v1.EnrolmentService/Enrol": frozenset({Role.ANONYMOUS}),
    "/trove.guest.v1.EnrolmentService/GetNonce": frozenset({Role.ANONYMOUS}),
    "/trove.guest.v1.EnrolmentService/Recover": frozenset({Role.ANONYMOUS}),
    "/trove.guest.v1.GuestSessionService/Connect": _GUEST,
    "/trove.guest.v1.IdentityService/Renew": _GUEST,
    "/trove.guest.v1.IdentityService/Confirm": _GUEST,
    "/trove.guest.v1.IdentityService/GetTrustBundle": _GUEST,
    "/trove.guest.v1.IdentityService/IssueEngineCertificate": _GUEST,
    # Conductor.
    f"{_CONDUCTOR}.InstanceService/CreateInstance": _API,
    f"{_CONDUCTOR}.InstanceService/GetInstanceView": _READERS,
    f"{_CONDUCTOR}.InstanceService/ListInstanceViews": _READERS,
    f"{_CONDUCTOR}.InstanceService/UpdateInstance": _API,
    f"{_CONDUCTOR}.InstanceService/DeleteInstance": _API,
    f"{_CONDUCTOR}.InstanceService/GetOperation": _READERS,
    f"{_CONDUCTOR}.InstanceService/ListOperations": _READERS,
    f"{_CONDUCTOR}.InstanceService/GetQuota": _READERS,
    f"{_CONDUCTOR}.ActionService/BeginAction": _API,
    f"{_CONDUCTOR}.ActionService/ResetInstance": _API,
    f"{_CONDUCTOR}.ActionService/ForceDeleteInstance": _API,
    f"{_CONDUCTOR}.DatastoreService/ListDatastores": _READERS,
    f"{_CONDUCTOR}.DatastoreService/GetDatastore": _READERS,
    f"{_CONDUCTOR}.DatastoreService/GetDatastoreVersion": _READERS,
    f"{_CONDUCTOR}.ModuleService/CreateModule": _API,
    f"{_CONDUCTOR}.ModuleService/GetModule": _READERS,
    f"{_CONDUCTOR}.ModuleService/ListModules": _READERS,
    f"{_CONDUCTOR}.ModuleService/UpdateModule": _API,
    f"{_CONDUCTOR}.ModuleService/DeleteModule": _API,
    f"{_CONDUCTOR}.DatastoreService/ListDatastoreVersions": _READERS,
    f"{_CONDUCTOR}.DatastoreService/CreateDatastoreVersion": _API,
    f"{_CONDUCTOR}.DatastoreService/UpdateDatastoreVersion": _API,
    f"{_CONDUCTOR}.DatastoreService/DeleteDatastoreVersion": _API,
    f"{_CONDUCTOR}.DatastoreService/DeleteDatastore": _API,
    f"{_CONDUCTOR}.ManagementService/ListManagedInstances": _READERS,
    f"{_CONDUCTOR}.ManagementService/GetManagedInstance": _READERS,
    f"{_CONDUCTOR}.QuotaService/UpdateQuota": _API,
    f"{_CONDUCTOR}.RateService/LeaseRate": _API,
    f"{_CONDUCTOR}.RateService/ListRates": _READERS,
    f"{_CONDUCTOR}.ConfigurationService/ListParameters": _READERS,
    f"{_CONDUCTOR}.ConfigurationService/WriteParameter": _API,
    f"{_CONDUCTOR}.ConfigurationService/DeleteParameter": _API,
    f"{_CONDUCTOR}.ConfigurationService/CreateConfiguration": _API,
    f"{_CONDUCTOR}.ConfigurationService/GetConfiguration": _READERS,
    f"{_CONDUCTOR}.ConfigurationService/ListConfigurations": _READERS,
    f"{_CONDUCTOR}.ConfigurationService/UpdateConfiguration": _API,
    f"{_CONDUCTOR}.ConfigurationService/DeleteConfiguration": _API,
    f"{_CONDUCTOR}.ConfigurationService/ListConfiguredInstances": _READERS,
    f"{_CONDUCTOR}.ConfigurationService/AttachConfiguration": _API,
    f"{_CONDUCTOR}.ConfigurationService/DetachConfiguration": _API,
    f"{_CONDUCTOR}.ConfigurationService/GetDefaultConfiguration": _READERS,
    f"{_CONDUCTOR}.OperationService/ListOpenOperations": frozenset(
        {Role.TASKMANAGER, Role.OPERATOR}
    ),
    f"{_CONDUCTOR}.OperationService/GetOperationInput": _TASKMANAGER,
    f"{_CONDUCTOR}.OperationService/GetOperationSecrets": _TASKMANAGER,
    f"{_CONDUCTOR}.OperationService/RecordStep": _TASKMANAGER,
    f"{_CONDUCTOR}.OperationService/RecordPlacement": _TASKMANAGER,
    f"{_CONDUCTOR}.OperationService/FinishOperation": _TASKMANAGER,
    f"{_CONDUCTOR}.OperationService/GetGuestState": frozenset({Role.TASKMANAGER, Role.OPERATOR}),
    f"{_CONDUCTOR}.ReportService/RenewGatewayLease": _GATEWAY,
    f"{_CONDUCTOR}.ReportService/OpenSession": _GATEWAY,
    f"{_CONDUCTOR}.ReportService/CloseSession": _GATEWAY,
    f"{_CONDUCTOR}.ReportService/Report": _GATEWAY,
    f"{_CONDUCTOR}.ReportService/LookupSession": frozenset(
        {Role.TASKMANAGER, Role.API, Role.OPERATOR}
    ),
    f"{_CONDUCTOR}.RootService/RecordRootEnabled": _API,
    f"{_CONDUCTOR}.RootService/RecordRootDisabled": _API,
    f"{_CONDUCTOR}.RootService/GetRoot": _API,
    f"{_CONDUCTOR}.RootService/GetRootHistory": _READERS,
    # Task manager.
    "/trove.taskmanager.v1.TaskManagerService/Wake": _API,
    "/trove.taskmanager.v1.TaskManagerService/ListFlavors": _READERS,
    # Guest gateway, internal side.
    # The gateway itself lets the API send what concerns databases and users only.
    "/trove.dispatch.v1.DispatchService/SendCommand": frozenset({Role.TASKMANAGER, Role.API}),
    "/trove.dispatch.v1.DispatchService/ListSessions": frozenset({Role.OPERATOR}),
    # Issuer.
    f"{_ISSUER}/EnrolGuest": _GATEWAY,
    f"{_ISSUER}/GetRecoveryNonce": _GATEWAY,
    f"{_ISSUER}/RecoverGuest": _GATEWAY,
    f"{_ISSUER}/RenewGuest": _GATEWAY,
    f"{_ISSUER}/ConfirmGuest": _GATEWAY,
    f"{_ISSUER}/IssueEngineCertificate": _GATEWAY,
    f"{_ISSUER}/RegisterSubject": _TASKMANAGER,
    f"{_ISSUER}/RetireSubject": _TASKMANAGER,
    f"{_ISSUER}/MintToken": frozenset({Role.TASKMANAGER, Role.OPERATOR, Role.LOCAL}),
    f"{_ISSUER}/VoidTokens": _TASKMANAGER,
    f"{_ISSUER}/ListTokens": _OPERATOR,
    f"{_ISSUER}/RevokeToken": _OPERATOR,
    f"{_ISSUER}/PushTrustBundle": _OPERATOR,
    f"{_ISSUER}/GetTrustBundle": _ISSUERS_CLIENTS | _OPERATOR,
    f"{_ISSUER}/ListDenials": _ISSUERS_CLIENTS | _OPERATOR,
    f"{_ISSUER}/CreateDenial": _OPERATOR,
    f"{_ISSUER}/RecordRefusals": _GATEWAY,
    f"{_ISSUER}/RenewService": _SERVICES,
    f"{_ISSUER}/EnrolService": _LOCAL,
    f"{_ISSUER}/IssueOperatorCertificate": _LOCAL,
    f"{_ISSUER}/ListCertificates": _OPERATOR,
    f"{_ISSUER_V1}.WatchService/Watch": _ISSUERS_CLIENTS,
    f"{_ISSUER_V1}.WatchService/ReportGuests": _GATEWAY,
    # Issuer, the operators' side.
    f"{_ISSUER_V1}.AuthorityService/ListAuthorities": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/PlanRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/StartRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/GetRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/ListRotations": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/AdvanceRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/PauseRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/RollBackRotation": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/TaintAuthority": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/ExportCrl": _OPERATOR,
    f"{_ISSUER_V1}.AuthorityService/ListServices": _OPERATOR,
    f"{_ISSUER_V1}.AgentService/ListAgents": _OPERATOR,
    f"{_ISSUER_V1}.AgentService/GetAgent": _OPERATOR,
    f"{_ISSUER_V1}.AgentService/AllowRecovery": _OPERATOR,
    f"{_ISSUER_V1}.AgentService/LiftDenial": _OPERATOR,
    f"{_ISSUER_V1}.AgentService/ResolveClone": _OPERATOR,
    f"{_ISSUER_V1}.AuditService/ListAuditRecords": _OPERATOR,
    f"{_ISSUER_V1}.AuditService/VerifyAudit": _OPERATOR,
    f"{_ISSUER_V1}.AuditService/CreateCheckpoint": _OPERATOR,
    f"{_ISSUER_V1}.FederationService/PutFederatedBundle": _OPERATOR,
    f"{_ISSUER_V1}.FederationService/ListFederatedBundles": _OPERATOR,
    f"{_ISSUER_V1}.FederationService/RemoveFederatedBundle": _OPERATOR,
    f"{_ISSUER_V1}.BreakglassService/IssueBreakglass": _OPERATOR,
    f"{_ISSUER_V1}.BreakglassService/EndBreakglass": _OPERATOR,
    # Local supervisor, on its UNIX socket alone.
    "/trove.supervisor.v1.SupervisorService/AllocateAddress": _LOCAL,
    "/trove.supervisor.v1.SupervisorService/EnsureGuest": _LOCAL,
    "/trove.supervisor.v1.SupervisorService/ListGuests": _LOCAL,
    "/trove.supervisor.v1.SupervisorService/RemoveGuest": _LOCAL,
    "/trove.supervisor.v1.SupervisorService/ListProcesses": _LOCAL,
    # Standard services.
    "/grpc.health.v1.Health/Check": _SERVICES | _OPERATOR,
    "/grpc.health.v1.Health/Watch": _SERVICES | _OPERATOR,
    "/grpc.health.v1.Health/List": _OPERATOR,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": _OPERATOR,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({Role.OPERATOR}),
}

# What services of other regions may call, whichever they are there, and nothing beside it.
FEDERATED = frozenset({f"{_ISSUER}/GetTrustBundle", "/grpc.health.v1.Health/Check"})


def authorize(identity: Identity, method: str) -> None:
    """Raise PermissionDeniedError unless the table has a row that names the caller's role.

    An unknown method gives the same answer as a forbidden one: there is nothing to learn.
    """
    if identity.role is Role.FEDERATED:
        if method not in FEDERATED:
            raise PermissionDeniedError(f"{identity.uri} may not call {method}", subject=method)
        return
    # What an operator may, an emergency may: its identity differs so that it is seen.
    role = Role.OPERATOR if identity.role is Role.BREAKGLASS else identity.role
    if role not in CALLERS.get(method, frozenset()):
        raise PermissionDeniedError(f"{identity.uri} may not call {method}", subject=method)
