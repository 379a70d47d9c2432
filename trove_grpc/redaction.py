"""Messages for people, without secrets.

`str(message)` prints fields marked `[debug_redact = true]` in Python (tested, protobuf 7.36), so
nothing formats a message but this module.
"""

from __future__ import annotations

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MASK = "***"


class Secret:
    """A string that shows itself only when asked; log it, format it, pickle-proof."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a Secret is not to be stored")


def describe(message: Message) -> str:
    """One line of text with every `debug_redact` field masked, at any depth."""
    copy = type(message)()
    copy.CopyFrom(message)
    _mask(copy)
    return text_format.MessageToString(copy, as_one_line=True)


def _mask(message: Message) -> None:
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            _overwrite(message, field)
        elif field.message_type is None:
            continue
        elif field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for entry in value.values():
                    _mask(entry)
        elif isinstance(value, Message):
            _mask(value)
        else:
            for item in value:
                _mask(item)


def _overwrite(message: Message, field: FieldDescriptor) -> None:
    text = {FieldDescriptor.TYPE_STRING: MASK, FieldDescriptor.TYPE_BYTES: MASK.encode()}
    message.ClearField(field.name)
    if field.type not in text:
        return
    if field.is_repeated:
        getattr(message, field.name).append(text[field.type])
    else:
        setattr(message, field.name, text[field.type])
