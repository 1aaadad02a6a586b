# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The hot loops of books, compiled by `make setup` if there is a C compiler; equivalent to `plain_side.py`.

Theory of operation. A side is two arrays, sorted with the best at the END, where most changes happen: the keys, and
beside each the venue's own price and size. A key is the price as a float, negated for asks: a decimal of at most 15
significant digits and 22 places is one exact integer divided by one exact power of ten, so its float is the nearest
one, distinct from that of every other such decimal and in the same order. The first price of another form (longer,
with an exponent) hands the whole side to a plain one, which is exact for every decimal; calls are delegated to it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memchr, memcpy, memmove

from marketdata import plain_side

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t length, Py_UCS4 largest)
    void *PyUnicode_DATA(object text)
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *length) except NULL

cdef enum:
    FEW = 64  # up to so many changes at once need no memory of their own
    LENGTH_MAX = 30  # characters of a decimal that no limit of decimals.py can concern

cdef uint64_t DIGITS_END = 10 ** 15  # decimals of fewer digits have floats of their own
cdef uint64_t MORE_DIGITS_END = 10 ** 18  # what may be read before zeros at the end are looked for
cdef int PLACES_MAX = 22  # 10 ** 22 is the last exact power
cdef double[23] POWERS
for _power in range(23):
    POWERS[_power] = 10.0 ** _power


cdef struct Level:
    PyObject *price
    PyObject *size


cdef struct Place:
    double key
    Py_ssize_t at


cdef bint read_key(object price, double *key) except -1:
    """Read a decimal as a float that no other decimal has; False if there is none, or for another notation."""
    cdef Py_ssize_t length, at = 0
    cdef const char *text = PyUnicode_AsUTF8AndSize(price, &length)
    cdef uint64_t digits = 0
    cdef unsigned char digit
    cdef int places = 0
    cdef bint is_negative = False, is_fraction = False, has_digits = False
    if length and text[0] == b"-":
        is_negative = True
        at = 1
    while at < length:
        digit = <unsigned char>(text[at] - c"0")
        at += 1
        if digit <= 9:
            if digits >= MORE_DIGITS_END:
                return False
            has_digits = True
            digits = digits * 10 + digit
            places += is_fraction
        elif digit == <unsigned char>(c"." - c"0") and not is_fraction:
            is_fraction = True
        else:
            return False
    while digits >= DIGITS_END:
        if digits % 10:
            return False
        digits = digits // 10
        places -= 1
    if not digits:
        key[0] = 0.0
        return has_digits
    if places > PLACES_MAX:
        return False
    key[0] = digits / POWERS[places] if places >= 0 else digits * POWERS[-places]
    if is_negative:
        key[0] = -key[0]
    return True


cdef bint is_zero(object size) except -1:
    """Return whether a decimal is zero in any notation: only an exponent may follow signs, points and zeros."""
    cdef Py_ssize_t length, at
    cdef const char *text = PyUnicode_AsUTF8AndSize(size, &length)
    cdef char sign
    for at in range(length):
        sign = text[at]
        if sign != b"0" and sign != b"." and sign != b"-":
            return sign == b"e" or sign == b"E"
    return length > 0


cdef int by_place(const void *one, const void *other) noexcept nogil:
    cdef const Place *first = <const Place *>one
    cdef const Place *second = <const Place *>other
    if first.key != second.key:
        return -1 if first.key < second.key else 1
    return -1 if first.at < second.at else 1


cdef list strings(object values):
    """Return strings as a list, which keeps their text in memory."""
    cdef list taken = values if type(values) is list else list(values)
    for value in taken:
        if type(value) is not str:
            raise TypeError(f"prices and sizes are strings, not {type(value).__name__}")
    return taken


cdef class Side:
    """One side of a book. `sign` is 1 for bids and -1 for asks."""

    cdef double *keys
    cdef Level *levels
    cdef Py_ssize_t count, room
    cdef bint is_ask
    cdef object exact  # the plain side that has the levels in place of the arrays, or None

    def __cinit__(self, int sign):
        self.is_ask = sign < 0

    def __dealloc__(self):
        self.forget(0, self.count)
        PyMem_Free(self.keys)
        PyMem_Free(self.levels)

    def __len__(self):
        return self.count if self.exact is None else len(self.exact)

    # --- The arrays ---

    cdef Py_ssize_t place(self, double key) noexcept:
        """Return the number of levels worse than a key."""
        cdef Py_ssize_t low = 0, high = self.count, middle
        while low < high:
            middle = (low + high) >> 1
            if self.keys[middle] < key:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int make_room(self, Py_ssize_t room) except -1:
        cdef void *moved
        if room <= self.room:
            return 0
        room = max(room, self.room * 2, 32)
        moved = PyMem_Realloc(self.keys, room * sizeof(double))
        if moved == NULL:
            raise MemoryError
        self.keys = <double *>moved
        moved = PyMem_Realloc(self.levels, room * sizeof(Level))
        if moved == NULL:
            raise MemoryError
        self.levels = <Level *>moved
        self.room = room
        return 0

    cdef void put(self, Py_ssize_t at, double key, object price, object size) noexcept:
        Py_INCREF(price)
        Py_INCREF(size)
        self.keys[at] = key
        self.levels[at].price = <PyObject *>price
        self.levels[at].size = <PyObject *>size

    cdef void forget(self, Py_ssize_t start, Py_ssize_t end) noexcept:
        """Remove the levels of [start, end)."""
        cdef Py_ssize_t at
        for at in range(start, end):
            Py_DECREF(<object>self.levels[at].price)
            Py_DECREF(<object>self.levels[at].size)
        if end < self.count:
            memmove(self.keys + start, self.keys + end, (self.count - end) * sizeof(double))
            memmove(self.levels + start, self.levels + end, (self.count - end) * sizeof(Level))
        self.count -= end - start

    cdef int set(self, double key, object price, object size) except -1:
        cdef Py_ssize_t at = self.place(key)
        cdef bint is_known = at < self.count and self.keys[at] == key
        if is_zero(size):
            if is_known:
                self.forget(at, at + 1)
            return 0
        if is_known:
            Py_DECREF(<object>self.levels[at].price)
            Py_DECREF(<object>self.levels[at].size)
        else:
            self.make_room(self.count + 1)
            if at < self.count:
                memmove(self.keys + at + 1, self.keys + at, (self.count - at) * sizeof(double))
                memmove(self.levels + at + 1, self.levels + at, (self.count - at) * sizeof(Level))
            self.count += 1
        self.put(at, key, price, size)
        return 0

    cdef tuple level(self, Py_ssize_t at):
        return <object>self.levels[at].price, <object>self.levels[at].size

    cdef bint read(self, object price, double *key) except -1:
        if not read_key(price, key):
            return False
        if self.is_ask:
            key[0] = -key[0]
        return True

    cdef object be_exact(self):
        """Hand the levels to a plain side, unless that was done before, and return it."""
        cdef Py_ssize_t at
        if self.exact is not None:
            return self.exact
        side = plain_side.Side(-1 if self.is_ask else 1)
        side.replace([<object>self.levels[at].price for at in range(self.count)],
                     [<object>self.levels[at].size for at in range(self.count)])
        side.be_exact()
        self.forget(0, self.count)
        self.exact = side
        return side

    # --- Changes ---

    def replace(self, prices, sizes):
        """Replace all levels by these, in any order; zero sizes are ignored."""
        cdef list taken = strings(prices), beside = strings(sizes)
        cdef Py_ssize_t count = len(taken), at
        cdef Place *found
        cdef bint fits = True
        if len(beside) != count:
            raise ValueError(f"{count} prices and {len(beside)} sizes: as many are needed")
        found = <Place *>PyMem_Malloc(max(count, 1) * sizeof(Place))
        if found == NULL:
            raise MemoryError
        try:
            for at in range(count):
                if not self.read(taken[at], &found[at].key):
                    fits = False
                    break
                found[at].at = at
            self.forget(0, self.count)
            self.exact = None
            if fits:
                self.fill(found, count, taken, beside)
            else:
                self.exact = plain_side.Side(-1 if self.is_ask else 1)
                self.exact.replace(taken, beside)
        finally:
            PyMem_Free(found)

    cdef int fill(self, Place *places, Py_ssize_t count, list prices, list sizes) except -1:
        """Add the levels of a new book; of several with the same price, the last."""
        cdef Py_ssize_t at, place
        cdef bint rises = True, falls = True
        for at in range(1, count):
            rises = rises and places[at - 1].key < places[at].key
            falls = falls and places[at - 1].key > places[at].key
        if not rises and not falls:
            qsort(places, count, sizeof(Place), by_place)
        self.make_room(count)
        for at in range(count):
            place = count - 1 - at if falls else at
            if place + 1 < count and not falls and places[place].key == places[place + 1].key:
                continue
            if not is_zero(sizes[places[place].at]):
                self.put(self.count, places[place].key, prices[places[place].at], sizes[places[place].at])
                self.count += 1
        return 0

    def apply(self, prices, sizes):
        """Set each price to its absolute size; a zero size removes the level, and removing an absent one is normal."""
        if self.exact is not None:
            self.exact.apply(prices, sizes)
            return
        cdef list taken = strings(prices), beside = strings(sizes)
        cdef Py_ssize_t count = len(taken), at
        cdef double[FEW] few
        cdef double *changed = few
        if len(beside) != count:
            raise ValueError(f"{count} prices and {len(beside)} sizes: as many are needed")
        if count > FEW:
            changed = <double *>PyMem_Malloc(count * sizeof(double))
            if changed == NULL:
                raise MemoryError
        try:
            for at in range(count):
                if not self.read(taken[at], &changed[at]):
                    self.be_exact().apply(taken, beside)
                    return
            for at in range(count):
                self.set(changed[at], taken[at], beside[at])
        finally:
            if changed != few:
                PyMem_Free(changed)

    def truncate(self, Py_ssize_t depth):
        """Remove every level beyond the best `depth`, and return the removed levels."""
        if self.exact is not None:
            return self.exact.truncate(depth)
        cdef Py_ssize_t excess = self.count - max(depth, 0), at
        if excess <= 0:
            return []
        forgotten = [self.level(at) for at in range(excess)]
        self.forget(0, excess)
        return forgotten

    # --- Queries ---

    def best(self):
        """Return the best level as (price, size), or None when the side is empty."""
        if self.exact is not None:
            return self.exact.best()
        return self.level(self.count - 1) if self.count else None

    def top(self, depth=None):
        """Return the best `depth` levels (all when None), best first."""
        if self.exact is not None:
            return self.exact.top(depth)
        cdef Py_ssize_t wanted = self.count if depth is None else min(max(<Py_ssize_t>depth, 0), self.count), at
        return [self.level(self.count - 1 - at) for at in range(wanted)]

    def size_at(self, str price not None):
        """Return the size at a price, or None when there is no such level."""
        cdef double key
        cdef Py_ssize_t at
        if self.exact is not None:
            return self.exact.size_at(price)
        if not self.read(price, &key):
            return self.be_exact().size_at(price)
        at = self.place(key)
        return <object>self.levels[at].size if at < self.count and self.keys[at] == key else None

    def nth(self, Py_ssize_t depth):
        """Return the `depth`-th best level (1 is the best), or None when there are fewer."""
        if self.exact is not None:
            return self.exact.nth(depth)
        return self.level(self.count - depth) if 0 < depth <= self.count else None

    def key(self, str price not None):
        """Return the sort key of a price; a greater key is better. It is valid until the next change."""
        cdef double key
        if self.exact is not None:
            return self.exact.key(price)
        return key if self.read(price, &key) else self.be_exact().key(price)

    def between(self, low, high):
        """Return the levels whose keys are in [low, high), worst first; None leaves that end open."""
        if self.exact is not None:
            return self.exact.between(low, high)
        cdef Py_ssize_t start = 0 if low is None else self.place(low), at
        cdef Py_ssize_t end = self.count if high is None else self.place(high)
        return [self.level(at) for at in range(start, end)]

    def best_key(self):
        """Return the sortable key of the best level; only for a side that is not empty."""
        if self.exact is not None:
            return self.exact.best_key()
        if not self.count:
            raise IndexError("the side is empty")
        return self.keys[self.count - 1]


# --- Texts under checksums ---

cdef class Text:
    """Bytes that grow."""

    cdef char *start
    cdef Py_ssize_t length, room

    def __dealloc__(self):
        PyMem_Free(self.start)

    cdef char *ask_for(self, Py_ssize_t more) except NULL:
        """Return where the next bytes go, with room for so many."""
        cdef void *moved
        if self.length + more > self.room:
            moved = PyMem_Realloc(self.start, 2 * (self.length + more) + 1024)
            if moved == NULL:
                raise MemoryError
            self.start = <char *>moved
            self.room = 2 * (self.length + more) + 1024
        return self.start + self.length

    cdef int add(self, object text, char after) except -1:
        cdef Py_ssize_t length
        cdef const char *taken = PyUnicode_AsUTF8AndSize(text, &length)
        cdef char *end = self.ask_for(length + 1)
        memcpy(end, taken, length)
        end[length] = after
        self.length += length + 1
        return 0

    cdef int add_digits(self, object text) except -1:
        """Add a decimal without its point and the zeros before the first other digit."""
        cdef Py_ssize_t length, at
        cdef const char *taken = PyUnicode_AsUTF8AndSize(text, &length)
        cdef char *end = self.ask_for(length + 1)
        cdef char *first = end
        for at in range(length):
            if taken[at] != b"." and (taken[at] != b"0" or end != first):
                end[0] = taken[at]
                end += 1
        self.length += end - first
        return 0


def levels_in_turn(Side bids not None, Side asks not None, Py_ssize_t depth):
    """Return `price:size` of the best levels, bid and ask in turn, joined by colons."""
    if bids.exact is not None or asks.exact is not None:
        return plain_side.levels_in_turn(bids.be_exact(), asks.be_exact(), depth)
    cdef Text text = Text()
    cdef Py_ssize_t at
    cdef Side side
    for at in range(1, min(depth, max(bids.count, asks.count)) + 1):
        for side in (bids, asks):
            if at <= side.count:
                text.add(<object>side.levels[side.count - at].price, b":")
                text.add(<object>side.levels[side.count - at].size, b":")
    return PyBytes_FromStringAndSize(text.start, max(text.length - 1, 0))


def levels_digits(Side side not None, Py_ssize_t depth):
    """Return the digits of the best levels' prices and sizes, each without leading zeros."""
    if side.exact is not None:
        return plain_side.levels_digits(side.exact, depth)
    cdef Text text = Text()
    cdef Py_ssize_t at
    for at in range(1, min(depth, side.count) + 1):
        text.add_digits(<object>side.levels[side.count - at].price)
        text.add_digits(<object>side.levels[side.count - at].size)
    return PyBytes_FromStringAndSize(text.start, text.length)


# --- Reading a venue's frames ---

cdef const char *end_of_decimal(const char *at, const char *end) noexcept nogil:
    """Return the end of a plain decimal that starts here, -?[0-9]+([.][0-9]+)?, or NULL if there is none."""
    cdef const char *start
    if at < end and at[0] == b"-":
        at += 1
    start = at
    while at < end and b"0" <= at[0] <= b"9":
        at += 1
    if at == start:
        return NULL
    if at < end and at[0] == b".":
        at += 1
        start = at
        while at < end and b"0" <= at[0] <= b"9":
            at += 1
        if at == start:
            return NULL
    return at


def are_plain_decimals(list values not None):
    """Return whether every value is a decimal string in plain notation; False for any other notation."""
    cdef const char *text
    cdef Py_ssize_t length
    for value in values:
        if type(value) is not str:
            return False
        text = PyUnicode_AsUTF8AndSize(value, &length)
        if length > LENGTH_MAX or end_of_decimal(text, text + length) != text + length:
            return False
    return True


def has_below(list prices not None, list sizes not None):
    """Return whether a size is below zero, or a price is not above zero."""
    cdef Py_ssize_t length
    cdef const char *text
    for value in sizes:
        if PyUnicode_AsUTF8AndSize(value, &length)[0] == b"-":
            return True
    for value in prices:
        text = PyUnicode_AsUTF8AndSize(value, &length)
        if text[0] == b"-" or ((text[0] == b"0" or text[0] == b".") and is_zero(value)):
            return True
    return False


cdef const char *after_text(const char *at, const char *end) noexcept nogil:
    """Return the end of a JSON string without escapes that starts here, or NULL."""
    if at == end or at[0] != b'"':
        return NULL
    cdef const char *close = <const char *>memchr(at + 1, b'"', end - at - 1)
    if close == NULL or memchr(at, b"\\", close - at) != NULL:
        return NULL
    return close + 1


cdef const char *take_decimal(const char *at, const char *end, list column) except? NULL:
    """Read a plain decimal in a JSON string; return its end, or NULL."""
    cdef const char *close
    if at == end or at[0] != b'"':
        return NULL
    close = end_of_decimal(at + 1, end)
    if close == NULL or close == end or close[0] != b'"' or close - at - 1 > LENGTH_MAX:
        return NULL
    text = PyUnicode_New(close - at - 1, 127)
    memcpy(PyUnicode_DATA(text), at + 1, close - at - 1)
    column.append(text)
    return close + 1


cdef const char *take_level(const char *at, const char *end, list prices, list sizes) except? NULL:
    """Read `["price","size",...]`, where more strings may follow; return its end, or NULL."""
    if at == end or at[0] != b"[":
        return NULL
    at = take_decimal(at + 1, end, prices)
    if at == NULL or at == end or at[0] != b",":
        return NULL
    at = take_decimal(at + 1, end, sizes)
    while at != NULL and at != end and at[0] == b",":
        at = after_text(at + 1, end)
    return at + 1 if at != NULL and at != end and at[0] == b"]" else NULL


cdef bint take_levels(const char *at, const char *end, list prices, list sizes) except -1:
    if end - at == 2 and at[0] == b"[" and at[1] == b"]":
        return True
    if at == end or at[0] != b"[":
        return False
    while at != end and (at[0] == b"," or not prices):
        at = take_level(at + 1, end, prices, sizes)
        if at == NULL:
            return False
    return end - at == 1 and at[0] == b"]"


def read_levels(raw):
    """Read JSON such as `[["price","size","0","4"],...]` as prices and sizes.

    Return None for anything but plain decimals as strings, without spaces.
    """
    cdef Py_buffer buffer
    cdef list prices = [], sizes = []
    PyObject_GetBuffer(raw, &buffer, PyBUF_SIMPLE)
    try:
        start = <const char *>buffer.buf
        return (prices, sizes) if take_levels(start, start + buffer.len, prices, sizes) else None
    finally:
        PyBuffer_Release(&buffer)
