"""Copies by the hardware against slices of NumPy: boxes of arrays, and columns of pixels, as their maps have them."""

import numpy as np
import pytest

from npconvnet.kernels.cuda.tensor_map import im2col, tiled

ROW = 64
#: The instructions, of a box or a column that begins at the numbers of `at`.
BOX_2 = "tma_load(dynamic_shared(), map, full, at[0], at[1])"
BOX_3 = "tma_load(dynamic_shared(), map, full, at[0], at[1], at[2])"
COLUMN = "tma_load_im2col(dynamic_shared(), map, full, at[0], at[1], at[2], at[3], at[4], at[5])"
#: Waits for one copy, and hands its rows out as they lie in shared memory.
PARAMETERS = "const __grid_constant__ TensorMap map, const int* at, unsigned short* y, int bytes"
BODY = """
    Barrier* full = (Barrier*)(dynamic_shared() + bytes);
    if (threadIdx.x == 0) {{
        barrier_init(full, 1);
        fence_barrier_init();
        barrier_expect(full, bytes);
        {load};
    }}
    __syncthreads();
    barrier_wait(full, 0);
    for (int i = threadIdx.x; i < bytes / 2; i += blockDim.x) y[i] = ((unsigned short*)dynamic_shared())[i];
"""


@pytest.fixture
def copied(cupy, run_90):
    """The rows that the instruction `load` copies from the place `at`, as they lie in shared memory."""

    def copied(load, made, rows, at):
        y = cupy.empty((rows, ROW), np.uint16)
        arguments = made, cupy.asarray(np.array(at, np.int32)), y, np.int32(rows * 128)
        run_90(PARAMETERS, BODY.format(load=load), *arguments, block=(32,), shared_bytes=rows * 128 + 8)
        return y.get()

    return copied


def swizzled(rows):
    """Chunk c of row r, of eight words, goes to place c ^ r % 8."""
    r, c = np.arange(len(rows))[:, None], np.arange(8)
    return rows.reshape(-1, 8, 8)[r, c ^ r % 8].reshape(rows.shape)


def words(cupy, *shape):
    """An array of different numbers, none of them 0."""
    return cupy.asarray(np.arange(1, np.prod(shape) + 1, dtype=np.uint16).reshape(shape))


def box(x, start, shape):
    """A part of x, with zeros outside."""
    zeros = [abs(s) + size for s, size in zip(start, shape, strict=True)]
    begins = [s + z for s, z in zip(start, zeros, strict=True)]
    around = np.pad(x, [(z, z) for z in zeros])
    return around[tuple(slice(b, b + size) for b, size in zip(begins, shape, strict=True))]


@pytest.mark.parametrize("start", [(0, 0), (3, 64), (-2, -8), (15, 40), (40, 0), (0, 200), (-20, -64), (1, 3)])
def test_boxes_of_two_axes(cupy, copied, backwards, start):
    x = words(cupy, 21, 72)
    found = copied(BOX_2, tiled(x, (16, ROW)), 16, start[::-1])
    np.testing.assert_array_equal(found, swizzled(box(x.get(), start, (16, ROW))))


@pytest.mark.parametrize("start", [(0, 0, 0), (2, 1, 8), (-1, -1, -8), (4, 3, 60), (1, 9, 0)])
@pytest.mark.parametrize("shape", [(2, 3, ROW), (8, 1, ROW), (1, 8, ROW)])
def test_boxes_of_three_axes(cupy, copied, start, shape):
    x = words(cupy, 5, 4, 72)
    rows = shape[0] * shape[1]
    found = copied(BOX_3, tiled(x, shape), rows, start[::-1])
    np.testing.assert_array_equal(found, swizzled(box(x.get(), start, shape).reshape(rows, ROW)))


def columns(x, lower, upper, pixels, first, tap, c):
    """The pixels of im2col one by one, in the words of the PTX manual: through the bounding box of each image."""
    images, height, width, channels = x.shape
    inside = [
        (n, h, w)
        for n in range(images + 3)
        for h in range(lower[0], height + upper[0])
        for w in range(lower[1], width + upper[1])
    ]
    begin = inside.index(first)
    result = np.zeros((pixels, ROW), np.uint16)
    for row, (n, h, w) in zip(result, inside[begin : begin + pixels], strict=False):
        h, w = h + tap[0], w + tap[1]
        if n < images and 0 <= h < height and 0 <= w < width:
            row[: max(0, min(ROW, channels - c))] = x[n, h, w, c : c + ROW]
    return result


@pytest.mark.parametrize(
    ("lower", "upper"),
    [((0, 0), (0, 0)), ((-1, -1), (-1, -1)), ((-2, -1), (-1, -3)), ((0, 0), (-2, -4)), ((3, -2), (1, 2))],
)
@pytest.mark.parametrize("tap", [(0, 0), (2, 1), (0, 4)])
def test_columns_of_pixels(cupy, copied, backwards, lower, upper, tap):
    x = words(cupy, 2, 5, 6, 72)
    for n, first, c in ((0, lower, 0), (1, (upper[0] + 4, upper[1] + 5), 8), (2, lower, 0)):
        found = copied(COLUMN, im2col(x, lower, upper, 24), 24, [c, *first[::-1], n, *tap[::-1]])
        np.testing.assert_array_equal(found, swizzled(columns(x.get(), lower, upper, 24, (n, *first), tap, c)))


def test_what_hardware_copied_of_sixteen_pixels(cupy, copied):
    """The second and third example of Triton's tutorial on im2col, which are checked on a GPU: 4 x 4 pixels, padded."""
    x = cupy.asarray(np.repeat(np.arange(1, 17, dtype=np.uint16), ROW).reshape(1, 4, 4, ROW))
    found = copied(COLUMN, im2col(x, (-1, -1), (-1, -1), 16), 16, (0, -1, -1, 0, 0, 0))
    assert found[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11]


def test_a_copy_arrives_when_it_is_awaited(cupy, run_90):
    x, y = words(cupy, 8, ROW), cupy.zeros(3, np.uint16)
    body = """
        Barrier* full = (Barrier*)(dynamic_shared() + 1024);
        const unsigned short* word = (unsigned short*)dynamic_shared();
        barrier_init(full, 1);
        fence_barrier_init();
        *(unsigned short*)word = 7;
        y[0] = *word;
        barrier_expect(full, 1024);
        tma_load(dynamic_shared(), map, full, 0, 0);
        y[1] = *word;
        barrier_wait(full, 0);
        y[2] = *word;
    """
    run_90("const __grid_constant__ TensorMap map, unsigned short* y", body, tiled(x, (8, ROW)), y, shared_bytes=1032)
    assert y.get().tolist() == [7, 0xFFFF, 1]


LOAD = "tma_load(dynamic_shared(), map, full, 0, 0)"
#: What is wrong behind the beginning of a barrier, and the words for it.
WRONG = {
    "tma_load(dynamic_shared() + 128, map, full, 0, 0)": "begins at byte 128 of dynamic shared memory, no multiple",
    "tma_load(dynamic_shared() + 3072, map, full, 0, 0)": "not in dynamic shared memory",
    "tma_load(y, map, full, 0, 0)": "not in dynamic shared memory",
    "tma_load(dynamic_shared(), map, full + 1, 0, 0)": "begun no barrier here, or it was overwritten",
    "tma_load(dynamic_shared(), map, full, 0, 0, 0)": "map is for another instruction: it has 2 axes, tiled",
    "tma_load_im2col(dynamic_shared(), map, full, 0, 0, 0, 0, 0, 0)": "map is for another instruction",
    "TensorMap other = {}; tma_load(dynamic_shared(), other, full, 0, 0)": "driver has not made this map",
    "TensorMap other = {}; tma_prefetch(other)": "driver has not made this map",
    f"{LOAD}; {LOAD}": "another copy is on its way to the same bytes",
    f"{LOAD}": "ends before 1 copies to its shared memory have arrived",
    f"{LOAD}; *full = 0; barrier_wait(full, 0)": "begun no barrier here, or it was overwritten",
    f"barrier_init(full, 1); {LOAD}": r"no fence_barrier_init\(\) behind barrier_init",
    f"barrier_expect(full, 1000); {LOAD}; barrier_wait(full, 0)": "24 bytes more were copied than",
    f"barrier_expect(full, 1040); {LOAD}; barrier_wait(full, 0)": "0 of 1 arrivals and 16 bytes are missing",
    f"{LOAD}; barrier_wait(full, 0)": "1 of 1 arrivals and -1024 bytes are missing",
    f"barrier_expect(full, 1024); barrier_wait(full, 0); {LOAD}": "0 of 1 arrivals and 1024 bytes are missing",
}
CASES = "\n".join(f"case {i}: {{ {wrong}; break; }}" for i, wrong in enumerate(WRONG))


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_copy(cupy, run_90, wrong):
    body = f"""
        Barrier* full = (Barrier*)(dynamic_shared() + 3072);
        barrier_init(full, 1);
        fence_barrier_init();
        switch (which) {{ {CASES} }}
    """
    parameters = "const __grid_constant__ TensorMap map, unsigned short* y, int which"
    made, y = tiled(words(cupy, 8, ROW), (8, ROW)), cupy.empty((8, ROW), np.uint16)
    with pytest.raises(RuntimeError, match=WRONG[wrong]):
        run_90(parameters, body, made, y, np.int32(list(WRONG).index(wrong)), shared_bytes=3072 + 16)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((0, -2, 0, 0, 0, 0), r"\(w, h\) = \(-2, 0\) is not in the bounding box \(-1, -1\) to \(4, 3\)"),
        ((0, 5, 0, 0, 0, 0), "not in the bounding box"),
        ((0, 0, 4, 0, 0, 0), "not in the bounding box"),
        ((0, 0, 0, 0, 256, 0), r"offsets \(256, 0\) are beyond 255"),
    ],
)
def test_where_a_column_begins(cupy, copied, at, message):
    with pytest.raises(RuntimeError, match=message):
        copied(COLUMN, im2col(words(cupy, 1, 5, 6, 8), (-1, -1), (-1, -1), 8), 8, at)
