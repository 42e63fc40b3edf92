// The errors of core/error.hpp as Python exceptions.
#include "bind/module_parts.hpp"
#include "core/error.hpp"

namespace arraynn {

void bind_errors(py::module_&) {
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const ValueError& e) {
      py::set_error(PyExc_ValueError, e.what());
    } catch (const TypeError& e) {
      py::set_error(PyExc_TypeError, e.what());
    } catch (const NotImplemented& e) {
      py::set_error(PyExc_NotImplementedError, e.what());
    } catch (const OutOfMemory& e) {
      py::set_error(PyExc_MemoryError, e.what());
    }
  });
}

}  // namespace arraynn
