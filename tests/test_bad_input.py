"""Bad input on the command line: exit code 2, one line that names it, nothing on standard output, nothing written."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

import sgdsim as ss
from sgdsim import cli

SMALL = ["--n-steps", "5", "--replicates", "2"]
SIZES = {"--kernel": [], "power_law": ["--n", "30"], "digits": ["--n", "30", "--width", "10"]}
SGDSIM = Path(sys.executable).with_name("sgdsim")
OLD = b"an older result"


def idx(path: Path, shape: tuple[int, ...], magic: int | None = None, cut: int = 0) -> None:
    """An IDX file of zeros; `cut`: bytes missing at its end."""
    header = struct.pack(f">{1 + len(shape)}I", magic or 2048 + len(shape), *shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + bytes(int(np.prod(shape)) - cut))


def mnist(folder: Path, **images) -> None:
    for part in ("train", "t10k"):
        idx(folder / f"mnist/{part}-labels-idx1-ubyte", (40,))
        idx(folder / f"mnist/{part}-images-idx3-ubyte", (40, 3, 3), **(images if part == "train" else {}))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A folder of damaged files, one reason each, and a few good ones."""
    folder = tmp_path_factory.mktemp("inputs")
    mnist(folder / "truncated_idx", cut=1)
    mnist(folder / "bad_magic", magic=2052)
    mnist(folder / "good_mnist")
    mnist(folder / "truncated_gz")
    images = folder / "truncated_gz/mnist/train-images-idx3-ubyte"
    images.with_name(images.name + ".gz").write_bytes(gzip.compress(images.read_bytes())[:-9])
    images.unlink()
    for batch in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        path = folder / f"bad_cifar/cifar10/{batch}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(3 * 3073 - (batch == "data_batch_3")))
    columns = "season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed,cnt"
    for name, header, cell in (("no_column", columns.replace("hum", "wet"), "1"), ("text_cell", columns, "many")):
        (folder / name / "Bike-Sharing").mkdir(parents=True)
        rows = ["1," * 12 + "1"] * 50 + ["1," * 12 + cell]
        (folder / name / "Bike-Sharing/hour.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "no_faces/olivetti").mkdir(parents=True)
    scipy.io.savemat(folder / "no_faces/olivetti/olivettifaces.mat", {"people": np.ones((2, 2))})
    (folder / "bad_mat/olivetti").mkdir(parents=True)
    (folder / "bad_mat/olivetti/olivettifaces.mat").write_bytes(b"no Matlab file" * 100)

    good, residual = np.eye(4) + 0.1, np.arange(4.0)
    kernels = {
        "oblong": good[:3],
        "asymmetric": good + np.triu(np.ones((4, 4)), 1),
        "nan": np.where(np.eye(4) > 0, np.nan, good),
        "infinite": np.where(np.eye(4) > 0, np.inf, good),
        "indefinite": np.diag([1.0, 1.0, 1.0, -1.0]),
        "zero": np.zeros((4, 4)),
        "larger": np.eye(5),
        "flat": residual,
        "complex": good + 1j,
        "text": good.astype(str),
        "objects": good.astype(object),
        "good": good,
    }
    for name, kernel in kernels.items():
        np.savez(folder / f"{name}.npz", kernel=kernel, residual=residual)
    np.savez(folder / "no_residual.npz", kernel=good)
    np.savez(folder / "no_kernel.npz", residual=residual)
    np.savez(folder / "empty.npz")
    np.savez(folder / "both.npz", kernel=good, residual=residual, targets=residual)
    np.savez(folder / "half_test.npz", kernel=good, residual=residual, cross_kernel=np.ones((2, 4)))
    np.savez(
        folder / "wide_test.npz", kernel=good, residual=residual, cross_kernel=np.ones((2, 5)), test_targets=[1, 2]
    )
    (folder / "truncated.npz").write_bytes((folder / "good.npz").read_bytes()[:-40])
    damaged = bytearray((folder / "good.npz").read_bytes())
    damaged[200] ^= 255
    (folder / "damaged.npz").write_bytes(damaged)
    np.save(folder / "kernel.npy", good)
    np.save(folder / "residual.npy", residual)
    np.save(folder / "long.npy", np.arange(5.0))
    np.save(folder / "objects.npy", good.astype(object), allow_pickle=True)
    (folder / "named_npz.npz").write_bytes((folder / "kernel.npy").read_bytes())
    (folder / "named_npy.npy").write_bytes((folder / "good.npz").read_bytes())
    (folder / "pickled.npz").write_bytes(pickle.dumps({"kernel": good}))
    (folder / "kernel.txt").write_text("1 0\n0 1\n")
    (folder / "void.npy").write_bytes(b"")
    torch.save({"kernel": torch.eye(4), "residual": torch.ones(4), "path": Path("x")}, folder / "objects.pt")
    torch.save([torch.eye(4)], folder / "list.pt")
    torch.save({"kernel": torch.eye(4, dtype=torch.complex128), "residual": torch.ones(4)}, folder / "complex.pt")
    torch.save({"kernel": torch.eye(4), "residual": torch.full((4,), 0.4321)}, folder / "flipped.pt")
    stored = (folder / "flipped.pt").read_bytes()
    value = struct.pack("<4f", *[0.4321] * 4)
    (folder / "flipped.pt").write_bytes(stored.replace(value, bytes([value[0] ^ 1]) + value[1:]))
    (folder / "noise.pt").write_bytes(bytes(range(256)) * 4)

    problem = ss.QuadraticProblem.power_law(20, 1.5, 3.0)
    path = ss.save(ss.simulate(problem, ss.SGD(0.5), ss.SpectralDiagonal(), 5), folder / "good.nc")
    (folder / "truncated.nc").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ss.load(path).drop_attrs().to_netcdf(folder / "foreign.nc", engine="h5netcdf")
    ss.load(path).assign_attrs(schema=99).to_netcdf(folder / "newer.nc", engine="h5netcdf")
    ss.load(path).assign_attrs(schema="one").to_netcdf(folder / "odd.nc", engine="h5netcdf")
    return folder


POWER = "compare --dataset power_law --nu 1.5 --kappa 3"
# What is typed after `sgdsim` ({i}: the folder above; "compare" and "simulate" get small sizes first), and words of the
# message. The words name what is wrong.
BAD = [
    # No command, unknown words.
    ("", ["expected a command"]),
    ("comparison", ["comparison", "compare"]),
    ("compare digits", ["unrecognized", "digits", "sgdsim compare --help"]),
    ("compare --bacth-size 3", ["unrecognized", "--bacth-size"]),
    ("compare --batch 3", ["unrecognized", "--batch"]),
    ("simulate --tau 2", ["unrecognized", "--tau", "sgdsim simulate --help"]),
    ("data list --mirror=x", ["unrecognized", "--mirror", "sgdsim data list --help"]),
    ("compare --dataset imagenet", ["--dataset", "imagenet", "mnist"]),
    ("compare --regimes network volterra", ["regime", "volterra"]),
    ("compare --regimes diagonal:tau", ["regime", "diagonal:tau"]),
    ("compare --regimes diagonal:nu=1", ["regime", "diagonal:nu=1"]),
    ("simulate --regime all", ["regime", "all"]),
    ("compare --sampling often", ["--sampling", "often"]),
    ("compare --activation cos", ["--activation", "cos"]),
    ("compare --lr sine:start=1", ["lr", "schedule", "sine"]),
    ("compare --lr cosine:start=1", ["lr", "cosine", "total=NUMBER"]),
    ("compare --lr power:begin=1", ["lr", "power", "begin"]),
    ("compare --lr power:start=1", ["lr", "power", "exponent"]),
    ("compare --momentum steps:start=0.5,factor=x,every=2", ["momentum", "factor=x"]),
    ("compare --batch-size jacobi:a=1,b=1", ["batch_size", "jacobi"]),
    ("data", ["ACTION"]),
    ("data erase", ["erase"]),
    ("data fetch", ["NAME"]),
    ("data fetch imagenet", ["imagenet"]),
    ("data verify imagenet", ["imagenet"]),
    ("plot", ["FILE"]),
    # Values.
    ("compare --lr", ["--lr", "at least one"]),
    ("compare --tau", ["--tau", "at least one"]),
    ("compare --lr fast", ["lr", "fast"]),
    ("compare --lr 0", ["lr", "> 0"]),
    ("compare --lr -1e-3", ["lr", "-0.001"]),
    ("compare --lr 1 nan", ["lr", "nan"]),
    ("compare --lr inf", ["lr", "inf"]),
    ("compare --lr -inf", ["lr", "-inf"]),
    ("compare --lr 1 0.5 1.0", ["lr", "different"]),
    ("compare --lr power:start=-1,exponent=0.5", ["power: start", "-1"]),
    ("compare --momentum 1", ["momentum", "1.0"]),
    ("compare --momentum -1", ["momentum", "-1.0"]),
    ("compare --momentum 0.5 0.5", ["momentum", "different"]),
    ("compare --momentum nan", ["momentum", "nan"]),
    ("compare --momentum jacobi:a=-2,b=0", ["jacobi: a", "-2"]),
    ("compare --momentum jacobi:a=1e308,b=1", ["momentum", "finite", "nan at step 1"]),
    ("compare --batch-size 0", ["batch_size", "0"]),
    ("compare --batch-size -3", ["batch_size", "-3"]),
    ("compare --batch-size 2.5", ["batch_size", "2.5"]),
    ("compare --batch-size 31", ["batch_size", "31", "30"]),
    ("compare --batch-size 10 31", ["batch_size", "31"]),
    ("compare --n-steps 40 --batch-size steps:start=5,factor=2,every=10", ["batch_size", "40", "step 3"]),
    ("compare --batch-size steps:start=0.5,factor=1,every=1", ["batch_size", "got 0"]),
    ("compare --n 0", ["n:", "0"]),
    ("compare --n -5", ["n:", "-5"]),
    ("compare --n 1.5", ["--n", "1.5"]),
    ("compare --n many", ["--n", "many"]),
    ("compare --n nan", ["--n", "nan"]),
    ("compare --n 1800", ["n:", "1797", "1800"]),
    ("compare --n 1500 --n-test 500", ["n_test", "297", "500"]),
    ("compare --n-test -1", ["n_test", "-1"]),
    ("compare --width 0", ["width", "0"]),
    ("compare --dataset power_law --nu 1.5 --kappa 3 --width 10", ["--width", "data sets"]),
    ("compare --dataset power_law --nu 1.5 --kappa 3 --n-test 10", ["--n-test", "data sets"]),
    ("compare --kernel {i}/good.npz --n 10", ["--n:", "power_law or data sets"]),
    ("compare --data-dir . --dataset power_law --nu 1.5 --kappa 3", ["--data-dir"]),
    ("compare --depth -1", ["depth", "-1"]),
    ("compare --width 1e9", ["memory"]),
    ("compare --replicates 1e12", ["memory"]),
    ("compare --replicates 1e308", ["replicates", "from 1 to"]),
    ("compare --kernel {i}/good.npz --log-file {i}/good.npz", ["--log-file", "--kernel"]),
    ("epochs --kernel {i}/good.npz --batch-size 1 --epochs 9223372036854775807", ["n_steps", "9223372036854775807"]),
    ("compare --n-steps 0", ["n_steps", "0"]),
    ("compare --n-steps 1e30", ["n_steps", "1000000000000000"]),
    ("compare --n-steps inf", ["--n-steps", "inf"]),
    ("compare --replicates 0", ["replicates", "0"]),
    ("compare --seed -1", ["seed", "-1"]),
    ("compare --seed 0.5", ["--seed", "0.5"]),
    ("compare --record-every 0", ["record", "0"]),
    ("compare --tau nan", ["tau", "nan"]),
    ("compare --tau nan --regimes network", ["tau", "nan"]),
    ("compare --tau inf", ["tau", "inf"]),
    ("compare --tau 1 1", ["regimes", "diagonal:tau=1"]),
    ("compare --regimes sampled sampled", ["regimes", "sampled"]),
    ("simulate --regime diagonal:tau=nan", ["tau", "nan"]),
    ("compare --zip --lr 1 0.5 --batch-size 1 2 3", ["zip", "lr: 2", "batch_size: 3"]),
    ("compare --zip --lr 1 0.5 --momentum 0.1 0.2 0.3", ["zip", "momentum: 3"]),
    # Combinations that make no sense.
    ("compare --dataset power_law", ["--nu", "--kappa"]),
    ("compare --dataset power_law --nu 1.5", ["--kappa"]),
    ("compare --nu 1.5", ["--nu", "power_law"]),
    ("compare --lambda-min 0.1", ["--lambda-min", "power_law"]),
    (f"{POWER} --nu 0", ["nu", "> 0"]),
    (f"{POWER} --kappa -1", ["kappa", "-1"]),
    (f"{POWER} --nu nan", ["nu", "nan"]),
    (f"{POWER} --lambda-min 1", ["lambda_min", "1"]),
    (f"{POWER} --n 1e19", ["n:", "from 1 to 1e+18"]),
    (f"{POWER} --n 1e15 --regimes sampled", ["sampled", "bins alone"]),
    (f"{POWER} --regimes network diagonal", ["network", "without a network"]),
    ("compare --sampling reshuffle --regimes averaged", ["sampling", "averaged", "no closed form"]),
    ("compare --sampling reshuffle --regimes sampled diagonal", ["sampling", "diagonal", "no closed form"]),
    # Data files.
    ("compare --dataset mnist --data-dir {i}/nowhere", ["mnist", "sgdsim data fetch mnist"]),
    ("compare --dataset mnist --data-dir {i}/truncated_idx", ["train-images", "bytes"]),
    ("compare --dataset mnist --data-dir {i}/bad_magic", ["train-images", "2052"]),
    ("compare --dataset mnist --data-dir {i}/truncated_gz", ["train-images", "gzip"]),
    ("compare --dataset mnist --data-dir {i}/good_mnist --n 41", ["n:", "40", "41"]),
    ("compare --dataset mnist --data-dir {i}/good_mnist --n-test 41", ["n_test", "40", "41"]),
    ("compare --dataset cifar10 --data-dir {i}/bad_cifar", ["data_batch_3.bin", "3073"]),
    ("compare --dataset bike_sharing --data-dir {i}/no_column", ["hour.csv", "hum"]),
    ("compare --dataset bike_sharing --data-dir {i}/text_cell", ["hour.csv", "row 51", "cnt", "many"]),
    ("compare --dataset olivetti --data-dir {i}/no_faces", ["olivettifaces.mat", "faces"]),
    ("compare --dataset olivetti --data-dir {i}/bad_mat", ["olivettifaces.mat", "Matlab"]),
    ("data fetch mnist --mirror ftp://host --data-dir data", ["mirror", "ftp://host"]),
    ("data fetch mnist --mirror http://127.0.0.1:9/x --data-dir data", ["http://127.0.0.1:9/x", "no connection"]),
    # Kernel files.
    ("compare --kernel {i}/none.npz", ["none.npz", "found none"]),
    ("compare --kernel {i}", ["kernel file"]),
    ("compare --kernel ", ["kernel file"]),
    ("compare --kernel " + "k" * 300 + ".npz", ["kkk.npz", "name too long"]),
    ("compare --kernel {i}/kernel.txt", ["kernel.txt", ".npz"]),
    *[
        (f"compare --batch-size 2 --kernel {{i}}/{name}.npz", words)
        for name, words in {
            "oblong": ["kernel", "(4, 4)", "(3, 4)"],
            "asymmetric": ["kernel", "symmetric"],
            "nan": ["kernel", "NaN"],
            "infinite": ["kernel", "infinite"],
            "indefinite": ["kernel", "positive semidefinite", "-1"],
            "zero": ["kernel", "zeros"],
            "larger": ["kernel", "(4, 4)", "(5, 5)"],
            "flat": ["kernel", "2 dimension", "(4,)"],
            "complex": ["kernel", "real"],
            "text": ["kernel", "real"],
            "objects": ["objects.npz", "plain arrays"],
            "no_residual": ["no_residual.npz", "residual"],
            "no_kernel": ["no_kernel.npz", "kernel"],
            "empty": ["empty.npz", "none"],
            "both": ["both.npz", "residual or targets", "both"],
            "half_test": ["cross_kernel", "test_residual"],
            "wide_test": ["cross_kernel", "(2, 4)", "(2, 5)"],
            "truncated": ["truncated.npz", "readable"],
            "damaged": ["damaged.npz", "intact"],
            "named_npz": ["named_npz.npz", "readable"],
            "pickled": ["pickled.npz", "readable"],
        }.items()
    ],
    ("compare --kernel {i}/objects.pt", ["objects.pt", "tensors only"]),
    ("compare --kernel {i}/list.pt", ["list.pt", "dict", "list"]),
    ("compare --kernel {i}/complex.pt", ["kernel", "real"]),
    ("compare --kernel {i}/noise.pt", ["noise.pt"]),
    ("compare --kernel {i}/flipped.pt", ["flipped.pt", "damaged"]),
    ("compare --kernel {i}/kernel.npy", ["kernel.npy", "--residual"]),
    ("compare --kernel {i}/objects.npy --residual {i}/residual.npy", ["objects.npy", "plain arrays"]),
    ("compare --kernel {i}/named_npy.npy --residual {i}/residual.npy", ["named_npy.npy", "readable"]),
    ("compare --kernel {i}/void.npy --residual {i}/residual.npy", ["void.npy", "readable"]),
    ("compare --kernel {i}/kernel.npy --residual {i}/long.npy", ["kernel", "(5, 5)", "(4, 4)"]),
    ("compare --kernel {i}/kernel.npy --residual {i}/kernel.npy", ["another file", "residual"]),
    ("compare --kernel {i}/kernel.npy --residual {i}/good.npz", ["good.npz", ".npy"]),
    ("compare --kernel {i}/kernel.npy --residual {i}/none.npy", ["none.npy", "found none"]),
    ("compare --kernel {i}/kernel.npy --residual {i}/residual.npy --targets {i}/residual.npy", ["residual", "both"]),
    ("compare --residual {i}/residual.npy", ["--residual", "--kernel"]),
    ("compare --kernel {i}/good.npz --dataset mnist", ["--kernel", "--dataset"]),
    ("compare --kernel {i}/good.npz --nu 1", ["--nu", "power_law"]),
    ("compare --kernel {i}/good.npz --regimes network --batch-size 2", ["network", "without a network"]),
    ("compare --kernel {i}/good.npz", ["batch_size", "10", "4"]),
    # Output.
    ("compare --out {i}", ["expected a file", "folder"]),
    ("compare --out {i}/no/r.nc", ["r.nc", "No such file"]),
    ("compare --out {i}/good.npz/r.nc", ["r.nc", "Not a directory"]),
    ("compare --out /proc/r.nc", ["/proc/r.nc", "folder that can be written"]),
    ("compare --out /dev/null", ["/dev/null", "device"]),
    ("compare --out " + "r" * 252 + ".nc", ["rrr.nc", "name too long"]),
    ("compare --out ", ["--out", "name of a file"]),
    ("compare --plot r.jpg", [".png", "r.jpg"]),
    ("compare --plot ", [".png"]),
    ("compare --plot {i}/no/r.png", ["r.png", "No such file"]),
    ("compare --plot old.png --out old.png", ["--plot", "--out", "old.png"]),
    ("compare --kernel {i}/good.npz --out {i}/good.npz", ["--out", "--kernel", "good.npz"]),
    ("compare --lr 1 2 3 4 5 --momentum 0 0.1 0.2 0.3 0.4 --plot r.png", ["--plot", "24", "25"]),
    ("plot loss {i}/none.nc --out r.png", ["none.nc", "found none"]),
    ("plot loss {i}/good.npz --out r.png", ["good.npz", "netCDF"]),
    ("plot loss {i}/truncated.nc --out r.png", ["truncated.nc", "netCDF"]),
    ("plot loss {i}/foreign.nc --out r.png", ["foreign.nc", "schema"]),
    ("plot loss {i}/newer.nc --out r.png", ["newer.nc", "99"]),
    ("plot loss {i}/odd.nc --out r.png", ["odd.nc", "one"]),
    ("plot loss {i}/good.nc --observable accuracy --out r.png", ["accuracy"]),
    ("plot loss {i}/good.nc --observable test_loss --out r.png", ["test_loss"]),
    ("plot moments {i}/good.nc --out r.png", ["moments"]),
    ("plot loss {i}/good.nc", ["--out"]),
    ("plot loss {i}/good.nc --out r.txt", [".png", "r.txt"]),
]


def argv(line: str, inputs: Path) -> list[str]:
    """The words of a line (one trailing blank: an empty last word), small sizes after the command."""
    words = [word.format(i=inputs) for word in line.split(" ")] if line else []
    if words[:1] in (["compare"], ["simulate"]):
        kind = next((kind for kind in ("--kernel", "power_law") if kind in words), "digits")
        words[1:1] = [*SMALL, *SIZES[kind]]
        if "--out" not in words:
            words += ["--out", "old.nc", "--force"]
    return words


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(code: int, out: str, err: str, words: list[str]) -> None:
    assert code == 2, err
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert err.startswith("sgdsim")
    assert ": error: " in err
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder but for two older files, the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SGDSIM_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("old.nc", "old.png"):
        (tmp_path / name).write_bytes(OLD)
    return tmp_path


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line[:70] or "(nothing)" for line, _ in BAD])
def test_one_line_exit_code_2_nothing_written(line, words, inputs, here, capsys):
    before = tree(inputs)
    code = cli.main(argv(line, inputs))
    check(code, *capsys.readouterr(), words)
    assert tree(here) == {"old.nc": OLD, "old.png": OLD}
    assert [path.name for path in here.iterdir() if path.is_dir()] == []
    assert tree(inputs) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, so asking for it is no mistake")
def test_cuda_where_there_is_none(inputs, here, capsys):
    check(cli.main(argv("compare --device cuda", inputs)), *capsys.readouterr(), ["device", "cuda", "cpu"])
    assert tree(here) == {"old.nc": OLD, "old.png": OLD}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["expected a command"]),
        ("compare --lr -1", ["lr", "-1.0"]),
        ("compare --dataset mnist", ["mnist", "sgdsim data fetch mnist"]),
        ("compare --kernel {i}/objects.pt", ["objects.pt", "tensors only"]),
        ("compare --out {i}/good.npz/r.nc", ["r.nc", "Not a directory"]),
        ("plot loss {i}/truncated.nc --out r.png", ["truncated.nc", "netCDF"]),
    ],
)
def test_the_same_from_the_console_script(line, words, inputs, here):
    environment = {name: value for name, value in os.environ.items() if name != "SGDSIM_DATA"}
    run = subprocess.run(
        [SGDSIM, *argv(line, inputs)], cwd=here, env=environment, capture_output=True, text=True, timeout=120
    )
    check(run.returncode, run.stdout, run.stderr, words)
    assert tree(here) == {"old.nc": OLD, "old.png": OLD}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permission bits do not stop root")
def test_a_folder_that_may_not_be_written(inputs, here, capsys):
    (here / "locked").mkdir(mode=0o500)
    check(cli.main(argv("compare --out locked/r.nc", inputs)), *capsys.readouterr(), ["locked", "Permission"])
    assert list((here / "locked").iterdir()) == []
