"""What a GPU would let pass, or crash at, and the emulator finds."""

import numpy as np
import pytest


@pytest.fixture
def floats(cupy):
    return cupy.zeros(6, np.float32)


def test_every_thread_of_every_block_runs_once(cupy, run, backwards):
    x = cupy.zeros((2, 3, 2, 4, 3, 2), np.int32)
    body = """
        int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        x[b * blockDim.x * blockDim.y * blockDim.z + t] += 1 + b * 1000 + t;
    """
    run("int* x", body, x, grid=(2, 3, 2), block=(2, 3, 4))
    np.testing.assert_array_equal(x.get().reshape(12, 24), 1 + np.arange(12)[:, None] * 1000 + np.arange(24))


def test_threads_that_depend_on_their_order_are_found_by_turning_it_round(run, floats, backwards):
    run("float* x", "x[threadIdx.x + 1] = x[threadIdx.x] + 1;", floats, block=(5,))
    assert floats.get().tolist() == ([0, 1, 1, 1, 1, 1] if backwards else [0, 1, 2, 3, 4, 5])


def test_numbers_of_the_types_that_numpy_gives_them(cupy, run, floats):
    pairs = cupy.asarray(np.array([(3, 0.5)], [("a", "i4"), ("b", "f4")]).view(np.uint8))
    parameters = "float* x, const Pair* p, int i, float f, long long l, bool b, double d"
    numbers = np.int32(1), np.float32(2.5), 2**40, True, 0.1  # Python's are int64, bool and float64, as for CuPy
    run(parameters, "x[i] = f + p->a + p->b; x[2] = l; x[3] = b; x[4] = d;", floats, pairs, *numbers)
    np.testing.assert_array_equal(floats.get(), np.array([0, 6, 2**40, 1, 0.1, 0], np.float32))


def test_structs_by_value(cupy, run, floats):
    pair = np.array([(3, 0.5)], [("a", "i4"), ("b", "f4")])
    run("float* x, Pair p", "x[0] = p.a; x[1] = p.b;", floats, pair)
    assert floats.get().tolist() == [3, 0.5, 0, 0, 0, 0]
    run("float* x, const Pair p", "x[0] = p.a + 1;", floats, pair[0])
    assert floats.get()[0] == 4


@pytest.mark.parametrize(
    "struct", [np.zeros(1, "i4,i4,i4"), np.zeros(2, "i4,f4"), np.zeros(1, np.int64), np.zeros(1, np.float32), 3]
)
def test_other_things_than_a_struct_are_refused(run, struct):
    with pytest.raises(TypeError):
        run("Pair p", "", struct)


def test_none_is_a_null_pointer(run, floats):
    run("float* x, const float* bias", "x[0] = bias ? bias[0] : 7;", floats, None)
    assert floats.get()[0] == 7


def test_the_bits_of_floats(cupy, run):
    x, bits = cupy.asarray(np.array([1, -0.0], np.float32)), cupy.zeros(2, np.uint32)
    run("float* x, unsigned* b", "for (int i : {0, 1}) b[i] = __float_as_uint(x[i]);", x, bits)
    assert bits.get().tolist() == [0x3F800000, 0x80000000]
    run("float* x", "x[0] = __uint_as_float(0x7F812345); x[1] = __uint_as_float(1);", x)
    assert x.get().view(np.uint32).tolist() == [0x7F812345, 1]  # a signalling NaN stays as it is


@pytest.mark.parametrize(
    ("parameter", "argument"),
    [
        ("int i", 1),
        ("float f", 0.5),
        ("long long i", np.int32(1)),
        ("unsigned i", np.int32(1)),
        ("float* x", np.float32(1)),
        ("float* x", np.zeros(6, np.float32)),
        ("float* x, int i", None),
    ],
)
def test_arguments_of_other_types_are_refused(run, floats, parameter, argument):
    with pytest.raises(TypeError):
        run(parameter, "", floats if argument is None else argument)


@pytest.mark.parametrize("parameter", ["const double* x", "const int* x", "unsigned char* x", "float x", "Pair* x"])
def test_arrays_of_other_types_are_refused(run, floats, parameter):
    with pytest.raises(TypeError):
        run(parameter, "", floats)


def test_arrays_that_are_not_contiguous_are_refused(run, floats):
    for x in floats[::2], floats[::-1], floats.reshape(2, 3).T:
        with pytest.raises(TypeError, match="strides"):
            run("const float* x", "", x)


@pytest.mark.parametrize("index", [-1, 6, 40, -(2**13), 2**13])
def test_writing_beside_an_array_is_found(run, floats, index):
    with pytest.raises(RuntimeError, match="beside"):
        run("float* x, int i", "x[i] = 1;", floats, np.int32(index))


@pytest.mark.parametrize("size", [1, 4, 6, 1024])
def test_what_is_read_beside_an_array_is_nan_or_not_there(cupy, run, floats, size):
    ones = cupy.full((size,), 1, np.float32)
    run("float* x, const float* ones, int i", "x[0] = ones[0]; x[1] = ones[i - 1];", floats, ones, np.int32(size))
    assert floats.get()[:2].tolist() == [1, 1]
    for index in -1, size, size + 4:
        try:
            run("float* x, const float* ones, int i", "x[0] = ones[i];", floats, ones, np.int32(index))
            assert np.isnan(floats.get()[0])
        except RuntimeError as error:
            assert f"beside its array float32 ({size},)" in str(error)
    with pytest.raises(RuntimeError, match=rf"beside its array float32 \({size},\): 1.* bytes behind it"):
        run("float* x, const float* ones, int i", "x[0] = ones[i];", floats, ones, np.int32(size + 4))


def test_a_kernel_that_crashes_is_an_error_and_no_end(run, floats):
    with pytest.raises(RuntimeError, match="no memory"):
        run("float* x, float* y", "x[0] = y[0];", floats, None)
    with pytest.raises(RuntimeError, match="divi"):
        run("float* x, int i", "x[0] = 1 / i;", floats, np.int32(0))
    run("float* x", "x[0] = 1;", floats)
    assert floats.get()[0] == 1


def test_an_array_given_twice_is_one(cupy, run, floats):
    run("float* x, const float* y", "x[0] = 5; x[1] = y[0] + 1;", floats, floats)
    assert floats.get()[:2].tolist() == [5, 6]


def test_parts_of_one_array_are_told_from_one_another(cupy, run):
    x = cupy.zeros(8, np.float32)
    with pytest.raises(RuntimeError, match="beside"):
        run("float* x", "x[4] = 1;", x[:4])
    run("float* x, float* y", "x[0] = 1; y[0] = 2;", x[:4], x[4:])
    assert x.get().tolist() == [1, 0, 0, 0, 2, 0, 0, 0]
    with pytest.raises(RuntimeError, match="overlap"):
        run("float* x, const float* y", "", x[:4], x[3:])
    run("const float* x, const float* y", "", x[:4], x[3:])


def test_a_number_too_large_for_its_type_is_found(run, floats):
    with pytest.raises(RuntimeError, match="overflow"):
        run("float* x, int i", "x[0] = i * i;", floats, np.int32(2**17))


@pytest.mark.parametrize(("grid", "block"), [((1, 2**16), (1,)), ((1,), (1025,)), ((1,), (32, 33)), ((1,), (1, 1, 65))])
def test_launches_that_no_gpu_takes_are_refused(run, grid, block):
    with pytest.raises(ValueError):
        run("", "", grid=grid, block=block)
