# cython: language_level=3
"""Turns of a helper process: see `helper_processes.turns`.

The handler of the signal runs in the middle of any library, so it does nothing but system calls.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <sched.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/time.h>

    static volatile sig_atomic_t is_working;
    static struct itimerval turn;

    static void end_turn(int number) {
        int kept = errno;
        sched_yield();
        if (is_working) setitimer(ITIMER_REAL, &turn, NULL);
        errno = kept;
    }

    static int prepare_turns(long microseconds) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = end_turn;
        action.sa_flags = SA_RESTART;
        turn.it_value.tv_usec = microseconds;
        return sigaction(SIGALRM, &action, NULL);
    }

    static void begin_turns(void) {
        is_working = 1;
        setitimer(ITIMER_REAL, &turn, NULL);
    }

    static void end_turns(void) {
        struct itimerval never;
        memset(&never, 0, sizeof never);
        is_working = 0;
        setitimer(ITIMER_REAL, &never, NULL);
    }
    """
    int prepare_turns(long microseconds)
    void begin_turns()
    void end_turns()


def set_length(long microseconds, /):
    """Set the length of a turn, which is less than a second, and the handler of its end."""
    if prepare_turns(microseconds):
        raise OSError("sigaction")


def begin_work():
    """Begin with the first turn."""
    begin_turns()


def end_work():
    """End the last turn."""
    end_turns()
