# C types of sharing.py; the logic stands there and runs without this file.
cimport cython

cdef long long _OWN_MAXIMUM, _UNFIT, _INACTIVE, _MOST_WEIGHT, _MOST_MA, _FRACTION, _SHIFT, _UP, _FINEST
cdef long long _OFF, _RISING, _SETTLED, _LATER


cdef class Tree:
    cdef readonly Py_ssize_t connectors
    cdef readonly Py_ssize_t rows
    cdef readonly object room
    cdef readonly object least
    cdef readonly object most
    cdef readonly object weight
    cdef readonly object priority
    cdef readonly object order
    cdef readonly object x
    cdef readonly object bound
    cdef long long[::1] _room
    cdef long long[::1] _least
    cdef long long[::1] _most
    cdef long long[::1] _weight
    cdef long long[::1] _priority
    cdef long long[::1] _order
    cdef long long[::1] _x
    cdef long long[::1] _bound
    cdef long long[::1] _above
    cdef long long[::1] _near
    cdef long long[::1] _times_near
    cdef long long[::1] _near_start
    cdef long long[::1] _rows_of
    cdef long long[::1] _times_of
    cdef long long[::1] _start
    cdef long long[::1] _members
    cdef long long[::1] _times_in
    cdef long long[::1] _first
    cdef long long[::1] _part
    cdef long long[::1] _fine
    cdef long long[::1] _low
    cdef long long[::1] _top
    cdef long long[::1] _picked
    cdef long long[::1] _picked_times
    cdef long long[::1] _free
    cdef long long[::1] _sum_min
    cdef long long[::1] _sum_max
    cdef long long[::1] _sum_weight
    cdef long long[::1] _settled
    cdef long long[::1] _solved
    cdef long long[::1] _num
    cdef long long[::1] _den
    cdef long long[::1] _heap
    cdef long long[::1] _key
    cdef Py_ssize_t _heaped
    cdef Py_ssize_t _rising

    cpdef bint share(self, Py_ssize_t asking, bint strict=*) except -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, up="long long",
                   least="long long", most="long long", fits=bint)
    cdef bint _everything_fits(self, Py_ssize_t asking) except -1

    @cython.locals(r=Py_ssize_t)
    cdef bint _minimums_fit(self) except -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, full=Py_ssize_t,
                   least="long long", fits=bint)
    cdef int _admit(self, Py_ssize_t asking) except? -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, begin=Py_ssize_t, end=Py_ssize_t)
    cdef int _fill(self, Py_ssize_t asking, bint strict) except? -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, up="long long", times="long long",
                   left="long long", contended=bint)
    cdef int _fill_class(self, Py_ssize_t begin, Py_ssize_t end) except? -1

    @cython.locals(at="long long")
    cdef long long _least_level(self, Py_ssize_t row, long long left) except? -9

    @cython.locals(i=Py_ssize_t, j=Py_ssize_t, count=Py_ssize_t, kept=Py_ssize_t, left="long long",
                   times="long long", wanted_ma="long long",
                   weights="long long", at="long long", whole="long long", rest="long long",
                   low_weights="long long", low_ma="long long", top_weights="long long", top_ma="long long",
                   missing="long long", spare="long long", drop_top=bint, drop_low=bint)
    cdef long long _level(self, Py_ssize_t row) except? -9

    @cython.locals(i=Py_ssize_t, j=Py_ssize_t, num="long long", den="long long", at="long long",
                   weight="long long")
    cdef int _stop(self, Py_ssize_t row) except? -1

    @cython.locals(r=Py_ssize_t, j=Py_ssize_t, times="long long")
    cdef int _settle(self, Py_ssize_t i, long long fine, long long bound) except? -1

    @cython.locals(at=Py_ssize_t, above=Py_ssize_t)
    cdef int _push(self, Py_ssize_t row, long long key) except? -1

    cdef int _pop(self) except? -1

    @cython.locals(row=Py_ssize_t, child=Py_ssize_t, below=Py_ssize_t, other=Py_ssize_t, key="long long",
                   least="long long")
    cdef int _sink(self, Py_ssize_t at) except? -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, up="long long", x="long long",
                   least="long long", left="long long", everybody=bint)
    cpdef bint certified(self, Py_ssize_t asking, bint strict=*) except -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, least="long long", fits=bint)
    cdef bint _rightly_admitted(self, Py_ssize_t asking) except -1

    @cython.locals(r=Py_ssize_t, i=Py_ssize_t, k=Py_ssize_t, j=Py_ssize_t, begin=Py_ssize_t, end=Py_ssize_t,
                   x="long long", below=bint)
    cdef bint _rightly_stopped(self, Py_ssize_t asking, bint strict) except -1

    @cython.locals(r="long long", j=Py_ssize_t)
    cdef bint _is_stopped(self, Py_ssize_t i) except -1

    @cython.locals(most="long long")
    cdef bint _stops(self, Py_ssize_t row, Py_ssize_t i) except -1
