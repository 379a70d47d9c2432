"""The task manager's peers behind real gRPC: fakes of taskmanager_peers on real listeners."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from taskmanager.compute import GuestSpec
from tests.fakes.certificates import TestAuthority
from tests.fakes.compute import FakeCompute
from tests.fakes.taskmanager_peers import FakeConductor, FakeGuests, FakeIssuer
from trove_grpc.gen.common.v1 import trust_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2 as operations_pb2
from trove_grpc.gen.conductor.v1 import operation_service_pb2_grpc as operations_rpc
from trove_grpc.gen.conductor.v1 import report_service_pb2_grpc as report_rpc
from trove_grpc.gen.dispatch.v1 import dispatch_service_pb2, dispatch_service_pb2_grpc
from trove_grpc.gen.issuer.v1 import issuer_service_pb2, issuer_service_pb2_grpc
from trove_grpc.gen.supervisor.v1 import supervisor_service_pb2, supervisor_service_pb2_grpc
from trove_grpc.identity import Role
from trove_grpc.redaction import Secret
from trove_grpc.server import Server, build_internal_server, build_local_server
from trove_grpc.tls import IdentityDirectory

_PAGE = 2  # small, so that paging is exercised


class OperationFace(operations_rpc.OperationServiceServicer):
    def __init__(self, conductor: FakeConductor) -> None:
        self._conductor = conductor

    async def ListOpenOperations(self, request, context):
        operations = list(await self._conductor.list_open_operations())
        start = int(request.page_token or 0)
        end = start + _PAGE
        return operations_pb2.ListOpenOperationsResponse(
            operations=operations[start:end],
            next_page_token=str(end) if end < len(operations) else "",
        )

    async def GetOperationInput(self, request, context):
        return await self._conductor.get_input(request.operation_id)

    async def GetOperationSecrets(self, request, context):
        users = await self._conductor.get_users(request.operation_id)
        return operations_pb2.GetOperationSecretsResponse(users=users)

    async def RecordStep(self, request, context):
        await self._conductor.record_step(
            request.operation_id, request.step_name, request.state, request.detail
        )
        return operations_pb2.RecordStepResponse()

    async def RecordPlacement(self, request, context):
        await self._conductor.record_placement(request.instance_id, request.placement)
        return operations_pb2.RecordPlacementResponse()

    async def FinishOperation(self, request, context):
        fault = request.fault if request.HasField("fault") else None
        await self._conductor.finish_operation(request.operation_id, request.state, fault)
        return operations_pb2.FinishOperationResponse()

    async def GetGuestState(self, request, context):
        return await self._conductor.get_guest_state(request.instance_id)


class ReportFace(report_rpc.ReportServiceServicer):
    def __init__(self, conductor: FakeConductor) -> None:
        self._conductor = conductor

    async def LookupSession(self, request, context):
        return await self._conductor.lookup_session(request.instance_id)


class IssuerFace(issuer_service_pb2_grpc.IssuerServiceServicer):
    def __init__(
        self,
        issuer: FakeIssuer,
        bundle: trust_pb2.TrustBundle,
        denials: list[issuer_service_pb2.Denial],
    ) -> None:
        self._issuer = issuer
        self._bundle = bundle
        self._denials = denials

    async def RegisterSubject(self, request, context):
        await self._issuer.register_subject(
            request.instance_id,
            request.tenant_id,
            dns_names=request.engine_dns_names,
            ip_addresses=request.engine_ip_addresses,
        )
        return issuer_service_pb2.RegisterSubjectResponse(enrol_epoch=1)

    async def RetireSubject(self, request, context):
        await self._issuer.retire_subject(request.instance_id, request.reason)
        return issuer_service_pb2.RetireSubjectResponse()

    async def MintToken(self, request, context):
        token = await self._issuer.mint_token(request.instance_id)
        return issuer_service_pb2.MintTokenResponse(token_id=token.id, token=token.secret.reveal())

    async def ListDenials(self, request, context):
        following = [each for each in self._denials if each.sequence > request.after_sequence]
        return issuer_service_pb2.ListDenialsResponse(
            denials=following, head_sequence=len(self._denials)
        )

    async def VoidTokens(self, request, context):
        await self._issuer.void_tokens(request.instance_id)
        return issuer_service_pb2.VoidTokensResponse()

    async def GetTrustBundle(self, request, context):
        return issuer_service_pb2.GetTrustBundleResponse(bundle=self._bundle)


class DispatchFace(dispatch_service_pb2_grpc.DispatchServiceServicer):
    def __init__(self, guests: FakeGuests) -> None:
        self._guests = guests

    async def SendCommand(self, request, context):
        result = await self._guests.send_command(request.instance_id, request.command)
        return dispatch_service_pb2.SendCommandResponse(result=result)


class SupervisorFace(supervisor_service_pb2_grpc.SupervisorServiceServicer):
    def __init__(self, compute: FakeCompute) -> None:
        self._compute = compute

    async def AllocateAddress(self, request, context):
        address = await self._compute.allocate_address(request.instance_id, request.port)
        return supervisor_service_pb2.AllocateAddressResponse(address=address)

    async def EnsureGuest(self, request, context):
        spec = GuestSpec(
            instance_id=request.instance_id,
            tenant_id=request.tenant_id,
            manager=request.manager,
            enrolment_token=Secret(request.enrolment_token),
            trust_bundle=trust_pb2.TrustBundle.FromString(request.trust_bundle),
            enrolment_endpoints=tuple(request.enrolment_endpoints),
            guest_endpoints=tuple(request.guest_endpoints),
        )
        await self._compute.ensure_guest(spec)
        return supervisor_service_pb2.EnsureGuestResponse(guest=self._guest(spec.instance_id))

    async def ListGuests(self, request, context):
        for instance_id in self._compute.guests:
            await self._compute.find_guest(instance_id)
        guests = [self._guest(instance_id) for instance_id in self._compute.guests]
        return supervisor_service_pb2.ListGuestsResponse(guests=guests)

    async def RemoveGuest(self, request, context):
        await self._compute.remove_guest(request.instance_id)
        return supervisor_service_pb2.RemoveGuestResponse()

    def _guest(self, instance_id: str) -> supervisor_service_pb2.Guest:
        return supervisor_service_pb2.Guest(
            instance_id=instance_id,
            address=self._compute.addresses[instance_id],
            agent_pid=4242 if self._compute.is_running else 0,
            has_identity=self._compute.has_identity,
        )


@dataclass(frozen=True, slots=True)
class Addresses:
    conductor: str
    issuer: str
    gateway: str
    supervisor: Path


class Peers:
    """Conductor, issuer, gateway and supervisor on real sockets."""

    def __init__(self, authority: TestAuthority, folder: Path) -> None:
        self._authority, self._folder = authority, folder
        self.conductor = FakeConductor()
        self.issuer = FakeIssuer()
        self.denials: list[issuer_service_pb2.Denial] = []  # the issuer's
        self.compute = FakeCompute()
        self.guests = FakeGuests(self.conductor)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Addresses]:
        def add_conductor(server):
            operations_rpc.add_OperationServiceServicer_to_server(
                OperationFace(self.conductor), server
            )
            report_rpc.add_ReportServiceServicer_to_server(ReportFace(self.conductor), server)

        def add_issuer(server):
            face = IssuerFace(self.issuer, self._authority.bundle(), self.denials)
            issuer_service_pb2_grpc.add_IssuerServiceServicer_to_server(face, server)

        def add_gateway(server):
            face = DispatchFace(self.guests)
            dispatch_service_pb2_grpc.add_DispatchServiceServicer_to_server(face, server)

        def add_supervisor(server):
            face = SupervisorFace(self.compute)
            supervisor_service_pb2_grpc.add_SupervisorServiceServicer_to_server(face, server)

        async with contextlib.AsyncExitStack() as stack:

            async def start(role: Role, register) -> str:
                server = build_internal_server(
                    "127.0.0.1:0", identity=self.identity(role), register=register, services=()
                )
                await self._start(stack, server)
                return f"127.0.0.1:{server.port}"

            socket = self._folder / "supervisor.sock"
            addresses = Addresses(
                await start(Role.CONDUCTOR, add_conductor),
                await start(Role.ISSUER, add_issuer),
                await start(Role.GATEWAY, add_gateway),
                socket,
            )
            await self._start(stack, build_local_server(socket, register=add_supervisor))
            yield addresses

    def identity(self, role: Role) -> IdentityDirectory:
        path = self._folder / f"identity-{role}"
        return self._authority.identity_for_service(role, path)

    @staticmethod
    async def _start(stack: contextlib.AsyncExitStack, server: Server) -> None:
        await server.start()
        stack.push_async_callback(server.stop, 0)
