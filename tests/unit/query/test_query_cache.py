"""Kept answers: bounded bytes, least recently used out first; a shared one is believed whole and under its key only."""

from __future__ import annotations

import random

import pytest

from query_service.app import opened_caches
from query_service.cache import ENTRY_BYTES, AnswerCache
from query_service.settings import CacheSettings, read_settings
from query_service.shared_cache import SharedCache, pack, unpack
from shared.errors import ConfigError

SIZE = ENTRY_BYTES + 10


def test_the_answer_that_was_used_least_recently_makes_room() -> None:
    cache = AnswerCache(10 * SIZE)
    for number in range(10):
        cache.put(b"%d" % number, b"x" * 9)
    assert cache.get(b"0") == b"x" * 9
    cache.put(b"a", b"y" * 9)
    assert cache.get(b"1") is None
    assert cache.get(b"0") == b"x" * 9
    assert cache.get(b"a") == b"y" * 9


def test_a_cache_never_holds_more_than_its_size() -> None:
    chance, cache = random.Random(7), AnswerCache(20_000)
    for _ in range(5000):
        cache.put(b"%d" % chance.randrange(300), b"x" * chance.randrange(4000))
        assert cache.size_bytes <= 20_000
    held = [(key, answer) for number in range(300) if (answer := cache.get(key := b"%d" % number)) is not None]
    assert len(held) == len(cache)
    assert sum(len(key) + len(answer) + ENTRY_BYTES for key, answer in held) == cache.size_bytes


def test_an_answer_as_large_as_the_cache_is_not_kept() -> None:
    cache = AnswerCache(10_000)
    cache.put(b"small", b"x")
    cache.put(b"large", b"x" * 5000)
    assert (len(cache), cache.get(b"large")) == (1, None)


def test_without_room_nothing_is_kept() -> None:
    cache = AnswerCache(0)
    cache.put(b"k", b"")
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_a_shared_value_is_what_was_stored() -> None:
    assert unpack(b"key", pack(b"key", b"answer")) == b"answer"
    assert unpack(b"key", pack(b"key", b"")) == b""


def test_a_shared_value_of_another_key_is_none() -> None:
    assert unpack(b"other", pack(b"key", b"answer")) is None


@pytest.mark.parametrize("size", [0, 1, 39, 40, 45])
def test_a_shared_value_that_is_cut_short_is_none(size: int) -> None:
    assert unpack(b"key", pack(b"key", b"answer")[:size]) is None


def test_a_shared_value_with_a_flipped_bit_is_none() -> None:
    value = pack(b"key", b"answer")
    for at in range(len(value)):
        assert unpack(b"key", value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]) is None
    assert unpack(b"key", value + b"x") is None


async def test_nothing_is_kept_unless_told() -> None:
    async with opened_caches(CacheSettings(), None) as caching:
        assert caching is None


@pytest.mark.parametrize("url", ["http://cache", "redis://cache:port", "cache:6379"])
def test_a_url_that_is_no_redis_is_refused_at_start_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_CACHE_URL") as caught:
        SharedCache(url, timeout_s=1)
    assert url not in caught.value.message


def test_the_cache_settings_are_read() -> None:
    environ = {"PENSTOCK_TLS": "off", "PENSTOCK_DATABASE_URL": "postgresql://u:p@h/d"}
    assert read_settings(environ).cache == CacheSettings()
    own = {"PENSTOCK_CACHE_BYTES": "1000", "PENSTOCK_CACHE_URL": "redis://:secret@h/0"}
    settings = read_settings(environ | own)
    assert settings.cache == CacheSettings(max_bytes=1000, url="redis://:secret@h/0")
    assert "secret" not in repr(settings)
