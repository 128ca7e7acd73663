"""grpcio as a client of the relay: grpcio_client.py ADDRESS CERTIFICATE TOKEN. Says what it did; fails otherwise."""

import queue
import struct
import sys
import zlib

import grpc

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
SYNC = "/blaze.v1.Relay/Sync"
SERVING = b"\x08\x01"


def frame(kind, body):
    """A frame of a session: 16 bytes of header and the body (spec/frame.md)."""
    head = b"BZ" + bytes([0, kind, 0, 0, 0, 0]) + struct.pack("<I", len(body))
    return head + struct.pack("<I", zlib.crc32(head + body)) + body


HELLO = frame(1, bytes([1, 0]) + bytes(16) + bytes(3))


def refused(what, call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{what}: {error.code()} instead of {code}: {error.details()}"
        print(f'{what}: {code.name}, "{error.details()}"')
        return
    raise AssertionError(f"{what}: it went well instead of {code}")


class Session:
    """One session: what is put in goes out."""

    def __init__(self, channel, token, **more):
        self.outgoing = queue.Queue()
        stream = channel.stream_stream(SYNC, request_serializer=bytes, response_deserializer=bytes)
        metadata = [("authorization", "Bearer " + token)]
        self.answers = stream(iter(self.outgoing.get, None), metadata=metadata, **more)

    def ask(self, message):
        self.outgoing.put(message)
        return next(self.answers)


def main(address, certificate, token):
    with open(certificate, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.max_send_message_length", -1)]
    channel = grpc.secure_channel(address, credentials, options)
    unary = lambda path: channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    check = unary(CHECK)

    assert check(b"", timeout=10) == SERVING
    assert check(b"\x0a\x0eblaze.v1.Relay", timeout=10) == SERVING
    assert check(b"\x0a\x0eblaze.v1.Relay", timeout=10, compression=grpc.Compression.Gzip) == SERVING
    print("Check, and once more with gzip: SERVING")
    refused("a service that is not there", lambda: check(b"\x0a\x05other", timeout=10), grpc.StatusCode.NOT_FOUND)
    refused("a method that is not there", lambda: unary("/blaze.v1.Relay/Nothing")(b""), grpc.StatusCode.UNIMPLEMENTED)
    refused("an encoding that is not spoken", lambda: check(b"x" * 100, compression=grpc.Compression.Deflate), grpc.StatusCode.UNIMPLEMENTED)
    for call in [check.future(b"") for _ in range(500)]:
        assert call.result(timeout=10) == SERVING
    print("500 calls at once: answered")

    watch = channel.unary_stream(WATCH, request_serializer=bytes, response_deserializer=bytes)
    watched = watch(b"")
    assert next(watched) == SERVING
    watched.cancel()
    refused("a call that was cancelled", lambda: next(watched), grpc.StatusCode.CANCELLED)
    watched = watch(b"", timeout=0.3)
    assert next(watched) == SERVING
    refused("a deadline", lambda: next(watched), grpc.StatusCode.DEADLINE_EXCEEDED)

    session = Session(channel, token)
    welcome = session.ask(HELLO)
    assert welcome[:2] == b"BZ" and welcome[3] == 2, welcome
    for nonce in range(100):
        nonce = struct.pack("<Q", nonce)
        assert session.ask(frame(7, nonce)) == frame(8, nonce)
    session.outgoing.put(None)
    assert list(session.answers) == [] and session.answers.code() == grpc.StatusCode.OK
    print("a session: welcome, 100 pings answered, OK")

    refused("no token", lambda: next(channel.stream_stream(SYNC)(iter([HELLO]))), grpc.StatusCode.UNAUTHENTICATED)
    refused("a bad token", lambda: Session(channel, "a.b.c").ask(HELLO), grpc.StatusCode.UNAUTHENTICATED)
    cut = Session(channel, token, timeout=0.3)
    cut.ask(HELLO)
    refused("a session's deadline", lambda: next(cut.answers), grpc.StatusCode.DEADLINE_EXCEEDED)
    large = Session(channel, token)
    large.ask(HELLO)
    refused("a message over the limit", lambda: large.ask(bytes(4 * 1024 * 1024 + 17)), grpc.StatusCode.RESOURCE_EXHAUSTED)
    given_up = Session(channel, token)
    given_up.ask(HELLO)
    given_up.answers.cancel()
    refused("a session that was cancelled", lambda: next(given_up.answers), grpc.StatusCode.CANCELLED)
    for broken in (large, cut, given_up):
        broken.outgoing.put(None)
    assert check(b"", timeout=10) == SERVING


main(*sys.argv[1:])
