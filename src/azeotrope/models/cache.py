"""A KV cache with room to grow: no copy per token, rows can be dropped, an explicit end.

Attention always sees whole, contiguous buffers, a little longer than the text: a view of a longer buffer
would break the memory stream at every head, which costs far more than attending to a few masked slots.

Shapes: B rows, H heads, T tokens, C ≥ T capacity, D head dimension.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import forward_ad
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_BLOCK = 16
Span = tuple[int, int]  # the first token and the one after the last


def capacity(tokens: int) -> int:
    """Slots allocated for `tokens` tokens."""
    return -(-tokens // _BLOCK) * _BLOCK


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A dynamic layer that grows by blocks instead of concatenating at every token.

    It hands out whole buffers, zero beyond the stored tokens: the attention mask must cover `capacity(T)`
    slots and close the unused ones. Holds dual numbers (forward-mode AD) transparently: tangents live in a
    second buffer.
    """

    _layer_type = None
    keys: Tensor | None
    values: Tensor | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = 0
        self.buffers: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, H, t, D] keys and values; return the buffers, [B, H, C, D]."""
        start, stop = self.length, self.length + key_states.shape[-2]
        keys = self._append("k", key_states, start, stop)
        values = self._append("v", value_states, start, stop)
        self.keys, self.values = keys, values
        self.length = stop
        self.is_initialized = True
        return keys, values

    def _append(self, name: str, new_BHtD: Tensor, start: int, stop: int) -> Tensor:
        primal, tangent = _unpack(new_BHtD)
        out = self._write(name, primal, start, stop)
        if tangent is None:
            return out
        dual: Tensor = forward_ad.make_dual(out, self._write(name + "'", tangent, start, stop))  # type: ignore[no-untyped-call]
        return dual

    def _write(self, name: str, new_BHtD: Tensor, start: int, stop: int) -> Tensor:
        buffer = self.buffers.get(name)
        if buffer is None or buffer.shape[-2] < stop:
            grown = new_BHtD.new_empty((*new_BHtD.shape[:-2], capacity(stop), new_BHtD.shape[-1]))
            if buffer is not None:
                grown[..., :start, :] = buffer[..., :start, :]
            grown[..., stop:, :] = 0.0
            buffer = self.buffers[name] = grown
        buffer[..., start:stop, :] = new_BHtD
        return buffer

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Width of the attention mask for the next `query_length` tokens, and its offset (0)."""
        return capacity(self.length + query_length), 0

    def get_seq_length(self) -> int:
        """Tokens stored so far."""
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the given rows."""
        self.buffers = {name: buffer.index_select(0, indices) for name, buffer in self.buffers.items()}
        self.forget()

    def join(self, other: RoomyLayer, mine: Span, theirs: Span, length: int) -> None:
        """Take another's rows behind one's own: of each the tokens in its span, ending at `length`."""
        for name, buffer in self.buffers.items():
            parts = ((buffer, mine), (other.buffers[name], theirs))
            rows, heads, _, width = buffer.shape
            whole = buffer.new_zeros(rows + len(parts[1][0]), heads, capacity(length), width)
            first = 0
            for part, (start, stop) in parts:
                place = slice(first, first + len(part))
                whole[place, :, length - (stop - start) : length] = part[:, :, start:stop]
                first += len(part)
            self.buffers[name] = whole
        self.length = length
        self.forget()

    def forget(self) -> None:
        """Let go of the buffers handed out last; the stored tokens stay."""
        self.keys = None
        self.values = None

    def drop(self) -> None:
        """Release the memory."""
        self.buffers.clear()
        self.forget()
        self.length = 0
        self.is_initialized = False


class RoomyCache(Cache):  # type: ignore[misc]
    """A transformers cache of `RoomyLayer`s."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=RoomyLayer)

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """As a layer's, also before the layer exists."""
        if layer_idx < len(self.layers):
            sizes: tuple[int, int] = self.layers[layer_idx].get_mask_sizes(query_length)
            return sizes
        return capacity(query_length), 0

    def select(self, rows: Tensor) -> None:
        """Keep only the given rows (int64 [B'])."""
        for layer in self.layers:
            layer.batch_select_indices(rows)

    def join(self, other: RoomyCache, mine: Span, theirs: Span, length: int) -> None:
        """Take another's rows behind one's own (see `RoomyLayer.join`); the other's memory is released."""
        for layer, theirs_too in zip(self.layers, other.layers, strict=True):
            layer.join(theirs_too, mine, theirs, length)
            theirs_too.drop()

    def close(self) -> None:
        """Release all memory; the cache must not be used afterwards."""
        for layer in self.layers:
            layer.drop()


def _unpack(tensor: Tensor) -> tuple[Tensor, Tensor | None]:
    try:
        dual = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    except RuntimeError:  # no dual level is open
        return tensor, None
    return dual.primal, dual.tangent
