"""Shared memory is full of nonsense at first, no larger than it was asked for, and what is copied to it comes late."""

import numpy as np
import pytest

KIB = 1024


@pytest.fixture
def words(cupy):
    """0, 1, 2, ... 255."""
    return cupy.asarray(np.arange(256, dtype=np.uint32))


def test_it_is_nonsense_in_every_block(cupy, run, backwards):
    x = cupy.zeros((3, 2, 32), np.float32)
    body = """
        __shared__ float fixed[32];
        float* dynamic = (float*)dynamic_shared();
        x[blockIdx.x * 64 + threadIdx.x] = fixed[threadIdx.x];
        x[blockIdx.x * 64 + 32 + threadIdx.x] = dynamic[threadIdx.x];
        fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
    """
    run("float* x", body, x, grid=(3,), block=(32,), shared_bytes=128)
    assert np.isnan(x.get()).all()


def test_in_functions_and_templates_too(cupy, run):
    above = """
        template <int N> __device__ float first() { __shared__ float some[N]; return some[0]; }
        __device__ float second() { __shared__ float others[4]; return others[0]; }
        struct Sum { __device__ static float third() { __shared__ float more[4]; return more[0]; } };
    """
    x = cupy.zeros(4, np.float32)
    run("float* x", "x[0] = first<3>(); x[1] = second(); x[2] = Sum::third(); x[3] = first<4>();", x, above=above)
    assert np.isnan(x.get()).all()


def test_one_kernel_does_not_see_that_of_another(cupy, run):
    """Though both call it by the same name, and lie in libraries of their own."""
    above = "template <class T> __device__ T* some() { __shared__ T some[SIZE]; return some; }"
    x = cupy.zeros(2, np.int32)
    for size in 1, 100:
        body = "x[0] = (char*)some<int>() - (char*)0 != 0; some<int>()[SIZE - 1] = SIZE; x[1] = some<int>()[SIZE - 1];"
        run("int* x", body, x, above=f"#define SIZE {size}\n{above}")
        assert x.get().tolist() == [1, size]


def test_dynamic_shared_memory_is_aligned(cupy, run):
    x = cupy.zeros(1, np.int32)
    run("int* x", "x[0] = (unsigned long long)dynamic_shared() % 128;", x, shared_bytes=100)
    assert x.get() == 0


@pytest.mark.parametrize("index", [100, 127, 128, 100_000, -1, -100])
def test_writing_beside_dynamic_shared_memory_is_found(run, index):
    with pytest.raises(RuntimeError, match="beside its dynamic shared memory"):
        run("int i", "dynamic_shared()[i] = 1;", np.int32(index), shared_bytes=100)


def test_writing_beside_a_static_array_is_found(run):
    with pytest.raises(RuntimeError, match="out of bounds"):
        run("int i", "__shared__ int x[4]; x[i] = 1;", np.int32(4))


@pytest.mark.parametrize(
    ("static", "dynamic", "allowed"),
    [
        (0, 48 * KIB, 0),
        (0, 163 * KIB, 163 * KIB),
        (40 * KIB, 8 * KIB, 0),
        (48 * KIB, 115 * KIB, 115 * KIB),
        (16, 100, 100),
    ],
)
def test_as_much_as_an_sm_80_has(cupy, static, dynamic, allowed):
    function = reserve(cupy, static)
    function.max_dynamic_shared_size_bytes = allowed
    function((1,), (1,), (), shared_mem=dynamic)


@pytest.mark.parametrize(
    ("static", "dynamic", "allowed"),
    [
        (0, 48 * KIB + 1, 0),
        (0, 163 * KIB + 1, 163 * KIB + 1),
        (40 * KIB, 8 * KIB + 1, 0),
        (48 * KIB, 115 * KIB + 1, 115 * KIB + 1),
        (0, 101, 100),
        (49 * KIB, 0, 0),
    ],
)
def test_more_than_that_is_refused(cupy, static, dynamic, allowed):
    function = reserve(cupy, static)
    function.max_dynamic_shared_size_bytes = allowed
    with pytest.raises(ValueError, match="shared memory"):
        function((1,), (1,), (), shared_mem=dynamic)


def test_as_much_as_an_sm_90_has(run_90):
    run_90("", "", shared_bytes=227 * KIB)
    with pytest.raises(ValueError, match="are more than 232448"):
        run_90("", "", shared_bytes=227 * KIB + 1)


def reserve(cupy, static):
    """A kernel with so many bytes of static shared memory."""
    body = f"__shared__ volatile char x[{static}]; x[0] = 1;" if static else ""
    return cupy.RawModule(code=f'extern "C" __global__ void k() {{ {body} }}').get_function("k")


def test_copies_arrive_when_they_are_awaited(cupy, run, words, backwards):
    """Groups in their order: all but the last, or the last two; what is in no group never does."""
    x = cupy.zeros((4, 3), np.uint32)
    body = """
        unsigned* shared = (unsigned*)dynamic_shared();
        const auto look = [&](int time) { for (int i = 0; i < 3; i++) x[time * 3 + i] = shared[i * 4]; };
        for (int i = 0; i < 3; i++) {
            cp_async(shared + i * 4, words + 4 + i * 4, true);
            if (i < 2) cp_async_commit();
        }
        look(0);
        cp_async_wait<1>();
        look(1);
        cp_async_wait<0>();
        look(2);
        cp_async_commit();
        cp_async_wait<0>();
        look(3);
    """
    run("const unsigned* words, unsigned* x", body, words, x, shared_bytes=48)
    nan = 0xFFFFFFFF
    assert x.get().tolist() == [[nan, nan, nan], [4, nan, nan], [4, 8, nan], [4, 8, 12]]


def test_groups_belong_to_a_thread(cupy, run, words, backwards):
    x = cupy.zeros(2, np.uint32)
    body = """
        unsigned* shared = (unsigned*)dynamic_shared();
        cp_async(shared + threadIdx.x * 4, words + threadIdx.x * 4, true);
        cp_async_commit();
        if (threadIdx.x == 1) cp_async_wait<0>();
        __syncthreads();
        x[threadIdx.x] = shared[threadIdx.x * 4];
    """
    run("const unsigned* words, unsigned* x", body, words, x, block=(2,), shared_bytes=32)
    assert x.get().tolist() == [0xFFFFFFFF, 4]


def test_what_is_not_valid_is_zero_and_not_read(cupy, run, words):
    x = cupy.zeros(8, np.uint32)
    body = """
        __shared__ __align__(16) unsigned shared[8];
        cp_async(shared, words, true);
        cp_async(shared + 4, words + 1000003, false);
        cp_async_commit();
        cp_async_wait<0>();
        for (int i = 0; i < 8; i++) x[i] = shared[i];
    """
    run("const unsigned* words, unsigned* x", body, words, x)
    assert x.get().tolist() == [0, 1, 2, 3, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("to", "source", "message"),
    [
        ("shared + 8", "words", "shared memory is not a multiple of 16"),
        ("shared", "(const char*)words + 8", "global memory is not a multiple of 16"),
        ("shared + 112", "words", "not in shared memory"),
        ("shared - 16", "words", "not in shared memory"),
        ("words", "words", "not in shared memory"),
    ],
)
def test_what_cp_async_refuses(run, words, to, source, message):
    body = f"unsigned char* shared = dynamic_shared(); cp_async((void*)({to}), {source}, true);"
    with pytest.raises(RuntimeError, match=message):
        run("const unsigned* words", body, words, shared_bytes=112)
