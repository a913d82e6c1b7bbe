"""The explorer in a real JupyterLab, driven by mouse and keyboard in headless Chromium: a copy of nbs/15_explorer.ipynb is opened, all of it is run, and the panel is used.

    explorer_browser.py [--shots FOLDER]

Screenshots of the steps go to FOLDER. Needs Chromium; the package playwright is installed for this run where it is missing."""
import argparse, json, os, re, secrets, shutil, socket, subprocess, sys, tempfile, time, urllib.request
from contextlib import contextmanager
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
    "The notebook without outputs, and without the cell that would call this script."
    book = json.loads((ROOT / 'nbs' / 'workshop' / '15_explorer.ipynb').read_text())
    cells = [c for c in book['cells'] if "recorded_picture('explorer." not in ''.join(c['source'])]
    for c in cells: c.update(outputs=[], execution_count=None) if c['cell_type'] == 'code' else None
    to.write_text(json.dumps({**book, 'cells': cells}))


@contextmanager
def jupyter_lab(tmp):
    "A server on a free port with a token, which knows nothing of this user's settings; gives its address."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    token, config = secrets.token_hex(16), tmp / 'config'
    for name, values in {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False), 'notebook-extension/tracker': dict(windowingMode='none')}.items():
        path = config / 'lab' / 'user-settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    env = {**os.environ, 'JUPYTER_CONFIG_DIR': str(config), 'JUPYTER_DATA_DIR': str(tmp / 'data'), 'JUPYTER_RUNTIME_DIR': str(tmp / 'runtime'), 'IPYTHONDIR': str(tmp / 'ipython'), 'JUPYTERLAB_WORKSPACES_DIR': str(tmp / 'workspaces'), 'HF_HUB_OFFLINE': '1'}
    for name in ('CLIPVQD_REBUILD', 'JUPYTER_TOKEN'): env.pop(name, None)
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
    def __init__(self, page, shots): self.page, self.shots, self.top = page, shots, page.locator('.cvq')

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


def opened(ui, work):
    idle = ui.page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    asked = ui.page.locator('.jp-Dialog button.jp-mod-accept')  # "Select Kernel": on a busy machine the list of kernels may come too late
    idle.or_(asked).first.wait_for()
    if asked.is_visible(): asked.click()
    idle.wait_for()
    ui.page.keyboard.press('Control+b')  # the side bar
    for _ in range(10):  # a kernel may look idle before the page has a connection to it, and then nothing is run
        ui.page.get_by_role('menuitem', name='Run', exact=True).click()
        ui.page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        try: ui.page.wait_for_function("/[*1]/.test(document.querySelector('.jp-CodeCell .jp-InputPrompt').textContent)", timeout=5000 * SLOW); break
        except Exception: print("Run All Cells did nothing, once more", flush=True)
    ui.page.wait_for_function(f"document.querySelector('.cvq-say') || document.querySelector('{ERROR}')")
    assert not ui.page.locator(ERROR).count(), ui.page.locator(ERROR).first.inner_text()[-3000:]
    ui.says('is ready')
    idle.wait_for()  # also the cells below
    ui.top.scroll_into_view_if_needed()


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


def use(ui, work):
    "All steps; gives those that failed. Without the first there is nothing to go on with."
    failed = []
    for step in (opened, *STEPS):
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


def main():
    args = argparse.ArgumentParser()
    args.add_argument('--shots', type=Path)
    args = args.parse_known_args()[0]  # .ci/run gives every check a folder of reference files
    if not CHROMIUM: sys.exit("there is no chromium, chromium-browser or google-chrome here: install one (Debian: apt-get install chromium)")
    if args.shots: args.shots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp:
        tmp = Path(tmp)
        (tmp / 'work').mkdir()
        copy_notebook(tmp / 'work' / '15_explorer.ipynb')
        with playwright(tmp) as p, jupyter_lab(tmp) as address:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'])
            page = browser.new_page(viewport=dict(width=1280, height=1400))
            page.set_default_timeout(60_000 * SLOW)
            page.goto(address)
            failed = use(Panel(page, args.shots), tmp / 'work')
            browser.close()
    if failed: sys.exit(f"{len(failed)} of {len(STEPS) + 1} steps failed: {', '.join(failed)}")
    print(f"the explorer works in JupyterLab, with mouse and keyboard: {len(STEPS) + 1} steps")


if __name__ == '__main__': main()
