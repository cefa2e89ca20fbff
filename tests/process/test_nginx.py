"""Behind nginx with its defaults: a stream arrives piece by piece, not in buffers (guarantee 37)."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import trio

from rig import doors, script
from rig.raw_client import open_client

CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {upstream}; proxy_http_version 1.1; }}
    }}
}}
"""
PIECES = 5


@pytest.mark.tool("nginx")
async def test_nginx_with_its_defaults_does_not_buffer(gateway, provider, tmp_path: Path):
    """The provider sends a piece only after the caller has read the one before, through an nginx left as it is."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, port=port, upstream=gateway.base_url))
    read = [trio.Event() for _ in range(PIECES)]
    steps = [script.stream_head()]
    for number, event in enumerate(read):
        steps += [
            script.chunk(b'data: {"choices":[{"delta":{"content":"piece%d"}}]}\n\n' % number),
            script.until(event),
        ]
    provider.enqueue(*steps, script.chunk(b"data: [DONE]\n\n"), script.end_chunks())
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin")
    assert nginx is not None
    with trio.fail_after(30):
        command = [nginx, "-c", str(config), "-p", str(tmp_path)]
        process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            await _listening(port)
            async with open_client(url) as client:
                await client.request(
                    "POST", doors.CHAT.path, doors.CHAT.body("openai/m", stream=True), doors.CHAT.auth()
                )
                assert (await client.read_head()).status == 200
                for number, event in enumerate(read):
                    await client.read_until(b"piece%d" % number)
                    event.set()
                assert (await client.read_body()).endswith(b"data: [DONE]\n\n")
        finally:
            process.terminate()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                await process.wait()


async def _listening(port: int) -> None:
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            await trio.sleep(0.05)  # nothing tells when nginx listens
        else:
            return
