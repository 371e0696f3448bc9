"""Every remedy that a message names, tried on a case that provokes the message: it helps.

Not tried, for they need a network, other ranks, a full disk or another installation: `pip install`, fetching published
files again, MATLAB, `mlflow db upgrade`, "Start it", "Free some", "Leave torchrun out", device=cuda of ranks, a cache=
that all machines share. What is to be mended in a user's own code, or a file that cannot be read, is not tried either.
"""

import re
import shlex
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from itertools import dropwhile
from pathlib import Path

import mlflow
import numpy as np
import pytest
import timm
from command_line import run, working_folder
from diode_files import SCANS, write_tree
from nyu_files import plant, write_mat, write_splits
from PIL import Image
from planted import write_pairs
from safetensors.torch import save_file

from idl.cli import setup
from idl.tracking.store import quiet

# Short for these in what follows; `names` adds what it has made.
SHORT = {
    "WALK": "--workers 1 --dataset folder --data walk",
    # What gets past the complaint ends at the split, which this one scene does not allow.
    "ONE": "--workers 1 --dataset folder --data walk --scene folder",
    "FOLDER": "--workers 1 --scene block:4 --dataset folder --data",
    "NYU": "--workers 1 --dataset nyu --data",
    "DIODE": "--workers 1 --dataset diode --data",
    "ROOMS": "--workers 1 --dataset rooms --num-scenes 3 --views 1",
    "MAT": "nyu/nyu_depth_v2_labeled.mat",
    "PHOTO": "walk/rgb/0000.png",
    "NULL": "--encoder null --stride 32",
    "TINY": "--encoder timm:test_convnext",
    "AUTO": "--encoder autoencoder",
    "TRAINED": "--weights tiny.safetensors",
    "OWN": "--weights own.safetensors",
    "REGISTERED": "--weights models:/idl-encoder-autoencoder/1",
    "FEW": "--encoder null --trials 2 --epochs 1 --step-images 4",
    "TRAIN": "autoencoder WALK --n-hid 4 --num-blocks 1 --epochs 1 --val-images 8 --lr 0.001 --checkpoint-minutes 0",
    "DEPTH": "--model models:/idl-depth-null@champion",
    "JUDGE": "verdict ONE --encoder autoencoder --ks 2",
    "STORE": "MLFLOW_TRACKING_URI",
    "OFFLINE": "HF_HUB_OFFLINE=1 HF_HOME=hub",
}

# A command, as a shell takes it; words of its message, and what follows from them: options of the same command, another
# command of ours, variables, or, behind "$ ", a command of the shell before the same one. Where nothing is said, the
# words are an option; where an option has no value, that is the last of the words. /.../ is what its group finds in the
# message. Behind " -> " stand words of a message further on, to which the command then gets.
ROWS: dict[str, dict[str, str]] = {
    # Where runs are kept, and where it computes.
    "STORE=mlruns prepare WALK": {
        "Set MLFLOW_TRACKING_URI=sqlite:///mlflow.db": "STORE=sqlite:///mlflow.db",
        "--source FOLDER": r"$ /`(mlflow \S+)/ --source mlruns --target sqlite:///new.db then STORE=sqlite:///new.db"},
    "STORE=http://127.0.0.1:9 prepare WALK": {"set MLFLOW_TRACKING_URI to another one": "STORE=HERE"},
    "STORE=sqlite:///newer.db prepare WALK": {"or set MLFLOW_TRACKING_URI to another one": "STORE=HERE"},
    "STORE=postgresql://me:12@3@127.0.0.1/idl prepare WALK": {
        "@ is %40": "STORE=postgresql://me:12%403@127.0.0.1:9/idl -> cannot be opened"},
    f"MLFLOW_RUN_ID={'0' * 32} prepare WALK": {
        "Unset it": "MLFLOW_RUN_ID=", "the store that has it": "STORE=sqlite:///other.db MLFLOW_RUN_ID=ELSEWHERE"},
    "MLFLOW_RUN_ID=DELETED prepare WALK": {"Run `mlflow runs restore": "$ /`(.+?)`/"},
    "MLFLOW_EXPERIMENT_ID=99 prepare WALK": {"Unset it": "MLFLOW_EXPERIMENT_ID=", "--experiment": "--experiment mine"},
    "prepare WALK --experiment gone": {"choose another name": "--experiment other", "Run `mlflow": "$ /`(.+?)`/"},
    "prepare WALK --cache walk/rgb/0000.png": {"Pass another folder": "--cache cache"},
    "probe ONE NULL --device cuda:99": {"device=cpu": "", "device=auto": ""},
    # Datasets.
    "prepare WALK --dataset foldr": {"Did you mean folder": "--dataset", "a store's .h5": "--dataset STORED"},
    "prepare --workers 1 --dataset folder": {"Pass data=FOLDER": "--data walk"},
    "prepare --workers 1 --dataset folder --data gone": {"Pass an absolute path": "--data PLACE/walk"},
    "prepare FOLDER empty": {"pairs=FILE, 'rgb depth' a line": "--pairs pairs.txt"},
    "prepare FOLDER empty --pairs wrong.txt": {"take the line out": "$ sed -i 1d wrong.txt"},
    "prepare --dataset gone.h5": {"Make one with `idl prepare`": "--dataset STORED"},
    "prepare FOLDER again": {"Delete it and run `idl prepare` again": r"$ rm /(cache.+?h5)/"},
    "prepare --dataset STORED --max-depth 4": {
        "Pass the dataset it was made of": "FOLDER large", "leave protocol, min_depth, max_depth": "--max-depth auto"},
    "null WALK --protocol nyu-eigen": {"protocol=idl": ""},
    "prepare NYU nyu --protocol diode-devkit": {"protocol=idl": "", "that of this": "--protocol nyu-eigen"},
    "autoencoder NYU lone --protocol nyu-eigen": {"protocol=idl": " -> the training split has 4 images"},
    "prepare ROOMS --erosion 2": {"Pass 0": "--erosion"},
    "prepare ROOMS --min-valid-share 0.3": {"Pass 0.5": "--min-valid-share"},
    "prepare WALK --scene block:0": {"auto": "--scene", "block:N": "--scene block:5"},
    "prepare FOLDER tenths": {"Pass depth_scale=100": "--depth-scale 100", "or 10.": "--depth-scale 10"},
    "prepare FOLDER street": {
        "Pass max_depth=": r"--max-depth /max_depth=(\d+) where/", "else depth_scale=5000": "--depth-scale 5000"},
    "prepare FOLDER rotated": {"depth_format=sunrgbd": ""},
    "prepare FOLDER sparse": {"a smaller min_valid_share= keeps more": "--min-valid-share 0"},
    "prepare FOLDER walk --layout tums": {"Pass auto": "--layout", "plain": "--layout"},
    "prepare FOLDER twice": {"Keep one of them": "$ rm twice/rgb/0007.jpg"},
    "prepare NYU empty": {"data= nyu_depth_v2_labeled.mat": "--data MAT", "the folder that holds it": "--data nyu"},
    "prepare NYU cut": {"or remove it": "$ rm cut/splits.mat"},
    "prepare DIODE packed": {"Unpack them there": "$ cd packed && /: (tar .+gz)/"},
    "prepare DIODE double": {"Keep one of them": "$ rm -r double/copy -> need one each"},
    "prepare DIODE diode": {
        "max_depth=80": "", "or 350": "--max-depth", "target=log-depth": "--target log-depth -> store:"},
    "prepare ROOMS --download true": {"download=false": ""},
    "prepare NYU nyu --download labeled": {"leave download out": "--download ''"},
    # Splits, and crops of the test split.
    "prepare WALK --split 1:2": {"such as 11:2:3": "--split", "auto": "--split", ".json file": "--split split.json"},
    "prepare WALK --scene folder": {"scene=block:N": "--scene block:5"},
    "prepare --workers 1 --dataset folder --data halls --scene folder": {"(subfolders": "$ cp -r halls/a halls/c"},
    "prepare NYU lone": {"split=11:2:3": ""},
    "evaluate DEPTH DIODE wide --protocol diode-devkit --split 11:2:3": {"split=auto": "", "protocol=idl": ""},
    "probe ONE NULL --test-images 5": {"test_images=0": ""},
    "evaluate DEPTH --dataset STORED --test-images 2": {"the dataset that": "FOLDER large", "test_images=0": ""},
    "evaluate DEPTH ROOMS --test-images 2": {"with more num_scenes=": "--test-images 0 --num-scenes 4"},
    "evaluate DEPTH NYU nyu --protocol nyu-eigen --test-images 2": {"protocol=idl": "", "test_images=0": ""},
    # Encoders and weights.
    "probe ONE TINY --weights random --stage 9": {"Pass one of 0": "--stage", "3": "--stage"},
    "probe ONE NULL --stage 1": {"Leave the stage at auto": "--stage"},
    "null WALK --stride 7": {"Pass a stride that divides both sides": "--stride 8"},
    "probe ONE --encoder null --stride 7": {"encoder_size=259": ""},
    "probe ONE TINY --weights random --encoder-size 250": {
        "a multiple of its stride, 256": "--encoder-size", "or auto": "--encoder-size"},
    "probe ONE --encoder convnext --weights random --encoder-args depth=3": {"e.g.": "--encoder-args /e.g. ('.+?')/"},
    """probe ONE AUTO --weights random --encoder-args '{"hue": 1}'""": {"n_hid": """--encoder-args '{"n_hid": 8}'"""},
    """probe ONE AUTO --encoder-args '{"n_hid": 8}'""": {
        "Leave it out": "--encoder-args {}", "or pass other weights": "--weights random"},
    "probe ONE TINY --weights random --std 0,1,1": {"e.g. 0.5,0.5,0.5": "--std"},
    "probe ONE AUTO --weights gone.pth": {
        "shipped": "--weights", "random": "--weights", "auto": "--weights", "the path of a .safetensors": "OWN",
        "models:/NAME/VERSION": "REGISTERED"},
    "OFFLINE probe ONE TINY --weights imagenet": {"weights=PATH": "TRAINED", "weights=random": "", "weights=auto": ""},
    "OFFLINE probe ONE TINY": {"Pass weights=PATH": "TRAINED"},
    "probe ONE TINY --weights shipped": {"weights=random": "", "weights=PATH": "TRAINED"},
    "probe ONE NULL --weights random": {"Leave weights at auto": "--weights"},
    "probe ONE AUTO TRAINED": {"Pass the encoder that they belong to": "TINY"},
    "probe ONE AUTO --weights models:/gone/1": {"Registered encoders: idl-encoder-autoencoder": "REGISTERED"},
    "probe ONE AUTO REGISTERED --std 1,1,2": {"Pass the same settings": "--std auto"},
    # Targets, the probe and sweeps.
    "probe ONE NULL --k 4": {"k=3": "", "or less": "--k 2"},
    "probe WALK NULL --solver sgd --lr 1e6": {"Pass a lower lr": "--lr 0.01"},
    "sweep ONE FEW --lr-range 1e-1:1e-3": {"such as 1e-4:1": "--lr-range"},
    "sweep ONE FEW --k-range 0:2": {"such as 1:64": "--k-range 1:2", "or 1:all": "--k-range"},
    "sweep ONE FEW --k-range 1:4": {"Pass a range within 1:3": "--k-range"},
    "sweep WALK FEW --study begun --target log-depth": {"Pass another study name": "--study new"},
    "sweep ONE FEW --storage studies.db": {"sqlite:///FILE": "--storage sqlite:///studies.db"},
    "sweep WALK FEW --study far --lr-range 1e5:1e6": {
        "Lower the bounds of lr_range under another study name": "--lr-range 1e-3:1e-2 --study near"},
    # Verdicts and comparisons.
    "verdict ONE --encoder planted:small_network --ks 2": {"Name the task: --task": "--task imagenet"},
    "JUDGE --task imagenet": {"Leave the task out": "--task ''", "or pass others": "--encoder planted:small_network"},
    "JUDGE --weights random": {"Pass trained weights": "--weights shipped"},
    "JUDGE --common-stride 7": {"Pass one of 2": "--common-stride"},
    "JUDGE --ks 2,99": {"Pass such numbers": "--ks 2,10", "or all": "--ks"},
    "JUDGE --ks 2,3,4,5 --draws 100": {"Pass 640": "--draws"},
    "compare ONE --encoders autoencoder --weights a.pth": {"weights=auto": "", "with `idl verdict`": "idl JUDGE OWN"},
    # Training.
    "autoencoder ONE --n-hid 30": {"Pass 32": "--n-hid"},
    "autoencoder ONE --n-hid 8 --latent-channels 65": {"64": "--latent-channels", "or a larger n_hid": "--n-hid 12"},
    "autoencoder ONE --crop 30": {"Pass 32": "--crop"},
    "autoencoder ONE --crop 512": {"Pass less": "--crop 256", "or 0": "--crop"},
    "autoencoder ONE --accumulate 3": {"Pass a divisor of it": "--accumulate 4"},
    "TRAIN --batch-size 4096": {"Pass less": "--batch-size 8"},
    "TRAIN --lr 0.003": {"Train with a lower lr": "--lr 0.001"},
    "pretrain ONE --model convnext_gone": {"Pass one of convnext_atto": "--model"},
    "autoencoder ONE --out a.pth": {"must end in .safetensors": "--out a.safetensors"},
    "autoencoder ONE --out made/a.safetensors": {"Make it first": "$ mkdir made"},
    "autoencoder ONE --out taken.safetensors": {"a file in it": "--out taken.safetensors/a.safetensors"},
    "TRAIN --resume INTERRUPTED --cache elsewhere --weight-decay 0.02": {
        "train anew": "--resume ''", "the same cache=": "--cache cache -> weight_decay was 0.01, is 0.02"},
    "TRAIN --resume INTERRUPTED --weight-decay 0.02": {
        "train anew": "--resume ''", "Pass the same ones": "--weight-decay 0.01"},
    # Registered probes: listed, used, measured. Data on disk.
    "models --sort test_loss": {"Choose one, as with": r"/as with (--.+)\./"},
    "predict PHOTO --out 0": {"model=models:/NAME@ALIAS": "DEPTH", "`idl models` lists": "idl models"},
    "predict PHOTO --out 1 --model idl-depth-null": {
        "Write models:/NAME/VERSION": "--model models:/idl-depth-null/1", "models:/NAME@ALIAS": "DEPTH"},
    "predict PHOTO DEPTH": {"out=FOLDER": "--out 4"},
    "predict PHOTO DEPTH --out 6 --overwrite true --near 9 --far 1": {"near=": "--near 0", "far=": "--far 10"},
    "predict PHOTO DEPTH --out there --far 9": {"another out": "--out 7", "Pass --overwrite": "--overwrite true"},
    "predict PHOTO DEPTH --out 8 --depth-scale 60000 --overwrite true": {
        "--overwrite, and a smaller --depth-scale": "--depth-scale 1000", "--format npy": "--format npy"},
    "evaluate WALK DEPTH --part train": {"part=test": ""},
    "evaluate WALK DEPTH --split 2:1:1": {"Pass split= and split_seed= as its run did": "--split auto"},
    "evaluate DEPTH FOLDER large --part train --test-images 2": {"part=test": "", "test_images=0": ""},
    "doctor folder tenths --scene block:4": {"depth_scale=100": "", "or 10.": "--depth-scale 10"},
    "doctor folder walk --max-depth 2": {"Pass a larger --max-depth": "--max-depth 10"},
}  # fmt: skip


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Mapping[str, str]:
    """Make a working folder with data, runs and models; return SHORT with names of what is in it."""
    folder = tmp_path_factory.mktemp("advice")
    names = SHORT | {"PLACE": str(folder), "HERE": f"sqlite:///{folder}/mlflow.db"}
    with working_folder(folder, template) as patch:
        patch.setenv("IDL_CACHE", "cache")
        _write_data()
        commands = ("probe WALK NULL", "prepare FOLDER large", "prepare FOLDER again", "TRAIN --out own.safetensors")
        for command in (*commands, "predict PHOTO DEPTH --out there"):
            assert run(*shlex.split(_expanded(command, names))) == 0, command
        run(*shlex.split(_expanded("sweep WALK FEW --study begun --lr-range 1e5:1e6", names)))
        # Interrupted at its end.
        patch.delattr(setup, "finish")
        with suppress(AttributeError):
            run(*shlex.split(_expanded("TRAIN", names)))
        (large,), (again,) = (list(Path("cache/datasets").glob(f"{name}-*.h5")) for name in ("large", "again"))
        again.write_bytes(again.read_bytes()[:5000])
        client, other = mlflow.MlflowClient(), mlflow.MlflowClient("sqlite:///other.db")
        # The commonest dataset is not the one of the commonest split.
        first = client.get_model_version("idl-depth-null", "1")
        for dataset, split in (("b" * 16, "1" * 16), ("b" * 16, "2" * 16), ("c" * 16, "0" * 16), ("d" * 16, "0" * 16)):
            tags = first.tags | {"dataset": "other", "dataset_digest": dataset, "split_digest": split}
            client.create_model_version("idl-depth-null", str(first.source), tags=tags)
        client.delete_experiment(client.create_experiment("gone"))
        names |= {"STORED": str(large), "INTERRUPTED": next(Path("cache/training").glob("*")).name}
        names |= {"DELETED": client.create_run("0").info.run_id, "ELSEWHERE": other.create_run("0").info.run_id}
        client.delete_run(names["DELETED"])
    return names


def _write_data() -> None:
    write_pairs(Path("walk"), num=60)
    for name, scale in (("again", 1000), ("rotated", 1000), ("twice", 1000), ("tenths", 10), ("street", 20000)):
        write_pairs(Path(name), num=12, scale=scale)
    for name, size, num in (("large", 300, 12), ("sparse", 300, 12), ("halls/a", 40, 3), ("halls/b", 40, 3)):
        write_pairs(Path(name), num=num, size=(size, size))
    for path in (*Path("rotated/depth").iterdir(), *Path("sparse/depth").iterdir()):
        values = np.asarray(Image.open(path)).astype(np.uint16)
        kept = np.random.default_rng(0).random(values.shape) < 0.05
        Image.fromarray((values << 3) | (values >> 13) if "rotated" in path.parts else values * kept).save(path)
    shutil.copy("twice/rgb/0007.png", "twice/rgb/0007.jpg")
    for name in ("empty", "packed", "taken.safetensors", "mlruns", "cut", "lone"):
        Path(name).mkdir()
    lines = "".join(f"walk/rgb/{number:04}.png walk/depth/{number:04}.png\n" for number in range(40))
    Path("pairs.txt").write_text(lines)
    Path("wrong.txt").write_text(f"gone.png gone.png\n{lines}")
    Path("split.json").write_text('{"train": ["block_00000"], "val": ["block_00001"], "test": ["block_00002"]}')
    mat = write_mat(Path(SHORT["MAT"]), plant(8, size=(480, 640)))
    for name, last in (("cut", 7), ("lone", 8)):
        Path(name, mat.name).hardlink_to(mat)
        write_splits(Path(name, "splits.mat"), (1, 2), range(3, last + 1))
    write_tree(Path("diode"), per_scan=1)
    write_tree(Path("wide"), SCANS[1:6], per_scan=1, size=(768, 1024))
    for name in ("double/val", "double/copy/val"):
        shutil.copytree("diode/val", name)
    subprocess.run(["tar", "-czf", "packed/val.tar.gz", "-C", "diode", "train", "val"], check=True)
    save_file(timm.create_model("test_convnext").state_dict(), "tiny.safetensors")
    shutil.copy("mlflow.db", "other.db")
    shutil.copy("mlflow.db", "newer.db")
    with sqlite3.connect("newer.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'newer'")


def _expanded(text: str, names: Mapping[str, str]) -> str:
    for _ in range(2):
        text = re.sub(r"\b[A-Z]+\b", lambda word: names.get(word[0], word[0]), text)
    return text


def _parsed(command: str) -> tuple[dict[str, str], list[str]]:
    words = shlex.split(command)
    num = len(words) - len([*dropwhile(re.compile("[A-Z_]+=").match, words)])
    return dict(word.split("=", 1) for word in words[:num]), words[num:]


@pytest.mark.parametrize("command", ROWS)
def test_what_a_message_advises_helps(
    names: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(names["PLACE"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", names["HERE"])
    monkeypatch.setenv("IDL_CACHE", "cache")

    def said(variables: Mapping[str, str], words: list[str]) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value) if value else patch.delenv(name, raising=False)
            code = run(*words)
        return code, " ".join(" ".join(capfd.readouterr()).split())

    variables, words = _parsed(_expanded(command, names))
    code, message = said(variables, words)
    assert code == (2 if "error: " in message else 0)
    for advice, act in ROWS[command].items():
        assert advice in message
        act, _, further = act.partition(" -> ")
        act = act or "--{} {}".format(*advice.replace("_", "-").split("="))
        act += f" {advice.split()[-1]}" if re.fullmatch("--[a-z-]+", act) else ""
        act = _expanded(re.sub(r"/([^/(]*\(.+?\)[^/]*)/", lambda each: re.findall(each[1], message)[0], act), names)
        if act.startswith("$ "):
            step, _, act = act.removeprefix("$ ").partition(" then ")
            if step.startswith("mlflow "):
                with quiet(transfer=True):
                    import_module("mlflow.cli").cli(shlex.split(step)[1:], standalone_mode=False)
            else:
                subprocess.run(step, shell=True, check=True, capture_output=True)
        more, changed = _parsed(act)
        ended, after = said(variables | more, changed[1:] if changed[:1] == ["idl"] else words + changed)
        further = further or "need one each" * bool(re.search(r"\b(ONE|JUDGE)\b", command))
        assert further in after
        assert ended == (2 if "error: " in after else 0)
        assert ("error: " in after) == (further not in ("", "store:")), after
        assert code or further or advice not in after
