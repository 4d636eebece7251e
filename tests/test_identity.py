"""What tells problems apart, and arrays that nobody else can change."""

import functools
import threading

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import results
from sgdsim.common import identity
from sgdsim.common.checks import InputError
from sgdsim.runs import chunks, sweeps

GRID = ss.Grid.product(lr=[0.3, 0.6], batch_size=[2])


def quadratic(rng: np.random.Generator) -> dict[str, np.ndarray]:
    features = rng.standard_normal((9, 9))
    joint = features @ features.T
    return {
        "kernel": joint[:6, :6], "residual": rng.standard_normal(6),
        "cross_kernel": joint[6:, :6], "test_residual": rng.standard_normal(3),
    }  # fmt: skip


def network(activation: torch.nn.Module | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 8), activation or torch.nn.ReLU(), torch.nn.Linear(8, 1)]
    return torch.nn.Sequential(*layers).double()


def data(seed: int = 0) -> ss.Dataset:
    rng = np.random.default_rng(seed)
    return ss.Dataset(rng.standard_normal((12, 5)), rng.standard_normal(12), "noise")


def variants() -> dict[str, ss.QuadraticProblem]:
    """Problems that differ in one thing each, all with the same eigenvalues and squared coefficients where possible."""
    plain = ss.QuadraticProblem.power_law(8, 1.5, 1.0)
    lam, a = plain.eigenvalues, plain.coefficients
    basis = ss.QuadraticProblem.power_law(8, 1.5, 1.0, seed=5).eigenvectors
    transfer = np.random.default_rng(0).standard_normal((3, 8))
    test = ss.TestPoints(np.ones(3), transfer)
    make = ss.QuadraticProblem
    return {
        "plain": plain,
        "another basis seed": ss.QuadraticProblem.power_law(8, 1.5, 1.0, seed=1),
        "no basis": make(ss.Spectrum(lam), a),
        "signs": make(ss.Spectrum(lam), a * (-1.0) ** np.arange(8), basis_seed=0),
        "eigenvectors": make(ss.Spectrum(lam, basis), a),
        "other eigenvectors": make(ss.Spectrum(lam, basis[::-1]), a),
        "test points": make(ss.Spectrum(lam), a, test, basis_seed=0),
        "other test points": make(ss.Spectrum(lam), a, ss.TestPoints(np.ones(3), 2 * transfer), basis_seed=0),
        "scale": make(ss.Spectrum(lam, scale=2.0), a, basis_seed=0),
        "coefficients": make(ss.Spectrum(lam), 2 * a, basis_seed=0),
    }


def test_every_fact_counts():
    found = {name: problem.fingerprint for name, problem in variants().items()}
    assert len(set(found.values())) == len(found)
    assert found == {name: problem.fingerprint for name, problem in variants().items()}


def test_networks_differ_in_more_than_their_kernel():
    """ReLU and ReLU6 are alike where no unit passes 6: outputs and kernel are equal, later steps need not be."""
    problems = {
        "network": ss.NetworkProblem(network(), data(), device="cpu"),
        "activation": ss.NetworkProblem(network(torch.nn.ReLU6()), data(), device="cpu"),
        "data": ss.NetworkProblem(network(), data(1), device="cpu"),
    }
    moved = network()
    with torch.no_grad():
        moved[0].weight += 1e-3
    problems["parameters"] = ss.NetworkProblem(moved, data(), device="cpu")
    one, other = problems["network"].quadratic, problems["activation"].quadratic
    np.testing.assert_array_equal(one.kernel, other.kernel)
    assert len({problem.fingerprint for problem in problems.values()}) == len(problems)
    assert ss.NetworkProblem(network(), data(), device="cpu").fingerprint == problems["network"].fingerprint


@pytest.mark.parametrize("other", [{"seed": 1}, {"kappa": 1.5}])
def test_the_other_problem_is_not_resumed(tmp_path, other):
    path = tmp_path / "r.nc"
    first = ss.QuadraticProblem.power_law(8, 1.5, 1.0)
    ss.sweep(first, GRID, [ss.SampledLinearized()], 20, path=path)
    second = ss.QuadraticProblem.power_law(8, 1.5, **{"kappa": 1.0} | other)
    with pytest.raises(InputError, match="problem: "):
        ss.sweep(second, GRID, [ss.SampledLinearized()], 20, path=path)


def test_functions_that_make_problems_are_told_apart(tmp_path):
    grid = ss.Grid.product(nu=[1.2, 1.5], lr=[0.3])

    def make(kappa):
        return lambda nu: ss.QuadraticProblem.power_law(8, nu, kappa)

    makers = {
        "partial": functools.partial(ss.QuadraticProblem.power_law, 8, kappa=1.0),
        "another": functools.partial(ss.QuadraticProblem.power_law, 8, kappa=2.0),
        "closure": make(1.0),
        "another closure": make(2.0),
    }
    known = {name: identity.of_function(maker) for name, maker in makers.items()}
    assert len(set(known.values())) == len(known)
    assert identity.of_function(make(1.0)) == known["closure"]
    assert "0x" not in "".join(known.values())
    ss.sweep(makers["partial"], grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")
    ss.sweep(makers["partial"], grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")
    with pytest.raises(InputError, match="problem: "):
        ss.sweep(makers["another"], grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")


def test_our_own_are_named_without_their_module():
    """So that files outlive a move."""
    assert identity.of_function(ss.QuadraticProblem.power_law) == "sgdsim.QuadraticProblem.power_law"
    assert identity.name_of(ss.networks.MLP) == "sgdsim.MLP"


def test_a_function_whose_code_cannot_be_seen_is_told_by_its_problem():
    scale, scope = 1.0, {"ss": ss}
    problems = []
    for kappa in (1.0, 2.0):
        exec(f"def make(nu): return ss.QuadraticProblem.power_law(8, nu, {kappa * scale})", scope)
        problems.append(sweeps._Problems(scope["make"]).identity({"nu": 1.5}))
    assert problems[0] != problems[1]


# The caller's arrays.


def test_arrays_are_copied_at_the_boundary():
    given = quadratic(np.random.default_rng(0))
    problem = ss.QuadraticProblem.from_kernel(**given)
    c, lam = np.arange(1.0, 5.0), np.array([1.0, 0.5, 0.2, 0.1])
    plain = ss.QuadraticProblem(ss.Spectrum(lam), c, basis_seed=0)
    before = [ss.simulate(p, ss.SGD(0.3, 0, 2), ss.BatchAveraged(), 20)["loss"].values for p in (problem, plain)]
    for array in (*given.values(), c, lam):
        array *= 10
    after = [ss.simulate(p, ss.SGD(0.3, 0, 2), ss.BatchAveraged(), 20)["loss"].values for p in (problem, plain)]
    np.testing.assert_array_equal(before, after)
    held = [
        problem.eigenvalues, problem.eigenvectors, problem.coefficients, problem.kernel, problem.residual,
        problem.test.residual, problem.test.transfer, plain.eigenvectors, plain.coefficients,
    ]  # fmt: skip
    for array in held:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0


def test_network_and_linearisation_keep_the_same_data():
    x, y = np.random.default_rng(0).standard_normal((12, 5)), np.ones(12)
    problem = ss.NetworkProblem(network(), ss.Dataset(x, y, "mine"), device="cpu")
    x *= 100
    y += 1
    for regime in (ss.RealNetwork(), ss.SampledLinearized()):
        run = ss.simulate(problem, ss.SGD(0.3, 0, 4), regime, 1)
        assert run["loss"].values[0, 0, 0] == pytest.approx(problem.quadratic.initial_loss, rel=1e-12)


def test_a_module_that_writes_into_its_input_leaves_the_data_alone():
    class InPlace(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            x -= 0.5
            return self.body(x)

    problem = ss.NetworkProblem(InPlace(), data(), device="cpu")
    before = problem.data.x.copy()
    problem.quadratic  # noqa: B018
    ss.simulate(problem, ss.SGD(0.3, 0, 12), ss.RealNetwork(), 3)
    np.testing.assert_array_equal(problem.data.x, before)


# Threads.


def test_a_quantity_is_made_once_by_many_threads():
    class Slow:
        made = 0

        @identity.made_once
        def value(self) -> int:
            Slow.made += 1
            started.wait()  # until every other thread has asked for it or is about to
            return Slow.made

    started, slow, seen = threading.Event(), Slow(), []
    threads = [threading.Thread(target=lambda: seen.append(slow.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    assert seen == [1] * 4


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_whatever_the_caller_switched_off(context):
    def losses() -> list[np.ndarray]:
        problem = ss.NetworkProblem(network(), data(), device="cpu")
        cases = [(ss.RealNetwork(), ss.SGD(0.3, 0.5, 4)), (ss.RealNetwork(), ss.SGD(0.3, 0, 4, method="nesterov"))]
        cases += [(ss.SampledLinearized(), ss.SGD(0.01, 0, 4, method="adam"))]
        return [ss.simulate(problem, sgd, regime, 5)["loss"].values for regime, sgd in cases]

    expected = losses()
    with context():
        found = losses()
        curvature = ss.curvature.Curvature(network(), data().x, data().y).hessian() @ np.ones(57)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(
        curvature, ss.curvature.Curvature(network(), data().x, data().y).hessian() @ np.ones(57)
    )


# One notion of ended, and what a file says of itself.


def test_a_cell_has_ended_when_all_its_replicates_have():
    completed, diverged, interrupted, not_run = 1, 2, 3, 0
    outcome = np.array(
        [[completed] * 2, [diverged, completed], [diverged, interrupted], [completed, not_run]], dtype=np.int8
    )
    done = chunks.Done(0, np.arange(4), {}, outcome, np.full((4, 2), -1), np.zeros(4))
    assert done.ended.tolist() == [True, True, False, False]


def test_results_name_their_machine():
    result = ss.simulate(ss.QuadraticProblem.power_law(5, 1.5, 1.0), ss.SGD(0.3), ss.SpectralDiagonal(), 5)
    import json

    machine = json.loads(result.attrs["machine"])
    assert {"cpu", "blas", "openmp", "cores", "compiled_for", "numba_threads", "torch"} == {*machine} - {"architecture"}
    assert machine["cores"] >= 1


def test_a_flipped_bit_is_seen(tmp_path):
    """Every byte of the file and of its checksum: another answer never, a refusal or the same."""
    path = tmp_path / "r.nc"
    result = ss.simulate(ss.QuadraticProblem.power_law(5, 1.5, 1.0), ss.SGD(0.3), ss.SpectralDiagonal(), 5)
    results.save(result, path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    places = [*rng.integers(0, len(content), 200), *range(len(content) - 80, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = results.load(path)
        except InputError:
            continue
        assert loaded.identical(result)
        assert place >= len(content) - 80  # what told the checksum is what was hit: the data are whole
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError):
        results.load(path)


def test_files_of_other_programs_and_older_ones_load(tmp_path):
    result = ss.simulate(ss.QuadraticProblem.power_law(5, 1.5, 1.0), ss.SGD(0.3), ss.SpectralDiagonal(), 5)
    result.attrs["schema"] = 2
    result.to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
    assert results.load(tmp_path / "r.nc").equals(result)
