"""What the shards of a pair must look like, before any has arrived: its networks as shapes without weights."""

import copy
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from .blocknet import BlockNet, channels_of
from .errors import StoreError
from .manifest import NETWORKS
from .shards import settle
from .store import build_networks, check_fits

HEADER = 1 << 12  # bytes of a shard's header, and for each of its tensors: names, shapes, places


class Skeleton:
    """The parts of both networks without weights: what each shard must look like, and how big it is."""

    def __init__(self, manifest: dict, networks: Mapping[str, BlockNet] | None, source: str):
        self.manifest, self.source = manifest, source
        self._given = networks
        self._taking = Lock()
        self._unused: dict[str, nn.Module] = {}  # built, and waiting for their weights
        self._states: dict[str, dict[str, Tensor]] = {}  # names, shapes and types: tensors on the device `meta`
        self.prepare("student")

    def network(self, kind: str) -> BlockNet:
        """A new `teacher` or `student` on the device `meta`. Raises StoreError if the manifest's cannot be built."""
        net = build_networks(self.manifest, self._given, self.source, device="meta", only=kind)[kind]
        return net if self._given is None else _without_weights(net)

    def prepare(self, kind: str) -> None:
        """Build the parts of `teacher` or `student`. Raises StoreError if that cannot be done."""
        net = self.network(kind)
        for index in range(net.num_blocks):
            name, part = f"{kind}-{index + 1}", net.part(index)
            self._unused[name], self._states[name] = part, part.state_dict()

    def state(self, name: str) -> dict[str, Tensor]:
        """What a shard holds, on the device `meta`."""
        if name not in self._states:
            self._states[name] = self._part(name).state_dict()
        return self._states[name]

    def _part(self, name: str) -> nn.Module:
        """A module on the device `meta` that takes a shard's weights; the next call gives another one."""
        kind, _, number = name.rpartition("-")
        if kind in NETWORKS["swapnet"]:
            with self._taking:  # a thread that was left may not have noticed yet
                if name not in self._unused:
                    self.prepare(kind)
                return self._unused.pop(name)
        student, teacher = (self._features(network, int(number)) for network in ("student", "teacher"))
        sizes = [channels_of(shape) for shape in ((teacher, student) if kind == "encoder" else (student, teacher))]
        with torch.device("meta"):
            return nn.Linear(*sizes) if len(student) == 2 else nn.Conv2d(*sizes, kernel_size=1)

    def memory(self, name: str) -> int:
        """Bytes of the weights in memory."""
        return sum(t.numel() * t.element_size() for t in self.state(name).values())

    def largest(self, name: str) -> int:
        """The most bytes that its shard can have: every number as a double, and names."""
        return sum(8 * t.numel() + HEADER for t in self.state(name).values()) + HEADER

    def filled(self, name: str, tensors: dict[str, Tensor]) -> nn.Module:
        """A part with these weights."""
        state = self.state(name)
        source = f"{self.source}: {name}"
        check_fits(tensors, state, source)
        part = self._part(name)
        part.load_state_dict(settle(tensors, {key: own.dtype for key, own in state.items()}), assign=True)
        if lost := [key for key, tensor in part.named_buffers() if tensor.is_meta]:
            raise StoreError(f"{source}: the buffers {lost} are not saved with the network; make them persistent")
        return part.requires_grad_(False).eval()

    def taken_by(self, name: str) -> Sequence[int]:
        """The shape of what the part gets for one image."""
        kind, _, number = name.rpartition("-")
        if kind in NETWORKS["swapnet"]:
            return self._features(kind, int(number) - 1) if int(number) > 1 else self.manifest["input_shape"]
        return self._features("teacher" if kind == "encoder" else "student", int(number))

    def _features(self, network: str, number: int) -> list[int]:
        """Shape of one image's features after a block: (channels, height, width) or (tokens, channels)."""
        return self.manifest["features"][network][number - 1]


def _without_weights(net: BlockNet) -> BlockNet:
    """A copy of a network whose weights are shapes only; the network itself stays as it is."""
    empty: dict[int, Any] = {}
    for tensor in [*net.parameters(), *net.state_dict(keep_vars=True).values()]:
        shape = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")  # empty_like would import sympy
        empty[id(tensor)] = nn.Parameter(shape, requires_grad=False) if isinstance(tensor, nn.Parameter) else shape
    return copy.deepcopy(net, empty)
