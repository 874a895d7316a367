"""Embeddings in the OpenAI API's form: as many vectors as texts, in order, of one length, of finite numbers."""

from collections.abc import Sequence
from math import isfinite

import msgspec
from msgspec import Raw, Struct

from shoal.backends.openai_errors import Server, error_of
from shoal.backends.openai_usage import present


class _Vector(Struct):
    index: int
    embedding: list[float]


class _Reply(Struct):
    data: list[_Vector] | None = None
    error: Raw = Raw()


_decode = msgspec.json.Decoder(_Reply).decode


def to_wire_embeddings(model: str, texts: Sequence[str]) -> bytes:
    return msgspec.json.encode({"model": model, "input": list(texts), "encoding_format": "float"})


def from_wire_embeddings(body: bytes, asked: int, server: Server) -> list[list[float]]:
    """The vectors in the order of the texts; MalformedResponse for a reply that is not whole."""
    try:
        reply = _decode(body)
    except (ValueError, RecursionError) as error:
        raise server.malformed(f"not embeddings: {error}") from None
    if present(reply.error):
        raise error_of(200, {}, body, server)
    by_index = {vector.index: vector.embedding for vector in reply.data or ()}
    if len(reply.data or ()) != asked or by_index.keys() != set(range(asked)):
        raise server.malformed(f"{len(reply.data or ())} embeddings where {asked} were asked, or not one of each")
    vectors = [by_index[i] for i in range(asked)]
    if not vectors[0] or any(len(vector) != len(vectors[0]) for vector in vectors):
        raise server.malformed("embeddings of no or of different lengths")
    if not all(isfinite(number) for vector in vectors for number in vector):
        raise server.malformed("an embedding with a number that is not finite")
    return vectors
