// What becomes of threads that still compute when the interpreter ends.
#pragma once

#include <Python.h>
#include <unistd.h>

#include <exception>
#if defined(__linux__)
#include <sys/syscall.h>
#endif

namespace packrank {

// Before 3.14 Python ends a daemon thread that asks for the interpreter's lock by then with
// pthread_exit(), which on Linux unwinds its stack; a destructor that lets nothing through, as that
// of pybind11::gil_scoped_release (PyTorch's operators, our kernels), makes that std::terminate()
// and the whole process abort. From here on such a thread waits for the process to end instead, as
// it does from 3.14 on. Everything else goes to the handler that was there before.
inline void hold_threads_at_exit() {
#if defined(__linux__) && PY_VERSION_HEX < 0x030E0000
    static std::terminate_handler before = nullptr;
    if (before != nullptr) return;
    before = std::set_terminate([] {
#if PY_VERSION_HEX >= 0x030D0000
        const bool ending = Py_IsFinalizing();
#else
        const bool ending = _Py_IsFinalizing();
#endif
        const bool main_thread = syscall(SYS_gettid) == getpid();
        while (ending && !main_thread && !std::current_exception()) pause();
        before();
    });
#endif
}

}  // namespace packrank
