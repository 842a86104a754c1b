"""Who may look, and who may write."""

from __future__ import annotations

import pytest
from view_world import open_client

from gnomon.errors import ConfigError, DataError
from gnomon.view.serve import ViewServer

TOKEN = "s3cret"


@pytest.mark.parametrize("host", ["localhost", "localhost:8400", "127.0.0.1:8400", "[::1]:8400"])
def test_this_machine_s_names_are_let_in(runs, host):
    assert open_client(runs).get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8400", "localhost.evil.example", "10.0.0.9", ""),
        *("a@localhost", "localhost/x", "[::1", "localhost:x"),
    ],
)
def test_another_name_is_not_even_where_it_points_here(runs, host):
    answered = open_client(runs).get("/", headers={"Host": host})
    assert answered.status_code == 421
    assert "bad" not in answered.text


def test_a_proxy_s_name_is_let_in_when_it_is_given(runs):
    client = open_client(runs, names=["View.Example"])
    assert client.get("/", headers={"Host": "view.example"}).status_code == 200


def test_beyond_this_machine_the_link_s_token_is_wanted_once(runs):
    client = open_client(runs, token=TOKEN)
    assert client.get("/").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.post("/ab", content=f"token={TOKEN}").status_code == 401
    answered = client.get(f"/runs/bad?token={TOKEN}&x=1")
    assert answered.status_code == 303
    assert answered.headers["location"] == "/runs/bad?x=1"
    cookie = answered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert client.get("/").status_code == 200
    assert (
        client.get(f"//evil.example/?token={TOKEN}").headers.get("location", "/")
        != "//evil.example/"
    )


def test_every_answer_forbids_what_the_pages_do_not_need(client):
    for path in ("/", "/runs/bad", "/view.js", "/nope", "/runs/nope"):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_pages_ask_nothing_of_another_machine(client):
    for path in ("/", "/runs/bad", "/runs/bad/02-ppo/samples", "/ab", "/view.css", "/view.js"):
        text = client.get(path).text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text
        assert "style=" not in text
        assert "@import" not in text


def test_the_token_is_made_only_where_others_reach_it(runs):
    here = ViewServer(runs)
    assert here.token is None
    assert here.link.startswith("http://127.0.0.1:")
    proxied = ViewServer(runs, names=["view.example"])
    assert proxied.token is not None
    everywhere = ViewServer(runs, "0.0.0.0")
    assert everywhere.token is not None
    assert everywhere.link.endswith(f"/?token={everywhere.token}")
    port = int(here.link.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(ConfigError, match="choose another with --port"):
        ViewServer(runs, port=port)
    with pytest.raises(DataError, match="is not a folder"):
        ViewServer(runs / "nope")
    for server in (here, proxied, everywhere):
        server._socket.close()
