# The parts of libnghttp2 that sessions use.

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "nghttp2/nghttp2.h":
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_nv:
        uint8_t* name
        uint8_t* value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_option:
        pass
    ctypedef struct nghttp2_info:
        const char* version_str
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_data:
        nghttp2_frame_hd hd
        size_t padlen
    ctypedef struct nghttp2_headers:
        nghttp2_frame_hd hd
        int cat
    ctypedef struct nghttp2_rst_stream:
        nghttp2_frame_hd hd
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        nghttp2_frame_hd hd
        int32_t last_stream_id
        uint32_t error_code
        uint8_t* opaque_data
        size_t opaque_data_len
    ctypedef struct nghttp2_ping:
        nghttp2_frame_hd hd
        uint8_t opaque_data[8]
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_data data
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
        nghttp2_ping ping
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value
    ctypedef union nghttp2_data_source:
        int fd
        void* ptr
    ctypedef ssize_t (*nghttp2_data_source_read_callback)(
        nghttp2_session*, int32_t, uint8_t*, size_t, uint32_t*, nghttp2_data_source*, void*
    ) noexcept
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback

    nghttp2_info* nghttp2_version(int least)
    const char* nghttp2_strerror(int code)
    int nghttp2_session_callbacks_new(nghttp2_session_callbacks**)
    void nghttp2_session_callbacks_set_on_begin_frame_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_begin_headers_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_header_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_invalid_header_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_frame_recv_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_frame_send_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_send_data_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_unpack_extension_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_frame_not_send_callback(nghttp2_session_callbacks*, void*)
    void nghttp2_session_callbacks_set_on_stream_close_callback(nghttp2_session_callbacks*, void*)
    int nghttp2_option_new(nghttp2_option**)
    void nghttp2_option_set_no_auto_window_update(nghttp2_option*, int)
    void nghttp2_option_set_max_send_header_block_length(nghttp2_option*, size_t)
    void nghttp2_option_set_no_closed_streams(nghttp2_option*, int)
    void nghttp2_option_set_max_settings(nghttp2_option*, size_t)
    void nghttp2_option_set_user_recv_extension_type(nghttp2_option*, uint8_t)
    int nghttp2_session_server_new2(nghttp2_session**, nghttp2_session_callbacks*, void*, nghttp2_option*)
    int nghttp2_session_client_new2(nghttp2_session**, nghttp2_session_callbacks*, void*, nghttp2_option*)
    void nghttp2_session_del(nghttp2_session*)
    ssize_t nghttp2_session_mem_recv(nghttp2_session*, const uint8_t*, size_t)
    ssize_t nghttp2_session_mem_send(nghttp2_session*, const uint8_t**)
    int nghttp2_session_want_read(nghttp2_session*)
    int nghttp2_session_want_write(nghttp2_session*)
    int nghttp2_session_consume_connection(nghttp2_session*, size_t)
    int nghttp2_session_consume(nghttp2_session*, int32_t, size_t)
    int nghttp2_session_resume_data(nghttp2_session*, int32_t)
    void* nghttp2_session_get_stream_user_data(nghttp2_session*, int32_t)
    int nghttp2_session_set_stream_user_data(nghttp2_session*, int32_t, void*)
    int nghttp2_session_get_stream_remote_close(nghttp2_session*, int32_t)
    int nghttp2_session_set_local_window_size(nghttp2_session*, uint8_t, int32_t, int32_t)
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session*)
    uint32_t nghttp2_session_get_remote_settings(nghttp2_session*, int)
    int32_t nghttp2_session_get_remote_window_size(nghttp2_session*)
    int32_t nghttp2_session_get_stream_remote_window_size(nghttp2_session*, int32_t)
    size_t nghttp2_session_get_outbound_queue_size(nghttp2_session*)
    void* nghttp2_session_find_stream(nghttp2_session*, int32_t)
    int nghttp2_session_terminate_session(nghttp2_session*, uint32_t)
    int nghttp2_submit_settings(nghttp2_session*, uint8_t, const nghttp2_settings_entry*, size_t)
    int nghttp2_submit_response(nghttp2_session*, int32_t, const nghttp2_nv*, size_t, const nghttp2_data_provider*)
    int32_t nghttp2_submit_request(
        nghttp2_session*, const void*, const nghttp2_nv*, size_t, const nghttp2_data_provider*, void*
    )
    int32_t nghttp2_submit_headers(
        nghttp2_session*, uint8_t, int32_t, const void*, const nghttp2_nv*, size_t, void*
    )
    int nghttp2_submit_trailer(nghttp2_session*, int32_t, const nghttp2_nv*, size_t)
    int nghttp2_submit_rst_stream(nghttp2_session*, uint8_t, int32_t, uint32_t)
    int nghttp2_submit_shutdown_notice(nghttp2_session*)
    int nghttp2_submit_goaway(nghttp2_session*, uint8_t, int32_t, uint32_t, const uint8_t*, size_t)
    int nghttp2_submit_ping(nghttp2_session*, uint8_t, const uint8_t*)

cdef enum:
    F_DATA = 0
    F_HEADERS = 1
    F_PRIORITY = 2
    F_RST_STREAM = 3
    F_SETTINGS = 4
    F_PING = 6
    F_GOAWAY = 7
    F_WINDOW_UPDATE = 8
    F_CONTINUATION = 9
    FIRST_UNKNOWN = 10
    LAST_UNKNOWN = 255
    FLAG_END_STREAM = 1
    FLAG_ACK = 1
    FLAG_END_HEADERS = 4
    FLAG_PADDED = 8
    FLAG_PRIORITY = 32
    PRIORITY_FIELDS = 5  # bytes before the header block
    CAT_REQUEST = 0
    DATA_FLAG_EOF = 1
    DATA_FLAG_NO_END_STREAM = 2
    DATA_FLAG_NO_COPY = 4
    NV_NO_INDEX = 1
    NV_NO_COPY = 6  # neither of the name nor of the value
    ERR_WOULDBLOCK = -504
    ERR_DEFERRED = -508
    ERR_PAUSE = -526
    ERR_STREAM_CLOSED = -510
    ERR_STREAM_CLOSING = -511
    ERR_REFUSED_STREAM = -533
    ERR_CANCEL = -535
    ERR_CALLBACK_FAILURE = -902
    ERR_FLOODED = -904
    ERR_TOO_MANY_CONTINUATIONS = -905  # of versions that fix CVE-2024-28182, before the limit here is reached
    SETTING_ENABLE_PUSH = 2
    SETTING_MAX_CONCURRENT_STREAMS = 3
    SETTING_INITIAL_WINDOW_SIZE = 4
    SETTING_MAX_HEADER_LIST_SIZE = 6
    SETTING_ENABLE_CONNECT_PROTOCOL = 8
    SETTING_NO_RFC7540_PRIORITIES = 9
