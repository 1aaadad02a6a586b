# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Rows of `trades` in COPY's binary format from the Avro bytes of a Trades record, compiled by `make setup`.

It is equivalent to `binary.trade_row` of the decoded record. It handles only the usual record: ASCII texts without NUL
and not too long, decimals without an exponent of at most 30 characters, and no bytes after the end. For anything else
it returns None, and the caller decodes the record and uses `sink.rows`, which also handles bad values. So nothing is
refused here. Every read is checked against the end of the bytes.

Avro: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

cdef enum:
    COLUMNS = 22
    PREFIX = 5  # of the Confluent wire format
    SHORT_MAX = 512  # as binary.SHORT_BYTES_MAX
    TEXT_MAX = 1024 * 1024  # as binary.TEXT_BYTES_MAX
    NUMBER_MAX = 30  # characters of a decimal that no limit of decimals.py can concern
    FIXED = 512  # bytes of a row without its texts: more than enough
    SIDES = 3
    ACTIONS = 3
    ORIGINS = 3
    EXCLUSIONS = 3
    CONDITIONS_MAX = 16  # as events.CONDITIONS_MAX; a record with more takes the other path
    TEXT_OID = 25  # of PostgreSQL's type text

cdef int64_t EPOCH_US = 946_684_800_000_000

# The values of the schema's enums, in its order.
cdef const char **SIDE = ["buy", "sell", "unknown"]
cdef const char **ACTION = ["new", "correct", "cancel"]
cdef const char **ORIGIN = ["live", "repair", "backfill"]
cdef const char **EXCLUSION = ["volume", "high_low", "open_close"]
cdef int32_t *EXCLUSION_LENGTH = [6, 8, 10]
cdef int32_t *SIDE_LENGTH = [3, 4, 7]
cdef int32_t *ACTION_LENGTH = [3, 7, 6]
cdef int32_t *ORIGIN_LENGTH = [4, 6, 8]


cdef struct Reader:
    const uint8_t *at
    const uint8_t *end


cdef struct Text:
    const uint8_t *start
    int64_t length


cdef inline bint read_long(Reader *reader, int64_t *value) noexcept nogil:
    cdef uint64_t found = 0
    cdef int shift = 0
    cdef uint8_t byte
    while reader.at < reader.end and shift < 64:
        byte = reader.at[0]
        reader.at += 1
        if shift == 63 and byte > 1:
            return False
        found |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            value[0] = <int64_t>(found >> 1) ^ -<int64_t>(found & 1)
            return True
        shift += 7
    return False


cdef inline bint read_text(Reader *reader, Text *text, int64_t length_max) noexcept nogil:
    cdef int64_t length, place
    if not read_long(reader, &length) or length < 0 or length > length_max or length > reader.end - reader.at:
        return False
    text.start = reader.at
    text.length = length
    for place in range(length):
        if <uint8_t>(reader.at[place] - 1) >= 0x7F:  # NUL or not ASCII
            return False
    reader.at += length
    return True


cdef inline bint read_flag(Reader *reader, bint *value) noexcept nogil:
    if reader.at >= reader.end or reader.at[0] > 1:
        return False
    value[0] = reader.at[0]
    reader.at += 1
    return True


cdef inline bint read_choice(Reader *reader, int64_t *value, int64_t choices) noexcept nogil:
    return read_long(reader, value) and 0 <= value[0] < choices


cdef inline bint read_optional(Reader *reader, bint *is_there, int64_t *value) noexcept nogil:
    cdef int64_t branch
    if not read_choice(reader, &branch, 2):
        return False
    is_there[0] = branch == 1
    return branch == 0 or read_long(reader, value)


cdef bint read_texts(Reader *reader, Text *texts, int *count) noexcept nogil:
    """Read an array of short texts in one block; False for more than CONDITIONS_MAX."""
    cdef int64_t items, place, end = 0
    if not read_long(reader, &items) or not 0 <= items <= CONDITIONS_MAX:
        return False
    count[0] = <int>items
    for place in range(items):
        if not read_text(reader, &texts[place], SHORT_MAX):
            return False
    return items == 0 or (read_long(reader, &end) and end == 0)


cdef bint read_exclusions(Reader *reader, Text *texts, int *count) noexcept nogil:
    """Read an array of enum symbols in one block; False for more than there are symbols."""
    cdef int64_t items, place, symbol = 0, end = 0
    if not read_long(reader, &items) or not 0 <= items <= EXCLUSIONS:
        return False
    count[0] = <int>items
    for place in range(items):
        if not read_choice(reader, &symbol, EXCLUSIONS):
            return False
        texts[place].start = <const uint8_t *>EXCLUSION[symbol]
        texts[place].length = EXCLUSION_LENGTH[symbol]
    return items == 0 or (read_long(reader, &end) and end == 0)


cdef inline uint8_t *put_short(uint8_t *at, uint16_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 8)
    at[1] = <uint8_t>value
    return at + 2


cdef inline uint8_t *put_int(uint8_t *at, uint32_t value) noexcept nogil:
    at[0] = <uint8_t>(value >> 24)
    at[1] = <uint8_t>(value >> 16)
    at[2] = <uint8_t>(value >> 8)
    at[3] = <uint8_t>value
    return at + 4


cdef inline uint8_t *put_long(uint8_t *at, uint64_t value) noexcept nogil:
    return put_int(put_int(at, <uint32_t>(value >> 32)), <uint32_t>value)


cdef inline uint8_t *put_long_column(uint8_t *at, int64_t value) noexcept nogil:
    return put_long(put_int(at, 8), <uint64_t>value)


cdef inline uint8_t *put_bytes(uint8_t *at, const void *start, int64_t length) noexcept nogil:
    at = put_int(at, <uint32_t>length)
    memcpy(at, start, length)
    return at + length


cdef uint8_t *put_texts(uint8_t *at, const Text *texts, int count) noexcept nogil:
    """Write an array of texts, NULL for an empty one."""
    cdef int place
    cdef uint32_t length = 20
    if count == 0:
        return put_int(at, 0xFFFFFFFF)
    for place in range(count):
        length += 4 + <uint32_t>texts[place].length
    at = put_int(put_int(put_int(put_int(put_int(put_int(at, length), 1), 0), TEXT_OID), <uint32_t>count), 1)
    for place in range(count):
        at = put_bytes(at, texts[place].start, texts[place].length)
    return at


cdef inline uint8_t *put_flag(uint8_t *at, bint value) noexcept nogil:
    at = put_int(at, 1)
    at[0] = value
    return at + 1


cdef uint8_t *put_number(uint8_t *at, Text *text) noexcept nogil:
    """Write a decimal as PostgreSQL's numeric; NULL for another notation or anything else."""
    cdef uint16_t[18] groups
    cdef int place = 0, length = <int>text.length, whole, fraction, first, last, count, group, digit, filled, pad
    cdef int point = -1, digits_start
    cdef bint is_negative = False
    cdef const uint8_t *start = text.start
    if length and start[0] == b"-":
        is_negative = True
        place = 1
    digits_start = place
    while place < length:
        if start[place] == b"." and point < 0:
            point = place
        elif start[place] - <uint8_t>b"0" > 9 or start[place] < b"0":
            return NULL
        place += 1
    whole = (length if point < 0 else point) - digits_start
    fraction = 0 if point < 0 else length - point - 1
    if whole + fraction == 0:
        return NULL
    # Groups of four digits on both sides of the point.
    count = 0
    group = 0
    filled = (4 - whole % 4) % 4
    for place in range(digits_start, length):
        if place == point:
            continue
        group = group * 10 + (start[place] - <uint8_t>b"0")
        filled += 1
        if filled == 4:
            groups[count] = <uint16_t>group
            count += 1
            group = 0
            filled = 0
    if filled:
        for pad in range(4 - filled):
            group *= 10
        groups[count] = <uint16_t>group
        count += 1
    first = 0
    last = count
    while first < last and groups[first] == 0:
        first += 1
    while last > first and groups[last - 1] == 0:
        last -= 1
    at = put_int(at, 8 + 2 * (last - first))
    at = put_short(at, <uint16_t>(last - first))
    at = put_short(at, <uint16_t>((whole + 3) // 4 - 1 - first if last > first else 0))
    at = put_short(at, 0x4000 if is_negative and last > first else 0)
    at = put_short(at, <uint16_t>fraction)
    for place in range(first, last):
        at = put_short(at, groups[place])
    return at


cdef class Buffer:
    """A growing buffer that is reused between calls."""

    cdef uint8_t *start
    cdef Py_ssize_t size, used

    def __cinit__(self):
        self.size = 64 * 1024
        self.start = <uint8_t *>PyMem_Malloc(self.size)
        if self.start == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.start)

    cdef bint reserve(self, Py_ssize_t more) except False:
        cdef uint8_t *moved
        cdef Py_ssize_t size = self.size
        if self.used + more > size:
            while self.used + more > size:
                size *= 2
            moved = <uint8_t *>PyMem_Realloc(self.start, size)
            if moved == NULL:
                raise MemoryError
            self.start = moved
            self.size = size
        return True


cdef Buffer _buffer = Buffer()


def trade_rows(bytes payload, int32_t partition, int64_t offset):
    """Return the number of rows of a record and the rows; None for a record that needs `sink.rows`."""
    cdef Reader reader
    cdef Text venue, symbol, line, reason, trade_id, price, size, original_id
    cdef int64_t ts_recv, ts, sequence = 0, origin, side, action, count, skipped
    cdef bint has_sequence = False, is_valid = False, is_liquidation = False, is_there = False
    cdef int32_t item = 0
    cdef int64_t us
    cdef Text[CONDITIONS_MAX] conditions
    cdef Text[EXCLUSIONS] exclusions
    cdef int condition_count = 0, exclusion_count = 0, place
    cdef int64_t condition_bytes
    cdef uint8_t *at
    cdef Buffer out = _buffer
    out.used = 0
    if PyBytes_GET_SIZE(payload) < PREFIX:
        return None
    reader.at = <const uint8_t *>PyBytes_AS_STRING(payload) + PREFIX
    reader.end = <const uint8_t *>PyBytes_AS_STRING(payload) + PyBytes_GET_SIZE(payload)
    if not (
        read_text(&reader, &venue, SHORT_MAX)
        and read_text(&reader, &symbol, SHORT_MAX)
        and read_long(&reader, &ts)
        and read_long(&reader, &ts_recv)
        and read_text(&reader, &line, SHORT_MAX)
        and read_optional(&reader, &has_sequence, &sequence)
        and read_choice(&reader, &origin, ORIGINS)
        and read_flag(&reader, &is_valid)
        and read_text(&reader, &reason, SHORT_MAX)
        and read_optional(&reader, &is_there, &skipped)
        and read_flag(&reader, &is_there)  # amendable
    ):
        return None
    while True:
        if not read_long(&reader, &count):
            return None
        if count < 0:  # a block that states its size
            if count < -(2 ** 40) or not read_long(&reader, &skipped):
                return None
            count = -count
        if count == 0:
            break
        if count > reader.end - reader.at:  # a trade has at least a byte
            return None
        while count:
            count -= 1
            if not (
                read_text(&reader, &trade_id, TEXT_MAX)
                and read_long(&reader, &ts)
                and read_text(&reader, &price, NUMBER_MAX)
                and read_text(&reader, &size, NUMBER_MAX)
                and read_choice(&reader, &side, SIDES)
                and read_flag(&reader, &is_liquidation)
                and read_choice(&reader, &action, ACTIONS)
                and read_text(&reader, &original_id, TEXT_MAX)
                and read_texts(&reader, conditions, &condition_count)
                and read_exclusions(&reader, exclusions, &exclusion_count)
            ):
                return None
            condition_bytes = 0
            for place in range(condition_count):
                condition_bytes += 4 + conditions[place].length
            out.reserve(
                FIXED + trade_id.length + original_id.length + venue.length + symbol.length + line.length
                + reason.length + condition_bytes
            )
            at = out.start + out.used
            at = put_short(at, COLUMNS)
            us = ts // 1000
            if us * 1000 > ts:
                us -= 1
            at = put_long_column(at, us - EPOCH_US)
            at = put_long_column(at, ts)
            at = put_long_column(at, ts_recv)
            at = put_long_column(at, offset)
            at = put_int(put_int(at, 4), <uint32_t>partition)
            at = put_int(put_int(at, 4), <uint32_t>item)
            at = put_flag(at, is_valid)
            at = put_bytes(at, reason.start, reason.length)
            at = put_flag(at, is_liquidation)
            at = put_number(at, &price)
            if at == NULL:
                return None
            at = put_number(at, &size)
            if at == NULL:
                return None
            at = put_bytes(at, SIDE[side], SIDE_LENGTH[side])
            at = put_bytes(at, ACTION[action], ACTION_LENGTH[action])
            at = put_bytes(at, trade_id.start, trade_id.length)
            at = put_bytes(at, original_id.start, original_id.length)
            at = put_bytes(at, venue.start, venue.length)
            at = put_bytes(at, symbol.start, symbol.length)
            at = put_bytes(at, line.start, line.length)
            at = put_bytes(at, ORIGIN[origin], ORIGIN_LENGTH[origin])
            if has_sequence:
                at = put_long_column(at, sequence)
            else:
                at = put_int(at, 0xFFFFFFFF)
            at = put_texts(at, conditions, condition_count)
            at = put_texts(at, exclusions, exclusion_count)
            out.used = at - out.start
            item += 1
    if reader.at != reader.end:
        return None
    return item, PyBytes_FromStringAndSize(<char *>out.start, out.used)
