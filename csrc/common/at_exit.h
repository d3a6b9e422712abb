// What becomes of threads that still compute when the interpreter ends.
#pragma once

#include <Python.h>

#include <exception>
#if defined(__linux__)
#include <pthread.h>
#include <unistd.h>
#include <unwind.h>
#endif

namespace packrank {

#if defined(__linux__) && PY_VERSION_HEX < 0x030E0000

inline bool is_ending() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

// Whether this thread is within pthread_exit().
inline bool is_being_ended() {
    bool found = false;
    const auto look = [](_Unwind_Context* frame, void* result) {
        void* const place = reinterpret_cast<void*>(_Unwind_GetIP(frame) - 1);
        if (_Unwind_FindEnclosingFunction(place) != reinterpret_cast<void*>(&pthread_exit))
            return _URC_NO_REASON;
        *static_cast<bool*>(result) = true;
        return _URC_END_OF_STACK;
    };
    _Unwind_Backtrace(look, &found);
    return found;
}

// Before 3.14 Python ends a daemon thread that asks for the interpreter's lock by then with
// pthread_exit(), which on Linux unwinds its stack; a destructor that lets nothing through, as that
// of pybind11::gil_scoped_release (PyTorch's operators, our kernels), makes that std::terminate()
// and the whole process abort. From here on such a thread waits for the process to end instead, as
// it does from 3.14 on. What else terminates goes to the handler that was there before.
inline void hold_threads_at_exit() {
    static std::terminate_handler before = nullptr;
    if (before != nullptr) return;
    before = std::get_terminate();
    std::set_terminate([] {
        while (is_ending() && is_being_ended()) pause();
        before();
    });
}

#else

inline void hold_threads_at_exit() {}

#endif

}  // namespace packrank
