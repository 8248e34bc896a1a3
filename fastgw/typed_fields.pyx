# cython: language_level=3
"""See `typed_fields.pyi`."""

from cpython.object cimport PyObject

from types import GetSetDescriptorType

cdef extern from *:
    """
    #include <structmember.h>
    /* Have the field at this place read and written as one of `__slots__` is. */
    static int define_member(PyTypeObject *owner, PyObject *name, Py_ssize_t place)
    {
        const char *text = PyUnicode_AsUTF8(name); /* of a name in the type, which is there as long as it is */
        PyMemberDef *member = PyMem_Calloc(1, sizeof(*member)); /* as long as the type, which is never freed */
        PyObject *descriptor;
        int failed;
        if (text == NULL || member == NULL)
            return PyErr_Occurred() ? -1 : (PyErr_NoMemory(), -1);
        member->name = text;
        member->type = T_OBJECT_EX;
        member->offset = place;
        descriptor = PyDescr_NewMember(owner, member);
        if (descriptor == NULL)
            return -1;
        failed = PyDict_SetItem(owner->tp_dict, name, descriptor);
        Py_DECREF(descriptor);
        PyType_Modified(owner);
        return failed;
    }
    /* Return where an instance holds this object; 0: nowhere. */
    static Py_ssize_t place_of(PyObject *instance, PyObject *held)
    {
        Py_ssize_t place;
        for (place = sizeof(PyObject); place < Py_TYPE(instance)->tp_basicsize; place += sizeof(PyObject *))
            if (*(PyObject **)((char *)instance + place) == held)
                return place;
        return 0;
    }
    """
    int define_member(type owner, object name, Py_ssize_t place) except -1
    Py_ssize_t place_of(object instance, object held)


def expose_fields(type owner not None):
    instance = owner.__new__(owner)
    for name, descriptor in list(owner.__dict__.items()):
        if type(descriptor) is not GetSetDescriptorType:
            continue
        mark = object()
        try:
            setattr(instance, name, mark)
        except (AttributeError, TypeError):  # a property, or a field of another type
            continue
        place = place_of(instance, mark)
        if place:
            define_member(owner, name, place)
