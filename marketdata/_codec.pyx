# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The Avro codec of our own schemas, compiled by `make setup` if there is a C compiler.

How it works. `Program` turns a schema and its msgspec classes into a tree of C nodes, once. Decoding walks the tree over
the bytes: it allocates each Struct and stores the values at the offsets of its members, as its constructor does.
Encoding walks the tree over the Struct and appends to one buffer. Neither calls Python code, so nothing can change
during it. What a program cannot encode is passed to `plain_encode`, which encodes it or raises the error.

Decoding accepts what fastavro accepts, except for varints of more than ten bytes, negative lengths, and negative
indexes of unions and enums (which fastavro reads as Python's negative indexes). No Avro writer writes those.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

import typing

import msgspec

from marketdata.errors import CodecError

cdef extern from *:
    """
    #include "structmember.h"

    static PyObject *take(PyObject *value) { return value; }
    static PyObject *make(PyTypeObject *cls) { return cls->tp_alloc(cls, 0); }
    /* Where a class keeps a member; -1 for what is not a plain object member. */
    static Py_ssize_t member_offset(PyObject *descriptor) {
        PyMemberDef *member;
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return -1;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : -1;
    }
    #define MEMBER(object, offset) (*(PyObject **)((char *)(object) + (offset)))
    #define UTF8(text, size) \\
        (PyUnicode_IS_COMPACT_ASCII(text) \\
             ? (*(size) = PyUnicode_GET_LENGTH(text), (const char *)PyUnicode_1BYTE_DATA(text)) \\
             : PyUnicode_AsUTF8AndSize(text, size))
    """
    ctypedef struct PyTypeObject:
        pass
    object take(PyObject *value)  # takes over the reference; NULL raises the exception that is set
    PyObject *make(PyTypeObject *cls) noexcept
    Py_ssize_t member_offset(object descriptor) noexcept
    PyObject *MEMBER(PyObject *object, Py_ssize_t offset) noexcept
    const char *UTF8(PyObject *text, Py_ssize_t *size) noexcept

cdef extern from "Python.h":
    ctypedef struct PyObjectRaw "PyObject":
        pass
    PyObject *Py_None
    PyObject *Py_True
    PyObject *Py_False
    PyObject *PyExc_ValueError
    PyTypeObject *Py_TYPE(PyObject *value) noexcept
    void Py_INCREF(PyObject *value) noexcept
    void Py_DECREF(PyObject *value) noexcept
    void PyErr_Clear() noexcept
    PyObject *PyErr_Format(PyObject *kind, const char *text, ...) noexcept
    PyObject *PyErr_NoMemory() noexcept
    bint PyUnicode_Check(PyObject *value) noexcept
    bint PyBytes_Check(PyObject *value) noexcept
    bint PyLong_Check(PyObject *value) noexcept
    bint PyBool_Check(PyObject *value) noexcept
    bint PyList_Check(PyObject *value) noexcept
    bint PyTuple_Check(PyObject *value) noexcept
    bint PyDict_Check(PyObject *value) noexcept
    PyObject *PyUnicode_New(Py_ssize_t length, uint32_t largest) noexcept
    void *PyUnicode_1BYTE_DATA(PyObject *text) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject *text) noexcept
    PyObject *PyUnicode_DecodeUTF8(const char *text, Py_ssize_t size, const char *errors) noexcept
    int PyUnicode_Compare(PyObject *left, PyObject *right) noexcept
    PyObject *PyBytesRaw "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) noexcept
    char *PyBytesData "PyBytes_AS_STRING"(PyObject *value) noexcept
    Py_ssize_t PyBytesSize "PyBytes_GET_SIZE"(PyObject *value) noexcept
    PyObject *PyLong_FromLongLong(long long value) noexcept
    long long PyLong_AsLongLongAndOverflow(PyObject *value, int *overflow) noexcept
    PyObject *PyTuple_New(Py_ssize_t size) noexcept
    void PyTuple_SET_ITEM(PyObject *items, Py_ssize_t at, PyObject *value) noexcept
    PyObject *PyTuple_GET_ITEM(PyObject *items, Py_ssize_t at) noexcept
    Py_ssize_t PyTuple_GET_SIZE(PyObject *items) noexcept
    PyObject *PyList_New(Py_ssize_t size) noexcept
    void PyList_SET_ITEM(PyObject *items, Py_ssize_t at, PyObject *value) noexcept
    PyObject *PyList_GET_ITEM(PyObject *items, Py_ssize_t at) noexcept
    Py_ssize_t PyList_GET_SIZE(PyObject *items) noexcept
    int PyList_Append(PyObject *items, PyObject *value) noexcept
    PyObject *PyList_AsTuple(PyObject *items) noexcept
    PyObject *PySequence_List(PyObject *items) noexcept
    PyObject *PyDict_New() noexcept
    int PyDict_SetItem(PyObject *items, PyObject *key, PyObject *value) noexcept
    int PyDict_Next(PyObject *items, Py_ssize_t *at, PyObject **key, PyObject **value) noexcept
    Py_ssize_t PyDict_Size(PyObject *items) noexcept

cdef enum Kind:
    TEXT
    BYTES
    BOOLEAN
    INT
    LONG
    ENUM
    ARRAY
    MAP
    RECORD

cdef enum:
    HEAD = 5  # the zero byte and the schema id
    VARINT_MAX = 10
    SLOTS = 64
    INTERNED = 512  # a power of two
    INTERNED_LENGTH_MAX = 48
    BUFFER_KEPT = 1 << 20  # a larger buffer is not kept after the record that needed it

cdef struct Node:
    Kind kind
    bint nullable  # the union ["null", kind]
    bint interned  # a text that repeats from record to record
    bint is_tuple  # of an array
    Py_ssize_t size_min  # fewest bytes of a value
    Py_ssize_t offset  # of a field, in the object that has it
    Py_ssize_t count  # children, or symbols of an enum
    Node *children  # fields of a record; the item of an array or map
    PyObject **symbols
    PyObject *cls  # of a record
    PyObject *path  # for errors

cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end

cdef struct Buffer:
    uint8_t *data
    Py_ssize_t used
    Py_ssize_t room

cdef struct Slot:
    uint32_t schema_id
    PyObject *program

cdef dict KINDS = {
    "string": TEXT, "bytes": BYTES, "boolean": BOOLEAN, "int": INT, "long": LONG,
    "enum": ENUM, "array": ARRAY, "map": MAP, "record": RECORD,
}
# Fields whose values repeat from record to record.
cdef frozenset REPEATED = frozenset({"venue", "symbol", "line", "reason", "conditions"})

# Texts seen last, by a hash of their bytes. At most INTERNED short texts are kept alive.
cdef PyObject *texts[INTERNED]


# --- Decoding ---

cdef PyObject *fail(const Node *node, const char *problem) noexcept:
    return PyErr_Format(PyExc_ValueError, b"%U %s", node.path, problem)


cdef inline bint read_long(Cursor *cursor, int64_t *number) noexcept:
    """Read a zigzag varint; False when there is none."""
    cdef uint64_t value = 0, byte
    cdef int shift = 0
    while cursor.at < cursor.end and shift < 7 * VARINT_MAX:
        byte = cursor.at[0]
        cursor.at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            number[0] = <int64_t>(value >> 1) ^ -<int64_t>(value & 1)
            return True
        shift += 7
    return False


cdef inline bint is_ascii(const uint8_t *text, Py_ssize_t size) noexcept:
    cdef uint64_t eight
    cdef uint8_t rest = 0
    while size >= 8:
        memcpy(&eight, text, 8)
        if eight & <uint64_t>0x8080808080808080:
            return False
        text += 8
        size -= 8
    while size > 0:
        rest |= text[0]
        text += 1
        size -= 1
    return rest < 0x80


cdef inline PyObject *make_text(const uint8_t *text, Py_ssize_t size) noexcept:
    """Return a str; NULL with an exception for bytes that are not UTF-8."""
    cdef PyObject *made
    if not is_ascii(text, size):
        return PyUnicode_DecodeUTF8(<const char *>text, size, NULL)
    made = PyUnicode_New(size, 127)
    if made != NULL:
        memcpy(PyUnicode_1BYTE_DATA(made), text, size)
    return made


cdef PyObject *repeated_text(const uint8_t *text, Py_ssize_t size) noexcept:
    """Return the str of an ASCII text, the same object as last time where it was seen recently."""
    cdef uint32_t mixed = <uint32_t>size
    cdef Py_ssize_t at
    cdef PyObject *known
    for at in range(size):
        mixed = (mixed ^ text[at]) * <uint32_t>16777619
    mixed = (mixed ^ (mixed >> 15)) & (INTERNED - 1)
    known = texts[mixed]
    if known != NULL and PyUnicode_GET_LENGTH(known) == size and not memcmp(PyUnicode_1BYTE_DATA(known), text, size):
        Py_INCREF(known)
        return known
    known = make_text(text, size)
    if known != NULL and is_ascii(text, size):
        if texts[mixed] != NULL:
            Py_DECREF(texts[mixed])
        Py_INCREF(known)
        texts[mixed] = known
    return known


cdef inline const uint8_t *read_sized(Cursor *cursor, Py_ssize_t *size) noexcept:
    """Read a length and return where so many bytes begin; NULL when there are not so many."""
    cdef int64_t length
    cdef const uint8_t *start
    if not read_long(cursor, &length) or length < 0 or length > cursor.end - cursor.at:
        return NULL
    start = cursor.at
    cursor.at += length
    size[0] = length
    return start


cdef inline PyObject *read_text(const Node *node, Cursor *cursor) noexcept:
    cdef Py_ssize_t size
    cdef const uint8_t *start = read_sized(cursor, &size)
    cdef PyObject *made
    if start == NULL:
        return fail(node, b"is cut off")
    if node.interned and size <= INTERNED_LENGTH_MAX:
        made = repeated_text(start, size)
    else:
        made = make_text(start, size)
    if made == NULL:
        PyErr_Clear()
        return fail(node, b"is not UTF-8")
    return made


cdef bint read_count(const Node *node, Cursor *cursor, int64_t *count) noexcept:
    """Read how many items the next block of an array or map has, 0 after the last; False with an exception."""
    cdef int64_t size
    if not read_long(cursor, count):
        fail(node, b"is cut off")
        return False
    if count[0] < 0:
        if count[0] == INT64_MIN or not read_long(cursor, &size):
            fail(node, b"has a block without a count")
            return False
        count[0] = -count[0]
    if count[0] > (cursor.end - cursor.at) // node.children.size_min:
        fail(node, b"has more items than there are bytes")
        return False
    return True


cdef extern from "<stdint.h>":
    const int64_t INT64_MIN


cdef PyObject *read_array(const Node *node, Cursor *cursor) noexcept:
    cdef int64_t count, at
    cdef PyObject *made
    cdef PyObject *value
    if not read_count(node, cursor, &count):
        return NULL
    made = PyTuple_New(count) if node.is_tuple else PyList_New(count)
    if made == NULL or count == 0:
        return made
    for at in range(count):
        value = read_value(node.children, cursor)
        if value == NULL:
            Py_DECREF(made)
            return NULL
        if node.is_tuple:
            PyTuple_SET_ITEM(made, at, value)
        else:
            PyList_SET_ITEM(made, at, value)
    # Almost always the array is one block, and this reads its end.
    if not read_count(node, cursor, &count):
        Py_DECREF(made)
        return NULL
    return made if count == 0 else read_blocks(node, cursor, made, count)


cdef PyObject *read_blocks(const Node *node, Cursor *cursor, PyObject *first, int64_t count) noexcept:
    """Return the items of the first block and of those that follow; takes over the reference to `first`."""
    cdef PyObject *items = PySequence_List(first)
    cdef PyObject *made
    cdef PyObject *value
    cdef int64_t at
    Py_DECREF(first)
    while items != NULL and count:
        for at in range(count):
            value = read_value(node.children, cursor)
            if value == NULL or PyList_Append(items, value):
                if value != NULL:
                    Py_DECREF(value)
                Py_DECREF(items)
                return NULL
            Py_DECREF(value)
        if not read_count(node, cursor, &count):
            Py_DECREF(items)
            return NULL
    if items == NULL or not node.is_tuple:
        return items
    made = PyList_AsTuple(items)
    Py_DECREF(items)
    return made


cdef PyObject *read_map(const Node *node, Cursor *cursor) noexcept:
    cdef PyObject *made = PyDict_New()
    cdef PyObject *key
    cdef PyObject *value
    cdef int64_t count, at
    cdef int failed
    if made == NULL:
        return NULL
    while True:
        if not read_count(node, cursor, &count):
            break
        if count == 0:
            return made
        for at in range(count):
            key = read_text(node, cursor)
            if key == NULL:
                Py_DECREF(made)
                return NULL
            value = read_value(node.children, cursor)
            failed = value == NULL or PyDict_SetItem(made, key, value)
            Py_DECREF(key)
            if value != NULL:
                Py_DECREF(value)
            if failed:
                Py_DECREF(made)
                return NULL
    Py_DECREF(made)
    return NULL


cdef PyObject *read_record(const Node *node, Cursor *cursor) noexcept:
    cdef PyObject *made = make(<PyTypeObject *>node.cls)
    cdef PyObject *value
    cdef const Node *field = node.children
    cdef const Node *end = node.children + node.count
    if made == NULL:
        return NULL
    while field < end:
        value = read_value(field, cursor)
        if value == NULL:
            Py_DECREF(made)
            return NULL
        set_member(made, field.offset, value)
        field += 1
    return made


cdef inline void set_member(PyObject *made, Py_ssize_t offset, PyObject *value) noexcept:
    (<PyObject **>(<char *>made + offset))[0] = value


cdef PyObject *read_value(const Node *node, Cursor *cursor) noexcept:
    """Return a new reference to the next value; NULL with an exception."""
    cdef int64_t number
    cdef Py_ssize_t size
    cdef const uint8_t *start
    cdef PyObject *known
    if node.nullable:
        if not read_long(cursor, &number) or number < 0 or number > 1:
            return fail(node, b"has no such type")
        if number == 0:
            Py_INCREF(Py_None)
            return Py_None
    if node.kind == TEXT:
        return read_text(node, cursor)
    if node.kind == LONG or node.kind == INT:
        if not read_long(cursor, &number):
            return fail(node, b"is cut off")
        if node.kind == INT and number != <int32_t>number:
            return PyErr_Format(PyExc_ValueError, b"%U is %lld, not an integer of 32 bits", node.path, <long long>number)
        return PyLong_FromLongLong(number)
    if node.kind == ENUM:
        if not read_long(cursor, &number) or number < 0 or number >= node.count:
            return fail(node, b"is not one of its symbols")
        Py_INCREF(node.symbols[number])
        return node.symbols[number]
    if node.kind == BOOLEAN:
        if cursor.at >= cursor.end:
            return fail(node, b"is cut off")
        known = Py_True if cursor.at[0] else Py_False
        cursor.at += 1
        Py_INCREF(known)
        return known
    if node.kind == BYTES:
        start = read_sized(cursor, &size)
        if start == NULL:
            return fail(node, b"is cut off")
        return PyBytesRaw(<const char *>start, size)
    if node.kind == ARRAY:
        return read_array(node, cursor)
    if node.kind == MAP:
        return read_map(node, cursor)
    return read_record(node, cursor)


# --- Encoding. Each function returns False for what it cannot encode, with or without an exception set. ---

cdef bint reserve(Buffer *buffer, Py_ssize_t more) noexcept:
    cdef Py_ssize_t room = buffer.room
    cdef void *moved
    if buffer.used + more <= room:
        return True
    room = max(2 * room, buffer.used + more, 4096)
    moved = PyMem_Realloc(buffer.data, room)
    if moved == NULL:
        return False
    buffer.data = <uint8_t *>moved
    buffer.room = room
    return True


cdef inline bint write_long(Buffer *buffer, int64_t number) noexcept:
    cdef uint64_t value = (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)
    cdef uint8_t *at
    if not reserve(buffer, VARINT_MAX):
        return False
    at = buffer.data + buffer.used
    while value >= 0x80:
        at[0] = <uint8_t>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <uint8_t>value
    buffer.used = at + 1 - buffer.data
    return True


cdef inline bint write_sized(Buffer *buffer, const char *data, Py_ssize_t size) noexcept:
    if not write_long(buffer, size) or not reserve(buffer, size):
        return False
    memcpy(buffer.data + buffer.used, data, size)
    buffer.used += size
    return True


cdef inline bint write_text(Buffer *buffer, PyObject *value) noexcept:
    cdef Py_ssize_t size
    cdef const char *text
    if not PyUnicode_Check(value):
        return False
    text = UTF8(value, &size)
    return text != NULL and write_sized(buffer, text, size)


cdef bint write_integer(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    cdef int overflow = 0
    cdef long long number
    if not PyLong_Check(value) or PyBool_Check(value):
        return False
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or (node.kind == INT and number != <int32_t>number):
        return False
    return write_long(buffer, number)


cdef bint write_symbol(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    cdef Py_ssize_t at
    for at in range(node.count):
        if node.symbols[at] == value:
            return write_long(buffer, at)
    if PyUnicode_Check(value):
        for at in range(node.count):
            if PyUnicode_Compare(node.symbols[at], value) == 0:
                return write_long(buffer, at)
    return False


cdef bint write_array(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    cdef Py_ssize_t count, at
    cdef bint is_list = PyList_Check(value)
    if not is_list and not PyTuple_Check(value):
        return False
    count = PyList_GET_SIZE(value) if is_list else PyTuple_GET_SIZE(value)
    if count and not write_long(buffer, count):
        return False
    for at in range(count):
        item = PyList_GET_ITEM(value, at) if is_list else PyTuple_GET_ITEM(value, at)
        if not write_value(node.children, buffer, item):
            return False
    return write_long(buffer, 0)


cdef bint write_map(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    cdef Py_ssize_t at = 0, count
    cdef PyObject *key
    cdef PyObject *item
    if not PyDict_Check(value):
        return False
    count = PyDict_Size(value)
    if count and not write_long(buffer, count):
        return False
    while PyDict_Next(value, &at, &key, &item):
        if not write_text(buffer, key) or not write_value(node.children, buffer, item):
            return False
    return write_long(buffer, 0)


cdef bint write_record(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    cdef const Node *field = node.children
    cdef const Node *end = node.children + node.count
    cdef PyObject *member
    if <PyObject *>Py_TYPE(value) != node.cls:
        return False
    while field < end:
        member = MEMBER(value, field.offset)
        if member == NULL or not write_value(field, buffer, member):
            return False
        field += 1
    return True


cdef bint write_value(const Node *node, Buffer *buffer, PyObject *value) noexcept:
    if node.nullable:
        if value == Py_None:
            return write_long(buffer, 0)
        if not write_long(buffer, 1):
            return False
    if node.kind == TEXT:
        return write_text(buffer, value)
    if node.kind == LONG or node.kind == INT:
        return write_integer(node, buffer, value)
    if node.kind == ENUM:
        return write_symbol(node, buffer, value)
    if node.kind == BOOLEAN:
        if (value != Py_True and value != Py_False) or not reserve(buffer, 1):
            return False
        buffer.data[buffer.used] = value == Py_True
        buffer.used += 1
        return True
    if node.kind == BYTES:
        return PyBytes_Check(value) and write_sized(buffer, PyBytesData(value), PyBytesSize(value))
    if node.kind == ARRAY:
        return write_array(node, buffer, value)
    if node.kind == MAP:
        return write_map(node, buffer, value)
    return write_record(node, buffer, value)


# --- For Python ---

cdef class Program:
    """How the records of one schema are read into one class and written.

    `schema` is parsed JSON, `classes` the msgspec classes of its records by name. Raises ValueError for a schema or a
    class that it does not support.
    """

    cdef Node root
    cdef readonly object cls
    cdef list kept  # everything that the nodes point to
    cdef list blocks

    def __init__(self, schema, classes):
        self.kept = []
        self.blocks = []
        self.cls = classes[schema["name"]]
        self.build(&self.root, schema, None, classes, schema["name"])

    def __dealloc__(self):
        for block in self.blocks or ():
            PyMem_Free(<void *><size_t>block)

    cdef void *memory(self, Py_ssize_t count, size_t size) except NULL:
        cdef void *block = PyMem_Calloc(count, size)
        if block == NULL:
            raise MemoryError
        self.blocks.append(<size_t>block)
        return block

    cdef PyObject *keep(self, object value):
        self.kept.append(value)
        return <PyObject *>value

    cdef int build(self, Node *node, object schema, object hint, object classes, str path) except -1:
        cdef Py_ssize_t at
        if type(schema) is list:
            if len(schema) != 2 or schema[0] != "null" or type(schema[1]) is list:
                raise ValueError(f"{path}: the only unions are those with null: {schema}")
            node.nullable = True
            schema = schema[1]
        name = schema if type(schema) is str else schema["type"]
        if name not in KINDS:
            raise ValueError(f"{path}: type {name} is not supported")
        node.kind = KINDS[name]
        node.path = self.keep(path)
        node.interned = path.rpartition(".")[2] in REPEATED
        node.size_min = 1
        if node.kind == ENUM:
            node.count = len(schema["symbols"])
            node.symbols = <PyObject **>self.memory(node.count, sizeof(void *))
            for at, symbol in enumerate(schema["symbols"]):
                node.symbols[at] = self.keep(_interned(symbol))
        elif node.kind == ARRAY or node.kind == MAP:
            node.is_tuple = typing.get_origin(hint) is tuple
            node.children = <Node *>self.memory(1, sizeof(Node))
            self.build(node.children, schema["items" if node.kind == ARRAY else "values"], None, classes, path)
        elif node.kind == RECORD:
            self.build_record(node, schema, classes, path)
        return 0

    cdef int build_record(self, Node *node, object schema, object classes, str path) except -1:
        cdef Py_ssize_t at
        cls = classes[schema["name"]]
        fields = schema["fields"]
        hints = {field.name: field.type for field in msgspec.structs.fields(cls)}
        if hints.keys() != {field["name"] for field in fields}:
            raise ValueError(f"{path}: schema and class do not have the same fields")
        if cls.__flags__ & (1 << 14) or hasattr(cls, "__post_init__"):
            raise ValueError(f"{path}: {cls.__name__} needs more than an allocation")
        node.cls = self.keep(cls)
        node.count = len(fields)
        node.children = <Node *>self.memory(max(node.count, 1), sizeof(Node))
        node.size_min = max(node.count, 1)
        for at, field in enumerate(fields):
            name = field["name"]
            node.children[at].offset = member_offset(getattr(cls, name))
            if node.children[at].offset < 0:
                raise ValueError(f"{path}.{name} is not a plain member")
            self.build(&node.children[at], field["type"], hints[name], classes, f"{path}.{name}")
        return 0


cdef object _interned(object text):
    import sys

    return sys.intern(text)


cdef class Codec:
    """Writes and reads records in the Confluent wire format.

    `plain_encode(event)` and `plain_decode(bytes)` handle everything without a program. `writes` maps a schema id to
    the program whose class is written with it; `read` adds ids that are only read.
    """

    cdef object plain_encode, plain_decode
    cdef dict by_id, by_class
    cdef Slot slots[SLOTS]
    cdef Buffer buffer

    def __init__(self, writes, plain_encode, plain_decode):
        self.plain_encode = plain_encode
        self.plain_decode = plain_decode
        self.by_id = {}
        self.by_class = {}
        for schema_id, program in writes.items():
            self.read(schema_id, program)
            self.by_class[program.cls] = (program, b"\x00" + schema_id.to_bytes(4, "big"))

    def __dealloc__(self):
        PyMem_Free(self.buffer.data)

    def read(self, uint32_t schema_id, Program program not None):
        """Read the records of a schema id by a program."""
        self.by_id[schema_id] = program
        self.slots[schema_id & (SLOTS - 1)].program = NULL

    def decode(self, data):
        """Return the event in bytes or another buffer.

        Raises CodecError for bytes that are not one of our records, and what `plain_decode` raises.
        """
        cdef Py_buffer view
        if type(data) is bytes:
            return self.decoded(data, <const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.decoded(data, <const uint8_t *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    cdef object decoded(self, object data, const uint8_t *start, Py_ssize_t size):
        cdef uint32_t schema_id
        cdef Slot *slot
        cdef Cursor cursor
        cdef PyObject *made
        if size < HEAD or start[0] != 0:
            return self.plain_decode(bytes(data))
        schema_id = <uint32_t>start[1] << 24 | <uint32_t>start[2] << 16 | <uint32_t>start[3] << 8 | start[4]
        slot = &self.slots[schema_id & (SLOTS - 1)]
        if slot.program == NULL or slot.schema_id != schema_id:
            program = self.by_id.get(schema_id)
            if program is None:
                return self.plain_decode(bytes(data))
            slot.schema_id = schema_id
            slot.program = <PyObject *>program
        cursor.at = start + HEAD
        cursor.end = start + size
        made = read_record(&(<Program>slot.program).root, &cursor)
        if made != NULL and cursor.at != cursor.end:
            Py_DECREF(made)
            made = fail(&(<Program>slot.program).root, b"is too short: bytes follow the record")
        if made == NULL:
            try:
                take(NULL)
            except ValueError as error:
                raise CodecError(f"not readable: {error}") from None
        return take(made)

    def encode(self, event):
        """Return the event's bytes; raises what `plain_encode` raises for an event that no program can encode."""
        cdef Buffer *buffer = &self.buffer
        found = self.by_class.get(type(event))
        if found is None:
            return self.plain_encode(event)
        program, prefix = found
        buffer.used = 0
        if reserve(buffer, HEAD):
            memcpy(buffer.data, PyBytes_AS_STRING(prefix), HEAD)
            buffer.used = HEAD
            if write_record(&(<Program>program).root, buffer, <PyObject *>event):
                made = PyBytes_FromStringAndSize(<char *>buffer.data, buffer.used)
                if buffer.room > BUFFER_KEPT:
                    PyMem_Free(buffer.data)
                    buffer.data = NULL
                    buffer.room = 0
                return made
        PyErr_Clear()
        return self.plain_encode(event)
