import os

# Before NumPy is imported: OpenBLAS's threads spin while they wait for each other, and beside any
# other busy process that makes the float32 oracle ten times slower, not two times faster.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
