"""Offsets at which CPython keeps the values of `__slots__` in an instance."""

cdef extern from *:
    """
    #include <structmember.h>
    /* Where the attribute that this descriptor stands for lies in an instance; 0: it is none of `__slots__`. */
    static inline Py_ssize_t member_offset(PyObject *descriptor)
    {
        const PyMemberDef *member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX && !member->flags ? member->offset : 0;
    }
    """
    Py_ssize_t member_offset(object descriptor)  # a `MemberDescriptorType`
