"""A compute driver in memory, held to the conformance suite in tests/integration/taskmanager."""

from collections.abc import Sequence

from taskmanager.compute import Flavor, Guest, GuestSpec
from trove_grpc.errors import TroveError


class FakeCompute:
    """Guests are entries of a dict; `failures` are raised, one for each call of a method."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.guests: dict[str, GuestSpec] = {}
        self.tokens: list[str] = []  # every token a guest was given, in order
        self.boots = 0
        self.volumes: dict[str, int] = {}  # as grown, GiB
        self.failures: dict[str, list[TroveError]] = {}
        self.has_identity = False
        self.is_running = True

    async def allocate_address(self, instance_id: str, port: int) -> str:
        self._fail("allocate_address")
        return self.addresses.setdefault(instance_id, f"127.77.0.{len(self.addresses) + 1}")

    async def ensure_guest(self, spec: GuestSpec) -> Guest:
        self._fail("ensure_guest", spec)
        if spec.instance_id not in self.guests:
            self.boots += 1
        self.addresses.setdefault(spec.instance_id, f"127.77.0.{len(self.addresses) + 1}")
        self.guests[spec.instance_id] = spec
        self.tokens.append(spec.enrolment_token.reveal())
        return self._guest(spec.instance_id)

    async def find_guest(self, instance_id: str) -> Guest | None:
        self._fail("find_guest")
        return self._guest(instance_id) if instance_id in self.guests else None

    async def remove_guest(self, instance_id: str) -> None:
        self._fail("remove_guest")
        self.guests.pop(instance_id, None)
        self.addresses.pop(instance_id, None)

    async def grow_volume(self, instance_id: str, size_gib: int) -> None:
        self._fail("grow_volume")
        self.volumes[instance_id] = size_gib

    async def list_flavors(self) -> Sequence[Flavor]:
        return [Flavor(id="1", name="db.tiny", ram_mib=512, vcpus=1, disk_gib=0)]

    def _guest(self, instance_id: str) -> Guest:
        return Guest(
            compute_id=instance_id,
            address=self.addresses[instance_id],
            is_running=self.is_running,
            has_identity=self.has_identity,
        )

    def _fail(self, method: str, spec: GuestSpec | None = None) -> None:
        if queue := self.failures.get(method):
            error = queue.pop(0)
            if spec is not None:  # a driver that quotes what it was given
                error.message = error.message.format(token=spec.enrolment_token.reveal())
            raise error
