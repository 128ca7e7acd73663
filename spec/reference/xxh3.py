"""XXH3, 128 bits, without seed, for inputs longer than 16 bytes: all that spec/crypto.md asks for (C-8, C-9).

Written after the description of the algorithm by its author (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Slow, and
plain on purpose: 4 KiB take about a millisecond.
"""

import struct

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32_1, PRIME32_2, PRIME32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
PRIME64_1, PRIME64_2, PRIME64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
PRIME64_4, PRIME64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
PRIME_MX1 = 0x165667919E3779F9
MASK32, MASK64 = 2**32 - 1, 2**64 - 1

STRIPE = 64
# How far the secret moves from one stripe to the next, and so how many stripes it lasts for.
STEP = 8
STRIPES_PER_BLOCK = (192 - STRIPE) // STEP


def u64(data, at):
    return struct.unpack_from("<Q", data, at)[0]


def folded(left, right):
    """The product of two numbers, its upper half laid over its lower one."""
    product = left * right
    return (product ^ (product >> 64)) & MASK64


def avalanche(h):
    h ^= h >> 37
    h = h * PRIME_MX1 & MASK64
    return h ^ (h >> 32)


def digest(data):
    """The hash as 16 bytes, little-endian."""
    if len(data) <= 16:
        raise ValueError("shorter inputs do not occur in a store")
    if len(data) <= 128:
        low, high = short(data)
    elif len(data) <= 240:
        low, high = medium(data)
    else:
        low, high = long(data)
    return struct.pack("<QQ", low, high)


def mix16(data, at, secret):
    return folded(u64(data, at) ^ u64(SECRET, secret), u64(data, at + 8) ^ u64(SECRET, secret + 8))


def mix32(low, high, data, first, second, secret):
    low = (low + mix16(data, first, secret) & MASK64) ^ (u64(data, second) + u64(data, second + 8) & MASK64)
    high = (high + mix16(data, second, secret + 16) & MASK64) ^ (u64(data, first) + u64(data, first + 8) & MASK64)
    return low, high


def finish(low, high, length):
    mixed = low * PRIME64_1 + high * PRIME64_4 + length * PRIME64_2
    return avalanche(low + high & MASK64), -avalanche(mixed & MASK64) & MASK64


def short(data):
    n = len(data)
    low, high = n * PRIME64_1 & MASK64, 0
    for i in reversed(range((n - 1) // 32 + 1)):
        low, high = mix32(low, high, data, 16 * i, n - 16 * (i + 1), 32 * i)
    return finish(low, high, n)


def medium(data):
    n = len(data)
    low, high = n * PRIME64_1 & MASK64, 0
    for i in range(4):
        low, high = mix32(low, high, data, 32 * i, 32 * i + 16, 32 * i)
    low, high = avalanche(low), avalanche(high)
    for i in range(4, n // 32):
        low, high = mix32(low, high, data, 32 * i, 32 * i + 16, 3 + 32 * (i - 4))
    low, high = mix32(low, high, data, n - 16, n - 32, 136 - 17 - 16)
    return finish(low, high, n)


def accumulate(lanes, stripe, at, secret_at):
    words = struct.unpack_from("<8Q", stripe, at)
    secret = struct.unpack_from("<8Q", SECRET, secret_at)
    for i in range(8):
        keyed = words[i] ^ secret[i]
        lanes[i ^ 1] = lanes[i ^ 1] + words[i] & MASK64
        lanes[i] = lanes[i] + (keyed & MASK32) * (keyed >> 32) & MASK64


def scramble(lanes):
    secret = struct.unpack_from("<8Q", SECRET, len(SECRET) - STRIPE)
    for i in range(8):
        lanes[i] = ((lanes[i] ^ (lanes[i] >> 47)) ^ secret[i]) * PRIME32_1 & MASK64


def merge(lanes, secret_at, start):
    secret = struct.unpack_from("<8Q", SECRET, secret_at)
    total = start
    for i in range(0, 8, 2):
        total += folded(lanes[i] ^ secret[i], lanes[i + 1] ^ secret[i + 1])
    return avalanche(total & MASK64)


def long(data):
    n = len(data)
    lanes = [PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1]
    for stripe in range((n - 1) // STRIPE):
        if stripe and stripe % STRIPES_PER_BLOCK == 0:
            scramble(lanes)
        accumulate(lanes, data, stripe * STRIPE, stripe % STRIPES_PER_BLOCK * STEP)
    if (n - 1) // STRIPE % STRIPES_PER_BLOCK == 0:
        scramble(lanes)
    accumulate(lanes, data, n - STRIPE, len(SECRET) - STRIPE - 7)
    low = merge(lanes, 11, n * PRIME64_1 & MASK64)
    high = merge(lanes, len(SECRET) - STRIPE - 11, ~(n * PRIME64_2) & MASK64)
    return low, high
