"""A body that asks for completions: what it says, who is to answer it, and whether its sender may ask for that."""

from shoal.backends.relay import Relays
from shoal.server import records
from shoal.server.access.callers import Caller
from shoal.server.limits import refuse_long_conversation
from shoal.server.optillm import NO_TECHNIQUE
from shoal.server.refusals import invalid, read_as
from shoal.server.service import Call, Service
from shoal.server.wire.chat_input import Common, chat_request, read_once, technique_options
from shoal.techniques import TECHNIQUES
from shoal.techniques.opening import bases

_OPTION_NAMES = frozenset(
    f"{prefix}{option}"
    for slug, entry in TECHNIQUES.items()
    for option in entry.options
    for prefix in ("", *(f"{name}_" for name in (slug, *entry.aliases)))
) - {"n", "stop", "logprobs"}
_NO_NAMES: frozenset[str] = frozenset()


class Asked:
    """A body of the chat API, or of one that comes to it, and who is to answer it."""

    def __init__(self, body: bytes, caller: Caller, service: Service) -> None:
        self.fields, self.body = read_once(body)
        self.common: Common = read_as(self.body, Common)
        own, approach = self.common.shoal, self.common.optillm_approach
        technique = own.technique or (approach if approach not in NO_TECHNIQUE else None)
        records.note_model(self.common.model, "", ())  # for the log, should it mean nothing here
        self.served = service.names.resolve(self.common.model, technique)
        names = _OPTION_NAMES if self.served.base is None else _NO_NAMES
        options = technique_options(self.fields, own, names) if self.served.base is None else own.options
        if options:
            self.served = service.names.resolve(self.common.model, technique, options)
        self.caller = caller
        self.service = service
        self.known = names
        if self.n > service.settings.max_n:
            raise invalid(f"n={self.n}: at most {service.settings.max_n} answers to a request", "n")
        caller.check(self.served)

    @property
    def n(self) -> int:
        return self.common.n or 1

    @property
    def relay(self) -> Relays | None:
        return self.served.base.relay if self.served.base is not None else None

    @property
    def to_server(self) -> bool:
        """Whether all that answers is behind servers, which may know fields that we do not."""
        return not any(base.relay is None for base in bases(self.served.model))

    def chat_call(self) -> Call:
        request = chat_request(self.fields, self.body, self.served.preset, to_server=self.to_server, known=self.known)
        refuse_long_conversation(len(request.messages), self.service.settings)
        return Call(self.served, request, self.caller, self.common.shoal, self.n)
