"""Reads the tools' transcripts in the copies of their conversations on the host, each file only if it has grown.

A container writes these files, so everything that is kept of them is bounded: a message takes 42 bytes, and a parsed
line is freed before the next one.
"""

from __future__ import annotations

import itertools
import math
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from hashlib import blake2b
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

import clincus

from .dialects import DIALECTS, Dialect, parse_line
from .prices import KINDS, Message, Prices

FILES = 2_000  # transcripts of a session, the newest
LINE = 1 << 20  # bytes of a line; a longer one tells no usage
READ = 256 << 20  # bytes of a session's transcripts that are read at a time; the next time goes on there
READ_ALL = 1 << 30  # the same for all conversations together
MESSAGES = 20_000  # of a session that have a record each; older ones are only in the sums of their days
SLACK = 2_000  # more of them while it is read
DAYS = 400  # of a session; usage on further days has no day
MODELS = 10  # without a price, of a session
KEPT = 32 << 20  # bytes of all accounts that are kept in memory
CHECKED = 4096  # bytes before the place where reading goes on: if they changed, the file is another one

KEY = 16  # bytes of a digest that tells a message from others
CHARGE = Struct("<HIIIId")  # index of the day, tokens as KINDS, dollars (NaN: not known)
RECORD = Struct(f"<{KEY}s{CHARGE.format[1:]}")


class Spent:
    """A sum of tokens and dollars."""

    __slots__ = ("dollars", "is_known", "tokens", "unpriced")

    def __init__(self) -> None:
        self.tokens = [0, 0, 0, 0]  # as KINDS
        self.dollars = 0.0  # of the tokens with a known price
        self.unpriced = 0  # tokens that have none
        self.is_known = False  # True if anything had one

    def add(self, tokens: Sequence[int], dollars: float) -> None:
        """Add a message; NaN dollars are not known."""
        for at, count in enumerate(tokens):
            self.tokens[at] += count
        if math.isnan(dollars):
            self.unpriced += sum(tokens)
        else:
            self.is_known = True
            self.dollars += dollars

    def join(self, other: Spent) -> None:
        """Add another sum."""
        self.tokens = [one + two for one, two in zip(self.tokens, other.tokens)]
        self.dollars += other.dollars
        self.unpriced += other.unpriced
        self.is_known = self.is_known or other.is_known

    def document(self) -> dict[str, Any]:
        """The fields of the API: `cost_usd` is the known part, None if nothing is known."""
        return {
            "tokens": dict(zip(KINDS, self.tokens)),
            "cost_usd": round(self.dollars, 6) if self.is_known or not self.unpriced else None,
            "unpriced_tokens": self.unpriced,
        }


class Transcript(NamedTuple):
    """A transcript, as far as it was read."""

    # Bytes, and nanoseconds since 1970, when it was read; both are -1 if a part is still unread.
    size: int = -1
    mtime: int = -1
    offset: int = 0  # bytes, up to the end of a line
    tail: bytes = b""  # hash of the content before
    told: Mapping[str, Any] = {}  # facts from earlier lines for later ones, see dialects.py


class Last(NamedTuple):
    """The last message of the main agent."""

    at: str  # RFC 3339 in UTC, "" if it tells none
    model: str
    used: int  # tokens of the context
    size: int | None


class Account(NamedTuple):
    """The usage of a saved conversation. It never changes."""

    number: int = 0  # no other account has it
    transcripts: Mapping[str, Transcript] = {}
    days: tuple[str, ...] = ()  # those that the records name by index; "" for those without a day
    records: bytes = b""  # RECORD after RECORD, the oldest first
    older: Mapping[str, Spent] = {}  # by day: messages that are in no record any more
    sums: Mapping[str, Spent] = {}  # by day: all messages
    last: Last | None = None
    unpriced: tuple[str, ...] = ()  # names of models without a price
    is_told: bool = False  # True if a line reported a usage, also of 0
    is_skipped: bool = False  # a line was too long or too large to be read
    is_behind: bool = False  # there is more than was read

    @property
    def messages(self) -> int:
        """The number of messages that are known one by one."""
        return len(self.records) // RECORD.size

    @property
    def is_partial(self) -> bool:
        """True if there is more than was counted."""
        return self.is_skipped or self.is_behind

    @property
    def weight(self) -> int:
        """The approximate bytes that it takes in memory."""
        return len(self.records) + 500 * len(self.transcripts) + 300 * (len(self.older) + len(self.sums)) + 1000

    def keys(self) -> set[bytes]:
        """The digests of its messages."""
        return {self.records[at : at + KEY] for at in range(0, len(self.records), RECORD.size)}

    def charges(self, without: set[bytes]) -> Iterator[tuple[str, tuple[int, ...], float]]:
        """Day, tokens and dollars of each message that is known alone, without those of some digests."""
        for key, day, *tokens, dollars in RECORD.iter_unpack(self.records):
            if key not in without:
                yield self.days[day], tuple(tokens), dollars


NOTHING = Account()


class Budget:
    """The bytes that may still be read."""

    def __init__(self, left: int) -> None:
        self.left = left


class Ledger:
    """Reads transcripts, each only if it has grown."""

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices or Prices()
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, Account] = OrderedDict()  # by directory; the last used last
        self._weight = 0
        self._numbers = itertools.count(1)
        # One conversation is read by one thread at a time, and few wait for another one.
        self._turns = tuple(threading.Lock() for _ in range(16))

    def use(self, prices: Prices) -> None:
        """Use these prices from now on."""
        with self._lock:
            if prices.own != self._prices.own:
                self._prices = prices
                self._accounts.clear()
                self._weight = 0

    def read(self, tool: str, directory: str, budget: Budget | None = None, since: str = "") -> Account | None:
        """The usage of a saved conversation: each message once, with the largest of its usages.

        None if the tool writes no usage. NOTHING if nothing was written on the day `since` (2026-11-29) or later.
        """
        dialect = DIALECTS.get(tool)
        if dialect is None:
            return None
        with self._turns[hash(directory) % len(self._turns)]:
            found = newest_first(os.path.join(directory, dialect.folder), dialect.suffix)
            if since and all(day_of(status.st_mtime) < since for _, status in found):
                return NOTHING
            with self._lock:
                before = self._accounts.get(directory, NOTHING)
                prices = self._prices
                if directory in self._accounts:
                    self._accounts.move_to_end(directory)
            if is_unchanged(before, found):
                return before
            conversation = Conversation(tool, dialect, directory, prices)
            account = read_account(conversation, before, found, budget or Budget(READ))
            account = account._replace(number=next(self._numbers))
            with self._lock:
                if prices is self._prices:
                    self._keep(directory, account)
            return account

    def _keep(self, directory: str, account: Account) -> None:
        """Keep an account, and at most KEPT of all."""
        if directory in self._accounts:
            self._weight -= self._accounts.pop(directory).weight
        self._accounts[directory] = account
        self._weight += account.weight
        while self._weight > KEPT:
            self._weight -= self._accounts.popitem(last=False)[1].weight


def day_of(seconds: float) -> str:
    """The day (UTC) of a time in seconds since 1970; "" if there is no such day."""
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
    return ""


Found = Sequence[tuple[str, os.stat_result]]


def newest_first(folder: str, suffix: str) -> Found:
    """The transcripts in a folder and below, with those of subagents, newest first.

    Links are left out. There are at most FILES + 1, so that a caller sees that there are too many.
    """
    found = []
    for path in itertools.islice(transcripts(folder, suffix), 10 * FILES):
        with suppress(OSError):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                found.append((path, status))
    found.sort(key=lambda one: (-one[1].st_mtime_ns, one[0]))
    return found[: FILES + 1]


def transcripts(folder: str, suffix: str) -> Iterator[str]:
    """The paths of the transcripts in a folder and below. No link to a folder is followed."""
    for place, _, names in os.walk(folder):
        yield from (os.path.join(place, name) for name in names if name.endswith(suffix))


def is_unchanged(before: Account, found: Found) -> bool:
    """True if an account has all of the files in their present state."""
    known = before.transcripts
    seen = found[:FILES]
    same = all(
        (status.st_size, status.st_mtime_ns) == (known[path].size, known[path].mtime) if path in known else False
        for path, status in seen
    )
    return same and len(known) == len(seen)


class RewrittenError(Exception):
    """A transcript was replaced, so the account of its conversation is wrong."""


class Conversation(NamedTuple):
    """The transcripts to read, and how."""

    tool: str
    dialect: Dialect
    directory: str
    prices: Prices


def read_account(conversation: Conversation, before: Account, found: Found, budget: Budget) -> Account:
    """The account of a conversation: the last one with the news of its files, or a fresh one."""
    try:
        return Reading(conversation, before).read(found, budget)
    except RewrittenError:
        return Reading(conversation, NOTHING).read(found, budget)


class Reading:
    """The work on one account."""

    def __init__(self, conversation: Conversation, before: Account) -> None:
        self._conversation = conversation
        self._before = before
        self._transcripts: dict[str, Transcript] = {}
        self._days = {day: number for number, day in enumerate(before.days)} or {"": 0}
        records = before.records
        self._charges = {
            records[at : at + KEY]: records[at + KEY : at + RECORD.size] for at in range(0, len(records), RECORD.size)
        }
        self._older = {day: joined([spent]) for day, spent in before.older.items()}
        self._last = before.last
        self._unpriced = dict.fromkeys(before.unpriced)
        self._is_told = before.is_told
        self._is_skipped = before.is_skipped
        self._is_behind = False

    def read(self, found: Found, budget: Budget) -> Account:
        """Read the news. RewrittenError if a file was replaced, or is gone."""
        if not self._before.transcripts.keys() <= {path for path, _ in found[:FILES]}:
            raise RewrittenError
        left = Budget(min(READ, budget.left))
        allowed = left.left
        for path, status in found[:FILES]:
            known = self._before.transcripts.get(path, Transcript())
            self._transcripts[path] = known
            if (status.st_size, status.st_mtime_ns) != (known.size, known.mtime):
                with suppress(OSError), open_plain(path) as file:
                    self._transcripts[path] = self._read_on(file, path, known, left)
        budget.left -= allowed - left.left
        self._is_behind = self._is_behind or len(found) > FILES
        return self._close()

    def _read_on(self, file: BinaryIO, path: str, known: Transcript, left: Budget) -> Transcript:
        """Read a transcript from the place where the last reading ended."""
        status = os.fstat(file.fileno())
        if known.offset and tail_of(file, known.offset) != known.tail:
            raise RewrittenError
        offset = known.offset
        told = dict(known.told)
        place = os.path.relpath(path, self._conversation.directory).encode("utf-8", "surrogateescape")
        file.seek(offset)
        while left.left > 0 and (line := file.readline(LINE)):
            start = offset
            offset = offset + len(line)
            if not line.endswith(b"\n"):
                if len(line) < LINE:  # it is not written to its end yet
                    offset = start
                    break
                offset += self._skip(file, line)
            elif any(mark in line for mark in self._conversation.dialect.marks):
                self._take_line(line, place + b"\0%d" % start, told)
            left.left -= offset - start
        if left.left <= 0 and offset < status.st_size:
            self._is_behind = True
            return Transcript(-1, -1, offset, tail_of(file, offset), told)
        return Transcript(status.st_size, status.st_mtime_ns, offset, tail_of(file, offset), told)

    def _skip(self, file: BinaryIO, begin: bytes) -> int:
        """Read the rest of a line that is too long; returns its size in bytes."""
        rest = begin
        length = 0
        while True:
            if any(mark in rest for mark in self._conversation.dialect.marks):
                self._is_skipped = True
            if rest.endswith(b"\n"):
                return length
            rest = file.readline(LINE)
            if not rest:
                return length
            length += len(rest)

    def _take_line(self, line: bytes, place: bytes, told: dict[str, Any]) -> None:
        """Add the message of a line, if there is one."""
        try:
            found = parse_line(self._conversation.dialect, line, told)
        except OverflowError:  # too much is in it
            self._is_skipped = True
            return
        if found is not None:
            self._is_told = True
            key, message = found
            whole = key.encode("utf-8", "surrogateescape") if key else place + b"\0" + line
            self.take(blake2b(self._conversation.tool.encode() + b"\0" + whole, digest_size=KEY).digest(), message)

    def take(self, key: bytes, message: Message) -> None:
        """Keep the largest usage of a message: a transcript repeats it for each block and while it arrives."""
        size = sum(message.tokens)
        if not size and not message.searches and not message.dollars:
            return
        known = self._charges.get(key)
        if known is not None and sum(CHARGE.unpack(known)[1:5]) >= size:
            return
        at = in_utc(message.at)
        dollars = self._conversation.prices.cost(message)
        self._charges[key] = CHARGE.pack(self._day(at[:10]), *message.tokens, math.nan if dollars is None else dollars)
        if dollars is None and message.has_price and message.model and len(self._unpriced) < MODELS:
            self._unpriced[message.model] = None
        if message.is_main and (self._last is None or at >= self._last.at):
            price = self._conversation.prices.of(message.model)
            self._last = Last(at, message.model, size, message.size or (price.context if price else None))
        if len(self._charges) > MESSAGES + SLACK:
            self._fold()

    def _day(self, day: str) -> int:
        """The number of a day in the records."""
        if day not in self._days and len(self._days) < DAYS:
            self._days[day] = len(self._days)
        return self._days.get(day, 0)

    def _fold(self) -> None:
        """Add the oldest messages beyond MESSAGES to the sums."""
        names = list(self._days)
        for key in list(itertools.islice(self._charges, max(len(self._charges) - MESSAGES, 0))):
            day, *tokens, dollars = CHARGE.unpack(self._charges.pop(key))
            self._older.setdefault(names[day], Spent()).add(tokens, dollars)

    def _close(self) -> Account:
        """The account of everything that was read."""
        self._fold()
        account = Account(
            transcripts=self._transcripts,
            days=tuple(self._days),
            records=b"".join(itertools.chain.from_iterable(self._charges.items())),
            older=self._older,
            last=self._last,
            unpriced=tuple(self._unpriced),
            is_told=self._is_told,
            is_skipped=self._is_skipped,
            is_behind=self._is_behind,
        )
        return account._replace(sums=by_day(account, set()))


def by_day(account: Account, without: set[bytes]) -> dict[str, Spent]:
    """The sums of an account for each day, without the messages of some digests."""
    sums = {day: joined([spent]) for day, spent in account.older.items()}
    for day, tokens, dollars in account.charges(without):
        sums.setdefault(day, Spent()).add(tokens, dollars)
    return sums


def joined(sums: Iterable[Spent]) -> Spent:
    """The sum of sums."""
    total = Spent()
    for one in sums:
        total.join(one)
    return total


def in_utc(at: str) -> str:
    """A time of RFC 3339 in UTC; "" for any other text."""
    moment = clincus.parse_time(at)
    if moment is None:
        return ""
    if at.endswith("Z"):
        return at
    with suppress(OverflowError):
        return moment.astimezone(timezone.utc).isoformat()
    return ""


@contextmanager
def open_plain(path: str) -> Iterator[BinaryIO]:
    """Open a regular file, but no link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is no regular file")
        yield file


def tail_of(file: BinaryIO, offset: int) -> bytes:
    """The hash of the bytes before a place in a file."""
    begin = max(offset - CHECKED, 0)
    file.seek(begin)
    return blake2b(file.read(offset - begin), digest_size=KEY).digest()
