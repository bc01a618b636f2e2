// A program like RTAB-Map around Python: it embeds the interpreter, calls init(dim) in its main
// thread and extract(image) in another one, and reads the answer's memory as it is.
//
//   rtabmap_host FOLDER MODULE DIM ROWS COLS CHANNELS <image >descriptor
//
// Exit codes: 2 extract raised, 3 RTAB-Map would crash, 4 the answer is not what it reads.
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <numpy/arrayobject.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <thread>
#include <vector>

static void leave(int code)
{
  if (code && PyErr_Occurred()) {
    PyErr_Print();
  }
  std::fflush(nullptr);
  std::_Exit(code);  // as a SLAM process that is killed: no destructor of Python's runs
}

static PyObject * call_init(const char * folder, const char * name, int dim)
{
  PyObject * path = PySys_GetObject("path");
  PyList_Append(path, PyUnicode_FromString(folder));
  if (_import_array() < 0) {
    leave(3);
  }
  PyObject * module = PyImport_ImportModule(name);
  PyObject * result = module ? PyObject_CallMethod(module, "init", "i", dim) : nullptr;
  if (!result) {
    leave(3);
  }
  return PyObject_GetAttrString(module, "extract");
}

static void call_extract(PyObject * extract, std::vector<char> & pixels, npy_intp * shape)
{
  PyGILState_STATE state = PyGILState_Ensure();
  PyObject * image = PyArray_SimpleNewFromData(3, shape, NPY_BYTE, pixels.data());
  PyObject * answer = PyObject_CallFunctionObjArgs(extract, image, nullptr);
  if (!answer) {
    leave(2);
  }
  if (!PyArray_Check(answer)) {
    leave(4);
  }
  PyArrayObject * row = reinterpret_cast<PyArrayObject *>(answer);
  if (PyArray_NDIM(row) != 2 || PyArray_DIM(row, 0) != 1 || PyArray_TYPE(row) != NPY_FLOAT ||
    !PyArray_IS_C_CONTIGUOUS(row))
  {
    leave(4);
  }
  std::fwrite(PyArray_DATA(row), sizeof(float), PyArray_DIM(row, 1), stdout);
  PyGILState_Release(state);
}

int main(int, char ** argv)
{
  npy_intp shape[3] = {std::atoi(argv[4]), std::atoi(argv[5]), std::atoi(argv[6])};
  std::vector<char> pixels{std::istreambuf_iterator<char>(std::cin), {}};
  Py_InitializeEx(0);
  PyObject * extract = call_init(argv[1], argv[2], std::atoi(argv[3]));
  PyEval_SaveThread();
  std::thread(call_extract, extract, std::ref(pixels), shape).join();
  leave(0);
}
