"""What ARPACK finds where its space is exhausted at once, as for a multiple of the identity."""

import numpy as np
import scipy.sparse.linalg

from sgdsim.common import arpack


def test_the_same_at_every_call():
    operator = scipy.sparse.linalg.aslinearoperator(np.diag(np.repeat([2.0, 1.0], 20)))
    found = [arpack.largest(operator, 3, np.ones(40), 1e-12, 10) for _ in range(3)]
    for values, vectors in found:
        np.testing.assert_allclose(operator @ vectors, vectors * values, atol=1e-9)
        assert np.array_equal(values, found[0][0])
        assert np.array_equal(vectors, found[0][1])
