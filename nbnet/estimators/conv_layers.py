"""The grammar of `conv_layers`: from what users write to the specs of layers."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

from ..image_network import ConvSpec, PoolSpec, ResidualSpec
from ..network import Activation, LayerKind

GRAMMAR = (
    "an int (channels), (channels, kernel_size), (channels, kernel_size, stride), ('residual', channels), "
    "('residual', channels, stride), 'max_pool', 'avg_pool' or 'global_avg_pool'"
)


class ConvDefaults(NamedTuple):
    """What an entry of `conv_layers` leaves open."""

    kernel_size: int
    pool_size: int
    batch_norm: bool


def parse_conv_layers(conv_layers, defaults: ConvDefaults) -> list[ConvSpec | ResidualSpec | PoolSpec]:
    """One spec for each entry, activations not yet set.

    Raises
    ------
    ValueError
        Names the entry and its place.
    """
    if isinstance(conv_layers, (str, Integral)) or not hasattr(conv_layers, "__iter__"):
        raise ValueError(f"conv_layers must be a sequence, got {conv_layers!r}.")
    return [_parse(entry, f"layer {i} {entry!r}", defaults) for i, entry in enumerate(conv_layers, start=1)]


def _parse(entry, where: str, defaults: ConvDefaults):
    if isinstance(entry, str):
        pools = {
            "max_pool": PoolSpec(LayerKind.MAX_POOL, defaults.pool_size),
            "avg_pool": PoolSpec(LayerKind.AVG_POOL, defaults.pool_size),
            "global_avg_pool": PoolSpec(LayerKind.AVG_POOL, None),
        }
        if entry not in pools:
            raise ValueError(f"{where} of conv_layers is unknown; an entry is {GRAMMAR}.")
        return pools[entry]
    parts = (entry,) if isinstance(entry, Integral) else entry
    if not isinstance(parts, (tuple, list)) or not parts:
        raise ValueError(f"{where} of conv_layers is unknown; an entry is {GRAMMAR}.")
    residual = isinstance(parts[0], str) and parts[0] == "residual"
    numbers = parts[1:] if residual else parts
    most = 2 if residual else 3
    is_number = [isinstance(n, Integral) and not isinstance(n, bool) for n in numbers]
    if not 1 <= len(numbers) <= most or not all(is_number):
        raise ValueError(f"{where} of conv_layers is unknown; an entry is {GRAMMAR}.")
    if min(numbers) < 1:
        raise ValueError(f"{where} of conv_layers: channels, kernel size and stride must be at least 1.")
    numbers = [int(n) for n in numbers]
    if residual:
        return ResidualSpec(*numbers, batch_norm=defaults.batch_norm)
    channels, kernel_size, stride = (*numbers, *(defaults.kernel_size, 1)[len(numbers) - 1 :])
    return ConvSpec(channels, kernel_size, stride, batch_norm=defaults.batch_norm)


def with_activations(specs: Sequence, activations: Sequence[Activation]) -> list:
    """The specs, those of convolutions and residual blocks with their activations."""
    given = iter(activations)
    return [spec if isinstance(spec, PoolSpec) else spec._replace(activation=next(given)) for spec in specs]
