# The types of `answers.py`.

from fastgw.composition.call cimport PartAnswer
from fastgw.composition.part cimport CompiledPart


cpdef use_answer(CompiledPart part, PartAnswer answer)
cpdef use_body(rules, shape, bytes body)
cdef bytes _checked(rules, bytes body)
