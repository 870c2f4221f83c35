"""--mode draw: a page on this machine's loopback address, on which learners classify what you draw.

You draw a character for each class and one more, and see the probabilities before and after each inner step. The page
is studies/draw.html; it needs no network. Drawings come as PNGs, dark on white.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import functools
import json
import re
import secrets
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

import data
import model
from errors import UserError, explanation, user_error
from lazy import tf
from learners import LEARNERS
from perturbations.draws import TRAINING_SUPPORT, UNPERTURBED, Draw, task_noise
from settings import Settings, path_text, setting, whole
from sources.pictures import PREFIX, decode, url_of
from sources.preparation import Preparation
from studies.trained import Trained
from training.config import Config, gpus

ADDRESS, CLASSES = "127.0.0.1", 5
PAGE = Path(__file__).with_name("draw.html")
LARGEST = 1 << 20  # bytes of a request
SIDE = 280  # pixels of a drawing, as the page sends it
FOREIGN = (
    "this server answers only its own page; if you reach it through a tunnel or a proxy, start it with "
    "--host NAME:PORT as in the browser's address line"
)
SHARE = 0.64  # mean of Omniglot: the larger side of a character divided by the side of its image
INK = 180  # darker pixels are ink
SAMPLES = 5  # noise samples of an inner step's loss
REMEMBERED = 8  # adaptations kept in memory, one per support set


def host(text: str) -> str:
    """Read the name or address of a host, with a port or without one."""
    if not re.fullmatch(r"([a-z0-9][a-z0-9.-]*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", text.lower()):
        raise argparse.ArgumentTypeError(
            f"must be a host's name or address, alone or with a port as in box:9000, not {text!r}"
        )
    return text.lower()  # as browsers write it


@dataclass(frozen=True)
class DrawSettings(Settings):
    """How the page is served."""

    port: int = setting(8765, "port of the page, on this machine's loopback address", whole(0, 65535))
    host: tuple[str, ...] | None = setting(
        None,
        "other addresses of the page, through a tunnel or a proxy, as in the browser's address line",
        host,
        metavar="NAME[:PORT]",
        nargs="+",
    )
    data_dir: str = setting("data", "folder that holds the datasets, for example drawings", path_text, metavar="DIR")
    gpu_id: str | None = setting(None, "GPU to use; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)", gpus)


def centred(picture: Image.Image) -> Image.Image:
    """Put the drawing in the middle of a white square, so that its larger side is SHARE of the square's side. A picture
    without ink stays as it is."""
    grey = picture.convert("L")
    box = grey.point(lambda level: 255 * (level < INK)).getbbox()
    if box is None:
        return grey
    ink = grey.crop(box)
    side = round(max(ink.size) / SHARE)
    square = Image.new("L", (side, side), 255)
    square.paste(ink, tuple((side - length) // 2 for length in ink.size))
    return square


class ShownLearner:
    """A trained learner that the page shows. Raise UserError if it cannot take CLASSES classes."""

    def __init__(self, run: Path):
        if "backbone" in (Config.read(run).facts.get("prepare") or {}):
            raise UserError(f"{run} was trained on vectors of photographs, and this page shows drawings: leave it out")
        trained = Trained.read(run, "last")
        config = self.config = trained.config
        self.title = LEARNERS[config["model"]].title
        if (config.get("perturbation") or "none") != "none":
            self.title += f", {config['perturbation']}"
        self.params = {name: tf.constant(array) for name, array in trained.weights_for(CLASSES).items()}
        self.prepare, self.range = trained.preparation, trained.range
        self.learner = trained.programs(CLASSES).learner
        self.adapt_steps = tf.function(self._adapt_steps, autograph=False)
        self.classify_steps = tf.function(self._classify_steps, autograph=False)
        self.adapted_to = functools.lru_cache(REMEMBERED)(self._adapted_to)

    def _adapted_to(self, content: bytes, *shape: int) -> tuple:
        return self.adapt_steps(np.frombuffer(content, np.float32).reshape(shape))

    def answer(self, x_s: np.ndarray, x_q: np.ndarray) -> dict:
        """Return the title; the probabilities of the image x_q [1,1,H,W,C], by inner step and class, or None if there
        is no image; and the noise maps, or None if there are none. x_s [1,CLASSES,H,W,C]: the support images."""
        steps, factors = self.adapted_to(x_s.tobytes(), *x_s.shape)
        probabilities = None
        if x_q.size:
            probabilities = self.classify_steps(steps, x_s, x_q).numpy().astype(float).round(5).tolist()
        maps = None if factors is None else map_urls(factors.numpy())
        return {"title": self.title, "probabilities": probabilities, "maps": maps}

    def _adapt_steps(self, x_s):
        """Adapt to the images x_s [1,CLASSES,H,W,C]: return the results before the first inner step and after each; and
        the factors of the first layer's map, mean over channels, without noise and with one draw of it,
        [2,CLASSES,H,W], or None if no noise multiplies it."""
        learner, params = self.learner, self.params
        noise = task_noise(tf.constant([[0, 0]]))
        steps = learner.trajectory(params, x_s, model.labels_of(x_s, CLASSES), noise, SAMPLES)
        if not learner.inspectable or TRAINING_SUPPORT not in learner.perturbation.random_in:
            return steps, None
        draws = UNPERTURBED, Draw(noise, learner.unused_step, TRAINING_SUPPORT)
        plain, noisy = (next(iter(learner.maps(params, steps[-1], x_s, draw).values()))[1] for draw in draws)
        if noisy is None:
            return steps, None
        plain = tf.ones_like(noisy) if plain is None else plain  # it multiplies nothing where there is no noise
        return steps, tf.reduce_mean(tf.stack([plain[0], noisy[0]]), -1)

    def _classify_steps(self, steps, x_s, x_q):
        # batch norm takes its statistics from the support set, as in Classifier
        x, shares = tf.concat([x_s, x_q], 1), tf.constant([1 / CLASSES] * CLASSES + [0.0])
        logits = [self.learner.classify(self.params, adapted, x, shares=shares)[0][0, -1] for adapted in steps]
        return tf.stack([tf.nn.softmax(one) for one in logits])


class Backend:
    """Computes the answers to the page's requests. learners: shown side by side. split: the test classes that examples
    are taken from, or None. prepare: how their pictures became images."""

    def __init__(self, learners: list[ShownLearner], split: data.Split | None, prepare: Preparation):
        self.learners, self.split, self.prepare, self.lock = learners, split, prepare, threading.Lock()
        self.random = np.random.default_rng()

    def classify(self, support: list[str], query: str | None) -> dict:
        """Return each learner's answer. support, query: drawings, as data URLs. Raise UserError if one is no image."""
        if not isinstance(support, list) or len(support) != CLASSES:
            raise UserError(f"the request must have {CLASSES} support drawings")
        pictures = [centred(picture_of(url)) for url in [*support, *([query] if query else [])]]
        answers = []
        with self.lock:
            for learner in self.learners:
                x = np.array([learner.prepare(picture) for picture in pictures], np.float32)[None] / 255
                x = learner.range.inputs(x)
                answers.append(learner.answer(x[:, :CLASSES], x[:, CLASSES:]))
        return {"learners": answers}

    def example(self) -> dict:
        """Return drawings of CLASSES test classes and one more of one of them. Raise UserError if there are none."""
        if self.split is None:
            raise UserError("there are no test drawings here: give the folder of the dataset as --data_dir")
        count = np.repeat(self.split.images_per_class, self.split.rotations)  # of each class
        if (count > 1).sum() < CLASSES:
            raise UserError(f"the test set has fewer than {CLASSES} classes with two drawings: draw by hand")
        classes = self.random.choice(np.flatnonzero(count > 1), CLASSES, replace=False)
        drawings = [self.random.choice(count[c], 2, replace=False) for c in classes]
        which = int(self.random.integers(CLASSES))
        support = [self._url(c, images[0]) for c, images in zip(classes, drawings, strict=True)]
        return {"support": support, "query": self._url(classes[which], drawings[which][1]), "class": which}

    def _url(self, c: int, image: int) -> str:
        picture = self.prepare.picture_of(self.split.image(c, image))
        return url_of(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def picture_of(url: object) -> Image.Image:
    """Return the picture in a data URL. Raise UserError if there is none, or if it is larger than a drawing can be."""
    try:
        if not isinstance(url, str) or not url.startswith(PREFIX):
            raise ValueError
        content = base64.b64decode(url.removeprefix(PREFIX), validate=True)
    except ValueError as fault:
        raise UserError("a drawing is not a PNG") from fault
    picture = decode(content, "a drawing", ["PNG"], (4 * SIDE) ** 2)
    if max(picture.size) > 4 * SIDE:
        raise UserError(f"a drawing has at most {4 * SIDE} x {4 * SIDE} pixels")
    return picture.convert("L")


def map_urls(factors: np.ndarray) -> list[list[str]]:
    """Return maps of factors [2,CLASSES,H,W] as pictures: a list per class, without noise and with it. Each kind has
    its colours: white is its mean, orange is above, blue is below, and full colour is the largest distance."""
    shift = factors - factors.mean((1, 2, 3), keepdims=True)
    shift = (shift / np.maximum(np.abs(shift).max((1, 2, 3), keepdims=True), 1e-6))[..., None]
    orange, blue = np.array([213, 94, 0]), np.array([0, 114, 178])
    colours = np.rint(255 + np.abs(shift) * (np.where(shift > 0, orange, blue) - 255)).astype(np.uint8)
    sizes, kind = (112, 112), Image.Resampling.NEAREST
    return [[url_of(Image.fromarray(one).resize(sizes, kind)) for one in pair] for pair in np.swapaxes(colours, 0, 1)]


# ---- the server


class Server(ThreadingHTTPServer):
    """Serves the page and the answers of `backend`. hosts: other addresses of the page (--host). Raise UserError if the
    port is taken."""

    request_queue_size = 64  # connections that wait; the others are reset

    def __init__(self, backend: Backend, port: int, hosts: Sequence[str] = ()):
        self.backend, self.hosts = backend, hosts
        self.token, self.nonce = secrets.token_hex(16), secrets.token_hex(16)  # of requests; of the page's parts
        with user_error(f"port {port} is not available", "give another --port", OSError):
            super().__init__((ADDRESS, port), Handler)

    def handle_error(self, request, client_address) -> None:
        """Print nothing if the browser has gone away, as it does when the page is closed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers only the page that the server sent: a request must come to the server's own address, or to one of its
    `hosts`, and contain the page's token."""

    server_version, sys_version = "draw", ""
    timeout = 30  # seconds within which a request must arrive

    def do_GET(self) -> None:
        server = self.server
        if not self._is_own():
            self._refuse(HTTPStatus.FORBIDDEN, FOREIGN)
        elif self.path == "/":
            facts = {"token": server.token, "classes": CLASSES, "side": SIDE, "examples": bool(server.backend.split)}
            page = PAGE.read_text(encoding="utf-8").replace("FACTS", json.dumps(facts)).replace("NONCE", server.nonce)
            self._answer(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "the only page is /")

    def do_POST(self) -> None:
        length, token = self.headers.get("Content-Length", ""), self.headers.get("X-Token", "").encode()
        if not self._is_own():
            self._refuse(HTTPStatus.FORBIDDEN, FOREIGN)
        elif not secrets.compare_digest(token, self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "this page is not of the program that runs now: reload it")
        elif not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say its length")
        elif len(length) > 12 or int(length) > LARGEST:  # int refuses thousands of digits
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {LARGEST} bytes")
            self._discard()
        else:
            self._work(self.rfile.read(int(length)))

    def _discard(self) -> None:
        """Read on for a while: a browser that still sends would see a closed connection, and no answer."""
        self.connection.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(1024):
                if not self.rfile.read1(1 << 16):
                    break

    def _work(self, body: bytes) -> None:
        try:
            request = json.loads(body or b"{}")
            if self.path == "/example":
                result = self.server.backend.example()
            elif self.path == "/classify":
                result = self.server.backend.classify(request.get("support"), request.get("query"))
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "the only requests are /example and /classify")
                return
        except UserError as fault:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{fault}")
        except (ValueError, AttributeError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is not a JSON object")
        except Exception as fault:
            if not (sentence := explanation(fault)):
                raise
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, sentence)
        else:
            self._answer(HTTPStatus.OK, json.dumps(result).encode(), "application/json")

    def _is_own(self) -> bool:
        """True if the request comes from a page of this server. Another page has another origin, or another name for
        this address. Requests through a proxy, by https, must be to one of `hosts`."""
        hosts, port = self.server.hosts, self.server.server_address[1]
        names = {f"{name}:{port}" for name in (ADDRESS, "localhost")}.union(hosts)
        if port == 80:  # browsers leave it out
            names |= {ADDRESS, "localhost"}
        origins = {None, *(f"http://{name}" for name in names), *(f"https://{name}" for name in hosts)}
        return self.headers.get("Host") in names and self.headers.get("Origin") in origins

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # the unread rest of this request is not the next request
        self._answer(status, json.dumps({"error": sentence}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        nonce = self.server.nonce
        policy = f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; "
        policy += "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Security-Policy": policy}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Print nothing for each request."""


def load_test_split(data_dir: str, dataset: str, prepare: Preparation) -> data.Split | None:
    """Load the test classes for examples; return None, and print why, if they cannot be loaded."""
    try:
        loaded = data.load(data_dir, dataset)
    except UserError as fault:
        print(f"no drawings of the test set: {fault}", file=sys.stderr)
        return None
    fits = loaded.image_shape[2] == prepare.channels and loaded.splits["test"].classes >= CLASSES
    return loaded.splits["test"] if fits else None


def draw(runs: list[Path], settings: DrawSettings) -> int:
    """Serve the page until Ctrl-C. Raise UserError if a run cannot be shown, or if the port is taken."""
    learners = [ShownLearner(run) for run in runs]
    if coloured := [learner.title for learner in learners if learner.prepare.channels != 1]:
        raise UserError(f"{coloured[0]} was trained on coloured images, and drawings on this page are grey")
    first = learners[0]
    split = load_test_split(settings.data_dir, first.config["dataset"], first.prepare)
    backend = Backend(learners, split, first.prepare)
    with Server(backend, settings.port, settings.host or ()) as server:
        blank = url_of(Image.new("L", (SIDE, SIDE), 255))
        print("compiling, a minute at most", file=sys.stderr)
        backend.classify([blank] * CLASSES, blank)
        print(f"http://{ADDRESS}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0
