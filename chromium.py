"""
HTML: one warm Chromium without network, told what to do over a pipe; a clean document for each page.
chromedevtools.github.io/devtools-protocol/
"""
import base64
import functools
import glob
import importlib.util
import io
import json
import os
import resource
import select
import shutil
import signal
import time

from confine import PR_SET_PDEATHSIG, prctl
from drawing import MAX_DETAILS, MAX_PIXELS, MAX_SIDE, MAX_TEXTS, check_size, on_white, oversized

CHROMIUM_FLAGS = """--headless --no-sandbox --disable-gpu --mute-audio --no-first-run --no-zygote
 --enable-begin-frame-control --run-all-compositor-stages-before-draw --block-new-web-contents
 --disable-extensions --disable-background-networking --disable-sync --disable-breakpad --disable-crash-reporter
 --disable-dev-shm-usage --disable-component-update --disable-default-apps --disable-renderer-backgrounding
 --disable-background-timer-throttling --disable-backgrounding-occluded-windows --force-color-profile=srgb
 --disable-features=Translate,MediaRouter,BackForwardCache,AudioServiceOutOfProcess --disable-site-isolation-trials
 --default-tile-width=1280 --default-tile-height=256 --hide-scrollbars --font-render-hinting=none
 --renderer-process-limit=1 --js-flags=--max-old-space-size=512""".split()

# What runs in a page. Before its own scripts: Math.random is mulberry32 with a fixed seed, every page is opened on
# 15 June 2025
FRESH_DOCUMENT = """(() => { let s = 1; Math.random = () => { s = s + 0x6D2B79F5 | 0;
  let t = Math.imul(s ^ s >>> 15, 1 | s); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
  return ((t ^ t >>> 14) >>> 0) / 4294967296 };
  window.name = '';  // it would outlive the page
  const D = Date, shift = 1750000000000 - D.now(), now = () => D.now() + shift;
  window.Date = new Proxy(D, { construct: (_, a) => a.length ? new D(...a) : new D(now()),
    apply: () => new D(now()).toString(), get: (_, key) => key === 'now' ? now : D[key] }) })()"""

# Animations end, endless ones are not begun
SETTLE = """(() => { for (const a of document.getAnimations())
  try { a.effect.getComputedTiming().endTime === Infinity ? a.cancel() : a.finish() } catch (e) {} })()"""

# __readTexts(limit) -> [[string, [x0, y0, x1, y1] in pixels of the page]] of what can be seen, as JSON; null beyond
# `limit` letters. Made before the page's scripts run, of functions that it keeps, so that they have no hand in it. (A
# world of its own, as INSPECT has, would cost half as much again as the page.)
READER = """(() => { const of = (owner, key) => {
    const p = Object.getOwnPropertyDescriptor(owner, key); return Function.prototype.call.bind(p.get || p.value) };
  const [body, walker, newRange] = ['body', 'createTreeWalker', 'createRange'].map(key => of(Document.prototype, key));
  const [select, rect] = ['selectNodeContents', 'getBoundingClientRect'].map(key => of(Range.prototype, key));
  const [left, top, right, bottom] = ['left', 'top', 'right', 'bottom'].map(key => of(DOMRectReadOnly.prototype, key));
  const next = of(TreeWalker.prototype, 'nextNode'), data = of(CharacterData.prototype, 'data');
  const trim = of(String.prototype, 'trim'), parent = of(Node.prototype, 'parentElement');
  const style = of(CSSStyleDeclaration.prototype, 'getPropertyValue');
  const [x, y, computed] = ['scrollX', 'scrollY', 'getComputedStyle'].map(key => of(window, key));
  const quoted = JSON.stringify, value = limit => { let out = '';
    const range = newRange(document), walk = walker(document, body(document) || document, 4);      // 4: text
    for (let n, count = 0; count < 2000 && out.length < limit && (n = next(walk));) {
      const s = trim(data(n)), p = parent(n); if (!s || !p) continue;
      select(range, n); const r = rect(range), x0 = left(r), y0 = top(r), x1 = right(r), y1 = bottom(r);
      if (x1 > x0 && y1 > y0 && style(computed(window, p), 'visibility') === 'visible')
        out += (count++ ? ',' : '') + `[${quoted(s)},[${x0 + x(window)},${y0 + y(window)},`
          + `${x1 + x(window)},${y1 + y(window)}]]` }
    return out.length < limit ? '[' + out + ']' : 'null' };
  Object.defineProperty(window, '__readTexts', {value}) })()"""

# Text blocks as Design2Code finds them: the text of an element is that of its nearest ancestor that Design2Code colours
# (ocr_free_utils.py), else its own. White space is collapsed, what lies outside the picture is cut. Colours over white.
INSPECT = """((width, height, limit) => {
  const owned = "p,h1,h2,h3,h4,h5,h6,div,span,a,b,li,table,td,th,button,footer,header,figcaption", owners = new Map();
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  const rgb = new Map(), rgbOf = css => { if (!rgb.has(css)) {
    pen.fillStyle = "#fff"; pen.fillRect(0, 0, 1, 1); pen.fillStyle = css; pen.fillRect(0, 0, 1, 1);
    rgb.set(css, [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)) } return rgb.get(css) };
  const range = document.createRange();
  const walk = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT);
  for (let n; n = walk.nextNode();) {
    const text = n.data.replace(/\\s+/g, " ").trim(), parent = n.parentElement; if (!text || !parent) continue;
    range.selectNodeContents(n); const r = range.getBoundingClientRect(), style = getComputedStyle(parent);
    const x0 = Math.max(0, r.left + scrollX), y0 = Math.max(0, r.top + scrollY);
    const x1 = Math.min(width, r.right + scrollX), y1 = Math.min(height, r.bottom + scrollY);
    if (x1 <= x0 || y1 <= y0 || style.visibility !== "visible") continue;
    const owner = parent.closest(owned) || parent;
    const b = owners.get(owner) || {texts: [], box: [x0, y0, x1, y1], color: [0, 0, 0], count: 0};
    b.texts.push(text), b.count += text.length, rgbOf(style.color).forEach((c, i) => b.color[i] += c * text.length);
    b.box = [Math.min(b.box[0], x0), Math.min(b.box[1], y0), Math.max(b.box[2], x1), Math.max(b.box[3], y1)];
    owners.set(owner, b) }
  const blocks = [...owners.values()].map(({texts, box: [x0, y0, x1, y1], color, count}) => ({text: texts.join(" "),
    box: [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height], color: color.map(c => c / count)}));
  const trees = new Set(); for (const e of document.querySelectorAll("*")) if (e.children.length)
    trees.add([e, ...e.children].map(x => x.localName).join("_"));
  const found = JSON.stringify({blocks, trees: [...trees]}); return found.length > limit ? found.length : found })"""


class Crash(Exception):
    """The page killed its tab."""


class Browser:
    """One warm Chromium, one tab, a clean document for each page. Every wait ends at self.deadline (TimeoutError).

    Time stands still in the tab but for what a page is granted, and where the browser can (`paced`), frames are drawn
    on command only: so a page looks the same however busy the machine is. Raises Crash for a page that killed its tab,
    EOFError where the browser died, RuntimeError for a command that failed.
    """

    def __init__(self, program, scratch):
        commands, self.commands = os.pipe()
        self.answers, answers = os.pipe()
        line = [program, *CHROMIUM_FLAGS, "--user-data-dir=" + scratch + "/profile", "--remote-debugging-pipe"]
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setpgid(0, 0)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                null = os.open("/dev/null", os.O_RDWR)
                ends = os.dup(commands), os.dup(answers)
                for fd, source in enumerate((null, null, null, *ends)):   # the browser reads 3 and writes 4
                    os.dup2(source, fd)
                os.closerange(5, 4096)
                resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
                os.execv(program, line)
            finally:
                os._exit(127)
        os.close(commands), os.close(answers)
        self.buffer, self.count, self.session, self.stray, self.lost = bytearray(), 0, None, [], False
        self.deadline = time.monotonic() + 30
        self.call("Target.setDiscoverTargets", discover=True)
        self.call("Browser.setDownloadBehavior", behavior="deny")
        self.open_tab()

    def open_tab(self):
        """Make a new tab the one that commands go to, its time standing still; the tab before it stays open."""
        self.pages, self.viewport, self.session = 0, None, None
        try:
            self.target, self.paced = None, True
            self.target = self.call("Target.createTarget", url="about:blank", enableBeginFrameControl=True)["targetId"]
        except RuntimeError:                                              # a full Chromium draws when it likes
            self.paced = False
            self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        self.frame = self.call("Page.getFrameTree")["frameTree"]["frame"]["id"]
        self.call("Page.enable")
        self.call("Page.setFontFamilies", fontFamilies=dict(fixed="Monospace"))     # as in a desktop Chromium
        self.call("Page.addScriptToEvaluateOnNewDocument", source=FRESH_DOCUMENT + ";" + READER)
        self.call("Emulation.setVirtualTimePolicy", policy="pause")
        self.blank()

    def blank(self):
        """Leave the page: its timers, workers and unload handlers end on its own time, not on the next page's."""
        self.loaded = False
        self.call("Page.navigate", url="about:blank")
        while not self.loaded:
            self.handle(self.receive())

    # commands and answers: JSON, each ended by a zero byte

    def post(self, method, **params):
        """Send a command -> its number."""
        self.count += 1
        message = dict(id=self.count, method=method, params=params)
        if self.session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self.session
        data = memoryview(json.dumps(message).encode() + b"\0")
        while data:
            data = data[os.write(self.commands, data):]
        return self.count

    def call(self, method, **params):
        """Send a command and wait -> its result, a dict."""
        return self.answer(self.post(method, **params))

    def answer(self, number):
        """The result of command `number`; events that arrive before it are handled on the way."""
        while (message := self.receive()).get("id") != number:
            self.handle(message)
        return result(message)

    def handle(self, message):
        """Events that count; answers to commands whose results nobody wants pass by."""
        event, params = message.get("method"), message.get("params", {})
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Page.javascriptDialogOpening":
            self.post("Page.handleJavaScriptDialog", accept=params.get("type") == "beforeunload")
        elif event == "Emulation.virtualTimeBudgetExpired":
            self.time_is_up = True
        elif event == "Target.targetCrashed" and params["targetId"] == self.target:
            raise Crash("the page crashed its browser tab")
        elif event == "Target.targetCreated" and params["targetInfo"]["type"] == "page":
            self.stray.append(params["targetInfo"]["targetId"])

    def receive(self):
        """The next message, a dict: an answer or an event."""
        searched = 0
        while (end := self.buffer.find(b"\0", searched)) < 0:
            searched = len(self.buffer)
            if not select.select([self.answers], [], [], max(0, self.deadline - time.monotonic()))[0]:
                raise TimeoutError
            data = os.read(self.answers, 1 << 20)
            if not data:
                raise EOFError("the browser died")
            self.buffer += data
        message = json.loads(self.buffer[:end])
        del self.buffer[:end + 1]
        return message

    def draw(self, code, size, scale=1, inspect=False):
        """A page -> (pixels uint8 [H, W, 3], texts), with inspect what `inspect` returns, too. size: (width, height)
        of the target in pixels or None; scale: pixels of the image for one of the page. Raises Rejected,
        TimeoutError."""
        width, height = size or (1280, 720)
        check_size(width * scale, height * scale)
        if self.viewport != (width, height, scale):
            self.call("Emulation.setDeviceMetricsOverride", width=width, height=min(height, 720),
                      deviceScaleFactor=scale, mobile=False)
            self.viewport = (width, height, scale)
        self.pages, self.loaded = self.pages + 1, False
        self.time_is_up, budget = False, dict(policy="pauseIfNetworkFetchesPending", budget=500)   # page's milliseconds
        written = self.post("Page.setDocumentContent", frameId=self.frame, html=code)
        self.post("Emulation.setVirtualTimePolicy", **budget)
        self.answer(written)
        while not (self.loaded and self.time_is_up):
            if self.time_is_up:                                           # still loading: half a second more
                self.time_is_up = False
                self.post("Emulation.setVirtualTimePolicy", **budget)
            self.handle(self.receive())
        self.post("Runtime.evaluate", expression=SETTLE)
        page = self.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        length = min(max(int(page), height), MAX_SIDE, MAX_PIXELS // width)
        pixels = self.photograph(width, length, beyond=length > min(height, 720) or scale != 1)
        found = self.call("Runtime.evaluate", expression=f"__readTexts({MAX_TEXTS})")["result"]
        texts = json.loads(found.get("value", "null"))
        return (pixels, texts, self.inspect(width, length)) if inspect else (pixels, texts)

    def inspect(self, width, height):
        """-> DETAILS of the page, or one line: why there are none. The page's scripts have no hand in this world's
        functions."""
        world = self.call("Page.createIsolatedWorld", frameId=self.frame)["executionContextId"]
        call = f"{INSPECT}({width}, {height}, {MAX_DETAILS})"
        answer = self.call("Runtime.evaluate", contextId=world, expression=call)
        found = answer["result"].get("value")
        if isinstance(found, str):
            return json.loads(found)
        return oversized(found) if found else "the page cannot be inspected"

    def photograph(self, width, height, beyond):
        """uint8 [height, width, 3]. beyond: more than the viewport, or scaled, which a frame on command cannot be."""
        from PIL import Image
        data = None
        while self.paced and not beyond and not data:        # the first frame may only lay the page out
            data = self.call("HeadlessExperimental.beginFrame",
                             screenshot=dict(format="png", optimizeForSpeed=True)).get("screenshotData")
        if not data:
            shot = self.post("Page.captureScreenshot", format="png", captureBeyondViewport=beyond,
                             optimizeForSpeed=True, clip=dict(x=0, y=0, width=width, height=height, scale=1))
            frame, message = self.paced and self.post("HeadlessExperimental.beginFrame"), {}
            while message.get("id") != shot:
                message = self.receive()
                if frame and message.get("id") == frame:
                    frame = self.post("HeadlessExperimental.beginFrame")
                self.handle(message)
            if frame:
                self.answer(frame)
            data = result(message)["data"]
        return on_white(Image.open(io.BytesIO(base64.b64decode(data)), formats=["PNG"]))

    def draw_figure(self, code, size):
        """A plotly figure, the JSON of drawing.Figure.args, by the plotly.js that comes with plotly."""
        figure, width, height, scale = json.loads(code)
        layout = json.loads(figure).get("layout", {})
        width, height = width or layout.get("width") or 700, height or layout.get("height") or 500
        folder = importlib.util.find_spec("plotly").submodule_search_locations[0]
        with open(folder + "/package_data/plotly.min.js") as file:
            script = file.read()
        figure = figure.replace("<", "\\u003c")                             # no string may close the script
        html = f"""<body style="margin:0"><div id="figure"></div><script>{script}</script><script>
            const figure = {figure};
            figure.layout = {{...figure.layout, width: {width:d}, height: {height:d}}};
            Plotly.newPlot("figure", figure.data, figure.layout, {{staticPlot: true}})</script>"""
        return self.draw(html, (width, height), scale)

    def tidy(self):
        """Between two pages: close popups, leave the page, take a new tab now and then."""
        self.deadline = time.monotonic() + 2
        for target in self.stray:
            if target != self.target:
                self.call("Target.closeTarget", targetId=target)
        self.stray = []
        if self.pages < 100:
            return self.blank()
        old = self.target
        self.open_tab()
        self.call("Target.closeTarget", targetId=old)


def result(message):
    """What a command returned. Raises RuntimeError where it failed."""
    if "error" in message:
        raise RuntimeError("Chromium: " + message["error"].get("message", "?"))
    return message["result"]


class Pages:
    """The engine of server.py for HTML, and for plotly figures."""

    def __init__(self, server):
        self.server = server
        server.confine(alone=False)               # the browser and its helpers inherit it
        self.browser = Browser(server.chromium, server.scratch)

    def run(self, language, code, size, inspect, deadline):
        """Draw a page, or a plotly figure, whose code is the JSON of drawing.Figure.args."""
        self.browser.deadline = deadline
        if language == "plotly":
            draw = self.browser.draw_figure
        else:
            draw = functools.partial(self.browser.draw, inspect=inspect)
        try:
            self.server.deliver(draw, code, size, lost=(TimeoutError, Crash, EOFError))
        except TimeoutError:
            self.browser.lost = True
            return "timeout"
        except Crash as reason:
            self.browser.lost = True
            return str(reason)

    def tidy(self):
        """A new browser where the old one is lost, or will not leave its page within two seconds."""
        try:
            if not self.browser.lost:
                return self.browser.tidy()
        except (TimeoutError, Crash, EOFError, OSError, RuntimeError):
            pass
        self.server.kill(self.browser.pid)
        self.server.end(self.browser.pid, 0)
        self.server.clean()
        self.browser = Browser(self.server.chromium, self.server.scratch)


def find_chromium():
    """VINCI_CHROMIUM, else the system's browser, else playwright's own; None without one. Headless shells first:
    they draw frame by frame on command, a full Chromium only when its clock ticks."""
    named = os.environ.get("VINCI_CHROMIUM")
    if named:
        return shutil.which(named)
    own = os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or os.path.expanduser("~/.cache/ms-playwright")
    own = sorted(glob.glob(own + "/chromium_headless_shell-*/*/*headless*shell"), reverse=True)
    names = ("/usr/lib/chromium/chromium-headless-shell", "chrome-headless-shell", *own, "/usr/lib/chromium/chromium",
             "chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)
