"""/v1/files: what is uploaded is kept, given back, and seen by nobody else."""

import asyncio
import io
import stat
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError
from tests.scripting import run
from tests.server.batching import auth, upload
from tests.server.serving import Client, Reply, scripted_model, serving

from shoal.batch.directory import atomic_writer
from shoal.server.access.keys import settings_for
from shoal.server.batches.files import _file, _Form

KEYS = {name: settings_for(f"key-of-{name}") for name in ("ann", "bob")}


def served(**settings: Any) -> Any:
    return serving({"m": scripted_model(lambda request: "x")}, **{"state": "state", **settings})


def test_the_sdk_keeps_lists_reads_and_deletes_files() -> None:
    async def main() -> None:
        async with served() as client, AsyncOpenAI(base_url=f"{client.url}/v1", api_key="any") as openai:
            files = [
                await openai.files.create(file=(f"{i}.jsonl", b"line\n" * i), purpose="batch") for i in range(1, 6)
            ]
            assert (files[1].bytes, files[1].filename, files[1].purpose) == (10, "2.jsonl", "batch")
            assert (await openai.files.retrieve(files[2].id)) == files[2]
            assert (await openai.files.content(files[2].id)).content == b"line\n" * 3
            newest_first = [file.id for file in reversed(files)]
            assert [file.id async for file in openai.files.list(limit=2)] == newest_first
            assert [file.id async for file in openai.files.list(limit=2, order="asc")] == newest_first[::-1]
            assert [file.id async for file in openai.files.list(purpose="batch_output")] == []
            assert (await openai.files.delete(files[0].id)).deleted
            with pytest.raises(NotFoundError):
                await openai.files.content(files[0].id)
            assert len([file async for file in openai.files.list()]) == 4

    run(main())


def test_files_are_private_on_disk_and_their_names_are_ours() -> None:
    async def main() -> Reply:
        async with served() as client:
            return await upload(client, b"{}\n", filename="../..\\etc/passwd")

    file = run(main()).json
    (path,) = Path("state/files").iterdir()
    assert path.name == file["id"]
    assert file["filename"] == "passwd"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("state").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path("state/state.sqlite").stat().st_mode) == 0o600


def test_a_files_content_is_no_page_whatever_it_holds() -> None:
    async def main() -> Reply:
        async with served() as client:
            id_ = (await upload(client, b"<script>alert(1)</script>", filename="x.html")).json["id"]
            return await client.get(f"/v1/files/{id_}/content")

    headers = run(main()).headers
    assert (headers["content-type"], headers["x-content-type-options"]) == ("application/octet-stream", "nosniff")


def test_another_keys_files_are_not_there() -> None:
    async def main() -> tuple[list[int], Any, int]:
        async with served(keys=KEYS) as client:
            id_ = (await upload(client, b"x\n", "key-of-ann")).json["id"]
            bob = auth("key-of-bob")
            replies = [
                await client.get(f"/v1/files/{id_}", headers=bob),
                await client.get(f"/v1/files/{id_}/content", headers=bob),
                await deleted(client, id_, "key-of-bob"),
                await client.post("/v1/batches", _batch(id_), headers=bob),
            ]
            listed = (await client.get("/v1/files", headers=bob)).json["data"]
            still = (await client.get(f"/v1/files/{id_}/content", headers=auth("key-of-ann"))).status
            return [reply.status for reply in replies], listed, still

    assert run(main()) == ([404, 404, 404, 404], [], 200)


def _batch(id_: str) -> dict[str, str]:
    return {"input_file_id": id_, "endpoint": "/v1/chat/completions", "completion_window": "24h"}


async def deleted(client: Client, id_: str, key: str = "") -> Reply:
    async with client.session.delete(f"{client.url}/v1/files/{id_}", headers=auth(key)) as response:
        return Reply(response.status, response.headers, await response.text())


@pytest.mark.parametrize("id_", ["..%2f..%2fstate.sqlite", "..", "state.sqlite", "%00", "file-" + "0" * 24, "a" * 5000])
def test_no_name_a_client_gives_is_a_path(id_: str) -> None:
    async def main() -> Reply:
        async with served() as client:
            await upload(client, b"x\n")
            return await client.get(f"/v1/files/{id_}/content")

    reply = run(main())
    assert reply.status == 404
    assert "SQLite" not in reply.text


def test_a_file_larger_than_allowed_is_refused_and_leaves_nothing() -> None:
    async def main() -> list[int]:
        # What one request's JSON may be is less than a file may be.
        async with served(max_file=3_000_000, max_stored=4_000_000, max_body=1000) as client:
            sizes = [3_000_001, 40_000_000, 3_000_000, 1_000_001, 1_000_000, 1]
            return [(await upload(client, b"x" * size)).status for size in sizes]

    assert run(main()) == [413, 413, 200, 413, 200, 413]
    assert sorted(path.stat().st_size for path in Path("state/files").iterdir()) == [1_000_000, 3_000_000]


def test_uploads_at_once_have_no_more_room_than_one_after_another() -> None:
    async def main() -> list[int]:
        async with served(max_stored=2_500_000) as client:
            replies = await asyncio.gather(*(upload(client, b"x" * 1_000_000) for _ in range(8)))
            await upload(client, b"x" * 1_000_000)  # nothing stays reserved
            return sorted(reply.status for reply in replies)

    statuses = run(main())
    assert set(statuses) == {200, 413}
    assert sum(path.stat().st_size for path in kept()) == 2_000_000


def form_with(head: bytes) -> bytes:
    purpose = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    return purpose + b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--\r\n"


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        (b"a\xff\xfe.jsonl", "a.jsonl"),
        (b"\xff", "upload.jsonl"),
        ("\u00e9.jsonl".encode(), "\u00e9.jsonl"),
        (b"/.." * 2500 + b"/x", "x"),
        (b"a" * 8000, "a" * 255),
    ],
)
def test_a_filename_of_any_bytes_is_taken_and_quickly(name: bytes, kept_as: str) -> None:
    async def main() -> Reply:
        async with served() as client:
            body = form_with(b'content-disposition: form-data; name="file"; filename="%s"' % name)
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post("/v1/files", body, headers=headers)

    reply = run(main())
    assert (reply.status, reply.json["filename"]) == (200, kept_as)
    assert len(kept()) == 1


def test_a_filename_takes_time_that_grows_with_its_length() -> None:
    form = _Form(purpose="batch", filename="a" * 40_000, bytes=1)
    began = process_time()
    assert _file("file-0", form).filename == "a" * 255
    assert process_time() - began < 1


def test_what_was_in_the_directory_before_stays() -> None:
    async def main() -> None:
        async with served() as client:
            await upload(client, b"x")

    theirs = [Path("state/files/notes.txt"), Path("state/batches/table.sqlite"), Path("state/files/file-1/deep.txt")]
    left = [Path(f"state/files/file-{'0' * 24}"), Path(f"state/batches/batch_{'a' * 24}.sqlite-wal")]
    with atomic_writer(Path(f"state/files/file-{'1' * 24}")):
        (unfinished,) = Path("state/files").iterdir()
    left += [unfinished]
    for path in (*theirs, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    run(main())
    assert all(path.exists() for path in theirs)
    assert not any(path.exists() for path in left)  # of uploads, an output and a batch that a crash cut short


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "batch" * 1000}, "purpose"),
        ({}, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after"),
    ],
)
def test_forms_that_ask_for_something_else_are_refused(form: dict[str, str], param: str) -> None:
    async def main() -> Reply:
        async with (
            served() as client,
            client.session.post(client.url + "/v1/files", data={**form, "file": io.BytesIO(b"x")}) as response,
        ):
            return Reply(response.status, response.headers, await response.text())

    reply = run(main())
    assert (reply.status, reply.error["param"]) == (400, param)
    assert list(Path("state/files").iterdir()) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing of a form",
        b"--b\r\n\r\n",
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\ncut off',
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
        b"--b\r\ncontent-type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
        b'--b\r\ncontent-disposition: form-data; name="x"\r\n\r\ny\r\n' * 40 + b"--b--\r\n",
        b'--b\r\ncontent-disposition: form-data; name="file"\r\ncontent-transfer-encoding: x\r\n\r\ny\r\n--b--\r\n',
        b"--b\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
    ],
)
def test_broken_forms_are_refused_and_leave_nothing(body: bytes) -> None:
    async def main() -> Reply:
        async with served() as client:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            return await client.post("/v1/files", body, headers=headers)

    reply = run(main())
    assert reply.status == 400, reply.text
    assert list(Path("state/files").iterdir()) == []


def kept() -> list[Path]:
    return list(Path("state/files").glob("*"))


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    async def main() -> None:
        async with served() as client:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
            head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
            writer.write(
                b"POST /v1/files HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=b\r\n"
                b"content-length: 100000000\r\n\r\n" + head + b"x" * 3_000_000
            )
            await writer.drain()
            while not kept():
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
            del reader
            while kept():
                await asyncio.sleep(0)

    run(asyncio.wait_for(main(), 20))


def test_without_a_directory_there_are_no_files_and_all_else_is_served() -> None:
    async def main(state: str) -> tuple[Reply, int, int]:
        async with served(state=state) as client:
            files = await client.get("/v1/files")
            return files, (await upload(client, b"x")).status, (await client.chat("m")).status

    reply, *statuses = run(main(""))
    assert (reply.status, reply.error["code"], statuses) == (503, "no_state", [503, 200])
    Path("file").write_text("not a directory")
    reply, *statuses = run(main("file"))
    assert (reply.status, reply.error["code"], statuses) == (507, "storage_unavailable", [507, 200])
    Path("broken").mkdir()
    Path("broken/state.sqlite").write_bytes(b"no database " * 1000)
    reply, *statuses = run(main("broken"))
    assert (reply.status, statuses) == (507, [507, 200])
    assert "broken" not in reply.text  # where things are is the operator's business


def test_a_directory_belongs_to_one_server_at_a_time() -> None:
    async def main() -> list[int]:
        async with served() as first:
            await upload(first, b"x")
            async with served() as second:
                statuses = [(await second.get("/v1/files")).status, (await second.chat("m")).status]
        async with served() as third:
            return [*statuses, (await third.get("/v1/files")).status]

    assert run(main()) == [507, 200, 200]


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=10001", "limit=%D9%A1", "order=up", "limit=-1"])
def test_bad_queries_are_refused(query: str) -> None:
    async def main() -> int:
        async with served() as client:
            return (await client.get(f"/v1/files?{query}")).status

    assert run(main()) == 400
