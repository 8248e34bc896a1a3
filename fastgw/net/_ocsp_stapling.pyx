# cython: language_level=3
"""OCSP responses in the contexts of OpenSSL behind `ssl.SSLContext`: the module `ssl` has no call for them.

OpenSSL calls `_answer_status` in the middle of a handshake, without the lock of the interpreter: nothing there is an
object of Python. The context that presents the certificate is asked, the one chosen by SNI. Responses are owned by
that context of OpenSSL, and freed with it (`_free_stapled`): connections may keep the context longer than Python does.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from libc.time cimport time, time_t

from fastgw.net._openssl cimport dlsym, is_known_python, library_of, session_of

cdef extern from *:
    """
    #include <pthread.h>
    typedef struct { PyObject_HEAD void *context; } ContextObject;
    typedef int (*StatusCallback)(void *, void *);
    typedef void (*FreeFunction)(void *, void *, void *, int, long, void *);
    typedef long (*ControlFunction)(void *, int, long, void *);
    typedef long (*CallbackFunction)(void *, int, void (*)(void));
    typedef void *(*GetFunction)(const void *);
    typedef int (*UpFunction)(void *);
    typedef void (*DropFunction)(void *);
    typedef int (*EncodeFunction)(const void *, unsigned char **);
    typedef int (*IndexFunction)(int, long, void *, void *, void *, FreeFunction);
    typedef int (*SetDataFunction)(void *, int, void *);
    typedef void *(*GetDataFunction)(const void *, int);
    typedef void *(*MallocFunction)(size_t, const char *, int);
    typedef void (*AnyFunction)(void);
    """
    ctypedef struct ContextObject:
        void* context
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef void (*AnyFunction)() noexcept nogil
    ctypedef void (*FreeFunction)(void*, void*, void*, int, long, void*) noexcept nogil
    ctypedef long (*ControlFunction)(void*, int, long, void*) noexcept nogil
    ctypedef long (*CallbackFunction)(void*, int, AnyFunction) noexcept nogil
    ctypedef void* (*GetFunction)(const void*) noexcept nogil
    ctypedef int (*UpFunction)(void*) noexcept nogil
    ctypedef void (*DropFunction)(void*) noexcept nogil
    ctypedef int (*EncodeFunction)(const void*, unsigned char**) noexcept nogil
    ctypedef int (*IndexFunction)(int, long, void*, void*, void*, FreeFunction) noexcept nogil
    ctypedef int (*SetDataFunction)(void*, int, void*) noexcept nogil
    ctypedef void* (*GetDataFunction)(const void*, int) noexcept nogil
    ctypedef void* (*MallocFunction)(size_t, const char*, int) noexcept nogil
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes) nogil
    int pthread_mutex_lock(pthread_mutex_t* mutex) nogil
    int pthread_mutex_unlock(pthread_mutex_t* mutex) nogil
    int pthread_mutex_destroy(pthread_mutex_t* mutex) nogil

import ssl
from hashlib import sha256

cdef enum:
    # of OpenSSL: SSL_CTRL_…, SSL_CERT_SET_…, SSL_TLSEXT_ERR_…, CRYPTO_EX_INDEX_SSL_CTX
    SET_STATUS_CALLBACK = 63
    SET_STATUS_ARGUMENT = 64
    SET_STATUS_RESPONSE = 71
    SET_CURRENT_CERTIFICATE = 117
    FIRST = 1
    NEXT = 2
    ANSWERED = 0
    NOT_ANSWERED = 3
    OF_CONTEXTS = 1
    MOST_CERTIFICATES = 16  # of one context: it has one for each type of key

cdef struct Openssl:
    ControlFunction control_context
    ControlFunction control_session
    CallbackFunction set_callback
    GetFunction certificate_of_session
    GetFunction certificate_of_context
    GetFunction context_of_session
    UpFunction keep_certificate
    DropFunction drop_certificate
    EncodeFunction encode
    IndexFunction new_index
    SetDataFunction set_data
    GetDataFunction get_data
    MallocFunction allocate

cdef struct Response:
    void* certificate  # a reference, so that no other one gets its address
    unsigned char* der
    size_t size
    time_t until

cdef struct Stapled:  # of one context
    pthread_mutex_t mutex
    int count
    Response* responses

cdef Openssl openssl
cdef int _index = -1
cdef str _why_missing = "this Python's module ssl is built in another way"


cdef int _find_openssl() except -1:
    """Look up the functions of the library that `ssl` uses, and verify that its objects are found in those of Python."""
    global _index, _why_missing
    cdef void* library
    cdef int index
    if not is_known_python():
        _why_missing = "it needs CPython 3.11 to 3.14"
        return 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)._sslobj
    library = library_of(made)
    if library is NULL:
        return 0
    openssl.control_context = <ControlFunction>dlsym(library, b"SSL_CTX_ctrl")
    openssl.control_session = <ControlFunction>dlsym(library, b"SSL_ctrl")
    openssl.set_callback = <CallbackFunction>dlsym(library, b"SSL_CTX_callback_ctrl")
    openssl.certificate_of_session = <GetFunction>dlsym(library, b"SSL_get_certificate")
    openssl.certificate_of_context = <GetFunction>dlsym(library, b"SSL_CTX_get0_certificate")
    openssl.context_of_session = <GetFunction>dlsym(library, b"SSL_get_SSL_CTX")
    openssl.keep_certificate = <UpFunction>dlsym(library, b"X509_up_ref")
    openssl.drop_certificate = <DropFunction>dlsym(library, b"X509_free")
    openssl.encode = <EncodeFunction>dlsym(library, b"i2d_X509")
    openssl.new_index = <IndexFunction>dlsym(library, b"CRYPTO_get_ex_new_index")
    openssl.set_data = <SetDataFunction>dlsym(library, b"SSL_CTX_set_ex_data")
    openssl.get_data = <GetDataFunction>dlsym(library, b"SSL_CTX_get_ex_data")
    openssl.allocate = <MallocFunction>dlsym(library, b"CRYPTO_malloc")
    if (
        openssl.control_context is NULL or openssl.control_session is NULL or openssl.set_callback is NULL
        or openssl.certificate_of_session is NULL or openssl.certificate_of_context is NULL
        or openssl.context_of_session is NULL or openssl.keep_certificate is NULL
        or openssl.drop_certificate is NULL or openssl.encode is NULL or openssl.new_index is NULL
        or openssl.set_data is NULL or openssl.get_data is NULL or openssl.allocate is NULL
    ):
        return 0
    if session_of(made) is NULL or openssl.context_of_session(session_of(made)) != _context_of(context):
        return 0
    index = openssl.new_index(OF_CONTEXTS, 0, NULL, NULL, NULL, &_free_stapled)
    if index > 0:
        _index = index
    return 0


cdef inline void* _context_of(context) noexcept:
    return (<ContextObject*><void*>context).context


_find_openssl()


def why_missing():
    """Return why contexts cannot have responses; None: they can."""
    return None if _index > 0 else _why_missing


def staple(context not None, responses not None):
    """Compiled `ocsp_stapling.staple`."""
    cdef void* of
    cdef void* certificate
    cdef Stapled* stapled
    cdef Response* made
    cdef Response* former
    cdef int count = 0, former_count
    cdef long found
    cdef bytes der
    if not isinstance(context, ssl.SSLContext) or _index <= 0:
        raise TypeError("expected a context of the module ssl, and a library that is known")
    of = _context_of(context)
    stapled = <Stapled*>openssl.get_data(of, _index)
    if stapled is NULL:
        if not responses:
            return
        stapled = _stapled_of(of)
    made = <Response*>calloc(MOST_CERTIFICATES, sizeof(Response))
    if made is NULL:
        raise MemoryError
    try:
        found = openssl.control_context(of, SET_CURRENT_CERTIFICATE, FIRST, NULL)
        while found > 0 and count < MOST_CERTIFICATES:
            certificate = openssl.certificate_of_context(of)
            response = responses.get(sha256(_encoded(certificate)).digest())
            if response is not None:
                der, until = response
                made[count].der = <unsigned char*>malloc(PyBytes_GET_SIZE(der) or 1)
                if made[count].der is NULL:
                    raise MemoryError
                memcpy(made[count].der, PyBytes_AS_STRING(der), PyBytes_GET_SIZE(der))
                made[count].size = PyBytes_GET_SIZE(der)
                made[count].until = <time_t><long long>int(until)
                openssl.keep_certificate(certificate)
                made[count].certificate = certificate
                count += 1
            found = openssl.control_context(of, SET_CURRENT_CERTIFICATE, NEXT, NULL)
    except BaseException:
        _free_responses(made, MOST_CERTIFICATES)
        raise
    finally:
        openssl.control_context(of, SET_CURRENT_CERTIFICATE, FIRST, NULL)
    pthread_mutex_lock(&stapled.mutex)
    former, former_count = stapled.responses, stapled.count
    stapled.responses, stapled.count = made, count
    pthread_mutex_unlock(&stapled.mutex)
    _free_responses(former, former_count)


cdef Stapled* _stapled_of(void* context) except NULL:
    """Make a context ask for responses."""
    cdef Stapled* stapled = <Stapled*>calloc(1, sizeof(Stapled))
    if stapled is NULL:
        raise MemoryError
    pthread_mutex_init(&stapled.mutex, NULL)
    if openssl.set_data(context, _index, stapled) != 1:
        _free_stapled(NULL, stapled, NULL, 0, 0, NULL)
        raise MemoryError
    openssl.control_context(context, SET_STATUS_ARGUMENT, 0, stapled)
    openssl.set_callback(context, SET_STATUS_CALLBACK, <AnyFunction>&_answer_status)
    return stapled


cdef bytes _encoded(void* certificate):
    cdef unsigned char* at
    cdef int size = 0 if certificate is NULL else openssl.encode(certificate, NULL)
    cdef bytes der
    if size <= 0:
        return b""
    der = PyBytes_FromStringAndSize(NULL, size)
    at = <unsigned char*>PyBytes_AS_STRING(der)
    openssl.encode(certificate, &at)
    return der


# --- without the lock of the interpreter ---


cdef int _answer_status(void* session, void* argument) noexcept nogil:
    """Answer a client's status request (RFC 6066 section 8) with the current response, if there is one."""
    cdef Stapled* stapled = <Stapled*>argument
    cdef void* certificate = openssl.certificate_of_session(session)
    cdef void* copied = NULL  # OpenSSL frees it
    cdef size_t size = 0
    cdef int index
    if certificate is NULL:
        return NOT_ANSWERED
    pthread_mutex_lock(&stapled.mutex)
    for index in range(stapled.count):
        if stapled.responses[index].certificate == certificate:
            if stapled.responses[index].until > time(NULL):
                size = stapled.responses[index].size
                copied = openssl.allocate(size, b"", 0)
                if copied is not NULL:
                    memcpy(copied, stapled.responses[index].der, size)
            break
    pthread_mutex_unlock(&stapled.mutex)
    if copied is NULL:
        return NOT_ANSWERED
    if openssl.control_session(session, SET_STATUS_RESPONSE, <long>size, copied) != 1:
        return NOT_ANSWERED
    return ANSWERED


cdef void _free_responses(Response* responses, int count) noexcept nogil:
    cdef int index
    if responses is NULL:
        return
    for index in range(count):
        free(responses[index].der)
        if responses[index].certificate is not NULL:
            openssl.drop_certificate(responses[index].certificate)
    free(responses)


cdef void _free_stapled(
    void* context, void* data, void* all_data, int index, long number, void* pointer
) noexcept nogil:
    """Free what belongs to a context, as OpenSSL frees it."""
    cdef Stapled* stapled = <Stapled*>data
    if stapled is NULL:
        return
    _free_responses(stapled.responses, stapled.count)
    pthread_mutex_destroy(&stapled.mutex)
    free(stapled)
