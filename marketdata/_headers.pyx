# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Builds the headers of the pipeline's outputs, compiled by `make setup` where a C compiler is.

It does what `plain_headers.py` does.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from marketdata.headers import (
    HOPS as _HOPS,
    RUN_LENGTH_MAX as _RUN_LENGTH_MAX,
    TRACEPARENT as _TRACEPARENT,
    constants,
    event_time,
)

cdef enum:
    TIMES = 25  # bytes of a header `hops` without an input, and with one up to its topic
    TIMES_AND_INPUT = 41
    VERSION = 1
    DIGITS_MAX = 18

cdef Py_ssize_t RUN_LENGTH_MAX = _RUN_LENGTH_MAX
cdef int64_t SECOND_NS = 1_000_000_000
cdef int64_t MILLISECOND_NS = 1_000_000
cdef int64_t TIMESTAMP_MAX = 9_000_000_000_000  # milliseconds
cdef str HOPS = _HOPS
cdef str TRACEPARENT = _TRACEPARENT
cdef str CE_ID = "ce_id"
cdef str CE_TIME = "ce_time"
cdef str CE_SUBJECT = "ce_subject"


cdef inline int64_t read64(const uint8_t *at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int index
    for index in range(8):
        value = value << 8 | at[index]
    return <int64_t>value


cdef inline void write64(uint8_t *at, int64_t value) noexcept nogil:
    cdef int index
    for index in range(8):
        at[index] = <uint8_t>(<uint64_t>value >> (56 - 8 * index))


cdef inline void write32(uint8_t *at, uint32_t value) noexcept nogil:
    cdef int index
    for index in range(4):
        at[index] = <uint8_t>(value >> (24 - 8 * index))


cdef class OutputHeaders:
    """The headers of what the records of one input partition lead to: see `plain_headers.OutputHeaders`."""

    cdef public object trace
    cdef public int64_t t_produced
    cdef readonly str run
    cdef readonly int64_t number
    cdef str _last_run
    cdef bytes _last_run_bytes
    cdef str _source
    cdef bytes _topic, _start, _about
    cdef object _received
    cdef dict _constants
    cdef int _partition
    cdef int64_t _t_recv, _offset, _now
    cdef int64_t _second
    cdef bytes _second_text

    def __init__(self, str topic, int partition, str source):
        self._topic = topic.encode()
        self._start = f"{topic}|{partition}|".encode()
        self._partition = partition
        self._source = source
        self._constants = {}
        self._second = -1
        self.run = ""
        self._last_run = ""
        self._last_run_bytes = b""

    cdef bytes _event_time(self, int64_t ts):
        """What `event_time` returns; the text of a second is kept for the next time."""
        cdef int64_t second = ts // SECOND_NS
        cdef bytes made
        cdef char *at
        cdef int64_t rest
        cdef int index
        if ts < 0 or second != self._second:
            made = event_time(ts)
            if ts >= 0:
                self._second, self._second_text = second, made
            return made
        made = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._second_text), PyBytes_GET_SIZE(self._second_text))
        at = PyBytes_AS_STRING(made) + PyBytes_GET_SIZE(made) - 2  # the last digit, before the Z
        rest = ts - second * SECOND_NS
        for index in range(9):
            at[-index] = <char>(48 + rest % 10)
            rest //= 10
        return made

    def begin(self, headers, int64_t offset, int64_t timestamp_ms, int64_t now, str about):
        cdef object hops = None, received = None, identity = None, value
        cdef str name
        cdef const uint8_t *at
        cdef Py_ssize_t size
        self.trace = None
        self.run, self.number = "", 0
        if headers is not None:
            for name, value in headers:
                if name == HOPS:
                    hops = value
                elif name == CE_TIME:
                    received = value
                elif name == CE_ID:
                    identity = value
                elif name == TRACEPARENT:
                    self.trace = value
        self._t_recv = self.t_produced = 0
        if identity is not None and type(identity) is bytes:
            self._read_origin(identity)
        if hops is not None:
            at = <const uint8_t *>PyBytes_AS_STRING(<bytes?>hops)
            size = PyBytes_GET_SIZE(hops)
            if (size == TIMES or size > TIMES_AND_INPUT) and at[0] == VERSION and self._is_text(hops, size):
                self._t_recv = read64(at + 1)
                self.t_produced = read64(at + 9)
        if not received:
            if self._t_recv:
                received = self._event_time(self._t_recv)
            elif -TIMESTAMP_MAX < timestamp_ms < TIMESTAMP_MAX:
                received = self._event_time(timestamp_ms * MILLISECOND_NS)
            else:  # more nanoseconds than 64 bits hold
                received = event_time(int(timestamp_ms) * 1_000_000)
        self._received = received
        self._about = about.encode()
        self._offset = offset
        self._now = now

    cdef int _read_origin(self, bytes identity) except -1:
        """What `origin` returns, into `run` and `number`."""
        cdef const char *text = PyBytes_AS_STRING(identity)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(identity), at = end, run_end, index
        cdef int64_t number = 0
        while at > 0 and c"0" <= text[at - 1] <= c"9":
            at -= 1
        if at == end or end - at > DIGITS_MAX or at == 0 or text[at - 1] != c"/":
            return 0
        for index in range(at, end):
            number = 10 * number + (text[index] - 48)
        run_end = at - 1
        at = run_end
        while at > 0 and (
            c"0" <= text[at - 1] <= c"9" or c"a" <= text[at - 1] <= c"z" or c"A" <= text[at - 1] <= c"Z"
        ):
            at -= 1
        if at == run_end or run_end - at > RUN_LENGTH_MAX or at == 0 or text[at - 1] != c"/":
            return 0
        if run_end - at != PyBytes_GET_SIZE(self._last_run_bytes) or memcmp(
            text + at, PyBytes_AS_STRING(self._last_run_bytes), run_end - at
        ):
            self._last_run_bytes = identity[at:run_end]
            self._last_run = self._last_run_bytes.decode()
        self.run, self.number = self._last_run, number
        return 0

    cdef bint _is_text(self, bytes hops, Py_ssize_t size):
        """Whether the topic in a header is UTF-8, as that of a readable one is."""
        if size == TIMES:
            return True
        try:
            hops[TIMES_AND_INPUT:].decode()
        except UnicodeDecodeError:
            return False
        return True

    cdef bytes _identity(self, int index):
        cdef char[64] numbers
        cdef Py_ssize_t start = PyBytes_GET_SIZE(self._start), about = PyBytes_GET_SIZE(self._about)
        cdef int first = snprintf(numbers, 32, b"%lld|", <long long>self._offset)
        cdef int last = snprintf(numbers + first, 32, b"%d", index)
        cdef bytes made = PyBytes_FromStringAndSize(NULL, start + first + about + last)
        cdef char *at = PyBytes_AS_STRING(made)
        memcpy(at, PyBytes_AS_STRING(self._start), start)
        memcpy(at + start, numbers, first)
        memcpy(at + start + first, PyBytes_AS_STRING(self._about), about)
        memcpy(at + start + first + about, numbers + first, last)
        return made

    cdef bytes _encode_hops(self, int index):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self._topic)
        cdef bytes made = PyBytes_FromStringAndSize(NULL, TIMES_AND_INPUT + size)
        cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(made)
        at[0] = VERSION
        write64(at + 1, self._t_recv)
        write64(at + 9, self.t_produced)
        write64(at + 17, self._now)
        write32(at + 25, <uint32_t>self._partition)
        write64(at + 29, self._offset)
        write32(at + 37, <uint32_t>index)
        memcpy(at + TIMES_AND_INPUT, PyBytes_AS_STRING(self._topic), size)
        return made

    def build(self, str schema, bytes key, int index):
        cdef tuple fixed = self._constants.get(schema)
        if fixed is None:
            fixed = self._constants[schema] = tuple(constants(schema, self._source).items())
        return [
            *fixed,
            (CE_ID, self._identity(index)),
            (CE_TIME, self._received),
            (CE_SUBJECT, key),
            (TRACEPARENT, self.trace),
            (HOPS, self._encode_hops(index)),
        ]
