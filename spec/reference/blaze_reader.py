#!/usr/bin/env python3
"""Reads BlazeBinary as spec/value.md, op.md, columns.md and frame.md describe it, and refuses what they refuse.

    blaze_reader.py FILE               # an export file, or frames one behind the other: prints what they hold
    blaze_reader.py --vectors FOLDER   # checks every vector of spec/vectors

Written from those four files and limits.md alone, without a look at the codec: where this reader had to guess, the
specification was wrong. Rules are named where they are checked. It needs nothing but Python 3.11; bodies under zstd are
beyond it (older Pythons have none) and are said to be skipped.

For each document of a file it prints one line: its id and its fields in the notation of spec/vectors/README.md.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from dataclasses import dataclass, field

FIELDS, NAME, ROW, FIELD, KEYS, SHAPES = 4096, 255, 1 << 20, 1 << 20, 16384, 4096
BATCH, BATCH_SINGLE, OPS, DEPS, ATTRS = 256 << 10, (1 << 20) + (64 << 10), 65536, 1024, 1024
BODY, IDS, ERROR_TEXT, DEPTH = 4 << 20, 4096, 1024, 32
ROWS, BATCHES, TABLE, DIGITS, CLASSES = 2 << 20, 4096, 65536, 38, 65536
KINDS = "Hello Welcome Push Ack Entry Error Ping Pong Bye DigestRequest Digest Entries Pushes".split()
ERRORS = ("Malformed Unauthenticated PermissionDenied SpaceMismatch EpochMismatch NeedFrom NameClash TooLarge Overloaded "
          "Unsupported Internal ShuttingDown CursorAhead").split()
MORE, UNSET, HAS_ATTRS = 8, 16, 32


class Refused(Exception):
    """The bytes break a rule."""


class Skipped(Exception):
    """The bytes need a codec that is not here."""


def check(holds, what):
    if not holds:
        raise Refused(what)


class Cut:
    """A byte string that is cut up from its beginning."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def left(self):
        return len(self.data) - self.at

    def take(self, n):
        check(n <= self.left(), "cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def uint(self, n):
        return int.from_bytes(self.take(n), "little")

    def uvarint(self):
        value = 0
        for i in range(10):
            byte = self.uint(1)
            value |= (byte & 127) << 7 * i
            if byte < 128:
                check(byte or i == 0, "V-1")
                check(value < 1 << 64, "V-2")
                return value
        raise Refused("V-2")

    def count(self, most, what="count"):
        n = self.uvarint()
        check(n <= most, f"{what} above the limit")
        return n

    def prefixed(self, most):
        return self.take(self.count(most, "length"))

    def text(self, most):
        return utf8(self.prefixed(most))

    def rest(self):
        return self.take(self.left())

    def end(self):
        check(self.left() == 0, "V-4: bytes after the end")


def utf8(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("V-3") from None


def uvarint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out) + bytes([n])


def prefixed(data):
    return uvarint(len(data)) + data


def ascends(items, rule):
    check(all(a < b for a, b in zip(items, items[1:])), rule)


def distinct(items, rule):
    check(len(set(items)) == len(items), rule)


class FirstUse:
    """Entries of a table, which are numbered in the order of their first use, and used."""

    def __init__(self, size, rule):
        self.size, self.rule, self.used = size, rule, 0

    def meet(self, place):
        check(place < self.size, f"{self.rule}: no such entry")
        check(place <= self.used, self.rule)
        self.used += place == self.used
        return place

    def end(self):
        check(self.used == self.size, self.rule)


# ---- values (value.md)


@dataclass(frozen=True)
class Timestamp:
    micros: int


@dataclass(frozen=True)
class Uuid:
    data: bytes

    def __str__(self):
        digits = self.data.hex()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(frozen=True)
class Decimal:
    coefficient: int
    places: int

    def __str__(self):
        digits = str(abs(self.coefficient)).zfill(self.places + 1)
        point = len(digits) - self.places
        return "-" * (self.coefficient < 0) + digits[:point] + "." * (self.places > 0) + digits[point:]


@dataclass(frozen=True)
class Vector:
    width: int
    elements: tuple


def decimal(places, digits):
    """A decimal from its places and the bytes of its coefficient (V-24)."""
    n = int.from_bytes(digits, "little", signed=True)
    check(places <= DIGITS and abs(n) < 10**DIGITS, "L-21")
    check(len(digits) == (shortest(n) if n else 0), "V-24")
    check(places == 0 or n % 10, "V-24")
    return Decimal(n, places)


def vector(width, data):
    check(len(data) % width == 0, "V-25")
    elements = [data[i : i + width] for i in range(0, len(data), width)]
    nan = struct.pack("<I", 0x7FC00000) if width == 4 else struct.pack("<Q", 0x7FF8000000000000)
    check(all(floats(element) == floats(element) or element == nan for element in elements), "V-26")
    return Vector(width, tuple(map(floats, elements)))


def shortest(n):
    """Bytes that the two's complement of n needs."""
    return next(width for width in range(1, 17) if -(1 << 8 * width - 1) <= n < 1 << 8 * width - 1)


def floats(data):
    return struct.unpack("<f" if len(data) == 4 else "<d", data)[0]


def bits64(x):
    return struct.pack("<d", x)


def as_32(x):
    """The float in 32 bits, if that loses nothing."""
    try:
        narrow = struct.pack("<f", x)
    except OverflowError:
        return None
    return narrow if bits64(floats(narrow)) == bits64(x) else None


def value(tag, payload):
    """Reads a top-level value."""
    check(len(payload) <= FIELD, "L-5")
    if tag in (0xA0, 0xB0):
        cut = Cut(payload)
        table = KeyTable(cut)
        found = node(tag, cut.rest(), table, 1)
        table.shapes_used.end()
        return found
    return scalar(tag, payload)


def scalar(tag, payload):
    kind, info, size = tag >> 4, tag & 15, len(payload)
    check(kind not in (13, 14, 15), "V-6")
    infos = {0: (0, 1, 2), 1: range(16), 2: range(1, 9), 3: (8,), 4: (0, 4, 8), 5: range(16), 6: range(9), 12: (4, 8)}.get(kind, (0,))
    check(info in infos, "V-5")
    length = {0: 0, 1: 0, 2: info, 3: 8, 4: info, 6: info, 7: 16}.get(kind, size)
    check(size == length, "V-7")
    signed = int.from_bytes(payload, "little", signed=True)
    if kind == 0:
        return (None, False, True)[info]
    if kind == 1:
        return info - 16 if info > 7 else info
    if kind == 2:
        check(not -8 <= signed <= 7 and shortest(signed) == size, "V-8")
        return signed
    if kind == 3:
        check(signed < 0, "V-9")
        return signed + (1 << 64)
    if kind == 4:
        if info == 0:
            return 0.0
        x = floats(payload)
        if x != x:
            check(payload == b"\0\0\xc0\x7f", "V-11")
            return x
        check(bits64(x) != bits64(0.0) and (info == 4 or as_32(x) is None), "V-10")
        return x
    if kind == 5:
        if info < 15:
            return decimal(info, payload)
        check(size > 0, "V-7")
        check(payload[0] >= 15, "V-24")
        return decimal(payload[0], payload[1:])
    if kind == 12:
        return vector(info, payload)
    if kind == 6:
        check(size == (shortest(signed) if signed else 0), "V-12")
        return Timestamp(signed)
    if kind == 7:
        return Uuid(payload)
    return utf8(payload) if kind == 8 else payload


class KeyTable:
    """The keys and shapes of all maps in a container."""

    def __init__(self, cut):
        self.keys = [cut.text(NAME) for _ in range(cut.count(KEYS, "L-6"))]
        distinct(self.keys, "V-16")
        used = FirstUse(len(self.keys), "V-17")
        self.shapes = []
        for _ in range(cut.count(SHAPES, "L-7")):
            names = [self.keys[used.meet(cut.uvarint())] for _ in range(cut.count(FIELDS, "L-2"))]
            ascends([name.encode() for name in names], "V-18")
            self.shapes.append(tuple(names))
        used.end()
        distinct(self.shapes, "V-19")
        self.shapes_used = FirstUse(len(self.shapes), "V-20")


def node(tag, data, table, depth):
    check(depth <= DEPTH, "V-21")
    cut = Cut(data)
    if tag == 0xA0:
        n, names = cut.count(FIELD, "items"), None
    else:
        names = table.shapes[table.shapes_used.meet(cut.uvarint())]
        n = len(names)
    items = []
    for tag, payload in sequence(n, cut.rest()):
        items.append(node(tag, payload, table, depth + 1) if tag in (0xA0, 0xB0) else scalar(tag, payload))
    return items if names is None else dict(zip(names, items))


def width_of(heap):
    return 1 if len(heap) <= 255 else 2 if len(heap) <= 65535 else 4


def sequence(n, data):
    """Splits a sequence into tags and payloads."""
    if n == 0:
        check(not data, "V-13")
        return []
    cut = Cut(data)
    width = cut.uint(1)
    check(width in (1, 2, 4), "V-14")
    check(n * (1 + width) - width <= cut.left(), "V-13")
    tags = cut.take(n)
    ends = [cut.uint(width) for _ in range(n - 1)]
    heap = cut.rest()
    check(width == width_of(heap), "V-14")
    ends = [0, *ends, len(heap)]
    check(all(a <= b for a, b in zip(ends, ends[1:])), "V-15")
    return [(tags[i], heap[ends[i] : ends[i + 1]]) for i in range(n)]


def put_sequence(items):
    """Writes a sequence of tags and payloads."""
    if not items:
        return b""
    heap = b"".join(payload for _, payload in items)
    width, end, ends = width_of(heap), 0, b""
    for _, payload in items[:-1]:
        end += len(payload)
        ends += end.to_bytes(width, "little")
    return bytes([width]) + bytes(tag for tag, _ in items) + ends + heap


def shape(cut):
    names = [cut.text(NAME) for _ in range(cut.count(FIELDS, "L-2"))]
    ascends([name.encode() for name in names], "V-22")
    return tuple(names)


def put_shape(names):
    return uvarint(len(names)) + b"".join(prefixed(name.encode()) for name in names)


def row(names, body):
    check(len(put_shape(names)) + len(body) <= ROW, "L-4")
    return {name: value(tag, payload) for name, (tag, payload) in zip(names, sequence(len(names), body))}


# ---- batches (op.md)


@dataclass
class Op:
    flags: int
    merge: int
    hlc: int
    cursor: int
    collection: str
    document: bytes
    attrs: bytes = b""
    set: tuple = ()
    body: bytes = b""
    unset: tuple = ()

    def kind(self):
        return self.flags & 7

    def digest(self):
        parts = [b"BZ-op\0", bytes([self.kind(), self.merge]), prefixed(self.collection.encode()), self.document]
        parts += [prefixed(self.attrs), put_shape(self.set), put_shape(self.unset), self.body]
        return hashlib.sha256(b"".join(parts)).digest()[:16]


@dataclass
class Batch:
    space: bytes
    replica: bytes
    first: int
    epoch: int
    deps: list
    attrs: bytes
    ops: list = field(default_factory=list)

    def transactions(self):
        sizes, n = [], 0
        for op in self.ops:
            n += 1
            if not op.flags & MORE:
                sizes.append(n)
                n = 0
        return sizes


def small(cut):
    n = cut.uvarint()
    check(n < 1 << 32, "O-17")
    return n


def batch(data):
    check(len(data) <= BATCH_SINGLE, "L-9")
    cut = Cut(data)
    check(cut.uint(1) == 0, "B-1")
    found = Batch(cut.take(16), cut.take(16), cut.uvarint(), 0, [], b"")
    base_hlc, found.epoch, base_cursor = cut.uint(8), small(cut), cut.uvarint()
    found.deps = [(cut.take(16), cut.uvarint()) for _ in range(cut.count(DEPS, "L-13"))]
    ascends([replica for replica, _ in found.deps], "B-3")
    check(all(counter for _, counter in found.deps), "B-3")
    found.attrs = cut.prefixed(ATTRS)
    collections = [cut.text(NAME) for _ in range(cut.count(4096, "L-12"))]
    check(all(collections), "B-6")
    distinct(collections, "B-6")
    shapes = [shape(cut) for _ in range(cut.count(4096, "L-11"))]
    distinct(shapes, "B-7")
    n = cut.count(OPS, "L-10")
    check(n > 0, "B-8")
    check(n == 1 or len(data) <= BATCH, "L-8")
    check(1 <= found.first <= (1 << 64) - 1 - n, "B-2")
    used = FirstUse(len(collections), "B-6"), FirstUse(len(shapes), "B-7")
    for _ in range(n):
        found.ops.append(operation(Cut(cut.prefixed(BATCH_SINGLE)), base_hlc, base_cursor, collections, shapes, *used))
    check(not found.ops[-1].flags & MORE, "B-9")
    cut.end()
    check(min(op.hlc for op in found.ops) == base_hlc, "B-4")
    check(min(op.cursor for op in found.ops) == base_cursor, "B-5")
    for table in used:
        table.end()
    return found


def operation(cut, base_hlc, base_cursor, collections, shapes, collections_used, shapes_used):
    flags, merge = cut.uint(1), cut.uint(1)
    check(flags & 0xC0 == 0, "O-3")
    check(flags & 7 <= 2, "O-1")
    check(not flags & UNSET or flags & 7 == 1, "O-4")
    check(merge == 0, "O-2")
    hlc, cursor = base_hlc + cut.uvarint(), base_cursor + cut.uvarint()
    check(max(hlc, cursor) < 1 << 64, "B-10")
    op = Op(flags, merge, hlc, cursor, collections[collections_used.meet(cut.uvarint())], cut.take(16))
    if flags & HAS_ATTRS:
        op.attrs = cut.prefixed(ATTRS)
        check(op.attrs, "O-5")
    if op.kind() == 2:
        cut.end()
        return op
    op.set = shapes[shapes_used.meet(cut.uvarint())]
    if flags & UNSET:
        op.unset = shapes[shapes_used.meet(cut.uvarint())]
        check(op.unset, "O-7")
        check(not set(op.set) & set(op.unset), "O-8")
        check(len(put_shape(op.set)) + len(put_shape(op.unset)) + cut.left() <= ROW, "L-4")
    check(op.kind() == 0 or op.set or op.unset, "O-9")
    op.body = cut.rest()
    row(op.set, op.body)
    return op


def put_batch(found):
    """Writes a row batch; what it says is checked by reading it again."""
    collections, shapes, ops = [], [], b""
    number = lambda table, item: uvarint(table.index(item) if item in table else table.append(item) or len(table) - 1)
    base_hlc, base_cursor = min(op.hlc for op in found.ops), min(op.cursor for op in found.ops)
    for op in found.ops:
        out = bytes([op.flags, op.merge]) + uvarint(op.hlc - base_hlc) + uvarint(op.cursor - base_cursor)
        out += number(collections, op.collection) + op.document
        if op.flags & HAS_ATTRS:
            out += prefixed(op.attrs)
        if op.kind() != 2:
            out += number(shapes, op.set) + (number(shapes, op.unset) if op.flags & UNSET else b"") + op.body
        ops += prefixed(out)
    out = b"\0" + found.space + found.replica + uvarint(found.first) + base_hlc.to_bytes(8, "little")
    out += uvarint(found.epoch) + uvarint(base_cursor) + uvarint(len(found.deps))
    out += b"".join(replica + uvarint(counter) for replica, counter in found.deps) + prefixed(found.attrs)
    out += uvarint(len(collections)) + b"".join(prefixed(name.encode()) for name in collections)
    out += uvarint(len(shapes)) + b"".join(put_shape(names) for names in shapes)
    return out + uvarint(len(found.ops)) + ops


# ---- columnar batches (columns.md)


def signed(n):
    return n >> 1 if n & 1 == 0 else -(n + 1 >> 1)


def zigzag(n):
    return 2 * n if n >= 0 else -2 * n - 1


class Numbers:
    """A stream of numbers: lists and runs."""

    def __init__(self, cut):
        self.cut = Cut(cut.prefixed(BODY))
        self.absent, self.any, self.group, self.left, self.last, self.streak = not self.cut.left(), False, None, 0, None, 0

    def next(self):
        if self.absent:
            return 0
        first = self.left == 0
        before = self.last
        if first:
            head = self.cut.uvarint()
            group, self.left = "list run".split()[head & 1], head >> 1
            check(self.left >= 1 and (group, self.group) != ("list", "list"), "K-3")
            self.group, self.streak = group, 0
            if group == "run":
                self.last = self.cut.uvarint()
                check(self.left >= 4 and self.last != before, "K-3")
        self.left -= 1
        if self.group == "list":
            self.last = self.cut.uvarint()
            check(not first or self.last != before, "K-3")
            self.streak = self.streak + 1 if self.last == before and not first else 1
            check(self.streak < 4, "K-3")
        self.any |= self.last != 0
        return self.last

    def below(self, bound, rule):
        n = self.next()
        check(n < bound, rule)
        return n

    def step(self, before):
        return (before + signed(self.next())) % (1 << 64)

    def end(self):
        check(self.left == 0 and self.cut.left() == 0, "K-1")
        check(self.absent or self.any, "K-2")


class Series:
    """Signed numbers, as they are or as steps, divided by a power of 1,000."""

    def __init__(self, cut):
        mode = cut.uint(1)
        self.steps, self.unit = mode & 1, mode >> 1
        check(self.unit <= 2, "K-6")
        self.numbers = Numbers(cut)
        self.before, self.plain_len, self.steps_len, self.unit_seen = 0, 0, 0, 2

    def next(self):
        n = signed(self.numbers.next())
        if self.steps:
            n = (self.before + n + (1 << 63)) % (1 << 64) - (1 << 63)
        difference = (n - self.before + (1 << 63)) % (1 << 64) - (1 << 63)
        self.plain_len += len(uvarint(zigzag(n)))
        self.steps_len += len(uvarint(zigzag(difference)))
        self.before = n
        n *= 1000**self.unit
        check(-(1 << 63) <= n < 1 << 63, "K-6")
        while n % 1000**self.unit_seen:
            self.unit_seen -= 1
        return n

    def end(self):
        self.numbers.end()
        check(self.unit == self.unit_seen, "K-6")
        check(self.steps == (self.steps_len < self.plain_len), "K-5")


class Planes:
    """Things of one width, first bytes first."""

    def __init__(self, cut, width):
        data = cut.prefixed(BODY)
        check(len(data) % width == 0, "K-7")
        n = len(data) // width
        self.all, self.taken = [data[i::n] for i in range(n)], 0

    def next(self):
        check(self.taken < len(self.all), "cut short")
        self.taken += 1
        return self.all[self.taken - 1]

    def end(self):
        check(self.taken == len(self.all), "K-8")


class Dictionary:
    """References to new things, and the things."""

    def __init__(self, cut, ids):
        self.refs = Numbers(cut)
        self.planes = Planes(cut, 16) if ids else None
        if not ids:
            self.lens, self.strings = Numbers(cut), Cut(cut.prefixed(BODY))
        self.known = []

    def next(self):
        back = self.refs.below(len(self.known) + 1, "K-8")
        if back:
            return self.known[-back]
        self.known.append(self.planes.next() if self.planes else self.strings.take(self.lens.next()))
        return self.known[-1]

    def end(self):
        self.refs.end()
        distinct(self.known, "K-8")
        if self.planes:
            return self.planes.end()
        self.lens.end()
        self.strings.end()


def mantissa(x, places):
    """The integer that, divided by ten to the places, is exactly this float."""
    if x != x or abs(x) > 2.0**51:
        return None
    m = round(x * 10.0**places)
    return m if abs(m) <= 1 << 50 and bits64(m / 10.0**places) == bits64(x) else None


def places_of(x):
    return next((places for places in range(7) if mantissa(x, places) is not None), -1)


def spells_uuid(text):
    digits = text.replace(b"-", b"")
    if len(text) != 36 or len(digits) != 32 or any(byte not in b"0123456789abcdef" for byte in digits):
        return False
    return str(Uuid(bytes.fromhex(digits.decode()))).encode() == text


class Column:
    """The values of one field: gives tags and payloads as a row has them."""

    def __init__(self, cut, classes_before):
        self.mask = cut.uvarint()
        check(self.mask < 1 << 19, "K-9")
        self.classes_sum = classes_before + self.mask.bit_count()
        check(self.classes_sum <= CLASSES, "L-22")
        there = [c for c in range(19) if self.mask >> c & 1]
        self.classes = Numbers(cut) if len(there) > 1 else None
        self.places, self.places_seen, self.seen, self.values, self.decimal_places = -1, -1, 0, {}, {}
        for c in there:
            if c == 5:
                self.places = cut.uint(1)
                check(self.places <= 6, "K-10")
            if c in (15, 16):
                self.decimal_places[c] = Numbers(cut)
            if c in (3, 5, 8, 15):
                self.values[c] = Series(cut)
            elif c in (4, 6, 7):
                self.values[c] = Planes(cut, 4 if c == 6 else 8)
            elif c >= 9:
                self.values[c] = Dictionary(cut, c <= 10)
            else:
                self.values[c] = None

    def next(self):
        c = self.classes.below(19, "K-9") if self.classes else next(iter(self.values), None)
        check(c in self.values, "K-9")
        self.seen |= 1 << c
        if c < 3:
            return c, b""
        found = self.values[c].next()
        if c == 3:
            if -8 <= found <= 7:
                return 0x10 | found & 15, b""
            return 0x20 | shortest(found), found.to_bytes(shortest(found), "little", signed=True)
        if c == 4:
            check(found[7] >= 128, "K-9")
            return 0x38, found
        if c == 5:
            x = found / 10.0**self.places
            check(mantissa(x, self.places) == found, "K-10")
            self.places_seen = max(self.places_seen, places_of(x))
            if x == 0:
                return 0x40, b""
            return (0x44, as_32(x)) if as_32(x) else (0x48, bits64(x))
        if c in (6, 7):
            x = floats(found)
            check(self.places < 0 or mantissa(x, self.places) is None, "K-10")
            self.places_seen = max(self.places_seen, places_of(x))
            return 0x40 | len(found), found
        if c == 8:
            width = shortest(found) if found else 0
            return 0x60 | width, found.to_bytes(width, "little", signed=True)
        if c in (15, 16):
            places = self.decimal_places[c].below(DIGITS + 1, "L-21")
            if c == 15:
                found = found.to_bytes(shortest(found), "little", signed=True) if found else b""
            n = decimal(places, found).coefficient
            check((c == 15) == (-(1 << 63) <= n < 1 << 63), "K-9")
            return (0x50 | places, found) if places < 15 else (0x5F, bytes([places]) + found)
        if c == 10:
            return 0x80, str(Uuid(found)).encode()
        check(c != 11 or not spells_uuid(found), "K-9")
        return {9: 0x70, 11: 0x80, 12: 0x90, 13: 0xA0, 14: 0xB0, 17: 0xC4, 18: 0xC8}[c], found

    def end(self):
        for values in (self.classes, *self.values.values(), *self.decimal_places.values()):
            if values is not None:
                values.end()
        check(self.seen == self.mask, "K-9")
        check(self.places_seen == self.places, "K-10")


@dataclass
class Envelope:
    epoch: int
    first_seq: int
    relay_ms: int
    replica: bytes
    first: int
    n: int
    verdicts: list
    absorbed: list
    repeated: list


def names_table(cut):
    names = [cut.text(NAME) for _ in range(cut.count(TABLE, "L-20"))]
    distinct(names, "K-8")
    return names


def columns(data):
    """Turns a columnar batch into (envelope or None, row batch) pairs, with the bytes of the row batches."""
    cut = Cut(data)
    check(cut.uint(1) == 1, "K-12")
    flags = cut.uint(1)
    check(flags <= 1, "K-12")
    space = cut.take(16)
    replicas = [cut.take(16) for _ in range(cut.count(TABLE, "L-20"))]
    distinct(replicas, "K-8")
    collections, names = names_table(cut), names_table(cut)
    names_used, shapes, rows_len = FirstUse(len(names), "K-11"), [], 0
    for _ in range(cut.count(TABLE, "L-20")):
        shapes.append(tuple(names[names_used.meet(cut.uvarint())] for _ in range(cut.count(FIELDS, "L-2"))))
        ascends([name.encode() for name in shapes[-1]], "K-13")
        rows_len += len(put_shape(shapes[-1]))
        check(rows_len <= ROWS, "L-18")
    names_used.end()
    distinct(shapes, "K-8")
    collections_used, shapes_used, forms = FirstUse(len(collections), "K-11"), FirstUse(len(shapes), "K-11"), []
    for _ in range(cut.count(TABLE, "L-20")):
        bits, merge = cut.uint(1), cut.uint(1)
        check(bits & 0xC8 == 0, "K-14")
        check(bits & 7 <= 2, "O-1")
        check(not bits & UNSET or bits & 7 == 1, "O-4")
        collection = collections_used.meet(cut.uvarint())
        pair = [shapes_used.meet(cut.uvarint()) for there in (bits & 7 != 2, bits & UNSET) if there]
        forms.append((bits, merge, collection, *pair))
    collections_used.end()
    shapes_used.end()
    distinct(forms, "K-8")
    count = cut.count(BATCHES, "L-19")
    check(count > 0, "K-12")

    heads = [Numbers(cut) for _ in range(8)]
    head_attrs = Cut(cut.prefixed(BODY))
    over = [Numbers(cut) for _ in range(6)] if flags else []
    streams = [Numbers(cut) for _ in range(6)]
    op_attrs, documents = Cut(cut.prefixed(BODY)), Dictionary(cut, True)
    fields, classes_sum = {}, 0
    for name in names:
        fields[name] = Column(cut, classes_sum)
        classes_sum = fields[name].classes_sum
    cut.end()

    replicas_used, forms_used = FirstUse(len(replicas), "K-11"), FirstUse(len(forms), "K-11")
    epoch, ms, cursor, next_counters, ops_left, found, rows_len = 0, 0, 0, {}, OPS, [], 0
    for _ in range(count):
        n = heads[0].next()
        check(n > 0, "B-8")
        check(n <= ops_left, "L-10")
        ops_left -= n
        author = replicas_used.meet(heads[1].next())
        first = heads[2].step(next_counters.get(author, 1))
        check(first + n < 1 << 64, "B-2")
        next_counters[author] = first + n
        epoch = heads[3].step(epoch)
        deps = []
        for _ in range(heads[4].below(DEPS + 1, "L-13")):
            deps.append((replicas[replicas_used.meet(heads[5].next())], heads[6].next()))
        attrs = head_attrs.take(heads[7].below(ATTRS + 1, "L-14"))
        one = Batch(space, replicas[author], first, epoch, deps, attrs)
        for _ in range(n):
            bits, merge, collection, *pair = forms[forms_used.meet(streams[0].next())]
            bits |= MORE * streams[1].below(2, "K-4")
            ms = streams[2].step(ms)
            check(ms < 1 << 48, "K-15")
            hlc = ms << 16 | streams[3].below(1 << 16, "K-15")
            cursor = streams[4].step(cursor)
            op = Op(bits, merge, hlc, cursor, collections[collection], documents.next())
            if bits & HAS_ATTRS:
                op.attrs = op_attrs.take(streams[5].below(ATTRS + 1, "L-14"))
            if pair:
                op.set = shapes[pair[0]]
                op.unset = shapes[pair[1]] if len(pair) > 1 else ()
                op.body = put_sequence([fields[name].next() for name in op.set])
            one.ops.append(op)
            rows_len += 22 + len(op.body)
            check(rows_len <= ROWS, "L-18")
        found.append((None, one))
    for stream in (*heads, head_attrs, replicas_used, *streams, op_attrs, documents, forms_used, *fields.values()):
        stream.end()

    # K-17: the rows are checked as any rows are.
    rows = [put_batch(one) for _, one in found]
    check(sum(map(len, rows)) <= ROWS, "L-18")
    found = [(None, batch(data)) for data in rows]
    if not flags:
        return found
    epoch, expected, relay_ms, entries = 0, 1, 0, []
    for _, one in found:
        n = len(one.ops)
        epoch = over[0].step(epoch)
        check(epoch < 1 << 32, "O-17")
        first_seq = over[1].step(expected)
        check(1 <= first_seq and first_seq + n < 1 << 64, "F-14")
        expected = first_seq + n
        relay_ms = over[2].step(relay_ms)
        verdicts = [(over[3].below(4, "K-16"), size) for size in one.transactions()]
        bits = [[over[i].below(2, "K-4") for _ in range(n)] for i in (4, 5)]
        entries.append((Envelope(epoch, first_seq, relay_ms, one.replica, one.first, n, verdicts, *bits), one))
    for stream in over:
        stream.end()
    return entries


# ---- envelopes and frames (frame.md)


def bitmap(cut, n):
    data = cut.take(-(-n // 8))
    check(int.from_bytes(data, "little") >> n == 0, "F-13")
    return [data[i // 8] >> i % 8 & 1 for i in range(n)]


def envelope(data):
    check(len(data) >= 4 and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"), "F-11")
    cut = Cut(data[:-4])
    epoch, first_seq, relay_ms = small(cut), cut.uvarint(), cut.uint(8)
    replica, first, n = cut.take(16), cut.uvarint(), cut.count(OPS, "L-10")
    check(n > 0, "B-8")
    check(first_seq + n < 1 << 64, "F-14")
    check(1 <= first and first + n < 1 << 64, "B-2")
    verdicts = [(cut.uint(1), cut.uvarint()) for _ in range(cut.count(n, "F-12"))]
    check(all(verdict <= 3 and size > 0 for verdict, size in verdicts), "F-12")
    check(sum(size for _, size in verdicts) == n, "F-12")
    found = Envelope(epoch, first_seq, relay_ms, replica, first, n, verdicts, bitmap(cut, n), bitmap(cut, n))
    cut.end()
    return found


def lz4(data, size):
    """Inflates an lz4 block."""
    cut, out = Cut(data), bytearray()

    def length(n):
        more = 255 if n == 15 else 0
        while more == 255:
            more = cut.uint(1)
            n += more
        return n

    while True:
        token = cut.uint(1)
        out += cut.take(length(token >> 4))
        check(len(out) <= size, "F-21")
        if not cut.left():
            return bytes(out)
        back = cut.uint(2)
        check(1 <= back <= len(out), "F-21")
        n = 4 + length(token & 15)
        check(len(out) + n <= size, "F-21")
        for _ in range(n):
            out.append(out[-back])


def inflate(codec, body):
    cut = Cut(body)
    size = cut.uint(4)
    check(size <= BODY, "L-15")
    check(size > len(body), "F-21")
    if codec == 1:
        try:
            from compression import zstd
        except ImportError:
            raise Skipped("zstd") from None
        # One frame, nothing behind it, and no more than a byte beyond what it is said to give.
        reader, found, piece = zstd.ZstdDecompressor(), b"", cut.rest()
        try:
            while not reader.eof and len(found) <= size:
                more = reader.decompress(piece, max_length=size + 1 - len(found))
                if not more and reader.needs_input:
                    break
                found, piece = found + more, b""
        except zstd.ZstdError:
            raise Refused("F-21") from None
        check(reader.eof and not reader.unused_data, "F-21")
    else:
        found = lz4(cut.rest(), size)
    check(len(found) == size, "F-21")
    return found


def frame(data):
    """Reads one whole frame; returns its kind and what it says, in the notation of the vectors."""
    cut = Cut(data)
    head = cut.take(16)
    check(head[:2] == b"BZ", "F-1")
    check(head[2] == 0, "F-2")
    check(1 <= head[3] <= len(KINDS), "F-3")
    kind, codec = KINDS[head[3] - 1], head[4]
    check(codec <= 2, "F-4")
    check(codec == 0 or kind in ("Push", "Entry", "Entries", "Pushes"), "F-20")
    check(head[5:8] == b"\0\0\0", "F-5")
    size = int.from_bytes(head[8:12], "little")
    check(size <= BODY, "L-15")
    check(size == cut.left(), "F-6")
    body = cut.rest()
    check(zlib.crc32(body, zlib.crc32(head[:12])) == int.from_bytes(head[12:], "little"), "F-7")
    if codec:
        body = inflate(codec, body)
    return kind, globals()[f"read_{kind.lower()}"](body)


def reads_of(flags):
    return ", ".join(name for bit, name in ((2, "zstd"), (4, "lz4"), (8, "columns")) if flags & bit)


def read_hello(body):
    cut = Cut(body)
    protocol, flags, space = small(cut), cut.uint(1), cut.take(16)
    check(flags < 16 and (flags & 1 or space == bytes(16)), "F-9")
    epoch, cursor = small(cut), cut.uvarint()
    ids = [cut.take(16).hex() for _ in range(cut.count(IDS, "L-16"))]
    cut.end()
    space = space.hex() if flags & 1 else "none"
    return (f"Hello protocol {protocol} space {space} epoch {epoch} cursor {cursor} reads [{reads_of(flags)}] "
            f"replicas [{', '.join(ids)}]")


def read_welcome(body):
    cut = Cut(body)
    protocol, space, epoch, head, floor = small(cut), cut.take(16).hex(), small(cut), cut.uvarint(), cut.uvarint()
    relay_ms, flags = cut.uint(8), cut.uint(1)
    check(flags < 16, "F-10")
    counters = [f"{cut.take(16).hex()}:{cut.uvarint()}" for _ in range(cut.count(IDS, "L-16"))]
    cut.end()
    return (f"Welcome protocol {protocol} space {space} epoch {epoch} head {head} floor {floor} relay_ms {relay_ms} "
            f"clock_trusted {show(bool(flags & 1))} reads [{reads_of(flags)}] counters [{', '.join(counters)}]")


def read_push(body):
    return "Push\n" + show_batch(batch(body))


def read_ack(body):
    return "Ack\n" + show_envelope(envelope(body))


def read_entry(body):
    cut = Cut(body)
    over, under = envelope(cut.prefixed(BODY)), batch(cut.rest())
    check(over.first_seq > 0, "F-14")
    same = (over.replica, over.first, over.n) == (under.replica, under.first, len(under.ops))
    check(same and [size for _, size in over.verdicts] == under.transactions(), "F-15")
    return f"Entry\n{show_envelope(over)}\n{show_batch(under)}"


def read_error(body):
    cut = Cut(body)
    code, fatal, retry, text = cut.uvarint(), cut.uint(1), cut.uvarint(), cut.text(ERROR_TEXT)
    check(1 <= code <= len(ERRORS) and fatal <= 1, "F-16")
    name = ERRORS[code - 1]
    if name == "NeedFrom":
        replica, counter = cut.take(16).hex(), cut.uvarint()
        check(counter > 0, "F-17")
        name += f"({replica}:{counter})"
    cut.end()
    return f"Error {name} fatal {show(bool(fatal))} retry_ms {retry} {show(text)}"


def read_ping(body, name="Ping"):
    cut = Cut(body)
    nonce = cut.uint(8)
    cut.end()
    return f"{name} {nonce}"


def read_pong(body):
    return read_ping(body, "Pong")


def read_bye(body):
    Cut(body).end()
    return "Bye"


def read_digestrequest(body):
    cut = Cut(body)
    found = f"DigestRequest min_seq {cut.uvarint()}"
    cut.end()
    return found


def read_digest(body):
    cut = Cut(body)
    found = f"Digest seq {cut.uvarint()} digest {cut.take(32).hex()} documents {cut.uvarint()}"
    cut.end()
    return found


def read_entries(body):
    found = columns(body)
    check(found[0][0] is not None, "F-22")
    return show_columns("Entries", found)


def read_pushes(body):
    found = columns(body)
    check(found[0][0] is None, "F-22")
    return show_columns("Pushes", found)


# ---- the notation of the vectors (vectors/README.md)


def show(found):
    if found is None or isinstance(found, (bool, str)):
        return json.dumps(found, ensure_ascii=False).replace("\x7f", "\x7f")
    if isinstance(found, int):
        return str(found)
    if isinstance(found, float):
        if found != found:
            return "NaN"
        return repr(found).replace("e+", "e").replace("e-0", "e-")
    if isinstance(found, Timestamp):
        return f"timestamp({found.micros})"
    if isinstance(found, Uuid):
        return f"uuid({found})"
    if isinstance(found, Decimal):
        return f"decimal({found})"
    if isinstance(found, Vector):
        return f"f{8 * found.width}{show(found.elements)}"
    if isinstance(found, bytes):
        return f"bytes({found.hex()})"
    if isinstance(found, (list, tuple)):
        return f"[{', '.join(map(show, found))}]"
    ordered = sorted(found.items(), key=lambda item: item[0].encode())
    return "{" + ", ".join(f"{show(name)}: {show(item)}" for name, item in ordered) + "}"


def show_batch(found):
    deps = ", ".join(f"{replica.hex()}:{counter}" for replica, counter in found.deps)
    lines = [f"space {found.space.hex()} replica {found.replica.hex()} first {found.first} epoch {found.epoch} "
             f"deps [{deps}] attrs {show(found.attrs.hex())}"]
    for op in found.ops:
        line = f"{('create', 'update', 'delete')[op.kind()]} {show(op.collection)} {Uuid(op.document)} "
        line += f"hlc {op.hlc >> 16}.{op.hlc & 65535} cursor {op.cursor}"
        line += f" attrs {op.attrs.hex()}" if op.attrs else ""
        line += f" set {show(row(op.set, op.body))}" if op.kind() != 2 else ""
        line += f" unset {show(op.unset)}" if op.unset else ""
        lines.append(line + " more" * bool(op.flags & MORE) + f" digest {op.digest().hex()}")
    return "\n".join(lines)


def show_envelope(found):
    verdicts = ", ".join(f"{verdict} x {size}" for verdict, size in found.verdicts)
    bits = lambda bitmap: "".join(map(str, bitmap))
    return (f"epoch {found.epoch} first_seq {found.first_seq} relay_ms {found.relay_ms} replica {found.replica.hex()} "
            f"first {found.first} n {found.n} verdicts [{verdicts}] absorbed {bits(found.absorbed)} "
            f"repeated {bits(found.repeated)}")


def show_columns(word, found):
    lines = [word]
    for over, under in found:
        lines += [show_envelope(over)] if over else []
        lines.append(show_batch(under))
    return "\n".join(lines)


# ---- vectors and files


def whole(read):
    def reading(data):
        cut = Cut(data)
        found = read(cut)
        cut.end()
        return show(found)

    return reading


def read_row(data):
    cut = Cut(data)
    names = shape(cut)
    return show(row(names, cut.rest()))


READERS = {
    "uvarint": whole(Cut.uvarint),
    "value": lambda data: show(value(data[0], data[1:])),
    "shape": whole(shape),
    "row": read_row,
    "batch": lambda data: show_batch(batch(data)),
    "envelope": lambda data: show_envelope(envelope(data)),
    "columns": lambda data: show_columns("columns", columns(data)),
    "frame": lambda data: frame(data)[1],
}


def vectors(folder):
    import tomllib

    read, skipped, wrong = 0, 0, []
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".toml"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            listed = tomllib.load(file)["vector"]
        for vector in listed:
            data = bytes.fromhex(vector["hex"])
            try:
                says = READERS[vector["what"]](data)
            except Refused as why:
                says = None
                if "says" in vector:
                    wrong.append(f"{name}: {vector['name']}: refused for {why}")
            except Skipped:
                skipped += 1
                continue
            read += 1
            if says is not None and says != vector.get("says"):
                wrong.append(f"{name}: {vector['name']}: read as {says!r}, not as {vector.get('says')!r}")
    print(f"{read} vectors read, {skipped} skipped, {len(wrong)} read differently")
    print("".join(f"{line}\n" for line in wrong), end="")
    return not wrong


def documents(path):
    """Prints the documents of an export file (F-24)."""
    with open(path, "rb") as file:
        cut = Cut(file.read())
    ended, next_counter, last = False, 1, b""
    while cut.left():
        check(not ended, "F-24: frames after the Bye")
        head = cut.take(16)
        data = head + cut.take(int.from_bytes(head[8:12], "little"))
        kind, _ = frame(data)
        check(kind in ("Pushes", "Bye") and head[4] == 0, "F-24")
        ended = kind == "Bye"
        for _, found in columns(data[16:]) if not ended else []:
            check((found.space, found.replica, found.epoch) == (bytes(16), bytes(16), 0), "F-24")
            check(found.first == next_counter, "F-24")
            next_counter += len(found.ops)
            for op in found.ops:
                check(op.kind() == 0 and op.hlc == 0 and op.cursor == 0 and last < op.document, "F-24")
                last = op.document
                print(Uuid(op.document), show(row(op.set, op.body)))
    check(ended, "F-24: the file was cut")


def main():
    try:
        if len(sys.argv) == 3 and sys.argv[1] == "--vectors":
            return 0 if vectors(sys.argv[2]) else 1
        if len(sys.argv) == 2 and not sys.argv[1].startswith("-"):
            documents(sys.argv[1])
            return 0
    except Refused as why:
        print(f"refused: {why}", file=sys.stderr)
        return 1
    print(__doc__.strip(), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
