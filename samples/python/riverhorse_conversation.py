"""Conversations for Python, over riverhorse/conversation.h, which has the form of a template. Needs riverhorse.py.

    from riverhorse_conversation import Conversation
    with riverhorse.Model("samples/models/default") as model:
        talk = Conversation(model, "host.json", "A guest enters.")
        talk.say("Good evening.", on_text=lambda text: print(text, end="", flush=True))
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from ctypes import c_char, c_int32, c_size_t, c_void_p
from typing import Any, NamedTuple, Optional, Union

from riverhorse import Generation, Model, Path, Sampling, Session, TextFunction, TokenFunction
from riverhorse import _call, _ConversationInfo, _ConversationOptions, _filled, _generate, _GenerateOptions, _make
from riverhorse import _Object, _values


class ConversationInfo(NamedTuple):
    turn_is_open: bool
    turn_count: int  # an open one included
    undo_count: int  # of them that can be taken back
    tokens_read: int  # in all, drawn ones not counted


class Conversation(_Object):
    """Turns of a user's text and a reply over a session, in the words of a template. The history is the session's
    state: a turn reads its own text and nothing again."""

    _free = "conversation_free"

    def __init__(self, model: Model, template: Union[Path, "Mapping[str, Any]"], system: Optional[str] = None, *,
                 sampling: Sampling = Sampling(), undo_turns: int = 0) -> None:
        """`template` is a JSON file, or a dict of what is in one (riverhorse/conversation.h has it); `system` the
        system text. The last `undo_turns` turns can be taken back: 0 means 4, -1 none."""
        options = _ConversationOptions(undo_turns=undo_turns)
        if isinstance(template, Mapping):
            form = json.dumps(template).encode()
            options.template_json, options.template_bytes = form, len(form)
        else:
            options.template_path = os.fsencode(template)
        if system is not None:
            spoken = system.encode()
            options.system_text, options.system_bytes = spoken, len(spoken)
        self.model = model
        super().__init__(_make("conversation_create", model._handle, ctypes.byref(options),
                               ctypes.byref(sampling._raw())))

    def say(self, text: str, max_tokens: int = 128, *, on_text: Optional[TextFunction] = None,
            on_token: Optional[TokenFunction] = None) -> Generation:
        """A whole turn: what the user says, and the reply."""
        self.begin_turn(text)
        return self.reply(max_tokens, on_text=on_text, on_token=on_token)

    def begin_turn(self, text: str) -> None:
        """What the user says. Reads nothing: reply() does, or session.stream(prompt, **generate_options), whose end is
        followed by end_turn()."""
        data = text.encode()
        _call("conversation_begin_turn", self._handle, data, len(data))

    def reply(self, max_tokens: int = 128, *, on_text: Optional[TextFunction] = None,
              on_token: Optional[TokenFunction] = None) -> Generation:
        """Reads what is not read yet of the turn, draws the reply as Session.generate does, and ends the turn."""
        return _generate("conversation_reply", self._handle, max_tokens, on_text=on_text, on_token=on_token)

    def end_turn(self) -> None:
        """What the session drew after the prompt is the reply."""
        _call("conversation_end_turn", self._handle)

    @property
    def prompt(self) -> "list[int]":
        """The tokens of the open turn that come before its reply."""
        return list(_filled("conversation_get_prompt", self._handle, c_int32))

    @property
    def generate_options(self) -> "dict[str, Any]":
        """The template's, for generate() and stream() of the session: what ends a reply."""
        raw = _GenerateOptions()
        _call("conversation_get_generate_options", self._handle, ctypes.byref(raw))
        stop = [raw.stop_strings[index].decode() for index in range(raw.stop_string_count)]
        return {"stop": stop, "ignore_end_of_text": raw.ignore_end_of_text != 0}

    @property
    def session(self) -> Session:
        """The conversation's own, to read a prompt, draw, set its sampling and look at; closing it does nothing."""
        return _SessionOfConversation(self)

    def undo(self, turns: int = 1) -> None:
        """Takes the last turns back, an open one included, to the last bit."""
        _call("conversation_undo", self._handle, turns)

    def regenerate(self, sampling: Optional[Sampling] = None) -> None:
        """Takes the last turn back and begins it again with the same text; reply() follows."""
        _call("conversation_regenerate", self._handle, ctypes.byref(sampling._raw()) if sampling is not None else None)

    @property
    def info(self) -> ConversationInfo:
        raw = _ConversationInfo()
        _call("conversation_get_info", self._handle, ctypes.byref(raw))
        return _values(ConversationInfo, raw)

    def _text(self, name: str, turn: int) -> str:
        size = c_size_t()
        _call(name, self._handle, turn, None, 0, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        _call(name, self._handle, turn, text, size.value, ctypes.byref(size))
        return text.raw.decode()

    def user_text(self, turn: int) -> str:
        """What the user said in a turn; 0 is the first."""
        return self._text("conversation_get_user_text", turn)

    def reply_text(self, turn: int) -> str:
        """The reply of a turn; empty while it is open."""
        return self._text("conversation_get_reply", turn)

    def save_bytes(self) -> bytes:
        """Everything but what can be taken back: the session, the texts of all turns, the template."""
        return bytes(_filled("conversation_save_memory", self._handle, c_char))

    def load_bytes(self, data: bytes) -> None:
        """Becomes the saved conversation, of the same model."""
        _call("conversation_load_memory", self._handle, data, len(data))


class _SessionOfConversation(Session):
    """Owns nothing, and keeps the conversation."""

    _owned = c_void_p()

    def __init__(self, conversation: Conversation) -> None:
        self.model, self._conversation = conversation.model, conversation

    @property
    def _handle(self) -> c_void_p:
        return c_void_p(_call("conversation_get_session", self._conversation._handle))

    def close(self) -> None:
        pass
