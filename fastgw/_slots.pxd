"""Offsets at which CPython keeps the values of `__slots__` in an instance, and accesses to them."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

cdef extern from *:
    """
    #include <structmember.h>
    /* Where the attribute that this descriptor stands for lies in an instance; 0: it is none of `__slots__`. */
    static inline Py_ssize_t member_offset(PyObject *descriptor)
    {
        const PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX && !member->flags ? member->offset : 0;
    }
    /* The member by which instances of exactly this class keep an attribute. NULL: the class keeps it in another way. */
    static inline const PyMemberDef *member_of(PyTypeObject *owner, PyObject *name)
    {
        PyObject *descriptor = _PyType_Lookup(owner, name);
        const PyMemberDef *member;
        if (owner->tp_getattro != PyObject_GenericGetAttr || descriptor == NULL ||
            !Py_IS_TYPE(descriptor, &PyMemberDescr_Type) || !PyType_IsSubtype(owner, PyDescr_TYPE(descriptor)))
            return NULL;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX && !(member->flags & ~READONLY) ? member : NULL;
    }
    static inline int can_set(PyTypeObject *owner, const PyMemberDef *member)
    {
        return !member->flags && owner->tp_setattro == PyObject_GenericSetAttr;
    }
    /* An attribute, and where instances of one class keep it. The pointers are references that are never given up. */
    typedef struct {
        PyTypeObject *reads; /* class; NULL: it is not in a slot of it, or nothing was learned */
        PyTypeObject *writes; /* likewise */
        Py_ssize_t at;
        PyObject *name;
    } Slot;
    __attribute__((noinline, cold, unused))
    static PyObject *read_by_name(const Slot *slot, PyObject *owner)
    {
        if (slot->name != NULL)
            return PyObject_GetAttr(owner, slot->name);
        PyErr_SetString(PyExc_SystemError, "an attribute that was not learned");
        return NULL;
    }
    __attribute__((noinline, cold, unused))
    static int write_by_name(const Slot *slot, PyObject *owner, PyObject *value)
    {
        if (slot->name != NULL)
            return PyObject_SetAttr(owner, slot->name, value);
        PyErr_SetString(PyExc_SystemError, "an attribute that was not learned");
        return -1;
    }
    /* PERF: 1,400 instructions less per request over TLS than as functions of their own, which gcc makes of them
       otherwise (CPython 3.11, micro/tls). */
    __attribute__((always_inline))
    static inline PyObject *read_slot(const Slot *slot, PyObject *owner)
    {
        if (Py_TYPE(owner) == slot->reads) {
            PyObject *value = *(PyObject **)((char *)owner + slot->at);
            if (value != NULL)
                return Py_NewRef(value);
        }
        return read_by_name(slot, owner);
    }
    __attribute__((always_inline))
    static inline int write_slot(const Slot *slot, PyObject *owner, PyObject *value)
    {
        PyObject **place;
        PyObject *before;
        if (Py_TYPE(owner) != slot->writes)
            return write_by_name(slot, owner, value);
        place = (PyObject **)((char *)owner + slot->at);
        before = *place;
        *place = Py_NewRef(value);
        Py_XDECREF(before);
        return 0;
    }
    """
    ctypedef struct PyTypeObject:
        pass
    ctypedef struct PyMemberDef:
        Py_ssize_t offset
    PyTypeObject* type_of "Py_TYPE"(object instance)
    Py_ssize_t member_offset(object descriptor)  # a `MemberDescriptorType`
    const PyMemberDef* member_of(PyTypeObject* owner, object name)
    bint can_set(PyTypeObject* owner, const PyMemberDef* member)
    ctypedef struct Slot:
        PyTypeObject* reads
        PyTypeObject* writes
        Py_ssize_t at
        PyObject* name
    # Return an attribute, as `getattr` does; without a call if `owner` is of the learned class and has set it.
    #
    # Each access checks the class and whether the attribute is set, and returns a reference of its own. So it is as
    # safe as in Python, whatever `owner` is and whatever runs in between.
    object read "read_slot"(const Slot* slot, object owner)
    # Set an attribute, as `setattr` does. The previous value is released last, because that may run any code.
    int write "write_slot"(const Slot* slot, object owner, object value) except -1


cdef inline int learn(Slot* slot, type owner, str name) except -1:
    """Look up where instances of exactly this class keep an attribute."""
    cdef const PyMemberDef* member = member_of(<PyTypeObject*>owner, name)
    Py_INCREF(name)
    slot.name = <PyObject*>name
    slot.reads = slot.writes = NULL
    if member is not NULL:
        Py_INCREF(owner)
        slot.at = member.offset
        slot.reads = <PyTypeObject*>owner
        if can_set(slot.reads, member):
            slot.writes = slot.reads
    return 0
