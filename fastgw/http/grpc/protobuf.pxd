# The types of `protobuf.py`.

cpdef bytes varint(unsigned long long number)
cpdef bytes field(bytes tag, bytes payload)
cpdef bytes key_value(str name, value)
