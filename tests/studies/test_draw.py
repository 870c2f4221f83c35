"""The page to draw on: who may ask it what, what it answers, and the page itself in a browser."""

import base64
import functools
import http.client
import io
import json
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageDraw

import data
import learners
from conftest import ROOT, assert_refused, call, flags_of, succeed
from errors import UserError
from sources.preparation import Preparation
from studies import draw as study
from studies.classifier import Classifier

METADROP = ROOT / "pretrained" / "glyphs_10way_1shot_metadrop.npz"
PREPARE = Preparation(28, 1, invert=True)
BLANK = study.url_of(Image.new("L", (study.SIDE, study.SIDE), 255))


def drawing(*points, width=8):
    """A drawing of a line through these points of a square of 280."""
    image = Image.new("L", (study.SIDE, study.SIDE), 255)
    ImageDraw.Draw(image).line(points, fill=0, width=width)
    return image


# ---- drawings


def test_a_drawing_is_centred_and_scaled_as_omniglots_are():
    for points in ([(10, 10), (60, 40)], [(200, 30), (210, 270)], [(20, 250), (260, 250)]):
        square = np.asarray(study.centred(drawing(*points)))
        ink = np.argwhere(square < study.INK)
        (top, left), (bottom, right) = ink.min(0), ink.max(0)
        side = len(square)
        assert square.shape == (side, side)
        assert max(bottom - top, right - left) + 1 == pytest.approx(study.SHARE * side, abs=1)
        assert abs(top + bottom - side) <= 2 and abs(left + right - side) <= 2
    assert (np.asarray(study.centred(drawing())) == 255).all()


def test_a_picture_comes_from_a_png_and_from_nothing_else():
    image = drawing((10, 10), (100, 200))
    np.testing.assert_array_equal(study.picture_of(study.url_of(image)), image)
    clear = Image.new("RGBA", (5, 5), (0, 0, 0, 0))
    assert (np.asarray(study.picture_of(study.url_of(clear))) == 255).all()
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG")
    huge = study.url_of(Image.new("L", (4 * study.SIDE + 1, 3)))
    for wrong in (None, 5, "abc", study.PREFIX + "no base64!", study.PREFIX + base64.b64encode(b"no").decode(),
                  study.PREFIX + base64.b64encode(jpeg.getvalue()).decode(), huge, BLANK[:-40]):  # fmt: skip
        with pytest.raises(UserError):
            study.picture_of(wrong)


@pytest.mark.parametrize(("name", "perturbation"), [("maml", "information_dropout"), ("maml", "deterministic")])
def test_maps_are_of_noise_that_multiplies(name, perturbation, monkeypatch):
    """A factor of 1 where there is no noise; a factor without noise has no maps."""
    own = {"image_shape": (16, 16, 1), "channels": 3, "way": study.CLASSES, "n_steps": 1}
    learner = learners.make(name, perturbation, **own)
    shown = SimpleNamespace(learner=learner, params=learner.init(0))
    x_s = tf.random.stateless_uniform([1, study.CLASSES, 16, 16, 1], [1, 2])
    _, factors = tf.function(lambda x: study.ShownLearner._adapt_steps(shown, x), autograph=False)(x_s)
    if perturbation == "deterministic":
        assert factors is None
    else:
        assert (factors[0].numpy() == 1).all() and factors[1].numpy().std() > 0.01


def test_a_learner_is_shown_before_and_after_each_step_with_its_noise(data_dir):
    """The same probabilities as the classifier's after the last step; MAML's maps are none."""
    split = data.load(data_dir, "glyphs").splits["test"]
    show = study.Backend([study.ShownLearner(METADROP)], split, PREPARE)
    show.random = np.random.default_rng(0)
    example = show.example()
    (shown,) = show.classify(example["support"], example["query"])["learners"]
    likely = np.array(shown["probabilities"])
    assert shown["title"] == "Meta-dropout" and likely.shape == (6, 5)
    np.testing.assert_allclose(likely.sum(-1), 1, atol=1e-3)
    learner = show.learners[0]
    pictures = [study.centred(study.picture_of(url)) for url in (*example["support"], example["query"])]
    classifier = Classifier(METADROP, samples=study.SAMPLES).fit(pictures[:5], range(5))
    found = classifier.predict_proba(pictures[5:])[0]
    np.testing.assert_allclose(found, likely[-1], atol=0.02)  # a step of float32 may pass a maximum
    assert [len(own) for own in shown["maps"]] == [2] * 5
    maps = [np.asarray(study.picture_of(url)) for own in shown["maps"] for url in own]
    assert all(one.std() > 1 for one in maps)
    # the first layer's: at the left without noise, the same wherever the paper is blank; at the right one draw
    x_s = np.array([[PREPARE(one) for one in pictures[:5]]], np.float32) / 255
    factors = learner.adapted_to(x_s.tobytes(), *x_s.shape)[1].numpy()
    assert factors.shape == (2, 5, 28, 28)
    assert np.ptp(factors[0, :, :3, :3]) < 1e-5 and np.ptp(factors[1, :, :3, :3]) > 0.05
    assert shown["maps"] == study.map_urls(factors)
    assert show.classify(example["support"], None)["learners"][0]["probabilities"] is None
    hits = 0
    for _ in range(20):
        example = show.example()
        (shown,) = show.classify(example["support"], example["query"])["learners"]
        hits += int(np.argmax(shown["probabilities"][-1]) == example["class"])
    assert hits >= 15  # chance is 4
    assert learner.adapted_to.cache_info().currsize == study.REMEMBERED


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("invert", [False, True])
def test_examples_are_two_drawings_of_test_classes(unequal, invert):
    """A drawing's shade tells its class and its number. It is shown as it was before it became an image."""
    counts = np.array([3, 1, 5, 4, 3, 3]) if unequal else np.full(6, 3)
    shades = np.concatenate([10 * k + np.arange(n) for k, n in enumerate(counts)]).astype(np.uint8)
    pixels = np.broadcast_to(shades[:, None, None, None], (len(shades), 20, 20, 1))
    pixels = pixels if unequal else pixels.reshape(6, 3, 20, 20, 1)
    split = data.Split(pixels, rotations=1, scale=1 / 255, counts=counts if unequal else None)
    show, seen = study.Backend([], split, Preparation(20, 1, invert)), set()
    show.random = np.random.default_rng(0)
    for _ in range(20):
        example = show.example()
        urls = [*example["support"], example["query"]]
        shades = [int(np.asarray(study.picture_of(url)).mean()) for url in urls]
        shades = [255 - shade for shade in shades] if invert else shades
        assert max(shades) < 60
        seen |= set(shades)
        classes = [shade // 10 for shade in shades]
        assert len(set(classes[:5])) == 5 and classes[5] == classes[example["class"]]
        assert shades[5] != shades[example["class"]]
    assert seen == {10 * k + n for k, count in enumerate(counts) for n in range(count) if count > 1}
    with pytest.raises(UserError, match="--data_dir"):
        study.Backend([], None, PREPARE).example()


def test_examples_need_five_classes_of_two_drawings():
    """Where a class is turned, all its turns have its number of drawings."""
    for counts, rotations, wanted in (([3, 1, 2, 1, 3, 3], 1, False), ([1, 3, 1], 4, False), ([1, 3, 2], 4, True)):
        shades = np.repeat(10 * np.arange(len(counts)), counts).astype(np.uint8)
        pixels = np.broadcast_to(shades[:, None, None, None], (len(shades), 4, 4, 1))
        show = study.Backend([], data.Split(pixels, rotations, 1 / 255, np.array(counts)), Preparation(4, 1))
        show.random = np.random.default_rng(0)
        if wanted:
            urls = [url for _ in range(5) for url in show.example()["support"]]
            assert {int(np.asarray(study.picture_of(url)).mean()) for url in urls} == {10, 20}
        else:
            with pytest.raises(UserError, match="fewer than 5 classes with two drawings"):
                show.example()


def test_examples_are_of_the_test_set(data_dir):
    splits = data.load(data_dir, "glyphs").splits
    found = study.load_test_split(data_dir, "glyphs", PREPARE)
    np.testing.assert_array_equal(found.pixels, splits["test"].pixels)
    assert not np.array_equal(found.pixels[:10], splits["train"].pixels[:10])


def test_a_map_is_orange_where_it_is_large_and_blue_where_it_is_small():
    factors = np.random.default_rng(0).normal(1, 0.1, (2, 5, 4, 4))
    factors[0, 3, 1, 2], factors[0, 1, 0, 3], factors[1, 4, 3, 0], factors[1, 0, 2, 2] = 9, -6, 5, -7
    contents = [[base64.b64decode(url.removeprefix(study.PREFIX)) for url in own] for own in study.map_urls(factors)]
    pictures = np.array([[np.asarray(Image.open(io.BytesIO(one))) for one in own] for own in contents]).astype(int)
    assert pictures.shape == (5, 2, 112, 112, 3)
    pictures = pictures[:, :, 14::28, 14::28]  # a pixel of each place
    for kind, large, small in ((0, (3, 1, 2), (1, 0, 3)), (1, (4, 3, 0), (0, 2, 2))):
        red, _, blue = np.moveaxis(pictures[:, kind], -1, 0)
        assert red[large] > blue[large] + 50 and blue[small] > red[small] + 50
        assert (red - blue).argmax() == np.ravel_multi_index(large, red.shape)
        assert (red - blue).argmin() == np.ravel_multi_index(small, red.shape)
    assert pictures[3, 0, 1, 2].tolist() == [213, 94, 0] and pictures[0, 1, 2, 2].tolist() == [0, 114, 178]


# ---- requests


class Echo(study.Backend):
    """Answers without learners."""

    def __init__(self):
        super().__init__([], None, PREPARE)


@pytest.fixture
def server():
    with study.Server(Echo(), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(server, method="POST", path="/classify", body=None, **headers):
    """Status and answer of one request, which comes from the page unless its headers say otherwise."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    own = {"X-Token": server.token, "Origin": f"http://127.0.0.1:{port}"}
    body = json.dumps({"support": [BLANK] * 5, "query": BLANK}) if body is None else body
    own |= {name.replace("_", "-"): value for name, value in headers.items()}
    own = {name: value for name, value in own.items() if value is not None}
    connection.request(method, path, body if method == "POST" else None, own)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_the_page_is_served_and_takes_nothing_from_elsewhere(server):
    answer, content = ask(server, "GET", "/")
    page, policy = content.decode(), answer.headers["Content-Security-Policy"]
    assert answer.status == 200 and server.token in page
    assert "FACTS" not in page and "NONCE" not in page and server.token not in policy
    assert all(f'{tag} nonce="{server.nonce}"' in page for tag in ("style", "script")) and server.nonce in policy
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not re.search(r"https?://|src=\"(?!data)|@import", page)
    assert ask(server, "GET", "/other")[0].status == 404
    assert server.server_address[0] == "127.0.0.1"


def test_requests_of_its_own_page_are_answered(server):
    answer, content = ask(server)
    assert answer.status == 200 and json.loads(content) == {"learners": []}
    assert ask(server, Origin=None)[0].status == 200  # a browser sends none where it fetches from the same origin


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"X_Token": "another"}, 403),
        ({"X_Token": None}, 403),
        ({"X_Token": "schl\u00fcssel"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Content_Length": str(study.LARGEST + 1)}, 413),
        ({"Content_Length": "-1"}, 411),
        ({"body": "no json"}, 400),
        ({"body": "[]"}, 400),
        ({"body": "{}"}, 400),
        ({"body": "[" * 200_000 + "]" * 200_000}, 400),
        ({"body": json.dumps({"support": [BLANK] * 4})}, 400),
        ({"body": json.dumps({"support": ["data:text/plain;base64,AAAA"] * 5})}, 400),
        ({"path": "/other"}, 404),
        ({"path": "/example"}, 400),
    ],
)
def test_other_requests_are_refused_with_a_sentence(server, change, status):
    answer, content = ask(server, **change)
    assert answer.status == status and len(json.loads(content)["error"]) > 10
    assert ask(server)[0].status == 200  # it goes on


def test_a_browser_that_goes_away_leaves_no_traceback(server, capfd):
    port, started, gone = server.server_address[1], threading.Event(), threading.Event()

    def classify(*_):
        started.set()
        gone.wait(10)
        return {"learners": ["x" * 1_000_000] * 10}

    server.backend.classify = classify
    body = b"{}"
    head = f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Token: {server.token}\r\nContent-Length: 2\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closes by a reset
        connection.sendall(head.encode() + body)
        assert started.wait(10)
    gone.set()
    server.backend.classify = lambda *_: {"learners": []}
    assert ask(server)[0].status == 200
    server.shutdown()
    server.server_close()  # waits for the requests
    assert capfd.readouterr().err == ""


def test_a_lack_of_memory_is_a_sentence_and_a_defect_is_none(server):
    class ResourceExhaustedError(Exception):
        """Named as TensorFlow's."""

    def classify(*_):
        raise ResourceExhaustedError

    server.backend.classify = classify
    answer, content = ask(server)
    assert answer.status == 500 and "does not have enough memory" in json.loads(content)["error"]


def test_browsers_leave_out_port_80(server):
    own = {"Host": "localhost", "Origin": "http://localhost"}
    port = server.server_address
    assert ask(server, **own)[0].status == 403
    server.server_address = ("127.0.0.1", 80)
    request = functools.partial(http.client.HTTPConnection, *port, timeout=10)
    for host, status in (("localhost", 200), ("127.0.0.1", 200), ("evil.example", 403)):
        connection = request()
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_a_foreign_page_does_not_get_the_token(server):
    answer, content = ask(server, "GET", "/", Host="evil.example")
    assert answer.status == 403 and server.token.encode() not in content and server.token not in str(answer.headers)
    answer, content = ask(server, X_Token="an earlier program's")
    assert answer.status == 403 and b"reload it" in content and b"--host" not in content


# ---- the command


@pytest.mark.parametrize("host", ["localhost:9000", "box", "[::1]:80"])
def test_a_host_that_was_named_is_answered_and_its_neighbours_are_not(host):
    """Behind a tunnel, or a proxy that speaks https, the address line has another name or port."""
    with study.Server(Echo(), 0, ["localhost:9000", "box", "[::1]:80"]) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            for origin in (None, f"http://{host}", f"https://{host}"):
                assert ask(server, Host=host, Origin=origin)[0].status == 200, origin
            assert ask(server)[0].status == 200  # by its own name, still
            for headers in (
                {"Host": f"{host}0"}, {"Host": "evil.example"}, {"Host": f"evil.{host}"},
                {"Host": host, "Origin": "http://evil.example"}, {"Host": host, "Origin": "null"},
                {"Origin": f"https://127.0.0.1:{server.server_address[1]}"},
            ):  # fmt: skip
                answer, content = ask(server, **headers)
                assert answer.status == 403 and b"--host NAME:PORT" in content, headers
        finally:
            server.shutdown()


def test_hosts_are_checked_and_arrive(monkeypatch):
    arrived = []
    monkeypatch.setattr(study, "draw", lambda runs, settings: arrived.append(settings.host) or 0)
    succeed("main.py", "--mode", "draw", "--host", "Box.example:9000", "[::1]:80")
    assert arrived == [("box.example:9000", "[::1]:80")]
    for wrong in ("http://box", "box:port", "*", "a b", "", "box:123456", "box/"):
        assert_refused(call("main.py", "--mode", "draw", "--host", wrong), "must be a host's name or address")


def test_what_cannot_be_shown_is_refused(tmp_path, data_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = call("main.py", "--mode", "draw", "--weights", METADROP, "--port", port, "--data_dir", data_dir)
    assert_refused(done, f"port {port} is not available", "--port")
    assert_refused(call("main.py", "--mode", "draw", "--weights", tmp_path / "none.npz"), "there is no weights file")
    assert_refused(call("main.py", "--mode", "draw", "--port", 70000), "at most 65535")
    assert_refused(call("main.py", "--mode", "draw", "--way", 5), "--way is not a flag of --mode draw")
    settings = {"dataset": "glyphs", "way": 3, "query": 2, "channels": 4, "metabatch": 2, "data_dir": data_dir}
    flags = flags_of(settings | {"model": "maml", "n_steps": 0, "n_train_iters": 0, "val_every": 0})
    succeed("main.py", "--savedir", tmp_path / "three", *flags)
    assert_refused(call("main.py", "--mode", "draw", "--savedir", tmp_path / "three"), "trained for 3")


BROWSER, DRIVER = (next(filter(None, map(shutil.which, names)), None)
                   for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)))  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its driver on the PATH")
def test_a_person_draws_and_sees_what_it_is(data_dir, tmp_path):
    """The command, a real browser, and a mouse."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    words = [sys.executable, ROOT / "main.py", "--mode", "draw", "--weights", METADROP, "--port", 0, "--gpu_id", -1]
    process = subprocess.Popen(
        [str(word) for word in (*words, "--data_dir", data_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    options = webdriver.ChromeOptions()
    flags = "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1050,1000"
    for flag in (*flags, f"user-data-dir={tmp_path}"):
        options.add_argument(f"--{flag}")
    browser = None
    try:
        address = process.stdout.readline().split()[0]
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        browser.get(address)
        find = browser.find_elements

        def wait(ready, what):
            end = time.time() + 60
            while not ready():
                assert time.time() < end, (what, browser.get_log("browser"), browser.page_source[-500:])
                time.sleep(0.1)

        def draw(box, *strokes):
            canvas = find("css selector", f"#{box} canvas")[0]
            hand = webdriver.ActionChains(browser, duration=20)
            for start, *moves in strokes:
                hand.move_to_element_with_offset(canvas, *start).click_and_hold()
                for move in moves:
                    hand.move_by_offset(*move)
                hand.release()
            hand.perform()

        wait(lambda: "5 of the 5 boxes are empty" in find("id", "status")[0].text, "the page")
        cross = [[(-30, -30), (60, 60)], [(-30, 30), (60, -60)]]
        shapes = {
            "class1": cross,
            "class2": [[(0, -35), (35, 35), (-35, 35), (-35, -35), (35, -35)]],
            "class3": [[(-35, 0), (70, 0)]],
            "class4": [[(0, -35), (0, 70)], [(-25, 35), (50, 0)]],
            "class5": [[(-30, -30), (60, 0), (0, 60)]],
        }
        for number, (box, strokes) in enumerate(shapes.items(), 1):
            draw(box, *strokes)
            if number < 5:
                wait(lambda n=number: f"{5 - n} of the 5" in find("id", "status")[0].text, box)
        wait(lambda: find("css selector", "#class1 .maps img"), "the noise maps")
        assert len(find("css selector", ".maps img")) == 10
        draw("query", *cross)
        wait(lambda: find("css selector", "#learners tbody tr"), "the bars")
        rows = find("css selector", "#learners tbody tr")
        assert len(rows) == 5 and len(rows[0].find_elements("css selector", ".cell")) == 6
        assert "best" in rows[0].get_attribute("class")  # it is the cross again
        width = browser.execute_script("return document.documentElement.scrollWidth")
        assert width <= 1050
        find("css selector", "#class2 button")[0].click()
        wait(lambda: "1 of the 5 boxes are empty" in find("id", "status")[0].text, "an empty box")
        find("id", "example")[0].click()
        wait(lambda: len(find("css selector", "#learners tbody tr")) == 5, "an example")
        assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        browser.save_screenshot(str(tmp_path / "page.png"))
    finally:
        if browser:
            browser.quit()
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()


def test_a_browser_that_sends_too_much_gets_an_answer(server):
    """The body really is as long: a connection that is closed while the browser sends has no answer."""
    assert ask(server, body="x" * (3 * study.LARGEST), Content_Length=None)[0].status == 413
