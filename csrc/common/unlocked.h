// The interpreter's lock, released for the length of a block.
#pragma once

#include <Python.h>

namespace packrank {

// What pybind11::gil_scoped_release is, but for the end of the process: a daemon thread that comes
// back then is ended by Python where it asks for the lock (pthread_exit), by unwinding its stack,
// and a destructor that lets nothing through would abort the process.
class Unlocked {
  public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    ~Unlocked() noexcept(false) { PyEval_RestoreThread(state_); }
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;

  private:
    PyThreadState* state_;
};

}  // namespace packrank
