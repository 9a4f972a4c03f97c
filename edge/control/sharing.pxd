# C types of sharing.py; the logic stands there and runs without this file.
cimport cython


cdef class Tree:
    cdef readonly Py_ssize_t connectors
    cdef readonly Py_ssize_t rows
    cdef long long[::1] _rows_of
    cdef long long[::1] _start
    cdef long long[::1] _members
    cdef long long[::1] _first
    cdef long long[::1] _used
    cdef long long[::1] _x
    cdef long long[::1] _bound
    cdef long long[::1] _on

    @cython.locals(w=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, r=Py_ssize_t, fits=bint)
    cdef int _admit(
        self, long long[::1] room, long long[::1] least, long long[::1] most, long long[::1] wanting
    ) except? -1

    @cython.locals(i=Py_ssize_t, k=Py_ssize_t, r=Py_ssize_t, tightest=Py_ssize_t,
                   at="long long", level="long long")
    cdef int _fill(self, long long[::1] room, long long[::1] least, long long[::1] most) except? -1

    @cython.locals(i=Py_ssize_t, k=Py_ssize_t, settled="long long", members="long long", top="long long",
                   at_most="long long", low="long long", high="long long", middle="long long",
                   total="long long")
    cdef long long _level(
        self, Py_ssize_t row, long long[::1] room, long long[::1] least, long long[::1] most
    ) except? -9
