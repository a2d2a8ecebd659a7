"""Launches as a captured training step has them, which nothing but kernels and copies may take part in."""


def replayed(xp, work):
    """What `work` returns, computed by a graph that has captured it."""
    stream, pool = xp.cuda.Stream(non_blocking=True), xp.cuda.MemoryPool()  # the graph's memory is nobody else's
    xp.cuda.get_current_stream().synchronize()  # its arguments are there
    with stream, xp.cuda.using_allocator(pool.malloc):
        work()  # compiles the kernels
        stream.synchronize()
        stream.begin_capture()
        result = work()
        graph = stream.end_capture()
        graph.launch(stream)
        stream.synchronize()
    return result
