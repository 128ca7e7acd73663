#!/usr/bin/env python3
"""Reads a store as spec/store.md and spec/crypto.md describe it, checks what can be checked, prints what it holds.

    store_reader.py FILE                      # a store without encryption
    store_reader.py FILE --raw-key HEX        # needs the package `cryptography`
    store_reader.py FILE --passphrase TEXT

Written from those two files alone, without a look at the engine: where this reader had to guess, the specification was
wrong. Rules are named where they are followed. It holds everything in memory and is slow; it is here to be read.

It prints one JSON object a line: the store, then each tree in the order of names with its entries in the order of
keys. Keys and values are hexadecimal; a value of more than 64 bytes is given by its length and its SHA-256.
"""

import argparse
import hashlib
import hmac
import json
import os
import sys
import zlib
from dataclasses import dataclass

import xxh3

PAGES_START = 131072
SLOTS = (0, 65536)
MAGIC = b"BLAZEDB\0"
GROUP_MAGIC = b"BLZG"
GROUP_ALIGN = 64
GROUP_HEADER, PAYLOAD_MAX = 96, 67108864
PAGE_HEADER = 56
LEAF, BRANCH, VALUE, VALUE_INDEX, SPACE, SPACE_INDEX = 1, 2, 3, 4, 5, 6
CIPHERS = {0: "none", 1: "aes-256-gcm", 2: "chacha20-poly1305"}
KEY_MAX, PAGE_KEY_MAX, VALUE_MAX, STORED_MAX = 1024, 1161, 2097152, 1073741824
COMMIT_MAX = 35667968
TREE_MAX, NAME_MAX, HEIGHT_MAX = 4096, 512, 16
CATALOGUE = 0
LEDGER_NAME = b""
VALUE_SHOWN_MAX = 64


class Damaged(Exception):
    """The files break a rule."""


def check(holds, what):
    if not holds:
        raise Damaged(what)


class Cut:
    """A byte string that is cut up from its beginning."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        check(n <= len(self.data) - self.at, "cut short")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def uvarint(self):
        """LEB128, as short as can be (V-1, V-2)."""
        number = 0
        for i in range(10):
            byte = self.number(1)
            number |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                check(byte or i == 0, "a uvarint longer than it need be")
                check(number < 2**64, "a uvarint beyond 64 bits")
                return number
        raise Damaged("a uvarint without an end")

    def sized(self, size_max):
        size = self.uvarint()
        check(size <= size_max, "a length beyond its limit")
        return self.take(size)

    def zeros(self, n):
        check(not any(self.take(n)), "zeros are missing")

    def ended(self):
        return self.at == len(self.data)


# Ciphers


class Plain:
    """Without encryption: hashes in the place of tags (C-8, C-9)."""

    ciphers = {0: 0}

    def header_proof(self, covered):
        return hashlib.sha256(covered).digest()

    def open_page(self, _key_epoch, _generation, _counter, associated, sealed, tag):
        return sealed if xxh3.digest(associated + sealed) == tag else None

    def open_group(self, _key_epoch, _generation, counter, associated, sealed, tag):
        hashed = counter + len(associated).to_bytes(8, "little") + associated + sealed
        return sealed if xxh3.digest(hashed) == tag else None


class Encrypted:
    """What follows from the master keys, of which there are two while one takes the other's place (C-2, C-10)."""

    def __init__(self, header, master):
        self.file_id, self.epoch = header.file_id, header.key_epoch
        self.masters, self.ciphers = {self.epoch: master}, {self.epoch: header.cipher}
        if header.previous:
            epoch, cipher, sealed, tag = header.previous
            associated = b"blaze previous key" + self.file_id + u16(self.epoch) + bytes([header.cipher])
            associated += u16(epoch) + bytes([cipher])
            key = hkdf(self.file_id, master, b"blaze previous key")
            previous = opened(header.cipher, key, bytes(12), associated, sealed, tag)
            check(previous is not None, "the previous key")
            self.masters[epoch], self.ciphers[epoch] = previous, cipher

    def header_proof(self, covered):
        return hmac.digest(hkdf(self.file_id, self.masters[self.epoch], b"blaze header"), covered, "sha256")

    def open_page(self, *sealed):
        return self.open(b"blaze page", *sealed)

    def open_group(self, *sealed):
        return self.open(b"blaze log", *sealed)

    def open(self, purpose, key_epoch, generation, counter, associated, sealed, tag):
        subkey = hkdf(self.file_id, self.masters[key_epoch], purpose + u16(key_epoch) + generation)
        return opened(self.ciphers[key_epoch], subkey, counter, associated, sealed, tag)


def u16(number):
    return number.to_bytes(2, "little")


def hkdf(salt, secret, info):
    """HKDF-SHA-256 (RFC 5869) for the 32 bytes that one block gives."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def opened(cipher, key, nonce, associated, sealed, tag):
    """The plaintext, or None where the tag is not right."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import aead

    algorithm = {1: aead.AESGCM, 2: aead.ChaCha20Poly1305}[cipher]
    try:
        return algorithm(key).decrypt(nonce, sealed + tag, associated)
    except InvalidTag:
        return None


def unlocked(cipher, file_id, slots, raw_key, passphrase):
    """The master key from the first slot that opens (C-3, C-4)."""
    for slot in slots:
        kind = slot[0]
        memory, passes, lanes = (int.from_bytes(slot[at : at + 4], "little") for at in (4, 8, 12))
        salt, sealed, tag = slot[16:32], slot[32:64], slot[64:80]
        if kind == 2 and raw_key is not None:
            stretched = raw_key
        elif kind == 1 and passphrase is not None:
            from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

            kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
            stretched = kdf.derive(passphrase)
        else:
            continue
        associated = b"blaze key slot" + file_id + slot[:1] + slot[4:16]
        master = opened(cipher, hkdf(salt, stretched, b"blaze key slot"), bytes(12), associated, sealed, tag)
        if master is not None:
            return master
    raise Damaged("no key slot opens with this key")


# Header


@dataclass
class Child:
    """The name of a page (E-31)."""

    page: int
    proof: int


@dataclass
class Tree:
    """The name of a tree (E-35)."""

    height: int
    root: Child
    entries: int


class Header:
    """A slot of the file (E-2)."""

    def __init__(self, slot):
        self.slot = slot
        cut = Cut(slot)
        check(cut.take(8) == MAGIC, "not a slot")
        check(int.from_bytes(slot[4092:], "little") == zlib.crc32(slot[:4092]), "a slot's checksum")

    def decode(self):
        """Everything that E-3 asks for; a slot whose checksum holds is refused, not passed over."""
        cut = Cut(self.slot)
        cut.take(8)
        check(cut.number(2) == 0, "format version")
        check(cut.number(2) == 0, "feature bits")
        self.cipher = cut.number(1)
        check(self.cipher in CIPHERS, "cipher")
        cut.zeros(1)
        self.key_epoch = cut.number(2)
        check(self.cipher or self.key_epoch == 0, "key epoch")
        self.sequence = cut.number(8)
        self.file_id = cut.take(16)
        self.block_size, self.page_size = cut.number(4), cut.number(4)
        check(self.block_size in (4096, 16384), "log block size")
        check(self.page_size in (4096, 8192, 16384), "page size")
        self.commit, self.floor = cut.number(8), cut.number(8)
        self.generation, self.offset = cut.number(8), cut.number(8)
        self.chain_tag = cut.take(16)
        height = cut.number(1)
        cut.zeros(7)
        self.roots = Tree(height, Child(cut.number(8), cut.number(8)), cut.number(8))
        self.space = Child(cut.number(8), cut.number(8))
        self.page_count = cut.number(8)
        cut.number(8)  # when it was written
        epoch, cipher, zero, sealed, tag = cut.number(2), cut.number(1), cut.number(1), cut.take(32), cut.take(16)
        self.previous = (epoch, cipher, sealed, tag) if cipher else None
        if self.previous:
            check(self.cipher and cipher in CIPHERS and zero == 0, "previous key")
            check(epoch == (self.key_epoch - 1) % 65536, "the epoch of the previous key")
        else:
            check(not (epoch or zero or any(sealed) or any(tag)), "previous key")
        cut.zeros(44)
        self.key_slots = [cut.take(96) for _ in range(4)]
        cut.zeros(3420)
        self.authentication = cut.take(32)

        numbers = (self.sequence, self.commit, self.floor, self.generation, self.offset)
        check(max(numbers) < 2**62, "a number of the header")
        check(self.floor >= self.commit, "the floor is below the commit")
        check(self.offset % self.block_size == 0, "log position")
        check(self.page_count >= PAGES_START // self.page_size, "page count")
        check(self.page_count * self.page_size <= 2**62, "page count")
        check(self.roots.height <= HEIGHT_MAX, "height")
        for named, child in ((self.roots.height, self.roots.root), (self.space.page, self.space)):
            if named:
                check(PAGES_START // self.page_size <= child.page < self.page_count, "a page out of the file")
            else:
                check(child == Child(0, 0), "a page that should not be named")
        check(self.roots.height or not self.roots.entries, "entries of an empty tree")
        for slot in self.key_slots:
            kind = slot[0]
            check(kind <= 3 and not any(slot[1:4]) and not any(slot[80:]), "key slot")
            memory, passes, lanes = (int.from_bytes(slot[at : at + 4], "little") for at in (4, 8, 12))
            check(memory <= 1048576 and passes <= 64 and lanes <= 16, "key slot asks for too much")
            check(kind == 1 or not (memory or passes or lanes), "key slot")
        return self


def newest_header(file):
    """The one slot that counts (E-4)."""
    readable = []
    for at in SLOTS:
        try:
            readable.append(Header(file[at : at + 4096]))
        except Damaged:
            continue
    check(readable, "no header slot can be read")
    return max(readable, key=lambda header: int.from_bytes(header.slot[16:24], "little")).decode()


# The store


@dataclass
class Group:
    """A group whose checksum, padding and tag are right (E-7); whether it is right where it stands is another matter."""

    end: int
    commits: int
    first: int
    durable: int
    generation: int
    previous: bytes
    tag: bytes
    payload: bytes


class Store:
    def __init__(self, path, raw_key=None, passphrase=None):
        self.path = path
        with open(path, "rb") as file:
            self.file = file.read()
        check(len(self.file) >= PAGES_START, "shorter than a store can be (E-1)")
        self.header = header = newest_header(self.file)
        check(header.page_count * header.page_size <= len(self.file), "shorter than its header says (E-5)")
        if header.cipher == 0:
            self.keys = Plain()
        else:
            master = unlocked(header.cipher, header.file_id, header.key_slots, raw_key, passphrase)
            self.keys = Encrypted(header, master)
        proof = self.keys.header_proof(header.slot[:4060])
        check(hmac.compare_digest(proof, header.authentication), "the header's authentication (C-6)")
        self.reached = set(range(PAGES_START // header.page_size))
        self.body_size = header.page_size - PAGE_HEADER

    # Pages

    def page(self, child, *kinds):
        """Kind and body of a page, after every check of E-32."""
        size = self.header.page_size
        page = self.file[child.page * size : (child.page + 1) * size]
        check(len(page) == size, f"page {child.page} is beyond the file")
        cut = Cut(page)
        check(cut.number(4) == zlib.crc32(page[4:]), f"page {child.page}: checksum")
        kind, cipher, key_epoch, number = cut.number(1), cut.number(1), cut.number(2), cut.number(8)
        generation, counter, tag = cut.take(12), cut.take(12), cut.take(16)
        check(number == child.page, f"page {child.page}: it says that it is {number}")
        check(kind in kinds, f"page {child.page}: kind {kind}")
        check(key_epoch in self.keys.ciphers, f"page {child.page}: key epoch")
        check(cipher == self.keys.ciphers[key_epoch], f"page {child.page}: cipher")
        check(int.from_bytes(tag[:8], "little") == child.proof, f"page {child.page}: not the one that was meant")
        associated = self.header.file_id + page[4:40]
        body = self.keys.open_page(key_epoch, generation, counter, associated, page[PAGE_HEADER:], tag)
        check(body is not None, f"page {child.page}: tag")
        check(child.page not in self.reached, f"page {child.page} is named twice")
        self.reached.add(child.page)
        return kind, body

    def entries(self, tree):
        """Keys and values of a tree, in order (E-33 to E-35)."""
        check((tree.height == 0) == (tree.entries == 0), "an empty tree has no root")
        found = {}
        if tree.height:
            self.subtree(tree.root, tree.height - 1, None, None, found)
        check(len(found) == tree.entries, "a tree's number of entries")
        return found

    def subtree(self, child, level, low, high, found):
        """Reads what is below a page: keys from `low` on, all below `high`."""
        _, body = self.page(child, BRANCH if level else LEAF)
        cut = Cut(body)
        check(cut.number(1) == level, "a node's level")
        check(cut.number(1) == 0, "a node's flags")
        n, common, used = cut.number(2), cut.number(2), cut.number(2)
        check(n >= 1, "an empty node")
        keys = n - 1 if level else n
        heads = [cut.take(4) for _ in range(keys)]
        offsets = [cut.number(2) for _ in range(keys)]
        children = [Child(cut.number(6), cut.number(8)) for _ in range(n)] if level else []
        beginning = cut.take(common)

        found_keys, cells = [], []
        for head, offset in zip(heads, offsets):
            check(cut.at == offset, "a gap before a cell")
            suffix_size = cut.uvarint()
            value_size = 0 if level else cut.uvarint()
            suffix = cut.take(suffix_size)
            cells.append((value_size & 1, cut.take(value_size >> 1)))
            check(suffix[:4].ljust(4, b"\0") == head, "a head is not its key's")
            found_keys.append(beginning + suffix)
        check(cut.at == used, "bytes in use")
        cut.zeros(len(body) - used)
        check(os.path.commonprefix(found_keys or [b""]) == beginning, "not all that the keys have in common")
        for a, b in zip([low, *found_keys], [*found_keys, high]):
            check(a is None or b is None or a < b or (a == b == low), "keys do not ascend")

        if level:
            for below, a, b in zip(children, [low, *found_keys], [*found_keys, high]):
                self.subtree(below, level - 1, a, b, found)
            return
        for key, (stored, value) in zip(found_keys, cells):
            check(len(key) <= PAGE_KEY_MAX, "a key's length")
            if stored:
                name = Cut(value)
                length, height, page = name.number(8), name.number(1), Child(name.number(6), name.number(8))
                check(name.ended(), "a stored value's name")
                value = self.stored_value(length, height, page)
            else:
                most = (self.body_size - 8) // 2 - 10
                check(len(key) + len(value) <= most, "a value that belongs into pages of its own")
            found[key] = value

    def stored_value(self, length, height, child):
        """A value in pages of its own (E-36)."""
        check(1 <= length <= STORED_MAX, "a stored value's length")
        fan_out = (self.body_size - 8) // 14
        levels = [-(-length // self.body_size)]
        while levels[-1] > 1:
            levels.append(-(-levels[-1] // fan_out))
        check(height == len(levels), "a stored value's height")
        children = [child]
        for level in reversed(range(1, height)):
            below = []
            for i, index in enumerate(children):
                _, body = self.page(index, VALUE_INDEX)
                cut = Cut(body)
                check(cut.number(1) == level, "a value index's level")
                cut.zeros(1)
                n = cut.number(2)
                cut.zeros(4)
                check(n == min(fan_out, levels[level - 1] - i * fan_out), "children of a value index")
                below += [Child(cut.number(6), cut.number(8)) for _ in range(n)]
                cut.zeros(len(body) - cut.at)
            children = below
        value = b"".join(self.page(page, VALUE)[1] for page in children)
        check(not any(value[length:]), "zeros behind a stored value")
        return value[:length]

    def roots(self):
        """Every tree by its number (E-38)."""
        trees = {}
        for key, value in self.entries(self.header.roots).items():
            cut = Cut(value)
            check(len(key) == 4 and len(value) == 25, "an entry of the tree of roots")
            tree = Tree(cut.number(1), Child(cut.number(8), cut.number(8)), cut.number(8))
            trees[int.from_bytes(key, "big")] = tree
        return trees

    def check_space(self):
        """The bitmap names the pages that the header reaches, and no other (E-39)."""
        used, index, child = set(), 0, self.header.space
        bits_per_page = (self.body_size - 16) * 8
        part = 0
        while child != Child(0, 0):
            cut = Cut(self.page(child, SPACE_INDEX)[1])
            spanned, n = cut.number(8), cut.number(4)
            check(cut.number(4) == index, "which index page of the space")
            child = Child(cut.number(8), cut.number(8))
            for _ in range(n):
                space = Cut(self.page(Child(cut.number(8), cut.number(8)), SPACE)[1])
                check(space.number(8) == part, "which part of the space")
                bits_set = space.number(4)
                space.zeros(4)
                bits = space.take(bits_per_page // 8)
                ours = {i for i in range(bits_per_page) if bits[i // 8] >> (i % 8) & 1}
                check(len(ours) == bits_set, "bits set in a part of the space")
                used |= {part * bits_per_page + i for i in ours}
                part += 1
            cut.zeros(self.body_size - cut.at)
            check(spanned >= self.header.page_count, "pages that the space spans")
            index += 1
        if self.header.space.page:
            check(used == self.reached, f"pages in use: {sorted(used ^ self.reached)}")

    # The log

    def log_file(self, generation):
        try:
            with open(f"{self.path}-log.{generation % 3}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def group(self, log, at):
        """The group at an offset, or None where there is none whose checksum, padding and tag are right (E-7)."""
        cut = Cut(log[at : at + GROUP_HEADER])
        if len(cut.data) < GROUP_HEADER or cut.take(4) != GROUP_MAGIC:
            return None
        length, checksum, commits = cut.number(4), cut.number(4), cut.number(4)
        first, durable, generation = cut.number(8), cut.number(8), cut.number(8)
        nonce_generation, counter, key_epoch, zero = cut.take(12), cut.take(8), cut.number(2), cut.number(2)
        previous, tag = cut.take(16), cut.take(16)
        end = at + -(-(GROUP_HEADER + length) // GROUP_ALIGN) * GROUP_ALIGN
        if length > PAYLOAD_MAX or end > len(log) or commits < 1 or zero or key_epoch not in self.keys.ciphers:
            return None
        group = log[at:end]
        if zlib.crc32(group[12:], zlib.crc32(group[:8])) != checksum or any(group[GROUP_HEADER + length :]):
            return None
        associated = group[:8] + group[12:80] + self.header.file_id
        sealed = group[GROUP_HEADER : GROUP_HEADER + length]
        payload = self.keys.open_group(key_epoch, nonce_generation, counter + bytes(4), associated, sealed, tag)
        if payload is None:
            return None
        return Group(end, commits, first, durable, generation, previous, tag, payload)

    def groups(self):
        """The groups after the header, in order, until the log's end (E-8, E-9, E-19)."""
        header = self.header
        generation, at = header.generation, header.offset
        previous, expected, floor = header.chain_tag, header.commit + 1, header.floor
        while True:
            group = self.right_group(generation, at, previous, expected)
            if group is None:
                block = header.block_size
                group = self.right_group(generation, -(-at // block) * block, previous, expected)
            if group is None and generation < header.generation + 2:
                group = self.right_group(generation + 1, 0, previous, expected)
                if group is not None and group.durable == group.first - 1:
                    generation += 1
                else:
                    group = None
            if group is None:
                break
            yield group
            at, previous, expected = group.end, group.tag, group.first + group.commits
        # The end, unless a commit that is missing here is proven to have been acknowledged.
        log = self.log_file(generation)
        later = [(log, at) for at in range(at, len(log), GROUP_ALIGN)]
        log = self.log_file(generation + 1)
        later += [(log, at) for at in range(0, len(log), GROUP_ALIGN)]
        later = [self.group(*place) for place in later]
        later = [group for group in later if group and group.durable < group.first]
        proven = max([header.floor] + [group.durable for group in later])
        check(proven < expected, f"commit {expected} was acknowledged and is not in the log")

    def right_group(self, generation, at, previous, expected):
        group = self.group(self.log_file(generation), at)
        right = group and (group.generation, group.previous, group.first) == (generation, previous, expected)
        return group if right and group.durable < group.first else None

    def replay(self, group, trees):
        """Carries out the commits of a group (E-11); what they supersede goes into twins (E-44)."""
        cut = Cut(group.payload)
        for commit in range(group.first, group.first + group.commits):
            twins = {e.number: trees.setdefault(e.twin, {}) for e in catalogue(trees).values() if e.since}
            start = cut.at
            check(cut.uvarint() < 2**32, "a label's size")
            last, held = None, 0
            for _ in range(cut.uvarint()):
                kind, tree, key = cut.number(1), cut.uvarint(), cut.sized(KEY_MAX)
                check(tree <= TREE_MAX, "a tree's number")
                check(last is None or last < (tree, key), "effects out of order")
                last = (tree, key)
                entries = trees.setdefault(tree, {})
                if tree in twins:
                    twins[tree][twin_key(key, commit, key in entries)] = entries.get(key, b"")
                if kind == 0:
                    entries[key] = cut.sized(VALUE_MAX)
                elif kind == 1:
                    entries.pop(key, None)
                elif kind == 2:
                    entries[key] = self.pieces(cut, start)
                elif kind == 3:
                    length, height = cut.uvarint(), cut.number(1)
                    check(1 <= length <= STORED_MAX and 1 <= height <= HEIGHT_MAX, "a stored value's name")
                    # Read when all is replayed: what the log itself replaced may be gone (E-40).
                    entries[key] = (length, height, Child(cut.uvarint(), cut.number(8)))
                else:
                    raise Damaged(f"effect {kind}")
                held += len(key) + (len(entries[key]) if kind in (0, 2) else 0)
                check(held <= COMMIT_MAX, "a commit's size")
        check(cut.ended(), "bytes after a group's last commit")

    def pieces(self, cut, start):
        value = b""
        for _ in range(cut.uvarint()):
            size, is_span = divmod(cut.uvarint(), 2)
            check(len(value) + size <= VALUE_MAX, "a value's length")
            if is_span:
                before = cut.at - start
                offset = cut.uvarint()
                check(offset + size <= before, "a span of what does not lie before it")
                value += cut.data[start + offset : start + offset + size]
            else:
                value += cut.take(size)
        return value

    # Everything

    def read(self):
        """The number of the last commit, and the entries of every tree by its name."""
        trees = {number: self.entries(tree) for number, tree in self.roots().items()}
        self.check_space()
        commit, self.groups_read = self.header.commit, 0
        for group in self.groups():
            self.replay(group, trees)
            commit += group.commits
            self.groups_read += 1
        for entries in trees.values():
            for key, value in entries.items():
                if isinstance(value, tuple):
                    entries[key] = self.stored_value(*value)
        named, past, numbers = {}, {}, set()
        entries = catalogue(trees)
        ledger = trees.pop(entries.pop(LEDGER_NAME).number, {}) if LEDGER_NAME in entries else {}
        check_times(ledger, commit)
        for name, entry in entries.items():
            check(1 <= len(name) <= NAME_MAX, "an entry of the catalogue (E-14)")
            for number in (entry.number, entry.twin) if entry.twin else (entry.number,):
                check(1 <= number <= TREE_MAX and number not in numbers, "an entry of the catalogue (E-14)")
                numbers.add(number)
            named[name.decode()] = trees.pop(entry.number, {})
            if entry.twin:
                twin = trees.pop(entry.twin, {})
                oldest = self.check_twin(entry, twin, ledger, commit)
                if entry.since:
                    past[name.decode()] = (oldest, twin)
        trees.pop(CATALOGUE, None)
        check(not any(trees.values()), "a tree without a name (E-14)")
        return commit, named, past

    def check_twin(self, entry, twin, ledger, commit):
        """Returns the oldest commit whose state can be read (E-42, E-43)."""
        held = Cut(ledger.get(entry.twin.to_bytes(4, "big"), bytes(24)))
        floor, size, taken = held.number(8), held.number(8), held.number(8)
        check(held.ended() and size <= taken and floor <= self.header.commit, "what the ledger says of a twin")
        in_pages = 0
        for key, value in twin.items():
            _, until, is_value = split_twin_key(key)
            check(0 < until <= commit, "a version that was superseded by no commit")
            check(is_value or value == b"", "a value where there was none")
            in_pages += len(key) + len(value) if until <= self.header.commit else 0
        check(in_pages == size, "what the ledger says that a twin holds")
        return max(floor, entry.since)


# History


@dataclass
class Entry:
    """What the catalogue says of a tree (E-14, E-41)."""

    number: int
    twin: int = 0
    since: int = 0


def catalogue(trees):
    found = {}
    for name, value in trees.get(CATALOGUE, {}).items():
        cut = Cut(value)
        entry = Entry(cut.number(4))
        if not cut.ended():
            on, entry.twin, entry.since = cut.number(1), cut.number(4), cut.number(8)
            cut.take(16)
            check(cut.ended() and on <= 1 and (on or not entry.since), "an entry of the catalogue (E-41)")
            check(entry.twin > entry.number and name != LEDGER_NAME, "the number of a twin")
        found[name] = entry
    return found


def twin_key(key, until, is_value):
    """The key of a twin's entry (E-42)."""
    bits = "".join(f"1{byte:08b}" for byte in key) + "0"
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big") + (until * 2 + is_value).to_bytes(8, "big")


def split_twin_key(twin_key):
    """The key, the commit, and whether there was a value."""
    check(len(twin_key) > 8, "a twin's key")
    bits = "".join(f"{byte:08b}" for byte in twin_key[:-8])
    key = []
    while bits[:1] == "1":
        check(len(bits) > 9, "a twin's key")
        key.append(int(bits[1:9], 2))
        bits = bits[9:]
    check(0 < len(bits) <= 8 and "1" not in bits, "a twin's key")
    number = int.from_bytes(twin_key[-8:], "big")
    return bytes(key), number >> 1, number & 1


def check_times(ledger, commit):
    """Times do not fall (E-43)."""
    times = [(key, value) for key, value in sorted(ledger.items()) if key[:4] == bytes(4)]
    check(all(len(key) == 12 and len(value) == 8 for key, value in times), "a time of the ledger")
    check(all(int.from_bytes(key[4:], "big") <= commit for key, _ in times), "a time of no commit")
    numbers = [int.from_bytes(value, "little") for _, value in times]
    check(numbers == sorted(numbers), "times fall")


def shown(value):
    if len(value) <= VALUE_SHOWN_MAX:
        return {"value": value.hex()}
    return {"value_bytes": len(value), "value_sha256": hashlib.sha256(value).hexdigest()}


def main():
    arguments = argparse.ArgumentParser(description="Prints what a store holds, as JSON lines.")
    arguments.add_argument("file")
    arguments.add_argument("--raw-key", type=bytes.fromhex, help="32 bytes, hexadecimal")
    arguments.add_argument("--passphrase", type=os.fsencode)
    given = arguments.parse_args()
    try:
        store = Store(given.file, given.raw_key, given.passphrase)
        commit, trees, past = store.read()
    except Damaged as damage:
        sys.exit(f"{given.file} is refused: {damage}")
    header = store.header
    print(json.dumps({"commit": commit, "checkpoint": header.commit, "cipher": CIPHERS[header.cipher]}))
    for name, entries in sorted(trees.items(), key=lambda tree: tree[0].encode()):
        print(json.dumps({"tree": name, "entries": len(entries)}, ensure_ascii=False))
        for key, value in sorted(entries.items()):
            print(json.dumps({"key": key.hex(), **shown(value)}))
        if name in past:
            oldest, twin = past[name]
            print(json.dumps({"history": name, "oldest": oldest}, ensure_ascii=False))
            for twin_key, value in sorted(twin.items()):
                key, until, is_value = split_twin_key(twin_key)
                if until > oldest:
                    version = shown(value) if is_value else {"absent": True}
                    print(json.dumps({"key": key.hex(), "until": until, **version}))
    print(f"{len(store.reached)} pages reached, {store.groups_read} groups replayed, all checks passed", file=sys.stderr)


if __name__ == "__main__":
    main()
