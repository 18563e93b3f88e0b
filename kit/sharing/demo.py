"""A bundle as a page that others try: made for the bundle's kind, on this machine alone unless told otherwise."""

from __future__ import annotations

import atexit
import html
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import BundleError
from kit.sharing.places import address_of, check_free, free_port

PORT = 7871
STYLE = Path(__file__).with_name("demo.css")
QUEUE = 64  # questions that wait; whoever comes then is told to try again
# Gradio keeps 100 KB for each visitor, and each call of a program is a visitor to it: at its 10,000 that is 1 GB.
SESSIONS = 256
KINDS = ("dual-encoder", "vision-language")
# Gradio deletes uploads and what it wrote for visitors: how often it looks, and how old they may get. In seconds.
SWEPT_S, KEPT_S = 60, 600


@dataclass(eq=False)
class Demo:
    """A page that is being served.

    Args:
        address: Where it is.
        share_address: Where it is for everybody, through Gradio's tunnel; empty unless that was asked for.
        server: Gradio's Blocks.
    """

    address: str
    share_address: str
    server: Any
    _closing: Sequence[Callable[[], None]] = ()
    _folder: Path | None = None
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __str__(self) -> str:
        """Return the link to give to others."""
        return self.share_address or self.address

    def _repr_html_(self) -> str:
        """Return the page itself, for the notebook that served it."""
        link = html.escape(str(self))
        return (
            f'<a href="{link}" target="_blank">{link}</a><br><iframe src="{link}" width="100%" height="640"></iframe>'
        )

    def __post_init__(self) -> None:
        atexit.register(self.close)  # of a notebook's kernel, too

    def wait(self) -> None:
        """Wait until somebody closes it, presses ^C, or ends the process with SIGTERM, as a Space is ended."""
        with _polite_end():
            self._closed.wait()

    def close(self) -> None:
        """Stop serving, and delete what was written for visitors."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        self.server.close(verbose=False)
        for close in self._closing:
            close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def _polite_end() -> Iterator[None]:
    """Let SIGTERM end the process as its own end does, so that nothing stays behind; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def demo(
    *bundles: Any,
    pictures: str = "",
    command: str = "",
    host: str = "127.0.0.1",
    port: int = PORT,
    share: bool = False,
    device: str | None = None,
    runtime: str = "torch",
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    votes: str | Path = "",
    keep_pictures: bool = False,
) -> Demo:
    """Serve a page on which others try a bundle, and return while it runs.

    A dual encoder's page finds pictures by words and labels pictures; a vision-language model's answers questions
    about pictures, word by word. With two bundles it shows both beside each other. Nothing that visitors send is
    kept: uploads are deleted after some minutes, questions are not written down.

    With ``votes`` the page asks instead which of two is better, names hidden and sides drawn by lot for each question:
    two bundles, or a bundle with its adapter on and off. Then votes, what was asked and what was answered are kept,
    as the page says; ``kit study rank --db`` ranks them.

    Args:
        bundles: One or more bundles of one kind, or their folders.
        pictures: What a dual encoder finds, by its source string, or a folder that ``kit space build`` made; the data
            that it was trained on by default.
        command: The command that makes the bundle again, where the folder does not tell.
        host: Where to listen; only this machine by default.
        port: At which port; 0 for any that is free.
        share: Whether everybody with the link may come in, through Gradio's tunnel.
        device: Where a vision-language model runs; the best device there is by default.
        runtime: What runs the models: "torch", or "onnx" for 8 bits by onnxruntime, exported into kit's home the first
            time and refused where that is no longer the same model.
        wrap: Put around the methods that compute (on ZeroGPU ``spaces.GPU``).
        votes: A folder or a database for votes; without it nothing is voted on or kept.
        keep_pictures: Whether pictures that are voted on are kept too, in the folder; for training on the votes.

    Raises:
        BundleError: no bundle, a damaged one, kinds that have no page or do not go together, votes and not two to vote
            on, a taken port, an unknown runtime or one that a bundle cannot be exported for.
        DataError: the pictures cannot be read.
        StudyError: the database holds votes on other bundles under the same names.
        StoreError: the database cannot be opened.
    """
    opened = opened_bundles(bundles)
    port = port or free_port(host)
    check_free(host, port, BundleError, fix="end what listens there, or choose another port")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", str(SESSIONS))  # its queue would keep 10,000
    _own_uploads()
    from kit.sharing.demo_parts import make_parts

    ballots = None
    if votes:
        from kit.sharing.demo_votes import open_ballots

        ballots = open_ballots(votes, keep_pictures=keep_pictures)
    warm = threading.Thread(target=_warm_gradio, daemon=True)
    warm.start()
    folder = Path(tempfile.mkdtemp(prefix="kit-demo-"))
    try:
        parts = make_parts(
            opened, folder, pictures=pictures, device=device, wrap=wrap, runtime=runtime, ballots=ballots
        )
        blocks = _drawn(opened, parts, command)
        warm.join()
        return _served(blocks, parts, folder, host=host, port=port, share=share)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _warm_gradio() -> None:
    """Look for matplotlib's backend, as Gradio does around every call: the first look imports it, half a second."""
    with suppress(ImportError):  # a Space has none, and then Gradio looks for nothing
        import matplotlib as mpl

        mpl.get_backend()


def _own_uploads() -> None:
    """Give uploads a folder of this process, which goes with it; all demos of a process share it, as Gradio asks."""
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="kit-uploads-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def opened_bundles(bundles: Sequence[Any]) -> list[Any]:
    """Return bundles, opened and verified.

    Raises:
        BundleError: none, a damaged one, or kinds that have no page or do not go together.
    """
    from kit.adapters.bundle import Bundle, open_bundle

    if not bundles:
        raise BundleError.of("demo", "there is no bundle", "name a bundle's folder")
    opened = [one if isinstance(one, Bundle) else open_bundle(one) for one in bundles]
    for one in opened:
        if one.manifest.kind not in KINDS:
            what = f"is a {one.manifest.kind}, which has no page"
            raise BundleError.of(str(one.folder), what, "show the bundle that it was exported from")
    kinds = sorted({one.manifest.kind for one in opened})
    if len(kinds) > 1:
        raise BundleError.of("demo", f"a {kinds[0]} and a {kinds[1]} have no page together", "serve one page for each")
    return opened


def _drawn(opened: Sequence[Any], parts: Any, command: str) -> Any:
    import gradio as gr

    from kit.sharing.facts import facts

    title = " and ".join(one.manifest.name for one in opened)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(SWEPT_S, KEPT_S)) as blocks:
        gr.Markdown(f"# {html.escape(title)}", elem_id="title")
        with gr.Tabs():
            parts.draw()
            with gr.Tab("Card", id="card", elem_id="card"):
                for one in opened:
                    gr.Markdown(facts(one, command=command), elem_classes=["kit-card"])
        if parts.credit:
            gr.Markdown(f"{parts.credit}.", elem_id="credit")
    blocks.queue(max_size=QUEUE, default_concurrency_limit=2)
    return blocks


def _served(blocks: Any, parts: Any, folder: Path, *, host: str, port: int, share: bool) -> Demo:
    import gradio as gr
    from starlette.middleware import Middleware

    from kit.sharing.courtesy import Bounds
    from kit.sharing.uploads import MOST_BYTES

    # Fonts of the machine: Gradio's own themes fetch theirs from Google, which tells Google who visits.
    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Default(primary_hue="indigo", font=fonts[0], font_mono=fonts[1])
    try:
        _, _, share_address = blocks.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, show_error=False,
            max_file_size=MOST_BYTES, enable_monitoring=False, state_session_capacity=SESSIONS, ssr_mode=False,
            pwa=False, mcp_server=False, inbrowser=False, theme=theme, css_paths=[STYLE],
            # Else Gradio looks whether its page comes within 3 seconds; on a busy machine it says it cannot be reached.
            _frontend=False,
            allowed_paths=[str(one) for one in parts.shown_from], footer_links=["api", "settings"],
            app_kwargs={"middleware": [Middleware(Bounds)], "docs_url": None},
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise BundleError.of(f"{host}:{port}", f"cannot be served: {error}", "choose another host or port") from error
    if share and not share_address:
        blocks.close(verbose=False)
        fix = "look whether this machine reaches the internet, or leave --share out"
        raise BundleError.of("--share", "Gradio's tunnel did not open", fix)
    parts.start()
    return Demo(address_of(host, port), (share_address or "").rstrip("/"), blocks, (parts.close,), folder)
