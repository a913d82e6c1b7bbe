"""The explorer in a real JupyterLab, driven by mouse and keyboard in headless Chromium: a copy of nbs/15_explorer.ipynb is opened, all of it is run, and the panel is used.

    explorer_browser.py [--shots FOLDER] [--film FILE.gif] [--figures FILE.json] [--only live]

Then `clipvqd explore` is started, and two sentences are typed into it letter by letter: each key must bring a new picture. Where the bundled model has no student, a copy of it gets its own denoiser as one, which is as fast.
Screenshots of the steps go to FOLDER, a film of a typed sentence to FILE.gif, the seconds from key to picture to FILE.json. `--only live` leaves the first part out. Needs Chromium; the package playwright is installed for this run where it is missing."""
import argparse, json, os, re, secrets, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLOW = float(os.environ.get('EXPLORER_SLOW', 1))  # all time limits are multiplied by this
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


def playwright(tmp):
    try: import playwright
    except ImportError:
        subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--target', tmp / 'packages', 'playwright'], check=True)
        sys.path.append(str(tmp / 'packages'))
    from playwright.sync_api import sync_playwright
    return sync_playwright()


def copy_notebook(to):
    "The notebook without outputs, and without the cells that would call this script."
    book = json.loads((ROOT / 'nbs' / 'workshop' / '15_explorer.ipynb').read_text())
    cells = [c for c in book['cells'] if not re.search(r"recorded(_picture)?\('explorer", ''.join(c['source']))]
    for c in cells: c.update(outputs=[], execution_count=None) if c['cell_type'] == 'code' else None
    to.write_text(json.dumps({**book, 'cells': cells}))


def own_settings(tmp):
    "An environment for a JupyterLab that knows nothing of this user's settings."
    config = tmp / 'config'
    for name, values in {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False), 'notebook-extension/tracker': dict(windowingMode='none', autoStartDefaultKernel=True)}.items():
        path = config / 'lab' / 'user-settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(config), 'JUPYTER_DATA_DIR': str(tmp / 'data'), 'JUPYTER_RUNTIME_DIR': str(tmp / 'runtime'), 'IPYTHONDIR': str(tmp / 'ipython'), 'JUPYTERLAB_WORKSPACES_DIR': str(tmp / 'workspaces'), 'HF_HUB_OFFLINE': '1'}
    for name in ('CLIPVQD_REBUILD', 'JUPYTER_TOKEN'): env.pop(name, None)
    return env


@contextmanager
def jupyter_lab(tmp):
    "A server on a free port with a token; gives its address."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    token, env = secrets.token_hex(16), own_settings(tmp)
    log = open(tmp / 'server.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0',
                               f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={tmp / "work"}'], env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(int(600 * SLOW)):
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status?token={token}', timeout=5); break
            except OSError: time.sleep(0.1)
            if server.poll() is not None: sys.exit(f"JupyterLab did not start:\n{(tmp / 'server.log').read_text()[-2000:]}")
        yield f'http://127.0.0.1:{port}/lab/tree/15_explorer.ipynb?token={token}'
    finally:
        server.terminate()
        try: server.wait(20)
        except subprocess.TimeoutExpired: server.kill()


class Panel:
    "The explorer in a page."
    def __init__(self, page, shots, typed=False): self.page, self.shots, self.typed, self.top = page, shots, typed, page.locator('.cvq')

    def button(self, name): return self.top.locator('button:visible', has_text=re.compile(rf'^\s*{name}\s*$'))
    def images(self): return self.top.locator('img:visible')
    def sources(self): return self.images().evaluate_all("l => l.map(i => i.src)")
    def says(self, words, error=False): self.top.locator(f'.cvq-say{".cvq-error" if error else ""}', has_text=words).wait_for()
    def prompt(self): return self.top.get_by_placeholder('what the pictures shall show')

    def drawn(self, act, n):
        "Do something that draws n pictures, and wait for them: all other than before, and of 64 pixels, which the grey places in between are not."
        before = self.sources()
        self.top.locator('img').first.evaluate("i => { window.seen = 0; window.watch?.disconnect(); window.watch = new MutationObserver(l => window.seen += l.length); window.watch.observe(i, {attributes: true, attributeFilter: ['src']}) }")
        act()
        self.page.wait_for_function("""([before, n]) => {
            const images = [...document.querySelectorAll('.cvq img')].filter(i => i.offsetParent).slice(0, n), says = document.querySelector('.cvq-say').textContent
            return says.startsWith(n + ' pictures in') && images.length == n && images.every(i => !before.includes(i.src) && i.complete && i.naturalWidth == 64)}""", arg=[before, n])
        seen = self.page.evaluate('window.seen')
        assert seen >= 3, f'the first picture changed {seen} times: empty, previews and the picture itself were expected'

    def seed(self): return self.top.get_by_label('seed', exact=True)

    def type_seed(self, text):
        "Type it and give it time to arrive: while the kernel is busy, ipywidgets holds back what was typed, and a press of a button overtakes it."
        self.seed().fill(text)
        self.seed().press('Tab')
        self.page.wait_for_timeout(1500 * SLOW)

    def shot(self, name, what=None):
        if self.shots: (what or self.top).screenshot(path=self.shots / f'{name}.png')


STEPS = []  # in the order of the file; each is called with the panel and the folder of the notebook


ERROR = '[data-mime-type="application/vnd.jupyter.error"]'


THERE = f"!!(document.querySelector('.cvq-say') || document.querySelector('{ERROR}'))"
STATUS = "document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status"


def it_runs(page):
    "Wait for the panel or an error; False when the kernel was idle for six seconds without either."
    still = 0
    while still < 12:
        if page.evaluate(THERE): return True
        still = still + 1 if page.evaluate(f"{STATUS} == 'idle'") else 0
        page.wait_for_timeout(500 * SLOW)
    return False


def opened(ui, work):
    idle = ui.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    asked = ui.page.locator('.jp-Dialog button.jp-mod-accept')  # "Select Kernel": on a busy machine the list of kernels may come too late
    for _ in range(240):  # looked for here, too: `wait_for` does not call the handler below
        if asked.count() and asked.first.is_visible(): asked.first.click()
        if idle.count(): break
        ui.page.wait_for_timeout(500 * SLOW)
    ui.page.add_locator_handler(asked, lambda: asked.first.click(), no_wait_after=True)  # it may come at any time
    idle.wait_for()
    ui.page.keyboard.press('Control+b')  # the side bar
    for _ in range(10):  # a kernel may look idle before the page has a connection to it, and then nothing is run
        ui.page.get_by_role('menuitem', name='Run', exact=True).click()
        ui.page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        if it_runs(ui.page): break
        print("the run was lost, once more", flush=True)
    assert not ui.page.locator(ERROR).count(), ui.page.locator(ERROR).first.inner_text()[-3000:]
    ui.says('is ready')
    idle.wait_for()  # also the cells below
    ui.top.scroll_into_view_if_needed()
    if live_switch(ui).is_checked() and not ui.typed: live_switch(ui).uncheck()  # the steps below draw on a press


def live_switch(ui): return ui.top.locator('.widget-label-basic', has_text=re.compile(r'^\s*live\s*$')).locator('input')


@STEPS.append
def an_empty_prompt_is_refused_in_place(ui, work):
    ui.button('Generate').click()
    ui.says('is empty', error=True)


@STEPS.append
def a_prompt_and_generate(ui, work):
    ui.prompt().fill('a smiling person with long red hair and a crown, on a blue background')
    ui.drawn(ui.button('Generate').click, 4)


@STEPS.append
def enter_in_the_prompt(ui, work):
    def enter():
        ui.prompt().fill('a sad person with a top hat')
        ui.prompt().press('Enter')
    ui.drawn(enter, 4)
    note = ui.top.locator('.cvq-note', has_text='2 of 2').inner_text()
    assert 'a sad person with a top hat' in note and 'seed 1,' in note, note


@STEPS.append
def a_click_varies(ui, work): ui.drawn(ui.top.locator('.cvq-pick').nth(1).click, 4)


@STEPS.append
def keys_vary(ui, work):
    for key in ('Enter', 'Space'):
        ui.top.locator('.cvq-pick').first.focus()
        ui.drawn(lambda: ui.page.keyboard.press(key), 4)
        assert ui.page.evaluate("document.activeElement.classList.contains('cvq-pick')"), f'the focus was lost after {key}'


@STEPS.append
def a_mask_is_painted(ui, work):
    ui.button('Repaint').first.click()
    cells = ui.top.locator('.cvq-cell')
    for i in range(8): cells.nth(i).click()
    cells.nth(8).focus()
    for _ in range(8): ui.page.keyboard.press('Space'); ui.page.keyboard.press('Tab')
    ui.page.wait_for_function("document.querySelectorAll('.cvq-cell.mod-active').length == 16")


@STEPS.append
def it_is_repainted(ui, work):
    ui.prompt().fill('a person with a crown')
    ui.drawn(ui.button('Repaint').last.click, 4)


@STEPS.append
def between_two_prompts(ui, work):
    ui.top.get_by_role('tab', name='Between').click()
    other = ui.top.get_by_placeholder('a second prompt')
    other.fill('a person with green hair')
    ui.drawn(lambda: other.press('Enter'), 5)
    last = "[...document.querySelectorAll('.cvq img')].filter(i => i.offsetParent).pop().src"
    before = ui.page.evaluate(last)
    ui.top.get_by_role('slider').last.focus()
    ui.page.keyboard.press('ArrowRight')
    ui.page.wait_for_function(f'old => {last} != old', arg=before)


@STEPS.append
def saved_with_settings(ui, work):
    ui.top.get_by_role('tab', name='Save').click()
    ui.button('Save').first.click()
    ui.says('Saved drawn.png')
    from PIL import Image
    record = json.loads(Image.open(work / 'drawn.png').text['clip_vqdiffusion'])
    assert record['verb'] == 'interpolate' and record['arguments']['b'] == 'a person with green hair', record


@STEPS.append
def a_bad_number_is_refused_in_place(ui, work):
    ui.type_seed('seven')
    try:
        ui.button('Generate').click()
        ui.says('the seed must be a whole number', error=True)
    finally: ui.type_seed('7')


@STEPS.append
def stopped(ui, work):
    places = ui.top.locator('.cvq-pick:visible').count()
    ui.top.get_by_role('slider').first.focus()
    ui.page.keyboard.press('End')  # as many steps as there are, so that there is time to press Stop
    ui.button('Generate').click()
    ui.says('Drawing')
    ui.page.wait_for_timeout(300)
    ui.shot('drawing')
    ui.button('Stop').click()
    ui.says('Stopped')
    assert ui.top.locator('.cvq-pick:visible').count() == places


@STEPS.append
def a_text_typed_while_it_draws_is_drawn(ui, work):
    "The steps are still as many as there are, so that the second text comes while the first is being drawn."
    ui.prompt().fill('a person with a top hat')
    ui.button('Generate').click()
    ui.says('Drawing')
    ui.prompt().fill('a person with a beanie')
    ui.prompt().press('Tab')
    note = ui.top.locator('.cvq-note', has_text='seed')
    ui.page.wait_for_function("[...document.querySelectorAll('.cvq-note')].some(n => n.textContent.includes('“a person with a beanie”'))")
    ui.says('pictures in')
    assert 'not the text above' not in note.first.inner_text(), note.first.inner_text()


@STEPS.append
def nothing_was_raised_in_the_notebook(ui, work):
    assert not ui.page.locator(ERROR).count(), ui.page.locator(ERROR).first.inner_text()[-3000:]


def with_a_student(tmp):
    "The bundled model if it has a student; or a copy whose student is its denoiser: not as good, and as fast."
    models = ROOT / 'clip_vqdiffusion' / 'models' / 'avatars'
    if (models / 'one_step' / 'config.json').is_file(): return 'avatars'
    shutil.copytree(models, tmp / 'avatars')
    shutil.copytree(models / 'denoiser', tmp / 'avatars' / 'one_step')
    return str(tmp / 'avatars')


@contextmanager
def clipvqd_explore(tmp, model):
    "`clipvqd explore` of a model, ended by Ctrl-C; gives its address."
    env = {**own_settings(tmp), 'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])), 'TMPDIR': str(tmp)}
    argv = [sys.executable, '-m', 'clip_vqdiffusion', 'explore', '--no-browser', '--model', model]
    with subprocess.Popen(argv, env=env, cwd=tmp, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().strip()
            if not address: sys.exit(f'clipvqd explore ended with status {server.wait()}')
            yield address
        finally:
            server.send_signal(signal.SIGINT)
            server.stdout.read()  # to its end: it has more to say
    assert server.returncode == 0, f'clipvqd explore: status {server.returncode} after Ctrl-C'


FIGURES = {}  # measured
SENTENCES = 'a smiling person with long red hair and glasses', 'a sad person with a green top hat on a yellow background'
WATCH = """() => {
    const box = document.querySelector('.cvq input[placeholder^="what the pictures"]'), panel = document.querySelector('.cvq')
    window.keys = []; window.seen = []
    const note = () => ([...document.querySelectorAll('.cvq-note')].map(n => n.textContent.match(/“(.*)”, live/)).find(m => m) || ['', ''])[1]
    box.addEventListener('input', () => window.keys.push([performance.now(), box.value]))
    new MutationObserver(() => window.seen.push([performance.now(), note(), document.querySelector('.cvq img').src])).observe(panel, {subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ['src']})
}"""


def shows(ui, words): ui.page.wait_for_function("w => [...document.querySelectorAll('.cvq-note')].some(n => n.textContent.includes('“' + w + '”, live'))", arg=words, timeout=20_000 * SLOW)


def typed_letter_by_letter(ui, work):
    "Ten keys a second, which is fast typing. How long from a key until a picture of this text, or of a later one, is there?"
    ui.page.evaluate(WATCH)
    waits, pictures = [], []
    for words in SENTENCES:
        ui.prompt().fill('')
        ui.page.evaluate('window.keys.length = window.seen.length = 0')
        for letter in words: ui.page.keyboard.type(letter); ui.page.wait_for_timeout(100)
        shows(ui, words)
        keys, seen = ui.page.evaluate('[window.keys, window.seen]')
        seen = [x for x in seen if words.startswith(x[1])]  # not the sentence before
        assert [v for _, v in keys] == [words[:i + 1] for i in range(len(words))], keys
        assert [n for _, n, _ in seen] == sorted((n for _, n, _ in seen), key=len), 'an older picture came after a newer one'
        waits += [next(t for t, note, _ in seen if t >= pressed and len(note) >= len(value)) - pressed for pressed, value in keys]
        pictures.append(len({src for _, _, src in seen}))
        assert pictures[-1] > len(words) / 4, f'{pictures[-1]} pictures for {len(words)} keys'
    waits.sort()
    at = lambda p: waits[min(len(waits) - 1, int(p * len(waits)))]
    FIGURES.update(keys=len(waits), pictures=sum(pictures), median=round(at(.5)), p95=round(at(.95)), longest=round(waits[-1]), cores=os.cpu_count(), load=os.getloadavg()[0])
    print('live: {keys} keys, {pictures} new pictures; from key to picture: median {median} ms, 95th percentile {p95} ms, longest {longest} ms (load {load:.1f} on {cores} cores)'.format(**FIGURES), flush=True)
    assert at(.95) < 2000 * SLOW, waits


def four_at_once(ui, work):
    ui.top.locator('.widget-label-basic', has_text='four seeds').locator('input').check()
    ui.page.wait_for_function("[...document.querySelectorAll('.cvq-pick')].filter(i => i.offsetParent).length == 4")


def a_slider_is_moved(ui, work):
    before = ui.sources()
    ui.top.get_by_role('slider').nth(2).focus()   # steps, guidance, truncation
    for _ in range(30): ui.page.keyboard.press('ArrowLeft')
    ui.page.wait_for_function("old => [...document.querySelectorAll('.cvq img')].filter(i => i.offsetParent)[0].src != old[0]", arg=before)


LIVE = [typed_letter_by_letter, four_at_once, a_slider_is_moved]


def filmed(ui, path, words='a smiling person with long red hair, glasses and a top hat'):
    "A GIF of a sentence that is typed: the prompt, and the four pictures below it."
    from PIL import Image
    frames = []
    ui.prompt().fill('')
    row, places = ui.prompt(), ui.top.locator('.cvq-pick:visible')
    for i, letter in enumerate(words):
        ui.page.keyboard.type(letter)
        if (i % 2 or i < 3) and i + 1 < len(words): continue       # every second key is enough for a film
        shows(ui, words[:i + 1])
        ui.page.wait_for_timeout(150)
        text = Image.open(BytesIO(row.screenshot())).convert('RGB')
        faces = [Image.open(BytesIO(places.nth(k).screenshot())).convert('RGB').resize((80, 80), Image.Resampling.LANCZOS) for k in range(4)]
        frame = Image.new('RGB', (388, 122), 'white')
        frame.paste(text.crop((0, 0, frame.width - 8, min(text.height, 32))), (4, 4))
        for k, face in enumerate(faces): frame.paste(face, (10 + 96 * k, 38))
        frames.append(frame.quantize(32, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    each = [200] * (len(frames) - 1) + [2500]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=each, loop=0, optimize=True)
    print(f'film: {path}, {len(frames)} frames, {path.stat().st_size / 1000:.0f} kB', flush=True)


def use(ui, work, steps):
    "All steps; gives those that failed. Without the first there is nothing to go on with."
    failed = []
    for step in (opened, *steps):
        begun = time.monotonic()
        try: step(ui, work)
        except Exception as e:
            failed.append(step.__name__)
            print(f"FAILED {step.__name__}: {e}", flush=True)
            print('    the panel says:', ' | '.join(ui.page.locator('.cvq-say:visible').all_inner_texts()), flush=True)
            if step is opened: print(ui.page.inner_text('body')[-3000:]); ui.shot('failed', ui.page); break
        else: print(f"ok {step.__name__.replace('_', ' ')} ({time.monotonic() - begun:.1f} s)", flush=True)
        ui.shot(step.__name__)
    return failed


def new_page(browser, address):
    page = browser.new_page(viewport=dict(width=1280, height=1400))
    page.set_default_timeout(60_000 * SLOW)
    page.goto(address)
    return page


def main():
    args = argparse.ArgumentParser()
    args.add_argument('--shots', type=Path)
    args.add_argument('--film', type=Path)
    args.add_argument('--figures', type=Path)
    args.add_argument('--only', choices=['live'])
    args = args.parse_known_args()[0]  # .ci/run gives every check a folder of reference files
    if not CHROMIUM: sys.exit("there is no chromium, chromium-browser or google-chrome here: install one (Debian: apt-get install chromium)")
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    failed, steps = [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        tmp = Path(tmp)
        (tmp / 'work').mkdir()
        copy_notebook(tmp / 'work' / '15_explorer.ipynb')
        with playwright(tmp) as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
            if not args.only:
                with jupyter_lab(tmp) as address:
                    page = new_page(browser, address)
                    failed += use(Panel(page, args.shots), tmp / 'work', STEPS)
                    page.close()
                steps += [opened, *STEPS]
            with clipvqd_explore(tmp, with_a_student(tmp)) as address:
                ui = Panel(new_page(browser, address), args.shots, typed=True)
                failed += use(ui, tmp, LIVE)
                if args.film and not failed: filmed(ui, args.film)
                if args.figures: args.figures.write_text(json.dumps(FIGURES))
                steps += [opened, *LIVE]
            browser.close()
    if failed: sys.exit(f"{len(failed)} of {len(steps)} steps failed: {', '.join(failed)}")
    print(f"the explorer works in JupyterLab, with mouse and keyboard: {len(steps)} steps")


if __name__ == '__main__': main()
