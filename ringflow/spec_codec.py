"""Kernel specs as canonical JSON, as the engine keeps them; the initial arrays are left out.

The first checkpoint has those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import orjson

from ringflow.code_source import CodeFormat, KernelCodeSource
from ringflow.errors import SpecError
from ringflow.messages import MessageField, MessageLayout
from ringflow.spec import Argument, KernelSpec, Region, Route

_PLAIN_FIELDS: Final = (
    *("kernel_id", "kernel_type", "grid", "block", "durability", "replay", "release"),
    *("ring_slots", "reply_slots", "slot_bytes", "max_replies", "dynamic_shared_bytes"),
    "track_dirty",
    *("checkpoint_every_messages", "checkpoint_every_s"),
    *("bulk_bytes", "max_reply_data_bytes", "reply_bulk_bytes"),
)


def encode_spec(spec: KernelSpec) -> bytes:
    """Return a spec as canonical JSON, without the regions' initial arrays."""
    code = spec.code
    return orjson.dumps(
        {
            **{name: getattr(spec, name) for name in _PLAIN_FIELDS},
            "code": {
                "format": code.format.value,
                "code": code.code.hex() if code.format is CodeFormat.CUBIN else code.text,
                "entry_point": code.entry_point,
                "version_id": code.version_id,
                "metadata": dict(code.metadata),
                "created_at_ns": str(code.created_at_ns),
            },
            "messages": [attrs.asdict(layout) for layout in spec.messages],
            "routes": [
                [route.name, [attrs.asdict(layout) for layout in route.messages]]
                for route in spec.routes
            ],
            "regions": [list(region.layout) for region in spec.regions],
            "arguments": [[a.name, a.dtype, a.value.hex()] for a in spec.arguments],
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _decode_layout(tree: Mapping[str, Any]) -> MessageLayout:
    fields = tuple(MessageField(**field) for field in tree["fields"])
    return MessageLayout(tree["id"], tree["name"], fields, tree["size_bytes"])


def decode_spec(data: bytes) -> KernelSpec:
    """Return the spec that ``encode_spec`` wrote; raises ``SpecError`` if it is none."""
    try:
        tree = orjson.loads(data)
        code = tree.pop("code")
        format = CodeFormat(code["format"])
        text = code["code"]
        return KernelSpec(
            code=KernelCodeSource(
                format=format,
                code=bytes.fromhex(text) if format is CodeFormat.CUBIN else text.encode(),
                entry_point=code["entry_point"],
                version_id=code["version_id"],
                metadata=code["metadata"],
                created_at_ns=int(code["created_at_ns"]),
            ),
            messages=[_decode_layout(layout) for layout in tree.pop("messages")],
            routes=[
                Route(name, messages=[_decode_layout(layout) for layout in layouts])
                for name, layouts in tree.pop("routes", [])
            ],
            regions=[Region(n, dtype=d, shape=s) for n, d, s in tree.pop("regions")],
            arguments=[Argument(n, d, bytes.fromhex(v)) for n, d, v in tree.pop("arguments")],
            **tree,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise SpecError(f"stored spec is not readable: {error!r}") from error
