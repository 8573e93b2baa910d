"""The Hugging Face Hub: the library itself against a stand-in on this machine's own address."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import alone, forged, made, opened, resigned
from hypothesis import given
from hypothesis import strategies as st
from processes import charlm as run_charlm
from processes import one_line
from safetensors.numpy import save
from standin import TOKEN, Hub, Repository, environment, standing_in, using

import charlm
from charlm.cli.main import run
from charlm.config import val_share
from charlm.errors import CharlmError, CheckpointError, ConfigError, StorageError
from charlm.report.card import repository_card
from charlm.report.evaluation import run_names
from charlm.storage import hub as ours
from charlm.storage.checkpoint import load_checkpoint
from charlm.storage.hub import HubName, fetch, origin, parse, publishable, push
from charlm.storage.records import TrainState
from charlm.storage.runs import find_checkpoint

pytest.importorskip("huggingface_hub", minversion="1.30")

NAME = "ada/novel"
COMMIT = re.compile("[0-9a-f]{40}")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, with an empty cache."""
    with standing_in() as hub, using(hub, tmp_path / "home"):
        yield hub


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> charlm.Trained:
    """A run whose texts lie in a folder that nobody need know of."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "secret").mkdir()
    (folder / "secret/tale.txt").write_text("the cat and the dog and the cow\n" * 60)
    (folder / "secret/later.txt").write_text("the dog and the cow and the cat\n" * 9)
    return charlm.train(
        folder / "secret/tale.txt", checkpoints=folder / "checkpoints", val=str(folder / "secret/later.txt"),
        steps=40, hidden=16, batch=4, bptt=16, seed=1, device="cpu", precision="fp32", threads=1,
    )  # fmt: skip


@pytest.fixture
def model(trained: charlm.Trained) -> bytes:
    """The file that is pushed."""
    return publishable(load_checkpoint(trained.checkpoint)).to_bytes()


def told(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> tuple[str, str]:
    """What a command writes that ends with this code."""
    capsys.readouterr()
    assert run(arguments) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    assert TOKEN not in captured.out + captured.err
    return captured.out, captured.err


def refusal(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """The one line with which a command is refused."""
    out, err = told(capsys, code, *arguments, "-q")
    assert out == ""
    assert err.startswith("charlm: ")
    assert err.count("\n") == 1
    return err


# Names


@given(st.text("ab.-_/@:%\\~ \0\né", max_size=12))
def test_a_name_has_no_part_that_could_lead_elsewhere(text: str) -> None:
    name = parse(text)
    if name is not None:
        assert str(name) == f"hf:{text}"
        assert name.repository.count("/") == 1
        assert re.fullmatch(r"[\w./-]+", name.repository + name.revision, re.ASCII)
        parts = [*name.repository.split("/"), *name.revision.split("/")]
        assert not {"..", "."} & set(parts)
        assert not name.revision.startswith("/")


@pytest.mark.parametrize(
    "name",
    ["", "ada", "ada/", "/novel", "ada/novel/more", "ada/../novel", "../../etc", "ada/novel@", "ada/novel@../../main",
     "ada/novel@/etc", "ada/no--vel", "ada/no..vel", "ada/-novel", "ada/novel.", "ada/novel.git", "äda/novel",
     "ada/novel\n", "ada\\novel", "ada/novel@a.lock", "a" * 97 + "/novel", "ada/novel@" + "a" * 201, "//ada/novel"],
)  # fmt: skip
def test_what_is_no_name_is_refused_before_the_library_is_asked(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "hf:OWNER/NAME" in refusal(capsys, 4, "info", f"hf:{name}")
    if "@" not in name:
        with pytest.raises(ConfigError, match="not OWNER/NAME"):
            push(made(), name, card=lambda model: repository_card(model, name))


@pytest.mark.parametrize("name", ["ada/novel", "a/b@main", "A_1/b.c-d@refs/pr/3", "ada/novel@" + "0" * 40])
def test_names_as_the_hub_has_them_are_taken(name: str) -> None:
    assert str(parse(name)) == f"hf:{name}"


def test_only_files_of_the_cache_have_an_origin() -> None:
    folder = Path("/c/hub/models--ada--novel/snapshots")
    assert origin(folder / ("0" * 40) / "model.safetensors") == HubName(NAME, "0" * 40)
    for other in ("model.safetensors", "1234/model.safetensors", f"{'0' * 40}/best.safetensors"):
        assert origin(folder / other) is None
    assert origin(Path("best.safetensors")) is None


def test_several_models_on_the_hub_are_told_apart_in_tables() -> None:
    def path(name: str, commit: str) -> str:
        return f"/c/models--{name.replace('/', '--')}/snapshots/{commit * 40}/model.safetensors"

    first, second, other = path(NAME, "1"), path(NAME, "2"), path("bob/poems", "3")
    assert run_names([first, other, "checkpoints/a/best.safetensors"]) == {
        first: NAME, other: "bob/poems", "checkpoints/a/best.safetensors": "a"
    }  # fmt: skip
    assert list(run_names([first, second]).values()) == [f"{NAME}@1111111", f"{NAME}@2222222"]


def test_hf_is_the_hub_and_a_path_is_a_file_whatever_lies_here(
    hub: Hub, model: bytes, trained: charlm.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:ada").mkdir()
    shutil.copy(trained.checkpoint, "hf:ada/novel")
    shutil.copytree(trained.run.folder, "checkpoints/hf:ada/novel")
    hub.holds(NAME, model=model)
    assert origin(find_checkpoint("hf:ada/novel")) == HubName(NAME, hub.repositories[NAME].branches["main"])
    assert find_checkpoint("./hf:ada/novel") == Path("hf:ada/novel")
    assert find_checkpoint("checkpoints/hf:ada/novel") == Path("checkpoints/hf:ada/novel/best.safetensors")


# There and back


def test_what_is_pushed_samples_as_the_run_does_and_is_one_commit(
    hub: Hub, trained: charlm.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trained.run.folder)
    out, _ = told(capsys, 0, "push", folder, NAME, "--json")
    done = json.loads(out)
    repository = hub.repositories[NAME]
    files = repository.commits[done["commit"]]
    assert len(repository.commits) == 2  # the empty one, and this
    assert set(files) == set(done["files"]) == {"model.safetensors", "README.md"}
    assert (done["repository"], done["branch"], done["created"], done["private"]) == (NAME, "", True, False)
    assert done["bytes"] == len(files["model.safetensors"])

    arguments = ("--length", "80", "--seed", "7", "--temperature", "0.9", "--prime", "the ")
    local, _ = told(capsys, 0, "sample", folder, *arguments)
    there, err = told(capsys, 0, "sample", f"hf:{NAME}", *arguments)
    assert there == local
    assert f"using hf:{NAME}@{done['commit']}\n" in err
    verified = json.loads(told(capsys, 0, "verify", f"hf:{NAME}", "--json")[0])
    assert verified["state_sha256"] == load_checkpoint(trained.checkpoint).state_sha256


def test_the_real_command_downloads_once_and_needs_no_network_afterwards(
    trained: charlm.Trained, model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--length", "50", "--seed", "7", "--engine", "numpy")
    local, _ = told(capsys, 0, "sample", str(trained.run.folder), *arguments)
    with standing_in() as hub:
        env = environment(hub, tmp_path / "home")
        hub.holds(NAME, model=model)
        sampled = run_charlm("sample", f"hf:{NAME}", *arguments, cwd=tmp_path, **env)
        assert (sampled.returncode, sampled.stdout) == (0, local)
        assert sampled.stderr.startswith(f"using hf:{NAME}@")
        assert sampled.stderr.count("\n") == 1
    again = run_charlm("sample", f"hf:{NAME}", *arguments, "-q", cwd=tmp_path, **env)
    assert (again.returncode, again.stdout, again.stderr) == (0, local, "")  # nobody answers there now
    one_line(run_charlm("verify", "hf:ada/other", cwd=tmp_path, **env, HF_HUB_OFFLINE="1"), 4, "HF_HUB_OFFLINE is set")


def test_without_network_what_is_in_the_cache_is_used(hub: Hub, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = hub.holds(NAME, model=model)
    path = fetch(f"hf:{NAME}")
    for status in (429, 500, 503):
        hub.fail[:] = [("HEAD", status, "")]
        assert fetch(f"hf:{NAME}") == path
    hub.fail[:] = [("HEAD", 404, "RepoNotFound")]  # that is no failure of the network
    with pytest.raises(CheckpointError, match="there is no model"):
        fetch(f"hf:{NAME}")
    hub.fail.clear()
    hub.holds(NAME, model=made(**alone(made())).to_bytes())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert origin(fetch(f"hf:{NAME}")) == HubName(NAME, commit)


def test_a_download_is_made_once(hub: Hub, model: bytes) -> None:
    hub.holds(NAME, model=model)
    path = fetch(f"hf:{NAME}")
    downloads = [asked for asked in hub.asked if asked.startswith("GET")]
    assert fetch(f"hf:{NAME}") == path
    assert [asked for asked in hub.asked if asked.startswith("GET")] == downloads
    assert all("/resolve/" in asked and asked.endswith("/model.safetensors") for asked in hub.asked)
    assert path.read_bytes() == model


def test_a_revision_is_a_branch_or_a_commit(hub: Hub, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    first = hub.holds(NAME, model=model)
    second = made(**alone(made())).to_bytes()
    hub.repositories[NAME].commit({"model.safetensors": second}, "v2")
    newest = hub.holds(NAME, model=second)
    assert fetch(f"hf:{NAME}@{first}").read_bytes() == model
    assert fetch(f"hf:{NAME}@v2").read_bytes() == second
    assert origin(fetch(f"hf:{NAME}")) == HubName(NAME, newest)
    asked = len(hub.asked)
    assert fetch(f"hf:{NAME}@{first}").read_bytes() == model
    assert len(hub.asked) == asked  # a commit that is there is not asked for
    assert "no such branch, tag or commit" in refusal(capsys, 4, "info", f"hf:{NAME}@v3")


def test_every_command_takes_a_name_on_the_hub(
    hub: Hub, model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commit, name = hub.holds(NAME, model=model), f"hf:{NAME}"
    Path("t.txt").write_text("the cat and the cow\n")
    Path("p.tsv").write_text("the cat\tthe cta\n")
    for arguments in (
        ["info", name], ["verify", name], ["eval", name, "--text", "t.txt"], ["score", name, "--text", "t.txt"],
        ["pairs", name, "p.tsv"], ["compress", "t.txt", "--model", name, "--output", "t.charlm"],
        ["decompress", "t.charlm", "--model", name, "--output", "back.txt"],
        ["train", "t.txt", "--init-from", name, "--steps", "1", "--val", "0", "--threads", "1", "--precision", "fp32"],
    ):  # fmt: skip
        assert f"{name}@{commit}" in told(capsys, 0, *arguments)[1], arguments
    assert Path("back.txt").read_text() == Path("t.txt").read_text()
    assert charlm.load(name).sample(length=5, seed=1) == charlm.load(Path(name)).sample(length=5, seed=1)


def test_the_text_of_a_model_from_the_hub_is_elsewhere(
    hub: Hub, model: bytes, trained: charlm.Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    hub.holds(NAME, model=model)
    assert "--corpus FILE" in refusal(capsys, 3, "eval", f"hf:{NAME}")
    texts = [str(trained.run.folder.parent.parent / "secret" / name) for name in ("tale.txt", "later.txt")]
    own = json.loads(told(capsys, 0, "eval", str(trained.run.folder), "--json")[0])["results"][0]
    there = told(capsys, 0, "eval", f"hf:{NAME}", "--json", "--corpus", texts[0], "--corpus", texts[1])[0]
    assert json.loads(there)["results"][0]["nats"] == own["nats"]
    for text in texts:
        shutil.copy(text, tmp_path)
    assert json.loads(told(capsys, 0, "eval", f"hf:{NAME}", "--json")[0])["results"][0]["nats"] == own["nats"]


# What is pushed


@pytest.mark.parametrize("file", ["best", "last"])
def test_no_path_and_no_training_state_is_published(trained: charlm.Trained, file: str) -> None:
    whole = load_checkpoint(trained.run.folder / f"{file}.safetensors")
    shown = publishable(whole)
    data = shown.to_bytes()
    assert str(trained.run.folder.parent.parent).encode() not in data
    assert b"secret" not in data
    assert not shown.resumable
    assert not shown.tensors
    assert {name: array.tobytes() for name, array in shown.weights.items()} == {
        name: array.tobytes() for name, array in whole.weights.items()
    }
    assert [source.path for source in shown.corpus.sources] == ["tale.txt", "later.txt"]
    assert [source.sha256 for source in shown.corpus.sources] == [source.sha256 for source in whole.corpus.sources]
    assert (shown.config.data.val, shown.result, shown.history) == ("later.txt", whole.result, whole.history)
    assert publishable(shown) == shown


@pytest.mark.parametrize("val", ["0", "0.1", "/x/0.1", "/x/7", "C:\\x\\later.txt", "/x/nan", "/"])
def test_a_share_stays_one_and_a_file_stays_a_file(val: str) -> None:
    config = made().config
    shown = publishable(made(config=replace(config, data=replace(config.data, val=val))))
    assert (val_share(val) is None) == (val_share(shown.config.data.val) is None)
    assert not {"/", "\\"} & set(shown.config.data.val.removeprefix("./"))


def test_the_card_has_the_figures_and_what_the_hub_reads(trained: charlm.Trained) -> None:
    text = repository_card(publishable(load_checkpoint(trained.checkpoint)), NAME)
    head = text.split("---\n")[1].splitlines()
    assert {'library_name: "charlm"', 'pipeline_tag: "text-generation"', '- "lstm"'} <= set(head)
    assert f"charlm sample hf:{NAME}\n" in text
    assert f"| {trained.result.val_loss:.4f} |" in text
    assert f"{trained.parameters:,} parameters" in text
    assert str(trained.run.folder.parent.parent) not in text, "no folder of this machine is named"


def test_a_branch_a_message_and_a_private_repository(
    hub: Hub, trained: charlm.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = told(capsys, 0, "push", str(trained.run.folder), NAME, "--private", "--branch", "v2", "--message", "mine")
    repository = hub.repositories[NAME]
    assert repository.private
    assert repository.messages[-1] == "mine"
    assert "model.safetensors" not in repository.commits[repository.branches["main"]]
    assert set(repository.commits[repository.branches["v2"]]) == {"model.safetensors", "README.md"}
    assert f"hf:{NAME}@v2" in out
    assert repository.branches["v2"] in out
    assert fetch(f"hf:{NAME}@v2").is_file()


def test_pushing_again_replaces_the_model_and_what_is_not_ours_is_left_alone(
    hub: Hub, trained: charlm.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(trained.run.folder)
    told(capsys, 0, "push", folder, NAME)
    assert not json.loads(told(capsys, 0, "push", folder, NAME, "--json")[0])["created"]
    hub.repositories["ada/other"] = other = Repository()
    other.commit({"README.md": b"# Mine\n", "weights.bin": b"1"})
    before = dict(other.commits)
    assert "holds something else than a charlm model (README.md, weights.bin)" in refusal(
        capsys, 2, "push", folder, "ada/other"
    )
    assert "is public" in refusal(capsys, 2, "push", folder, NAME, "--private")
    assert other.commits == before
    told(capsys, 0, "push", folder, "ada/other", "--force")
    assert set(other.commits[other.branches["main"]]) == {"README.md", "weights.bin", "model.safetensors"}


def test_what_the_hub_has_otherwise_than_it_was_sent_is_an_error(
    hub: Hub, trained: charlm.Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.altered = flipped
    assert "is not what was sent" in refusal(capsys, 74, "push", str(trained.run.folder), NAME)


@pytest.mark.parametrize(
    ("fail", "code", "words"),
    [
        (("POST /api/repos/create", 401, ""), 2, "hf auth login"),
        (("POST /api/repos/create", 403, ""), 2, "does not let you write to ada/novel (403: told to answer 403)"),
        (("POST /api/repos/create", 409, ""), 1, "refuses the push"),
        (("/commit/", 403, ""), 2, "ada/novel was created and is empty"),
        (("/commit/", 412, ""), 1, "refuses the push"),
        (("/preupload/", 413, ""), 1, "refuses the push"),
    ],
)
def test_a_push_that_is_refused_says_why(
    hub: Hub, trained: charlm.Trained, capsys: pytest.CaptureFixture[str], fail: Any, code: int, words: str
) -> None:
    hub.fail.append(fail)
    assert words in refusal(capsys, code, "push", str(trained.run.folder), NAME)


def test_without_a_token_nothing_is_pushed(
    hub: Hub, trained: charlm.Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refusal(capsys, 2, "push", str(trained.run.folder), NAME)
    assert not hub.repositories


def test_a_damaged_run_is_not_pushed(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.safetensors").write_bytes(flipped(made().to_bytes()))
    assert "SHA-256" in refusal(capsys, 4, "push", str(tmp_path / "bad.safetensors"), NAME)
    assert not hub.asked


# What arrives


def flipped(data: bytes) -> bytes:
    """The data with one bit of the last byte changed."""
    return data[:-1] + bytes([data[-1] ^ 1])


def pickled() -> bytes:
    return pickle.dumps({"weight": [1.0]})


def saved_by_torch() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, buffer)
    return buffer.getvalue()


def a_transformer() -> bytes:
    return save({"transformer.h.0.attn.c_attn.weight": np.zeros((4, 12), np.float32)}, metadata={"format": "pt"})


def not_finite() -> bytes:
    checkpoint = made(**alone(made()))
    return replace(checkpoint, weights={n: np.full_like(w, np.nan) for n, w in checkpoint.weights.items()}).to_bytes()


def another_shape() -> bytes:
    return resigned(made().to_bytes(), lambda table: table["config"]["model"].update(hidden=3))


def a_header_bomb() -> bytes:
    table, _, body = opened(made().to_bytes())
    return forged(table, "[" * 10**6, body)


def endless_header() -> bytes:
    return (2**62).to_bytes(8, "little") + b"{" + bytes(100)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes, "not a charlm checkpoint"),
        (pickled, "not a charlm checkpoint"),
        (saved_by_torch, "not a charlm checkpoint"),
        (a_transformer, "not a charlm checkpoint"),
        (endless_header, "not a charlm checkpoint"),
        (a_header_bomb, "metadata"),
        (another_shape, "has shape"),
        (not_finite, "not finite"),
        (lambda: flipped(made().to_bytes()), "damaged: its SHA-256"),
        (lambda: made().to_bytes()[:-4], "truncated"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_4(
    hub: Hub, capsys: pytest.CaptureFixture[str], content: Callable[[], bytes], words: str
) -> None:
    commit = hub.holds(NAME, model=content())
    for _ in range(2):  # the second time it is in the cache
        said = refusal(capsys, 4, "sample", f"hf:{NAME}")
        assert f"hf:{NAME}@{commit}: " in said
        assert words in said


def test_other_content_than_the_hub_names_is_refused(
    hub: Hub, model: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.holds(NAME, model=model)
    hub.sent["model.safetensors"] = resigned(model, lambda table: table["corpus"].update(fingerprint="ab"))
    hub.promised["model.safetensors"] = len(hub.sent["model.safetensors"])
    for _ in range(2):
        assert "is not what the Hub says" in refusal(capsys, 4, "info", f"hf:{NAME}")
    hub.sent.clear()
    hub.promised.clear()
    assert fetch(f"hf:{NAME}").read_bytes() == model


def test_a_file_that_was_damaged_in_the_cache_is_fetched_again(hub: Hub, model: bytes) -> None:
    hub.holds(NAME, model=model)
    path = fetch(f"hf:{NAME}")
    blob = path.resolve()
    blob.write_bytes(flipped(model))
    assert fetch(f"hf:{NAME}").read_bytes() == model


def test_too_large_a_file_is_not_downloaded(hub: Hub, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    hub.holds(NAME, model=model)
    hub.promised["model.safetensors"] = ours.LARGEST + 1
    assert "at most 4,294,967,296 are downloaded" in refusal(capsys, 4, "info", f"hf:{NAME}")
    assert not [asked for asked in hub.asked if asked.startswith("GET")]


def test_what_is_not_there_or_not_for_everyone_is_told_apart(
    hub: Hub, model: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.holds("ada/empty")
    hub.repositories["ada/gated"] = Repository(gated=True)
    hub.holds("ada/gated", model=model)
    hub.repositories["ada/mine"] = Repository(private=True)
    hub.holds("ada/mine", model=model)
    assert "there is no model hf:ada/none on 127.0.0.1" in refusal(capsys, 4, "info", "hf:ada/none")
    assert "has no model.safetensors, so it is no charlm checkpoint" in refusal(capsys, 4, "info", "hf:ada/empty")
    assert "is gated" in refusal(capsys, 4, "info", "hf:ada/gated")
    told(capsys, 0, "info", "hf:ada/mine")
    monkeypatch.delenv("HF_TOKEN")
    assert "or it is private" in refusal(capsys, 4, "info", "hf:ada/hidden")


def test_a_hub_that_is_down_is_74(model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with standing_in() as gone:
        pass
    with using(gone, tmp_path / "home"):
        assert "no connection with 127.0.0.1" in refusal(capsys, 74, "info", f"hf:{NAME}")
        said = refusal(capsys, 74, "push", str(write(tmp_path, model)), NAME)
        assert "nothing was pushed; check the network" in said


def write(folder: Path, data: bytes) -> Path:
    path = folder / "local.safetensors"
    path.write_bytes(data)
    return path


def test_too_many_requests_are_74(hub: Hub, model: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    hub.holds(NAME, model=model)
    hub.fail.append(("HEAD", 429, ""))
    assert "takes no more requests for now (429)" in refusal(capsys, 74, "info", f"hf:{NAME}")


def test_a_download_that_breaks_off_is_74_and_goes_on_later(
    hub: Hub, model: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library waits before it tries again
    hub.holds(NAME, model=model)
    hub.sent["model.safetensors"] = model[: len(model) // 2]
    hub.promised["model.safetensors"] = len(model)
    assert "check the network, then try again" in refusal(capsys, 74, "info", f"hf:{NAME}")
    hub.sent.clear()
    hub.promised.clear()
    assert fetch(f"hf:{NAME}").read_bytes() == model


def test_a_disk_that_cannot_be_written_is_74(
    hub: Hub, model: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.holds(NAME, model=model)
    (tmp_path / "home").write_text("a file in place of the folder")
    assert "HF_HOME" in refusal(capsys, 74, "info", f"hf:{NAME}")


def test_without_the_library_the_command_that_installs_it_is_named(
    trained: charlm.Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for arguments in (["info", f"hf:{NAME}"], ["push", str(trained.run.folder), NAME]):
        assert "pip install 'charlm-cli[hub]'" in refusal(capsys, 1, *arguments)


def test_errors_have_the_kinds_that_python_code_expects(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="there is no model"):
        charlm.load("hf:ada/none")
    hub.holds(NAME, model=a_transformer())
    with pytest.raises(CheckpointError, match="not a charlm checkpoint"):
        charlm.load(f"hf:{NAME}")
    hub.fail.append(("HEAD", 429, ""))
    with pytest.raises(StorageError):
        charlm.load("hf:ada/none")
    assert issubclass(StorageError, CharlmError)


@pytest.mark.usefixtures("hub")
def test_python_pushes_too(trained: charlm.Trained) -> None:
    done = charlm.push(trained.checkpoint, NAME, private=True)
    assert done.private
    assert isinstance(load_checkpoint(trained.run.last).training, TrainState)
    assert charlm.load(f"hf:{NAME}@{done.commit}").sample(length=20, seed=1) == charlm.load(trained.checkpoint).sample(
        length=20, seed=1
    )
