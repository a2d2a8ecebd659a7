import pytest

from tests.data.shards.sources import prepared, write_class_folders


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """60 pictures in three class folders; not to be written to."""
    return write_class_folders(tmp_path_factory.mktemp("source") / "pictures")


@pytest.fixture(scope="session", params=["raw", "jpeg"])
def finished(request, source, tmp_path_factory):
    """That source, prepared; not to be written to."""
    out = tmp_path_factory.mktemp("prepared") / request.param
    prepared(source, out, encoding=request.param)
    return out


@pytest.fixture(scope="session")
def raw(source, tmp_path_factory):
    """That source, prepared without compression; not to be written to."""
    out = tmp_path_factory.mktemp("prepared") / "only raw"
    prepared(source, out)
    return out
