"""What tells problems apart, and arrays that nobody else can change."""

import copy
import functools
import json
import os
import pickle
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import results
from sgdsim.common import files, identity
from sgdsim.common.checks import InputError
from sgdsim.runs import chunks, request

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


def pairs_of_functions():
    """Functions that make other problems, and must not be taken for one another."""
    power_law = ss.QuadraticProblem.power_law

    class Called:
        def __init__(self, n):
            self.n = n

        def __call__(self, nu):
            return power_law(self.n, nu, 1.0)

        def make(self, nu):
            return power_law(self.n, nu, 1.0)

    class Sub(ss.QuadraticProblem):
        pass

    def closure(bound):
        return lambda nu: (bound, power_law(8, nu, 1.0))[1]

    def default(bound):
        def make(nu, bound=bound):
            return power_law(8, nu, 1.0)

        return make

    def wrapped(by):
        @functools.wraps(power_law)
        def make(*args):
            return power_law(*args[:-1], args[-1] * by)

        return make

    a, b = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    bound = [(a, b), (np.int64(1), np.int64(2)), (1j, 2j), (b"a", b"b"), ({1}, {2}), ({(1, 2): 3}, {(1, 2): 4})]
    bound += [(data(0), data(1)), (Called(1), Called(2)), (closure(1), closure(2))]
    for one, other in bound:
        for kind in (closure, default, functools.partial(functools.partial, power_law)):
            yield kind(one), kind(other)
    yield Called(1), Called(2)
    yield Called(1).make, Called(2).make
    yield ss.QuadraticProblem.power_law, Sub.power_law
    yield wrapped(1), wrapped(2)
    yield (lambda nu: power_law(8, nu, 1.0)), (lambda nu: power_law(8, nu, 2.0))  # on one line
    yield eval("lambda nu: 1"), eval("lambda nu: 2")


@pytest.mark.parametrize("pair", list(pairs_of_functions()))
def test_other_functions_have_other_identities(pair):
    one, other = map(identity.of_function, pair)
    assert one != other
    assert identity.of_function(pair[0]) == one
    assert "0x" not in one


def test_equal_functions_have_one_identity_in_every_process(tmp_path):
    (tmp_path / "made.py").write_text(
        "import functools, numpy as np, sgdsim as ss\n"
        "SCALE = {'a', 'b', 'c'}\n"
        "class Maker:\n"
        "    def __init__(self): self.table = {'x': np.arange(3.0), 'y': {1, 2, 3}}\n"
        "    def __call__(self, nu): return SCALE and helper(nu)\n"
        "def helper(nu): return ss.QuadraticProblem.power_law(5, nu, 1.0)\n"
        "def show():\n"
        "    from sgdsim.common import identity\n"
        "    made = [Maker(), functools.partial(helper, Maker()), helper, lambda nu: helper(nu)]\n"
        "    return '\\n'.join(map(identity.of_function, made))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", "import made; print(made.show())"], cwd=tmp_path, check=True, capture_output=True,
            text=True, env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert "0x" not in said.pop()


def test_attributes_of_a_network_count(tmp_path):
    class Clipped(torch.nn.Module):
        def __init__(self, clip):
            super().__init__()
            self.body, self.clip = network(), clip

        def forward(self, x):
            return self.body(x).clamp(-self.clip, self.clip)

    grid = ss.Grid.product(lr=[0.3], batch_size=4)
    problems = [ss.NetworkProblem(Clipped(clip), data(), device="cpu") for clip in (50.0, 100.0)]
    assert problems[0].fingerprint != problems[1].fingerprint
    ss.sweep(problems[0], grid, [ss.RealNetwork()], 5, path=tmp_path / "r.nc")
    with pytest.raises(InputError, match="problem: "):
        ss.sweep(problems[1], grid, [ss.RealNetwork()], 5, path=tmp_path / "r.nc")


@pytest.mark.parametrize("change", ["parameter", "attribute"])
def test_a_network_changed_behind_its_problem_is_refused(change):
    problem = ss.NetworkProblem(network(), data(), device="cpu")
    if change == "parameter":
        with torch.no_grad():
            problem.network[0].weight.data.mul_(3)
    else:
        problem.network.mine = 3.0
    with pytest.raises(InputError, match="make a new NetworkProblem"):
        ss.simulate(problem, ss.SGD(0.3, 0, 4), ss.RealNetwork(), 3)


def test_the_order_of_axes_is_part_of_a_sweep(tmp_path):
    problem = ss.QuadraticProblem.power_law(8, 1.5, 1.0)
    axes = {"lr": [0.1, 0.2, 0.3], "batch_size": [1, 2, 5]}
    ss.sweep(problem, ss.Grid.product(**axes), [ss.SampledLinearized()], 20, path=tmp_path / "r.nc", shard=(1, 2))
    turned = ss.Grid.product(**dict(reversed(axes.items())))
    with pytest.raises(InputError, match="axes: "):
        ss.sweep(problem, turned, [ss.SampledLinearized()], 20, path=tmp_path / "r.nc", shard=(2, 2))


def test_shards_asked_for_in_other_words_are_one_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "_LARGEST", 1)
    problem, path = ss.QuadraticProblem.power_law(8, 1.5, 1.0), tmp_path / "r.nc"
    for i, lr in ((1, [1, 0.5]), (2, [1.0, 0.5])):
        ss.sweep(problem, ss.Grid.product(lr=lr), [ss.SampledLinearized()], 20, path=path, shard=(i, 2))
    assert ss.merge(path)["done"].values.all()


def test_our_own_are_named_without_their_module():
    """So that files outlive a move."""
    assert identity.of_function(ss.QuadraticProblem.power_law) == "sgdsim.QuadraticProblem.power_law"
    assert identity.name_of(ss.networks.MLP) == "sgdsim.MLP"


def test_a_function_whose_code_cannot_be_seen_is_told_by_its_problem():
    scale, scope = 1.0, {"ss": ss}
    problems = []
    for kappa in (1.0, 2.0):
        exec(f"def make(nu): return ss.QuadraticProblem.power_law(8, nu, {kappa * scale})", scope)
        problems.append(request.Problems(scope["make"]).identity({"nu": 1.5}))
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


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_are_as_read_only_as_the_original(again):
    given = quadratic(np.random.default_rng(0))
    problem = ss.QuadraticProblem.from_kernel(**given)
    known = problem.fingerprint, problem.kernel, problem.residual
    copied = again(problem)
    assert copied.fingerprint == known[0]
    one, other = data(), again(data())
    held = [copied.coefficients, copied.kernel, copied.eigenvectors, copied.test.transfer, copied.eigenvalues, other.x]
    for array in held:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0
    np.testing.assert_array_equal(one.x, other.x)


def test_views_of_what_was_given_reach_nothing():
    a, c = np.ones((6, 2)), np.array([1.0, 0.5])
    view, a.flags.writeable, other = a[:], False, c[:]
    kept = ss.Dataset(a, np.ones(6), "mine"), ss.QuadraticProblem(ss.Spectrum(c), c)
    view[0] = other[1] = 100.0
    a.flags.writeable = True
    a[1] = 100.0
    assert (kept[0].x == 1).all()
    assert kept[1].coefficients.tolist() == kept[1].eigenvalues.tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="WRITEABLE"):
        kept[0].x.flags.writeable = True


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ss.Dataset(np.ma.masked_array(np.ones((2, 1)), [[1], [0]]), np.ones(2), "m"),
            "x: expected no masked values",
        ),
        (lambda: ss.Dataset(torch.ones(2, 1, device="meta"), np.ones(2), "m"), "x: expected an array"),
        (lambda: ss.QuadraticProblem(ss.Spectrum([1.0]), [1.0], description={"k": np.int64(3)}), "description: "),
        (lambda: ss.Grid.product(lr=1.0, n=[10**30]), "n: expected numbers"),
        (lambda: ss.Grid.product(lr=1.0, maker=[len]), "maker: expected numbers"),
        (lambda: ss.Grid.product(lr=1.0, where=[1j]), "where: expected numbers"),
        (lambda: files.check_writable(b"o.nc"), "path: expected a file name"),
        (lambda: files.check_writable(3), "path: expected a file name"),
        (lambda: files.check_writable("a/\0"), "expected a file name"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_fractions_and_conjugates_are_numbers():
    assert json.loads(json.dumps(ss.SGD(Fraction(1, 2), Fraction(1, 4)).spec()))["lr"] == 0.5
    imaginary = torch.tensor([1j, 2j]).conj().imag  # negated when it is looked at
    assert ss.QuadraticProblem(ss.Spectrum([1.0, 0.5]), imaginary).coefficients.tolist() == [-1.0, -2.0]


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
