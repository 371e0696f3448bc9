"""Every command on bad input: exit code 2, one line with the words that help, and nothing left half-written."""

import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import mlflow
import numpy as np
import optuna
import pytest
import scipy.io
import torch
from command_line import register_strangers, run, working_folder
from diode_files import write_tree
from mlflow.entities import Run, ViewType
from PIL import Image
from planted import SmallNetwork, write_pairs
from safetensors.torch import save_file

from idl.sweep.study import FILE

# Short for these in a command below.
SHORT = {
    "WALK": "--dataset folder --data walk --workers 1",
    "FOLDER": "--workers 1 --encoder null --dataset folder --data",
    "NULL": "--encoder null --stride 16",
    "TINY": "--encoder timm:test_convnext",
    "FEW": "--encoder null --trials 2 --epochs 1 --step-images 4",
    "DEPTH": "--model models:/idl-depth-null@champion",
    "STORE": "MLFLOW_TRACKING_URI",
}

# Of a preparation that goes on when the file is mended.
KEPT = (".lock", ".log", ".unfinished")
ONE_SCENE = "--workers 1 --dataset folder --data one --scene folder"

# A command, as a shell takes it, and words of its one line; " ... " stands between words that are apart.
ROWS = {
    # The command line itself.
    "no_command": ("prob", "No such command 'prob'"),
    "no_option": ("probe --encodr null", "--encoder"),
    "no_number": ("probe --stage deep", "'--stage'"),
    "below": ("probe --workers -1", "'--workers' ... '-1' is below 0"),
    "not_finite": ("probe --depth-scale nan", "'--depth-scale' ... not a finite number"),
    "no_choice": ("probe --solver adma", "'--solver' ... exact"),
    "no_flag": ("predict --overwrite maybe", "'--overwrite'"),
    "no_triple": ("probe --mean 1,2", "'--mean' ... three numbers"),
    # Where runs are kept.
    "server": ("STORE=http://me:secret@127.0.0.1:9 probe WALK", "tracking server http://127.0.0.1:9: no answer"),
    "database": ("STORE=sqlite:///gone/mlflow.db null WALK", "unable to open database file"),
    "database_file": ("STORE=sqlite:///page.bin convnext WALK", "not a database"),
    "database_address": ("STORE=postgresql://me:12@secret@127.0.0.1/idl prepare WALK", "not an address"),
    "file_store": ("STORE=mlruns verdict WALK", "mlflow migrate-filestore"),
    "run_id": (f"MLFLOW_RUN_ID={'0' * 32} compare WALK", "MLFLOW_RUN_ID=0 ... no such run"),
    "experiment_id": ("MLFLOW_EXPERIMENT_ID=999 probe WALK", "no such experiment at ... pass --experiment"),
    "experiment": ("probe WALK --experiment gone", "experiment gone: is deleted"),
    "cache": ("probe WALK NULL --cache walk/rgb/0000.png", "cache=walk/rgb/0000.png: cannot be made"),
    # Datasets.
    "dataset": ("probe --dataset roms", "dataset=roms: ... Did you mean rooms"),
    "data": ("prepare --dataset folder", "no data given"),
    "no_folder": ("prepare --dataset folder --data gone", "/gone: no such file or folder"),
    "no_pairs": ("prepare --dataset folder --data empty", "empty: no RGB-D pairs"),
    "store": ("probe --dataset gone.h5", "gone.h5: no such store"),
    "store_cut": ("probe --dataset cut.h5", "cut.h5: not a whole store"),
    "store_version": ("prepare --dataset later.h5", "later.h5: store version 999"),
    "store_protocol": ("probe --dataset walk.h5 --max-depth 4", "another protocol (max_depth_m is 10.0, not 4.0)"),
    "range": ("prepare WALK --min-depth 5 --max-depth 1", "expected 0 < min < max"),
    "protocol": ("null WALK --protocol nyu", "protocol=nyu: no such protocol. Did you mean nyu-eigen?"),
    "protocol_native": ("null WALK --protocol nyu-eigen", "dataset=folder does not have. Pass protocol=idl"),
    "erosion": ("null --dataset rooms --erosion 2", "erosion=2: dataset=rooms has exact depth"),
    "rooms": ("null --dataset rooms --num-scenes 0", "rooms recipe ... out of range"),
    "depth_scale": ("prepare WALK --depth-scale 0", "depth_scale 0"),
    "invalid_values": ("prepare WALK --invalid-values 0;1", "invalid_values=0;1: expected whole numbers"),
    "scene": ("prepare WALK --scene block:0", "expected auto, folder or block:N"),
    "no_pixel": ("prepare WALK --min-depth 8 --max-depth 9", "none of 60 images has a pixel"),
    "no_depth": ("probe FOLDER lacking", "no depth beside it"),
    "depth_cut": ("probe FOLDER damaged", "0007.png: not a readable map"),
    "depth_8_bits": ("probe FOLDER bits", "0007.png: depth is uint8, expected a PNG of one channel of 16"),
    "list_twice": ("probe FOLDER walk --pairs twice.txt", "0000.png: is listed twice. Take one of the lines out"),
    "list_utf_16": ("probe FOLDER walk --pairs wide.txt", "wide.txt: cannot be read as a list ... in UTF-8"),
    "depth_name": ("probe FOLDER names", "\\xff7.png: the name is no text in UTF-8. Rename it"),
    "depth_size": ("probe FOLDER sizes", "0007.png: depth is 20 x 20, its RGB image 40 x 48"),
    "depth_kind": ("probe FOLDER kinds", "0000.mat ... .pfm"),
    "layout": ("probe FOLDER walk --layout tumm", "layout=tumm"),
    "layout_other": ("probe FOLDER walk --layout tum", "rgb.txt"),
    "picture_twice": ("probe FOLDER doubles", "0007.jpg ... 0007.png"),
    "picture": ("probe FOLDER pictures", "0007.png: not a readable image"),
    "nyu": ("prepare --dataset nyu --data empty", "empty: no nyu_depth_v2_labeled.mat in it"),
    "nyu_older": ("prepare --dataset nyu --data older.mat", "older.mat: not a whole MATLAB v7.3 file"),
    "nyu_depths": ("prepare --dataset nyu --data empty --depths raw", "'--depths'"),
    "diode": ("prepare --dataset diode --data empty", "empty: no frames of DIODE"),
    "diode_packed": ("prepare --dataset diode --data packed", "Unpack them there: tar -xzf val.tar.gz"),
    "diode_archive": ("prepare --dataset diode --data packed/val.tar.gz", "an archive. Unpack it"),
    "diode_subset": ("prepare --dataset diode --data diode --subset outdoor", "subset=outdoor: no such part of diode"),
    "download": ("prepare --dataset rooms --download true", "dataset=rooms is not fetched from anywhere"),
    "download_to": ("prepare --dataset nyu --download true", "no folder to fetch to. Pass data=FOLDER"),
    "download_name": ("prepare --dataset nyu --data empty --download all", "download=all: no such file of nyu"),
    "download_tree": ("prepare --dataset diode --data diode --download true", "holds an unpacked tree already"),
    # Splits, and crops of the test split.
    "split": ("probe WALK NULL --split 1:2", "expected shares train:val:test"),
    "split_share": ("prepare WALK --split 1:nan:2", "expected shares train:val:test"),
    "split_file": ("probe WALK NULL --split gone.json", "gone.json: no such split file"),
    "split_json": ("probe WALK NULL --split page.json", "page.json: expected JSON"),
    "split_unknown": ("probe WALK NULL --split unknown.json", "scene 'nowhere' of 'train' is not in the dataset"),
    "split_scenes": (f"probe --encoder null {ONE_SCENE}", "scenes for train, val, test ... need one each"),
    "crops_small": ("probe WALK NULL --test-images 5", "test_images=5: 0000 has 48 x 40 pixels; crops of at least"),
    "crops_rooms": ("probe --dataset rooms NULL --test-images 5", "test_images=5: rooms has no images larger than"),
    # Encoders and weights.
    "encoder": ("probe WALK --encoder convnxt", "encoder=convnxt: ... Did you mean convnext"),
    "encoder_prefix": ("probe WALK --encoder tim:resnet18", "Did you mean timm:NAME"),
    "encoder_timm": ("probe WALK --encoder timm:test_convnxt", "timm has no model 'test_convnxt'"),
    "encoder_module": ("probe WALK --encoder no.such:factory", "no.such cannot be imported"),
    "encoder_factory": ("probe WALK --encoder os.path:gone", "no callable 'gone'"),
    "encoder_kind": ("probe WALK --encoder os:getcwd", "gives a str. Return a torch.nn.Module"),
    "encoder_output": ("probe WALK --encoder torch.nn:Flatten", "Return one tensor"),
    "stage": ("convnext WALK --weights random --stage 9", "stage=9: ... has no such feature level"),
    "stage_none": ("probe WALK NULL --stage 1", "null has one level only"),
    "stride": ("null WALK --stride 7", "36 x 36 cells for 256 x 256 pixels"),
    "encoder_args": ("convnext WALK --encoder-args depth=3", "not a JSON object"),
    "encoder_args_channels": ("""probe WALK TINY --weights random --encoder-args '{"in_chans": 1}'""", "in_chans"),
    "encoder_args_name": ("""probe WALK --encoder autoencoder --encoder-args '{"hue": 1}'""", "has no hue. It has"),
    "encoder_args_preset": ("""probe WALK --encoder autoencoder --encoder-args '{"preset": "xl"}'""", "small, medium"),
    "std": ("convnext WALK --std 0,1,1", "std=(0.0, 1.0, 1.0): a standard deviation must be above 0"),
    "weights": ("probe WALK TINY --weights gone.safetensors", "gone.safetensors: no such file"),
    "weights_kind": ("probe WALK TINY --weights page.onnx", "not a file of weights by its name"),
    "weights_damaged": ("probe WALK TINY --weights page.bin", "page.bin: cannot be read as weights"),
    "weights_other": ("probe WALK TINY --weights other.safetensors", "not weights of test_convnext ... conv.weight"),
    "weights_none": ("probe WALK NULL --weights random", "the null encoder has none"),
    "weights_shipped_task": ("probe WALK --encoder convnext --weights shipped:dreams", "but shipped:segmentation and"),
    "weights_shipped": ("probe WALK TINY --weights shipped", "weights=shipped for timm:test_convnext"),
    "weights_hub": ("HF_HUB_OFFLINE=1 HF_HOME=hub probe WALK TINY --weights imagenet", "Pass weights=PATH"),
    "weights_name": ("probe WALK --weights models:/gone/1", "models:/gone/1: no registered model gone"),
    "weights_no_encoder": ("probe WALK --weights models:/idl-depth-null/1", "holds no encoder.safetensors"),
    "device": ("probe WALK NULL --device tpu0", "device=tpu0: no such device"),
    "device_kind": ("probe WALK NULL --device meta", "device=meta: not supported"),
    "device_number": ("probe WALK NULL --device cuda:99", "device=cuda:99: no such CUDA device"),
    # Targets and the probe.
    "target": ("probe WALK --target dept", "target 'dept' does not exist ... mean 'depth'"),
    "target_factory": ("prepare WALK --target os.path:gone", "os.path has no callable 'gone'"),
    "target_kind": ("null WALK --target os:getcwd", "gives str. Return an instance"),
    "target_layer": ("probe WALK NULL --target normals", "dataset=folder has no layer 'normals'. It has: depth"),
    "k": ("probe WALK NULL --k 4", "k=4: the encoder has 3 channels"),
    "k_word": ("probe WALK NULL --k few", "k=few: expected a whole number from 1 to 3"),
    "k_zero": ("probe WALK NULL --k 0", "k=0: expected a whole number from 1 to 3"),
    "lr": ("probe WALK NULL --solver adam --lr 0", "lr=0.0: expected more than 0"),
    "epochs": ("sweep WALK --epochs 0", "'--epochs' ... '0' is below 1"),
    "alignment": ("probe WALK --alignment shift", "'--alignment'"),
    # Sweeps.
    "lr_range": ("sweep WALK FEW --lr-range 1e-1:1e-3", "lr_range=1e-1:1e-3: expected two numbers above 0, the lower"),
    "lr_range_zero": ("sweep WALK FEW --lr-range 0:1", "lr_range=0:1"),
    "lr_range_open": ("sweep WALK FEW --lr-range 1e-3:inf", "lr_range=1e-3:inf"),
    "lr_range_word": ("sweep WALK FEW --lr-range fast", "lr_range=fast"),
    "decay_range": ("sweep WALK FEW --weight-decay-range 1:1e-3", "weight_decay_range=1:1e-3"),
    "k_range": ("sweep WALK FEW --k-range 0:4", "k_range=0:4"),
    "k_range_order": ("sweep WALK FEW --k-range all:3", "k_range=all:3: expected two numbers ... 1:64 or 1:all"),
    "k_range_high": ("sweep WALK FEW --k-range 1:4", "k_range=1:4: the encoder has 3 channels. Pass a range within"),
    "k_range_first": ("sweep WALK FEW --k-range 4:all", "k_range=4:all: the encoder has 3 channels"),
    "choices": ("sweep WALK FEW --step-images-choices 16,0", "different whole numbers from 1 on"),
    "choices_twice": ("sweep WALK FEW --step-images-choices 16,16", "step_images_choices=16,16"),
    "solvers": ("sweep WALK FEW --solvers adma", "solvers=adma: expected sgd, adam"),
    "stages_word": ("sweep WALK FEW --stages deep", "stages=deep: expected different whole numbers from 0 on"),
    "stages": ("sweep WALK TINY --weights random --stages 0,9", "stage=9"),
    "study_long": (f"sweep WALK FEW --study {'n' * 513}", "at most 512 characters"),
    "study_lines": ("sweep WALK FEW --study 'two\nlines'", "characters that can be printed"),
    "study_maximise": ("sweep WALK FEW --study highest", "study highest: is made to maximise; a sweep minimises"),
    "study_objectives": ("sweep WALK FEW --study two", "study two: has 2 objectives; a sweep has one"),
    "study_foreign": ("sweep WALK FEW --study foreign", "its trials were not made by this version of sweep"),
    "study_subject": ("sweep WALK FEW --study subject", "encoder is one there, null ... another study name"),
    "storage": ("sweep WALK FEW --storage sqlite:///gone/s.db", "cannot be opened (unable to open database file)"),
    "storage_damaged": ("sweep WALK FEW --storage sqlite:///page.bin", "cannot be opened (file is not a database)"),
    "storage_memory": ("sweep WALK FEW --storage sqlite:///:memory:", "not the URL of a database"),
    "storage_path": ("sweep WALK FEW --storage studies.db", "not the URL of a database"),
    "storage_port": ("sweep WALK FEW --storage postgresql://me:secret@host:abc/db", "postgresql://host:abc/db: not"),
    "storage_at": ("sweep WALK FEW --storage postgresql://me:12@secret@127.0.0.1/db", "not the URL of a database"),
    "storage_slashes": ("sweep WALK FEW --storage postgresql:///me:secret@127.0.0.1/db", "not the URL of a database"),
    "storage_bracket": ("sweep WALK FEW --storage postgresql://me:secret@[::1/db", "not the URL of a database"),
    "storage_query": ("sweep WALK FEW --storage postgresql://a:9/db?user=me&password=12@secret", "not the URL"),
    "storage_postgres": ("sweep WALK FEW --storage postgres://me:secret@127.0.0.1/db", "cannot be opened"),
    "storage_driver": ("sweep WALK FEW --storage mysql://me@host/db?passwd=secret", "pip install '.[postgres]'"),
    "storage_odbc": ("sweep WALK FEW --storage mssql+pyodbc:///?odbc_connect=PWD%3Dsecret", "cannot be opened"),
    "storage_closed": ("sweep WALK FEW --storage postgresql://me:secret@127.0.0.1:9/db", "opened ... refused"),
    "sweep_ranks": ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=0 sweep WALK FEW", "sweep: runs on one rank"),
    # Verdicts, comparisons, their cues and pages.
    "verdict_layer": ("verdict WALK --feature normals --encoder autoencoder", "feature=normals: dataset=folder has no"),
    "verdict_task": ("verdict WALK --encoder planted:small_network", "Name the task"),
    "verdict_other_task": ("verdict WALK --encoder autoencoder --task imagenet", "were trained for reconstruction"),
    "verdict_task_typo": ("verdict WALK --task imagnet", "task=imagnet: ... Did you mean imagenet"),
    "verdict_untrained": ("verdict WALK --encoder null", "was not trained for anything"),
    "verdict_stride": ("verdict WALK --encoder autoencoder --common-stride 7", "divide images of 256 x 256 pixels"),
    "verdict_ks": ("verdict WALK --encoder autoencoder --ks 2,99", "ks=2,99: 99 is no number from 1 to 10"),
    "verdict_no_ks": ("verdict WALK --ks ,", "ks: none given"),
    "verdict_margin": ("verdict WALK --margin 0.9", "'--margin' ... below 1"),
    "verdict_level": ("verdict WALK --level 1.5", "level=1.5: expected more than 0 and less than 1"),
    "verdict_draws": ("verdict WALK --encoder autoencoder --ks 2,3,4,5 --draws 100", "draws=100: too few"),
    "verdict_clusters": ("verdict WALK --clusters frame", "'--clusters'"),
    "verdict_cues": ("verdict WALK --cues perhaps", "'--cues'"),
    "compare": ("compare WALK --encoders autoencoder,nope", "encoders=nope: no such encoder"),
    "compare_none": ("compare WALK --encoders ,", "name those that are judged"),
    "compare_null": ("main WALK --encoders null,convnext", "null stands beside them"),
    "compare_twice": ("main WALK --encoders convnext,convnext", "one is there twice"),
    "compare_feature_twice": ("compare WALK --encoders autoencoder --feature depth,depth", "feature=depth,depth: one"),
    "compare_feature_layer": (
        "compare WALK --encoders autoencoder --feature depth,normals",
        "feature=normals: dataset=folder has no",
    ),
    "compare_feature_typo": ("main WALK --encoders autoencoder --feature depth,nromals", "'nromals' ... 'normals'"),
    "compare_task": ("compare WALK --tasks reconstruction,juggling", "tasks=juggling: no encoder stands for this"),
    "compare_task_twice": ("main WALK --tasks reconstruction,autoencoder", "tasks=reconstruction,autoencoder: one is"),
    "compare_untrained": ("compare WALK --tasks none", "tasks=none: nothing is judged"),
    "compare_both": ("compare WALK --tasks reconstruction --encoders convnext", "Leave encoders and weights out"),
    "compare_weights": ("compare WALK --encoders autoencoder --weights a.pth", "has none that takes them"),
    # Training.
    "preset": ("autoencoder WALK --preset huge", "'--preset' ... medium"),
    "n_hid": ("autoencoder WALK --n-hid 30", "n_hid=30: must be a multiple of 4. Pass 32"),
    "latent": ("autoencoder WALK --n-hid 8 --latent-channels 65", "latent_channels=65: above the 64 channels"),
    "crop": ("autoencoder WALK --crop 30", "crop=30: ... sides must be multiples of 8"),
    "crop_large": ("autoencoder WALK --crop 512", "crop=512: the images have 256 x 256 pixels"),
    "train_epochs": ("autoencoder WALK --epochs 0", "epochs=0.0: expected more than 0"),
    "train_warmup": ("autoencoder WALK --warmup 1", "warmup=1.0: expected a share below 1"),
    "train_accumulate": ("autoencoder WALK --accumulate 3", "accumulate=3: does not divide batch_size=32"),
    "train_batch": ("autoencoder WALK --batch-size 4096", "batch_size=4096: the training split has"),
    "out_name": ("autoencoder WALK --out weights.pth", "out=weights.pth: must end in .safetensors"),
    "out_folder": ("pretrain --out gone/a.safetensors", "gone is no folder. Make it first"),
    "out_is_folder": ("pretrain --out taken.safetensors", "out=taken.safetensors: is a folder"),
    "resume": (f"autoencoder WALK --resume {'0' * 32}", "no checkpoint to resume from"),
    "model": ("pretrain --model convnext_gone", "model=convnext_gone: timm has no such ConvNeXt"),
    "task": ("pretrain --task depth", "task=depth: no such task to train for. Pass one of segmentation"),
    "task_class": ("pretrain --task planted:SmallNetwork", "no objective. Derive it from idl.training.OnConvNeXt"),
    "task_geometry": ("pretrain --task planted_training:SeesNormals", "asks for normals, and ... Take these out"),
    "pretrain_layer": ("pretrain WALK", "no layer"),
    # Registered probes: listed, used, measured.
    "sort": ("models --sort rmse", "sort=rmse: no such figure"),
    "filter": ("models --dataset wlak", "dataset=wlak: no registered probe has it. There is: walk"),
    "filter_split": ("models --split 0000", "split=0000: no registered probe has it"),
    "models_server": ("STORE=http://127.0.0.1:9 models", "tracking server http://127.0.0.1:9: no answer"),
    "predict": ("predict walk --out out", "model: none given"),
    "predict_uri": ("predict walk --out out --model idl-depth-null", "Write models:/NAME/VERSION"),
    "predict_name": ("predict walk --out out --model models:/idl-dept-null/1", "Registered probes: idl-depth-null"),
    "predict_alias": ("predict walk --out out --model models:/idl-depth-null@best", "aliases champion, champion-walk"),
    "predict_version": ("predict walk --out out --model models:/idl-depth-null/9", "no such version or alias"),
    "predict_encoder": ("predict walk --out out --model models:/idl-encoder-null/1", "no probe that idl registered"),
    "predict_foreign": ("predict walk --out out --model models:/somebody-elses/1", "no probe that idl registered"),
    "predict_file": ("predict page.bin --out out DEPTH", "page.bin: not a readable image"),
    "predict_place": ("predict gone --out out DEPTH", "gone: no such image or folder"),
    "predict_none": ("predict --images 'gone/*.png' --out out DEPTH", "images: none found"),
    "predict_nowhere": ("predict walk DEPTH", "out: no folder given"),
    "predict_onto": ("predict walk/rgb --out walk/rgb DEPTH", "is the output folder too"),
    "predict_out_file": ("predict walk/rgb --out page.bin DEPTH", "page.bin is no folder"),
    "predict_out_below": ("predict walk/rgb --out page.bin/out DEPTH", "page.bin is no folder"),
    "predict_scale": ("predict walk --out out DEPTH --depth-scale 0", "depth_scale=0: expected units a metre"),
    "predict_near": ("predict walk --out out DEPTH --near close", "'--near' ... auto"),
    "predict_range": ("predict walk/rgb --out out DEPTH --near 0 --far 0", "near=0, far=0: expected near < far"),
    "predict_format": ("predict walk --out out DEPTH --format jpg", "'--format'"),
    "predict_there": ("predict walk/rgb/0000.png --out maps DEPTH", "is there already, from another ... --overwrite"),
    "evaluate_none": ("evaluate WALK", "model: none given"),
    "evaluate_part": ("evaluate WALK DEPTH --part train", "only its own test split is measured there"),
    "evaluate_split": ("evaluate WALK DEPTH --split 2:1:1", "Pass split= and split_seed= as its run did"),
    "evaluate_crops": ("evaluate WALK DEPTH --part train --test-images 5", "part=train: crops are of the test split"),
    # The doctor, which says of data on disk what is wrong with it: only what it is asked can be bad input.
    "doctor": ("doctor", "dataset: none given"),
    "doctor_name": ("doctor nyuu empty", "dataset=nyuu: expected rooms, folder, nyu, diode"),
    "doctor_data": ("doctor nyu", "no data given"),
    "doctor_path": ("doctor nyu gone", "gone: no such file or folder"),
    "doctor_store": ("doctor gone.h5", "gone.h5: no such file"),
    "doctor_three": ("doctor nyu a b", "expected a dataset and a path"),
    "doctor_sample": ("doctor nyu empty --sample -1", "'--sample'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """A working folder with data sound and broken, a registered probe, and studies of other kinds."""
    folder = tmp_path_factory.mktemp("bad")
    with working_folder(folder, template) as patch:
        patch.setenv("IDL_CACHE", "cache")
        _write_data()
        assert run(*shlex.split(f"probe {SHORT['WALK']} --encoder null --stride 32")) == 0
        (made,) = Path("cache/datasets").glob("*.h5")
        # Its store is whole; no split of its one scene is.
        assert run(*shlex.split(f"prepare {ONE_SCENE}")) == 2
        content = made.read_bytes()
        Path("walk.h5").write_bytes(content)
        Path("later.h5").write_bytes(content)
        Path("cut.h5").write_bytes(content[: len(content) // 2])
        with h5py.File("later.h5", "r+") as file:
            file.attrs["version"] = 999
        register_strangers()
        client = mlflow.MlflowClient()
        client.delete_experiment(client.create_experiment("gone"))
        _write_studies(f"sqlite:///{folder}/cache/{FILE}")
    return folder


def _write_data() -> None:
    write_pairs(Path("walk"), num=60)
    for name in ("lacking", "damaged", "bits", "names", "sizes", "pictures", "kinds", "doubles", "one"):
        write_pairs(Path(name), num=12)
    for number in range(7):
        Path(f"lacking/depth/{number:04}.png").unlink()
    for kind in ("rgb", "depth"):
        Path(f"names/{kind}/0007.png").rename(f"names/{kind}/\udcff7.png")
    line = "walk/rgb/0000.png walk/depth/0000.png\n"
    Path("twice.txt").write_text(2 * line)
    Path("wide.txt").write_text(line, "utf-16")
    Path("damaged/depth/0007.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Path("pictures/rgb/0007.png").write_bytes(b"picture")
    Image.fromarray(np.ones((48, 40), np.uint8)).save("bits/depth/0007.png")
    Image.fromarray(np.ones((20, 20), np.uint16)).save("sizes/depth/0007.png")
    for path in Path("kinds/depth").iterdir():
        path.rename(path.with_suffix(".mat"))
    Image.open("doubles/rgb/0007.png").save("doubles/rgb/0007.jpg")
    Path("empty").mkdir()
    Path("packed").mkdir()
    Path("packed/val.tar.gz").touch()
    Path("taken.safetensors").mkdir()
    scipy.io.savemat("older.mat", {"images": np.ones((4, 4))})
    write_tree(Path("diode"), ("train/indoors/scene_00000/scan_00000",), per_scan=1)
    for suffix in ("bin", "onnx", "json"):
        Path(f"page.{suffix}").write_text("<!DOCTYPE html> " * 512)
    Path("unknown.json").write_text(json.dumps({"train": ["nowhere"], "val": ["a"], "test": ["b"]}))
    save_file(SmallNetwork().state_dict(), "other.safetensors")
    Path("maps").mkdir()
    shutil.copy("walk/rgb/0000.png", "maps/0000_colour.png")


def _write_studies(url: str) -> None:
    optuna.create_study(study_name="highest", storage=url, direction="maximize")
    optuna.create_study(study_name="two", storage=url, directions=["minimize", "minimize"])
    foreign = optuna.create_study(study_name="foreign", storage=url)
    foreign.add_trial(optuna.trial.create_trial(value=1.0))
    optuna.create_study(study_name="subject", storage=url).set_user_attr("subject", {"encoder": "one"})


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    monkeypatch.setenv("IDL_CACHE", "cache")
    yield place
    torch.set_num_threads(1)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, but for those that a preparation goes on from, and those of databases."""
    found = (each for each in folder.rglob("*") if each.is_file() and each.suffix not in KEPT)
    return {
        str(each.relative_to(folder)): (each.stat().st_size, each.stat().st_mtime_ns)
        for each in found
        if not each.name.startswith((FILE, "mlflow.db"))
    }


def runs(folder: Path) -> list[Run]:
    """All runs of the tracking store, the newest first."""
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    return client.search_runs(experiments, "", ViewType.ALL, order_by=["start_time DESC"])


@pytest.mark.parametrize("case", ROWS)
def test_bad_input_is_one_line_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    command, words = ROWS[case]
    for name, meaning in SHORT.items():
        command = command.replace(name, meaning)
    arguments = shlex.split(command)
    while (name := arguments[0].partition("="))[1]:
        monkeypatch.setenv(name[0], name[2])
        arguments.pop(0)
    before, num_runs = files(here), len(runs(here))
    assert run(*arguments) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert lines == err.splitlines()[-1:]
    assert all(part in lines[0] for part in words.split(" ... ")), lines[0]
    for part in ("Traceback", "secret", "12@"):
        assert part not in out + err
    assert files(here) == before
    # Most have none.
    for made in runs(here)[: len(runs(here)) - num_runs]:
        assert (made.info.status, made.data.tags["idl.error"]) == ("FAILED", lines[0].removeprefix("error: "))
