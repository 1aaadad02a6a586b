# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The hot loops of trades, compiled by `make setup` if there is a C compiler.

They are equivalent to `plain_ohlcv.py`, `plain_window.py`, `plain_keys.py` and `plain_prices.py`.

Theory of operation. A decimal of at most 18 significant digits and 18 places is a 64-bit integer and a number of
places; the product of two fits 128 bits. A sum is a 128-bit integer and its places, exact: where an addition or a
change of scale would not fit, or a decimal has another form (longer, with an exponent), the bar hands its trades to a
plain bar, which is exact for every decimal, and delegates to it from then on.
"""

from cpython.array cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport fabs
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from marketdata import plain_ohlcv
from marketdata.clock import AHEAD_NS_MAX as _AHEAD_NS_MAX, TS_MIN as _TS_MIN
from marketdata.events import (
    CONDITION_LENGTH_MAX as _CONDITION_LENGTH_MAX,
    CONDITIONS_MAX as _CONDITIONS_MAX,
    EXCLUSIONS as _EXCLUSIONS,
    HIGH_LOW as _HIGH_LOW,
    OPEN_CLOSE as _OPEN_CLOSE,
    VOLUME as _VOLUME,
    TRADE_ID_LENGTH_MAX as _TRADE_ID_LENGTH_MAX,
)

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 largest)
    void *PyUnicode_DATA(object text)
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    int64_t PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef extern from *:
    """
    typedef __int128 int128;
    #define add128(a, b, out) __builtin_add_overflow((int128)(a), (int128)(b), (out))
    #define mul128(a, b, out) __builtin_mul_overflow((int128)(a), (int128)(b), (out))
    #define high64(a) ((unsigned long long)(((unsigned __int128)(a)) / 1000000000000000000ULL))
    #define low64(a) ((unsigned long long)(((unsigned __int128)(a)) % 1000000000000000000ULL))
    """
    ctypedef long long int128
    bint add128(int128 a, int128 b, int128 *out) nogil
    bint mul128(int128 a, int128 b, int128 *out) nogil

cdef enum:
    NO_VOLUME = 1  # what a trade is excluded from
    NO_HIGH_LOW = 2
    NO_OPEN_CLOSE = 4
    NOTHING = 7
    DIGITS_MAX = 18
    FEW = 16  # trades of one message that need no memory of their own

cdef int64_t TS_MIN = _TS_MIN
cdef int64_t AHEAD_NS_MAX = _AHEAD_NS_MAX
cdef int64_t TS_RECV_MAX = 2 ** 62
cdef Py_ssize_t TRADE_ID_LENGTH_MAX = _TRADE_ID_LENGTH_MAX
cdef Py_ssize_t CONDITIONS_MAX = _CONDITIONS_MAX
cdef Py_ssize_t CONDITION_LENGTH_MAX = _CONDITION_LENGTH_MAX
cdef tuple EXCLUSIONS = _EXCLUSIONS
cdef str VOLUME = _VOLUME
cdef str HIGH_LOW = _HIGH_LOW
cdef str OPEN_CLOSE = _OPEN_CLOSE
cdef double[23] POWERS
cdef int64_t[19] TENS
for _power in range(23):
    POWERS[_power] = 10.0 ** _power
for _power in range(19):
    TENS[_power] = 10 ** _power


cdef struct Number:
    int64_t digits
    int places


cdef struct Sum:
    int128 digits
    int places


cdef inline const char *ascii(object text, Py_ssize_t *length) noexcept:
    """Return the characters of an ASCII string, NULL for anything else."""
    if type(text) is not str or not PyUnicode_IS_COMPACT_ASCII(text):
        return NULL
    length[0] = PyUnicode_GET_LENGTH(text)
    return <const char *>PyUnicode_DATA(text)


cdef bint read_number(object text, Number *number) noexcept:
    """Read -?[0-9]+([.][0-9]+)? of at most 18 significant digits and 18 places; False for anything else."""
    cdef Py_ssize_t length = 0, at = 0
    cdef const char *start = ascii(text, &length)
    cdef uint64_t digits = 0
    cdef unsigned char digit
    cdef int places = 0, significant = 0
    cdef bint is_negative = False, is_fraction = False, has_digit = False
    if start == NULL:
        return False
    if length and start[0] == b"-":
        is_negative = True
        at = 1
    while at < length:
        digit = <unsigned char>(start[at] - c"0")
        at += 1
        if digit <= 9:
            has_digit = True
            if digits or digit:
                significant += 1
                if significant > DIGITS_MAX:
                    return False
            digits = digits * 10 + digit
            places += is_fraction
        elif digit == <unsigned char>(c"." - c"0") and not is_fraction and has_digit:
            is_fraction = True
            has_digit = False
        else:
            return False
    if not has_digit or places > DIGITS_MAX:
        return False
    number.digits = -<int64_t>digits if is_negative else <int64_t>digits
    number.places = places
    return True


cdef inline int compare(Number one, Number other) noexcept:
    """Return -1, 0 or 1: both have at most 18 digits and 18 places, so that 128 bits hold either scale."""
    cdef int128 first = one.digits, second = other.digits
    if one.places < other.places:
        first = first * TENS[other.places - one.places]
    else:
        second = second * TENS[one.places - other.places]
    return (first > second) - (first < second)


cdef bint add_to(Sum *total, int128 digits, int places, int128 *out, int *out_places) noexcept:
    """Add digits of so many places; False when the result does not fit."""
    cdef int128 sum = total.digits
    cdef int missing
    if places > total.places:
        missing = places - total.places
        while missing > 0:
            if mul128(sum, TENS[min(missing, 18)], &sum):
                return False
            missing -= 18
        out_places[0] = places
    else:
        missing = total.places - places
        while missing > 0:
            if mul128(digits, TENS[min(missing, 18)], &digits):
                return False
            missing -= 18
        out_places[0] = total.places
    return not add128(sum, digits, out)


cdef str as_text(Sum *total):
    """Return a sum in plain notation: no trailing zeros after the point, no sign for zero."""
    cdef char[64] digits
    cdef int128 left = total.digits
    cdef int count = 0, places = total.places, start = 64, digit
    cdef bint is_negative = left < 0
    cdef bint written = False
    while left != 0 or places >= 0:
        if places == 0 and written:
            start -= 1
            digits[start] = b"."
        digit = <int>(left % 10)
        left = left / 10
        if digit < 0:
            digit = -digit
        if places <= 0 or digit or written:
            written = True
            start -= 1
            digits[start] = <char>(c"0" + digit)
        places -= 1
    if is_negative:
        start -= 1
        digits[start] = b"-"
    return digits[start:64].decode("ascii")


cdef int64_t order_of(object identity) noexcept:
    """Return a numeric id as an integer, -1 for any other id."""
    cdef Py_ssize_t length = 0, at
    cdef const char *start = ascii(identity, &length)
    cdef int64_t number = 0
    if start == NULL or length == 0 or length > DIGITS_MAX:
        return -1
    for at in range(length):
        if not b"0" <= start[at] <= b"9":
            return -1
        number = number * 10 + (start[at] - c"0")
    return number


# --- Bars ---

cdef inline int exclusions_of(object trade) except -1:
    """Return the flags of what a trade is excluded from."""
    cdef tuple excluded = trade.excluded_from
    cdef int flags = 0
    if not excluded:
        return 0
    for one in excluded:
        if one == VOLUME:
            flags |= NO_VOLUME
        elif one == HIGH_LOW:
            flags |= NO_HIGH_LOW
        elif one == OPEN_CLOSE:
            flags |= NO_OPEN_CLOSE
    return flags


cdef class Bar:
    """The OHLCV of at least one trade. `amended`: its prices are uncertain after an amendment.

    Prices that no trade sets are None. `uncounted` are trades that set a price and add no volume.
    """

    cdef int64_t _trades, _uncounted, open_ts, open_order, close_ts, close_order
    cdef str _open, _high, _low, _close
    cdef Number high_value, low_value
    cdef Sum volume, quote_volume, buy_volume
    cdef bint _amended
    cdef object exact  # the plain bar that has the trades in place of these, or None

    def __init__(self, trade):
        cdef int excluded = exclusions_of(trade)
        if excluded != NOTHING and not self.take(trade, excluded):
            self.exact = plain_ohlcv.Bar(trade)

    @property
    def trades(self):
        """The number of trades that add volume."""
        return self._trades if self.exact is None else self.exact.trades

    @property
    def items(self):
        """The number of trades in it, counted or not."""
        return self._trades + self._uncounted if self.exact is None else self.exact.items

    @property
    def amended(self):
        """Whether its prices are uncertain after an amendment."""
        return bool(self._amended) if self.exact is None else self.exact.amended

    @amended.setter
    def amended(self, value):
        if self.exact is None:
            self._amended = value
        else:
            self.exact.amended = value

    cdef object be_exact(self):
        """Hand the trades to a plain bar, unless one has them, and return it."""
        if self.exact is None:
            self.exact = plain_ohlcv.Bar.unpack(self.pack())
        return self.exact

    cdef bint sum_up(self, int128 cost, int cost_places, Number size, bint bought) noexcept:
        """Add to the sums; False, with nothing changed, when one does not fit."""
        cdef Sum volume, quote_volume, buy_volume = self.buy_volume
        if not add_to(&self.volume, size.digits, size.places, &volume.digits, &volume.places):
            return False
        if not add_to(&self.quote_volume, cost, cost_places, &quote_volume.digits, &quote_volume.places):
            return False
        if bought and not add_to(&self.buy_volume, size.digits, size.places, &buy_volume.digits, &buy_volume.places):
            return False
        self.volume, self.quote_volume, self.buy_volume = volume, quote_volume, buy_volume
        return True

    cdef bint take(self, object trade, int excluded) except -1:
        """Add a trade; False, with nothing changed, when it needs a plain bar."""
        cdef object text = trade.price, amount = trade.size
        cdef Number price, size
        cdef int64_t order, ts
        cdef int way
        if not read_number(text, &price) or not read_number(amount, &size):
            return False
        if excluded & NO_VOLUME:
            self._uncounted += 1
        elif self.sum_up(<int128>price.digits * size.digits, price.places + size.places, size, trade.side == "buy"):
            self._trades += 1
        else:
            return False
        if not excluded & NO_OPEN_CLOSE:
            ts, order = trade.ts_event, order_of(trade.trade_id)
            if self._open is None:
                self._open, self.open_ts, self.open_order = text, ts, order
                self._close, self.close_ts, self.close_order = text, ts, order
            elif ts > self.close_ts or (ts == self.close_ts and order >= self.close_order):
                self._close, self.close_ts, self.close_order = text, ts, order
            elif ts < self.open_ts or (ts == self.open_ts and order < self.open_order):
                self._open, self.open_ts, self.open_order = text, ts, order
        if not excluded & NO_HIGH_LOW:
            if self._high is None:
                self._high = self._low = text
                self.high_value = self.low_value = price
                return True
            way = compare(price, self.high_value)
            if way > 0 or (way == 0 and <str>text < self._high):
                self._high, self.high_value = text, price
            way = compare(price, self.low_value)
            if way < 0 or (way == 0 and <str>text < self._low):
                self._low, self.low_value = text, price
        return True

    cpdef add_trade(self, trade):
        """Add one trade, which arrived later; one that updates nothing changes nothing."""
        cdef int excluded = exclusions_of(trade)
        if excluded == NOTHING:
            return
        if self.exact is not None or not self.take(trade, excluded):
            self.be_exact().add_trade(trade)

    def add_new(self, tuple trades, int64_t start, int64_t end):
        """Add trades if all are new ones of [start, end); return the newest time, or -1 without a change."""
        cdef int64_t newest = -1, ts
        cdef object trade
        for trade in trades:
            ts = trade.ts_event
            if ts < start or ts >= end or trade.action != "new":
                return -1
            if ts > newest:
                newest = ts
        for trade in trades:
            self.add_trade(trade)
        return newest

    def add(self, Bar other not None):
        """Add the trades of another bar, which arrived later."""
        cdef Sum volume, quote_volume, buy_volume
        cdef int way
        if self.exact is not None or other.exact is not None:
            self.be_exact().add(other.be_exact())
            return
        if not (
            add_to(&self.volume, other.volume.digits, other.volume.places, &volume.digits, &volume.places)
            and add_to(&self.quote_volume, other.quote_volume.digits, other.quote_volume.places, &quote_volume.digits,
                       &quote_volume.places)
            and add_to(&self.buy_volume, other.buy_volume.digits, other.buy_volume.places, &buy_volume.digits,
                       &buy_volume.places)
        ):
            self.be_exact().add(other.be_exact())
            return
        self.volume, self.quote_volume, self.buy_volume = volume, quote_volume, buy_volume
        self._trades += other._trades
        self._uncounted += other._uncounted
        if other._open is not None:
            if self._open is None or other.open_ts < self.open_ts or (
                other.open_ts == self.open_ts and other.open_order < self.open_order
            ):
                self._open, self.open_ts, self.open_order = other._open, other.open_ts, other.open_order
            if self._close is None or other.close_ts > self.close_ts or (
                other.close_ts == self.close_ts and other.close_order >= self.close_order
            ):
                self._close, self.close_ts, self.close_order = other._close, other.close_ts, other.close_order
        if other._high is None:
            return
        if self._high is None:
            self._high, self.high_value = other._high, other.high_value
            self._low, self.low_value = other._low, other.low_value
            return
        way = compare(other.high_value, self.high_value)
        if way > 0 or (way == 0 and other._high < self._high):
            self._high, self.high_value = other._high, other.high_value
        way = compare(other.low_value, self.low_value)
        if way < 0 or (way == 0 and other._low < self._low):
            self._low, self.low_value = other._low, other.low_value

    def subtract(self, trade):
        """Subtract a trade from the counts and the sums; prices stay unchanged."""
        cdef Number price, size
        cdef int excluded = exclusions_of(trade)
        if excluded == NOTHING:
            return
        if self.exact is None and excluded & NO_VOLUME:
            self._uncounted -= 1
            return
        if self.exact is None and read_number(trade.price, &price) and read_number(trade.size, &size):
            size.digits = -size.digits
            if self.sum_up(<int128>price.digits * size.digits, price.places + size.places, size, trade.side == "buy"):
                self._trades -= 1
                return
        self.be_exact().subtract(trade)

    def is_inner(self, trade):
        """Return whether a trade is certainly neither the first nor the last."""
        if self.exact is not None:
            return self.exact.is_inner(trade)
        if self._open is None:
            return False
        key = (trade.ts_event, order_of(trade.trade_id))
        return (self.open_ts, self.open_order) < key < (self.close_ts, self.close_order)

    def is_between(self, price):
        """Return whether a price is certainly neither the highest nor the lowest."""
        cdef Number value
        if self.exact is None and self._high is None:
            return False
        if self.exact is None and read_number(price, &value):
            return compare(self.low_value, value) < 0 and compare(value, self.high_value) < 0
        return self.be_exact().is_between(price)

    def figures(self):
        """Return open, high, low, close, volume, quote volume and buy volume as published."""
        if self.exact is not None:
            return self.exact.figures()
        return (self._open, self._high, self._low, self._close, as_text(&self.volume), as_text(&self.quote_volume),
                as_text(&self.buy_volume))

    def copy(self):
        """Return a bar of the same trades."""
        cdef Bar made = Bar.__new__(Bar)
        if self.exact is not None:
            made.exact = self.exact.copy()
            return made
        made._trades, made._uncounted, made._amended = self._trades, self._uncounted, self._amended
        made._open, made._high, made._low, made._close = self._open, self._high, self._low, self._close
        made.open_ts, made.open_order = self.open_ts, self.open_order
        made.close_ts, made.close_order = self.close_ts, self.close_order
        made.high_value, made.low_value = self.high_value, self.low_value
        made.volume, made.quote_volume, made.buy_volume = self.volume, self.quote_volume, self.buy_volume
        return made

    def pack(self):
        """Return the bar as plain values: its counts, prices, keys, and sums as decimal strings."""
        if self.exact is not None:
            return self.exact.pack()
        return [
            self._trades, self._open, self.open_ts, self.open_order, self._high, self._low, self._close,
            self.close_ts, self.close_order, as_text(&self.volume), as_text(&self.quote_volume),
            as_text(&self.buy_volume), bool(self._amended), self._uncounted,
        ]

    @classmethod
    def unpack(cls, packed):
        """Return the bar that `pack` encoded. Raises ValueError for anything else."""
        cdef Bar bar = Bar.__new__(Bar)
        cdef Number value
        (bar._trades, bar._open, bar.open_ts, bar.open_order, bar._high, bar._low, bar._close, bar.close_ts,
         bar.close_order) = packed[:9]
        # Checkpoints written before trades had exclusions end with `amended`.
        if len(packed) == 13:
            packed = [*packed, 0]
        volume, quote_volume, buy_volume, amended, uncounted = packed[9:]
        bar._amended, bar._uncounted = amended, uncounted
        if not (
            (bar._open is None or (read_number(bar._open, &value) and read_number(bar._close, &value)))
            and (bar._high is None or (
                read_number(bar._high, &bar.high_value) and read_number(bar._low, &bar.low_value)
            ))
            and read_sum(volume, &bar.volume) and read_sum(quote_volume, &bar.quote_volume)
            and read_sum(buy_volume, &bar.buy_volume)
        ):
            bar.exact = plain_ohlcv.Bar.unpack(packed)
        return bar


cdef bint read_sum(object text, Sum *total) noexcept:
    """Read a plain decimal of any length that fits; False for anything else."""
    cdef Py_ssize_t length = 0, at
    cdef const char *start = ascii(text, &length)
    cdef int128 digits = 0
    cdef bint is_negative, is_fraction = False
    cdef int places = 0
    if start == NULL or not length:
        return False
    is_negative = start[0] == b"-"
    for at in range(is_negative, length):
        if start[at] == b"." and not is_fraction:
            is_fraction = True
        elif b"0" <= start[at] <= b"9":
            if mul128(digits, 10, &digits) or add128(digits, start[at] - c"0", &digits):
                return False
            places += is_fraction
        else:
            return False
    if places > 2 * DIGITS_MAX:
        return False
    total.digits = -digits if is_negative else digits
    total.places = places
    return True


# --- Rolling medians ---

cdef class Window:
    """The last `size` values, and the same values sorted."""

    cdef array values, ordered
    cdef Py_ssize_t size, count, oldest

    def __init__(self, Py_ssize_t size):
        self.size = size
        self.values = array("d", bytes(8 * size))
        self.ordered = array("d", bytes(8 * size))

    def __len__(self):
        return self.count

    cdef inline Py_ssize_t place(self, double value) noexcept:
        """Return how many values are less."""
        cdef Py_ssize_t low = 0, high = self.count, middle
        cdef double *ordered = self.ordered.data.as_doubles
        while low < high:
            middle = (low + high) >> 1
            if ordered[middle] < value:
                low = middle + 1
            else:
                high = middle
        return low

    cpdef push(self, double value):
        """Add a value (not NaN), and remove the oldest one when there are more than `size`."""
        cdef double *values = self.values.data.as_doubles
        cdef double *ordered = self.ordered.data.as_doubles
        cdef Py_ssize_t at
        if self.size == 0:
            return
        if self.count == self.size:
            at = self.place(values[self.oldest])
            self.count -= 1
            memmove(ordered + at, ordered + at + 1, (self.count - at) * sizeof(double))
            values[self.oldest] = value
            self.oldest = self.oldest + 1 if self.oldest + 1 < self.size else 0
        else:
            values[self.count] = value
        at = self.place(value)
        memmove(ordered + at + 1, ordered + at, (self.count - at) * sizeof(double))
        ordered[at] = value
        self.count += 1

    cpdef double median(self) except? -1:
        """Return the median; only for a window that is not empty."""
        cdef double *ordered = self.ordered.data.as_doubles
        cdef Py_ssize_t middle = self.count >> 1
        if not self.count:
            raise IndexError("the window is empty")
        return ordered[middle] if self.count & 1 else (ordered[middle - 1] + ordered[middle]) / 2

    def pack(self):
        """Return the size, and the values, oldest first."""
        cdef Py_ssize_t at
        cdef double *values = self.values.data.as_doubles
        return [self.size, [values[(self.oldest + at) % self.size] for at in range(self.count)]]

    @classmethod
    def unpack(cls, packed):
        """Return the window that `pack` encoded. Raises ValueError for anything else."""
        size, values = packed
        if len(values) > size:
            raise ValueError(f"{len(values)} values in a window of {size}")
        window = cls(size)
        for value in values:
            window.push(value)
        return window


# --- Keys ---

cdef enum:
    KEY_BYTES = 16

cdef const char *NO_KEY = "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"


cdef class KeySet:
    """A set of 16-byte keys in one table, at most half full: 32 to 64 bytes a key, 16 when packed.

    The table uses open addressing: a key is in the first free slot from its hash on. All zeros is an empty slot and no
    key.
    """

    cdef char *table
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t mask
    cdef object packed

    def __cinit__(self):
        self.resize(8)

    def __dealloc__(self):
        PyMem_Free(self.table)

    def __len__(self):
        return self.count

    cdef int resize(self, Py_ssize_t slots) except -1:
        """Move the keys to a new table."""
        cdef char *old = self.table
        cdef Py_ssize_t at, old_slots = self.mask + 1 if old != NULL else 0
        cdef char *table = <char *>PyMem_Calloc(slots, KEY_BYTES)
        if table == NULL:
            raise MemoryError
        self.table = table
        self.mask = slots - 1
        for at in range(old_slots):
            if memcmp(old + at * KEY_BYTES, NO_KEY, KEY_BYTES):
                memcpy(self.slot(old + at * KEY_BYTES), old + at * KEY_BYTES, KEY_BYTES)
        PyMem_Free(old)
        return 0

    cdef char *slot(self, const char *key) noexcept:
        """Return the slot of a key, or the empty slot where it belongs."""
        cdef uint64_t first, second
        cdef Py_ssize_t at
        cdef char *found
        memcpy(&first, key, 8)
        memcpy(&second, key + 8, 8)
        at = <Py_ssize_t>(((first ^ second) * <uint64_t>0x9E3779B97F4A7C15) >> 32) & self.mask
        while True:
            found = self.table + at * KEY_BYTES
            if not memcmp(found, key, KEY_BYTES) or not memcmp(found, NO_KEY, KEY_BYTES):
                return found
            at = (at + 1) & self.mask

    cdef const char *key(self, bytes key) except NULL:
        if PyBytes_GET_SIZE(key) != KEY_BYTES:
            raise ValueError("a key has 16 bytes")
        return PyBytes_AS_STRING(key)

    def __contains__(self, bytes key not None):
        cdef const char *start = self.key(key)
        return not memcmp(self.slot(start), start, KEY_BYTES)

    def add(self, bytes key not None):
        """Add a key; adding it again changes nothing."""
        cdef const char *start = self.key(key)
        cdef char *found = self.slot(start)
        if not memcmp(found, start, KEY_BYTES):
            return
        memcpy(found, start, KEY_BYTES)
        self.count += 1
        self.packed = None
        if 2 * self.count > self.mask:
            self.resize(2 * (self.mask + 1))

    def pack(self):
        """Return the sorted keys, concatenated."""
        cdef Py_ssize_t at
        cdef list keys = []
        if self.packed is None:  # an old generation no longer changes and is packed once
            for at in range(self.mask + 1):
                if memcmp(self.table + at * KEY_BYTES, NO_KEY, KEY_BYTES):
                    keys.append(PyBytes_FromStringAndSize(self.table + at * KEY_BYTES, KEY_BYTES))
            keys.sort()
            self.packed = b"".join(keys)
        return self.packed

    @classmethod
    def unpack(cls, bytes packed not None):
        """Return the set that `pack` encoded. Raises ValueError for anything else."""
        cdef KeySet found = KeySet()
        cdef Py_ssize_t at, length = PyBytes_GET_SIZE(packed)
        cdef const char *start = PyBytes_AS_STRING(packed)
        if length % KEY_BYTES:
            raise ValueError("a set of keys has 16 bytes for each, and none of zeros only")
        for at in range(0, length, KEY_BYTES):
            if not memcmp(start + at, NO_KEY, KEY_BYTES):
                raise ValueError("a set of keys has 16 bytes for each, and none of zeros only")
            found.add(packed[at:at + KEY_BYTES])
        return found


# --- Prices of one message ---

cdef double as_float(object text) except? -1:
    """Return the float nearest to a decimal: of 15 digits and 22 places it is one exact division."""
    cdef Number number
    if read_number(text, &number) and -10 ** 15 < number.digits < 10 ** 15:
        return number.digits / POWERS[number.places]
    return float(text)


cdef inline int places_of(object text) except -2:
    """Return how many decimal places a price needs, -1 where it has an exponent."""
    cdef Py_ssize_t length = 0, at
    cdef const char *start = ascii(text, &length)
    cdef Py_ssize_t point = -1, last = -1
    if start == NULL:
        return -1
    for at in range(length):
        if start[at] == b".":
            point = at
            last = at
        elif start[at] == b"e" or start[at] == b"E":
            return -1
        elif point >= 0 and start[at] != b"0":
            last = at
    return <int>(last - point) if point >= 0 else 0


def survey(tuple trades, before, int64_t minute, double volume):
    """Return statistics of the new trades in a message; see `plain_prices.survey`."""
    cdef double price_before = as_float(before) if before is not None else 0.0
    cdef double last = 0.0, furthest = 0.0, distance, most = -1.0
    cdef Py_ssize_t at = 0, at_last = -1, at_furthest = -1
    cdef int places = 0, own, excluded
    cdef object trade, text
    for trade in trades:
        if trade.action == "new":
            text = trade.price
            own = places_of(text)
            if own < 0:
                places = -1
            elif places >= 0 and own > places:
                places = own
            excluded = exclusions_of(trade)
            if not excluded & NO_OPEN_CLOSE:
                at_last, last = at, as_float(text)
                distance = fabs(last - price_before)
                if distance > most:
                    most, furthest, at_furthest = distance, last, at
            if trade.ts_event >= minute and not excluded & NO_VOLUME:
                volume += as_float(trade.size)
        at += 1
    return at_last, last, at_furthest, furthest, price_before, volume, places


# --- Validation and de-duplication of the usual message ---

cdef inline bint is_usual(object text, bint is_size) noexcept:
    """Whether a decimal is in the usual notation: at most 30 digits, and 32 after the point; a size is above zero."""
    cdef Py_ssize_t length = 0, at = 0, digits = 0
    cdef const char *start = ascii(text, &length)
    cdef bint is_fraction = False, is_positive = False
    if start == NULL:
        return False
    if length and start[0] == b"-":
        if is_size:
            return False
        at = 1
    while at < length:
        if b"0" <= start[at] <= b"9":
            digits += 1
            is_positive = is_positive or start[at] != b"0"
            if digits > (32 if is_fraction else 30):
                return False
        elif start[at] == b"." and not is_fraction and digits:
            is_fraction = True
            digits = 0
        else:
            return False
        at += 1
    return digits > 0 and (is_positive or not is_size)


cdef bint is_usual_trade(object trade, int64_t since, int64_t latest, int64_t *moment) except -1:
    """Whether a trade is new, within [since, latest], and valid in every field except its id."""
    cdef object ts = trade.ts_event, side
    cdef int overflow = 0
    if type(ts) is not int:
        return False
    moment[0] = PyLong_AsLongLongAndOverflow(ts, &overflow)
    if overflow or moment[0] < since or moment[0] > latest or trade.action != "new" or trade.original_id != "":
        return False
    side = trade.side
    if side != "buy" and side != "sell" and side != "unknown":
        return False
    return is_usual(trade.price, False) and is_usual(trade.size, True) and has_usual_marks(trade)


cdef bint has_usual_marks(object trade) except -1:
    """Whether a trade's conditions are few short texts without control characters, and its exclusions are known."""
    cdef object conditions = trade.conditions, excluded = trade.excluded_from, text
    cdef Py_ssize_t length = 0, at
    cdef const char *start
    if type(conditions) is not tuple or type(excluded) is not tuple:
        return False
    if len(<tuple>conditions) > CONDITIONS_MAX or len(<tuple>excluded) > 3:
        return False
    for text in <tuple>conditions:
        start = ascii(text, &length)
        if start == NULL or not 0 < length <= CONDITION_LENGTH_MAX:
            return False
        for at in range(length):
            if start[at] < 32 or start[at] == 127:
                return False
    for text in <tuple>excluded:
        if text not in EXCLUSIONS:
            return False
    return len(<tuple>excluded) < 2 or len(set(excluded)) == len(<tuple>excluded)


cdef bint is_usual_time(object ts_event, object ts_recv, int64_t *latest) except -1:
    """Whether a message's times are valid; sets `latest` to the newest time that its trades may have."""
    if type(ts_event) is not int or type(ts_recv) is not int:
        return False
    if not TS_MIN <= ts_recv <= TS_RECV_MAX:
        return False
    latest[0] = <int64_t>ts_recv + AHEAD_NS_MAX
    return TS_MIN <= ts_event <= latest[0]


def add_consecutive(tuple trades, ts_event, ts_recv, int64_t since, array ends not None):
    """Add new valid trades since a time whose ids continue the last range.

    `ends` are the ends of the ranges (array "q", not empty); the last one is updated. Return the newest time, or -1
    without a change when any trade does not qualify: then all of them need the general path.
    """
    cdef int64_t newest = -1, latest = 0, ts = 0, last, number
    cdef Py_ssize_t length = 0
    cdef const char *start
    if not is_usual_time(ts_event, ts_recv, &latest):
        return -1
    since = max(since, TS_MIN)
    last = ends.data.as_longlongs[len(ends) - 1]
    for trade in trades:
        identity = trade.trade_id
        number = order_of(identity)
        start = ascii(identity, &length)
        if number != last + 1 or (start[0] == b"0" and length > 1):
            return -1
        if not is_usual_trade(trade, since, latest, &ts):
            return -1
        last = number
        if ts > newest:
            newest = ts
    if newest >= 0:
        ends.data.as_longlongs[len(ends) - 1] = last
    return newest


def are_usual_trades(tuple trades, ts_event, ts_recv):
    """Return whether a message's times and trades are valid and in the usual notation; others may be valid too."""
    cdef int64_t latest = 0, ts = 0
    cdef Py_ssize_t length = 0, at
    cdef const char *start
    if not is_usual_time(ts_event, ts_recv, &latest):
        return False
    for trade in trades:
        start = ascii(trade.trade_id, &length)
        if start == NULL or not 0 < length <= TRADE_ID_LENGTH_MAX:
            return False
        for at in range(length):
            if start[at] < 32 or start[at] == 127:
                return False
        if not is_usual_trade(trade, TS_MIN, latest, &ts):
            return False
    return True


def are_usual_prices(list prices not None):
    """Return whether all are decimals in the usual notation; others may be valid too."""
    for price in prices:
        if not is_usual(price, False):
            return False
    return True


def are_usual_sizes(list sizes not None):
    """Return whether all are decimals in the usual notation and none is negative; others may be valid too."""
    cdef Py_ssize_t length = 0
    cdef const char *start
    for size in sizes:
        start = ascii(size, &length)
        if start == NULL or (length and start[0] == b"-") or not is_usual(size, False):
            return False
    return True
