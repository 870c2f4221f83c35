"""One page on this machine's loopback address: draw a character for each class and one more, and see what learners
take it for, before and after each inner step.

The page is studies/draw.html; nothing in it comes from elsewhere. Drawings come as PNGs, ink on paper.
"""

from __future__ import annotations

import base64
import collections
import functools
import io
import json
import secrets
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

import data
import model
from errors import UserError
from lazy import tf
from perturbations.draws import TRAINING_SUPPORT, UNPERTURBED, Draw, task_noise
from sources.pictures import decode
from sources.preparation import Preparation
from studies.classifier import Classifier

ADDRESS, CLASSES = "127.0.0.1", 5
PAGE = Path(__file__).with_name("draw.html")
LARGEST = 1 << 20  # bytes of a request
SIDE = 280  # pixels of a drawing, as the page sends it
PREFIX = "data:image/png;base64,"
FOREIGN = (
    "this server answers to its own page alone; behind a tunnel, start it with --host NAME:PORT as in the address line"
)
SHARE = 0.64  # of the image's side, the larger side of a character: Omniglot's mean
INK = 180  # what is darker is ink
SAMPLES = 5  # noise samples of an inner step's loss
REMEMBERED = 8  # support sets whose adaptation is kept


def centred(picture: Image.Image) -> Image.Image:
    """The drawing, ink on paper, in the middle of a square, of which its larger side takes SHARE, as an Omniglot
    character does on average; a picture without ink stays as it is."""
    grey = np.asarray(picture.convert("L"))
    rows, columns = (np.flatnonzero((grey < INK).any(axis)) for axis in (1, 0))
    if not rows.size:
        return Image.fromarray(grey)
    ink = grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    side = max(round(max(ink.shape) / SHARE), max(ink.shape))
    square = np.full((side, side), 255, np.uint8)
    top, left = ((side - length) // 2 for length in ink.shape)
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return Image.fromarray(square)


class Learner:
    """A trained learner that is shown at work. ValueError where it cannot have CLASSES classes."""

    def __init__(self, run: Path):
        trained = Classifier.load(run).trained()
        config = self.config = trained.config
        self.title = model.LEARNERS[config["model"]].title
        if (config.get("perturbation") or "none") != "none":
            self.title += f", {config['perturbation']}"
        self.params = {name: tf.constant(array) for name, array in trained.weights_for(CLASSES).items()}
        self.prepare, self.range = trained.preparation, trained.range
        self.learner = trained.programs(CLASSES).learner
        self._adapt = tf.function(self._adapt_steps, autograph=False)
        self._classify = tf.function(self._classify_steps, autograph=False)
        self._adapted = collections.OrderedDict()  # by the support set's bytes

    def adapted(self, x_s: np.ndarray) -> tuple:
        """What it has learned from x_s [1,CLASSES,H,W,C] before the first inner step and after each; and, mean over
        channels, what its first layer's map is multiplied by, without noise and in one draw of it, [2,CLASSES,H,W], or
        None."""
        key = x_s.tobytes()
        if key not in self._adapted:
            self._adapted[key] = self._adapt(x_s)
            if len(self._adapted) > REMEMBERED:
                self._adapted.popitem(last=False)
        return self._adapted[key]

    def probabilities(self, x_s: np.ndarray, x_q: np.ndarray) -> list[list[float]]:
        """Of the image x_q [1,1,H,W,C], by inner step and class."""
        return self._classify(self.adapted(x_s)[0], x_s, x_q).numpy().astype(float).round(5).tolist()

    def _adapt_steps(self, x_s):
        learner, params = self.learner, self.params
        noise = task_noise(tf.constant([[0, 0]]))
        steps = learner.trajectory(params, x_s, model.labels_of(x_s, CLASSES), noise, SAMPLES)
        factors = []
        for draw in (UNPERTURBED, Draw(noise, learner.n_steps, TRAINING_SUPPORT)):  # noise that no inner step draws
            maps = learner.maps(params, steps[-1], x_s, draw) if learner.inspectable else {}
            factors += [factor[0] for _, factor in list(maps.values())[:1] if factor is not None]
        return steps, tf.reduce_mean(tf.stack(factors), -1) if len(factors) == 2 else None

    def _classify_steps(self, steps, x_s, x_q):
        x, shares = tf.concat([x_s, x_q], 1), tf.constant([1 / CLASSES] * CLASSES + [0.0])  # as Classifier's `support`
        logits = [self.learner.classify(self.params, adapted, x, shares=shares)[0][0, -1] for adapted in steps]
        return tf.stack([tf.nn.softmax(one) for one in logits])


class Show:
    """What the page asks for. learners: shown side by side. split: test classes to give examples of, or None.
    prepare: how their pictures became images."""

    def __init__(self, learners: list[Learner], split: data.Split | None, prepare: Preparation):
        self.learners, self.split, self.prepare, self.lock = learners, split, prepare, threading.Lock()
        self.random = np.random.default_rng()

    def classify(self, support: list[str], query: str | None) -> dict:
        """Data URLs of the support drawings and of the one to classify -> by learner its probabilities and, as data
        URLs, its noise maps. UserError where one is no image."""
        if not isinstance(support, list) or len(support) != CLASSES:
            raise UserError(f"{CLASSES} support drawings are wanted")
        pictures = [centred(picture_of(url)) for url in [*support, *([query] if query else [])]]
        shown = []
        with self.lock:
            for learner in self.learners:
                x = np.array([learner.prepare(picture) for picture in pictures], np.float32)[None] / 255
                x = learner.range.inputs(x)
                x_s, x_q = x[:, :CLASSES], x[:, CLASSES:]
                maps = learner.adapted(x_s)[1]
                shown.append(
                    {
                        "title": learner.title,
                        "probabilities": learner.probabilities(x_s, x_q) if query else None,
                        "maps": None if maps is None else map_urls(maps.numpy()),
                    }
                )
        return {"learners": shown}

    def example(self) -> dict:
        """Drawings of CLASSES test classes, and another one of one of them. UserError where there are no data."""
        if self.split is None:
            raise UserError("there are no test drawings here: give the folder of the dataset as --data_dir")
        count = np.repeat(self.split.images_per_class, self.split.rotations)  # of each class
        if (count > 1).sum() < CLASSES:
            raise UserError(f"the test set has fewer than {CLASSES} classes of two drawings: draw by hand")
        classes = self.random.choice(np.flatnonzero(count > 1), CLASSES, replace=False)
        drawings = [self.random.choice(count[c], 2, replace=False) for c in classes]
        which = int(self.random.integers(CLASSES))
        support = [self._url(c, images[0]) for c, images in zip(classes, drawings, strict=True)]
        return {"support": support, "query": self._url(classes[which], drawings[which][1]), "class": which}

    def _url(self, c: int, image: int) -> str:
        picture = self.prepare.picture_of(self.split.image(c, image))
        return url_of(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def picture_of(url: object) -> Image.Image:
    """The picture in a data URL. UserError where it is none, or larger than a drawing can be."""
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise UserError("a drawing is not a PNG")
    try:
        content = base64.b64decode(url.removeprefix(PREFIX), validate=True)
    except ValueError as fault:
        raise UserError("a drawing is not a PNG") from fault
    picture = decode(content, "a drawing", ["PNG"], (4 * SIDE) ** 2)
    if max(picture.size) > 4 * SIDE:
        raise UserError(f"a drawing has at most {4 * SIDE} x {4 * SIDE} pixels")
    return picture.convert("L")


def url_of(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return PREFIX + base64.b64encode(content.getvalue()).decode()


def map_urls(factors: np.ndarray) -> list[list[str]]:
    """Maps [2,CLASSES,H,W] as pictures, by class and kind: white the mean of all of a kind, orange more, blue less, and
    full colour their largest distance from it."""
    shift = factors - factors.mean((1, 2, 3), keepdims=True)
    shift = (shift / np.maximum(np.abs(shift).max((1, 2, 3), keepdims=True), 1e-6))[..., None]
    orange, blue = np.array([213, 94, 0]), np.array([0, 114, 178])
    colours = np.rint(255 + np.abs(shift) * (np.where(shift > 0, orange, blue) - 255)).astype(np.uint8)
    sizes, kind = (112, 112), Image.Resampling.NEAREST
    return [[url_of(Image.fromarray(one).resize(sizes, kind)) for one in own] for own in np.swapaxes(colours, 0, 1)]


# ---- the server


class Handler(BaseHTTPRequestHandler):
    """Answers to the page that it gave, and to nobody else: who calls must have come to this address by its own name,
    or by one of `hosts`, and know the page's token."""

    server_version, sys_version = "draw", ""
    timeout = 30  # seconds for a request to come

    def __init__(self, *args, show: Show, token: str, hosts: Sequence[str] = ()):
        self.show, self.token, self.hosts = show, token, hosts
        super().__init__(*args)

    def do_GET(self) -> None:
        if not self._is_own():
            self._refuse(HTTPStatus.FORBIDDEN, FOREIGN)
        elif self.path == "/":
            facts = {"token": self.token, "classes": CLASSES, "side": SIDE, "examples": self.show.split is not None}
            page = PAGE.read_text(encoding="utf-8").replace("FACTS", json.dumps(facts)).replace("NONCE", self.token)
            self._answer(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is one page, /")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self._is_own() or not secrets.compare_digest(
            self.headers.get("X-Token", "").encode(), self.token.encode()
        ):
            self._refuse(HTTPStatus.FORBIDDEN, FOREIGN)
        elif not length.isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say its length")
        elif len(length) > 12 or int(length) > LARGEST:  # int refuses thousands of digits
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request has more than {LARGEST} bytes")
        else:
            self._work(self.rfile.read(int(length)))

    def _work(self, body: bytes) -> None:
        try:
            request = json.loads(body or b"{}")
            if self.path == "/example":
                result = self.show.example()
            elif self.path == "/classify":
                result = self.show.classify(request.get("support"), request.get("query"))
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "there are /example and /classify")
                return
        except UserError as fault:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{fault}")
        except (ValueError, AttributeError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, "the request is no JSON object")
        else:
            self._answer(HTTPStatus.OK, json.dumps(result).encode(), "application/json")

    def _is_own(self) -> bool:
        """Does the request come from a page of this server? A foreign page has another origin, or another name for
        this address. Only a host that was named may come through a proxy, by https."""
        own = {f"{name}:{self.server.server_address[1]}" for name in (ADDRESS, "localhost")}
        origins = {f"http://{name}" for name in own.union(self.hosts)} | {f"https://{name}" for name in self.hosts}
        return self.headers.get("Host") in own.union(self.hosts) and self.headers.get("Origin") in {None, *origins}

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # what was not read of the request is no next one
        self._answer(status, json.dumps({"error": sentence}).encode(), "application/json")

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        policy = f"default-src 'none'; script-src 'nonce-{self.token}'; style-src 'nonce-{self.token}'; "
        policy += "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Content-Security-Policy": policy}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        """Nothing is said of each request."""


def open_server(show: Show, port: int, hosts: Sequence[str] = ()) -> ThreadingHTTPServer:
    """The server, listening. hosts: further addresses of the page (--host). UserError where the port is taken."""
    handler = functools.partial(Handler, show=show, token=secrets.token_hex(16), hosts=hosts)
    try:
        return ThreadingHTTPServer((ADDRESS, port), handler)
    except OSError as fault:
        raise UserError(f"port {port} cannot be had ({fault.strerror}): give another --port") from fault


def test_classes(data_dir: str, dataset: str, prepare: Preparation) -> data.Split | None:
    """Those that examples are taken from; None, with a remark, where there are none."""
    try:
        found = data.load(data_dir, dataset)
    except UserError as fault:
        print(f"no drawings of the test set: {fault}", file=sys.stderr)
        return None
    fits = found.image_shape[2] == prepare.channels and found.splits["test"].classes >= CLASSES
    return found.splits["test"] if fits else None


def draw(runs: list[Path], data_dir: str, port: int, hosts: Sequence[str] = ()) -> int:
    """Serve the page until Ctrl-C; `open_server` has the arguments. UserError where a run cannot be shown, or where the
    port is taken."""
    try:
        learners = [Learner(run) for run in runs]
    except ValueError as fault:
        raise UserError(f"{fault}") from fault
    if coloured := [learner.title for learner in learners if learner.prepare.channels != 1]:
        raise UserError(f"{coloured[0]} was trained on coloured images: what is drawn here is grey")
    first = learners[0]
    show = Show(learners, test_classes(data_dir, first.config["dataset"], first.prepare), first.prepare)
    with open_server(show, port, hosts) as server:
        blank = url_of(Image.new("L", (SIDE, SIDE), 255))
        print("compiling, a minute at most", file=sys.stderr)
        show.classify([blank] * CLASSES, blank)
        print(f"http://{ADDRESS}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended")
    return 0
