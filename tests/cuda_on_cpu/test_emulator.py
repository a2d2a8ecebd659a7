"""What a GPU would let pass, or crash at, and the emulator finds."""

import numpy as np
import pytest

from tests.cuda_on_cpu import emulator


@pytest.fixture
def run(cupy):
    def run(parameters, body, *args, grid=(1,), block=(1,)):
        code = f'struct Pair {{ int a; float b; }};\nextern "C" __global__ void k({parameters}) {{ {body} }}'
        cupy.RawModule(code=code).get_function("k")(grid, block, args)

    return run


@pytest.fixture
def floats(cupy):
    return cupy.zeros(6, np.float32)


@pytest.mark.parametrize("backwards", [False, True])
def test_every_thread_of_every_block_runs_once(cupy, run, monkeypatch, backwards):
    monkeypatch.setattr(emulator, "backwards", backwards)
    x = cupy.zeros((2, 3, 2, 4, 3, 2), np.int32)
    body = """
        int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
        x[b * blockDim.x * blockDim.y * blockDim.z + t] += 1 + b * 1000 + t;
    """
    run("int* x", body, x, grid=(2, 3, 2), block=(2, 3, 4))
    np.testing.assert_array_equal(x.get().reshape(12, 24), 1 + np.arange(12)[:, None] * 1000 + np.arange(24))


@pytest.mark.parametrize("backwards", [False, True])
def test_threads_that_depend_on_their_order_are_found_by_turning_it_round(run, floats, monkeypatch, backwards):
    monkeypatch.setattr(emulator, "backwards", backwards)
    run("float* x", "x[threadIdx.x + 1] = x[threadIdx.x] + 1;", floats, block=(5,))
    assert floats.get().tolist() == ([0, 1, 1, 1, 1, 1] if backwards else [0, 1, 2, 3, 4, 5])


def test_numbers_of_the_types_that_numpy_gives_them(cupy, run, floats):
    pairs = cupy.asarray(np.array([(3, 0.5)], [("a", "i4"), ("b", "f4")]).view(np.uint8))
    parameters = "float* x, const Pair* p, int i, float f, long long l, bool b, double d"
    numbers = np.int32(1), np.float32(2.5), 2**40, True, 0.1  # Python's are int64, bool and float64, as for CuPy
    run(parameters, "x[i] = f + p->a + p->b; x[2] = l; x[3] = b; x[4] = d;", floats, pairs, *numbers)
    np.testing.assert_array_equal(floats.get(), np.array([0, 6, 2**40, 1, 0.1, 0], np.float32))


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


@pytest.mark.parametrize("index", [-1, 6, 40])
def test_writing_beside_an_array_is_found(run, floats, index):
    with pytest.raises(RuntimeError, match="beside"):
        run("float* x, int i", "x[i] = 1;", floats, np.int32(index))


def test_a_number_too_large_for_its_type_is_found(run, floats):
    with pytest.raises(RuntimeError, match="overflow"):
        run("float* x, int i", "x[0] = i * i;", floats, np.int32(2**17))


@pytest.mark.parametrize(("grid", "block"), [((1, 2**16), (1,)), ((1,), (1025,)), ((1,), (32, 33)), ((1,), (1, 1, 65))])
def test_launches_that_no_gpu_takes_are_refused(run, grid, block):
    with pytest.raises(ValueError):
        run("", "", grid=grid, block=block)
