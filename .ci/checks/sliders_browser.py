"""Chapters of the book as a reader meets them: opened in a real JupyterLab in headless Chromium, run, and the slider moved with a key; the picture must change.

    sliders_browser.py [--shots FOLDER] [CHAPTER...]

Without names: three chapters that run in seconds. `all`: every chapter with a slider, several minutes. Screenshots (the first screen, the slider before and after) go to FOLDER."""
import argparse, os, shutil, tempfile, time
from pathlib import Path

from explorer_browser import CHROMIUM, ERROR, ROOT, SLOW, jupyter_lab, playwright

QUICK = ('03_codes', '05_corruption', '06_diffusion')
HANDLE = '.jp-OutputArea .widget-interact [role=slider]:visible'


def run_all(page):
    "Run every cell, and wait for the end."
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]')
    asked = page.locator('.jp-Dialog button.jp-mod-accept')     # "Select Kernel": on a busy machine the list of kernels may come too late
    page.add_locator_handler(asked, lambda: asked.first.click(), no_wait_after=True)
    idle.wait_for()
    for _ in range(10):             # a kernel may look idle before the page has a connection to it
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        try: page.wait_for_function("[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].some(p => /[*\\d]/.test(p.textContent))", timeout=5000 * SLOW); break
        except Exception: print("Run All Cells did nothing, once more", flush=True)
    page.wait_for_function(f"document.querySelector('.jp-Notebook-ExecutionIndicator').dataset.status == 'idle' || document.querySelector('{ERROR}')")
    page.wait_for_timeout(1500)
    idle.wait_for()
    assert not page.locator(ERROR).count(), page.locator(ERROR).first.inner_text()[-3000:]


def moved(page, name, shots):
    "Open a chapter, run it, move its slider."
    def shot(what, of=page):
        if shots: of.screenshot(path=shots / f'{name}-{what}.png')
    begun = time.monotonic()
    page.locator('.jp-Notebook .jp-Cell').first.wait_for()
    shot('1-opened')
    run_all(page)
    slider = page.locator(HANDLE).first
    slider.scroll_into_view_if_needed()
    area = page.locator('.widget-interact', has=page.locator('[role=slider]')).first
    picture = area.locator('.jupyter-widgets-output-area, .widget-output').first
    picture.scroll_into_view_if_needed()
    before = picture.inner_html()
    assert before.strip(), f'{name}: there is nothing under the slider'
    shot('2-before', area)
    slider.focus()
    for _ in range(3): page.keyboard.press('ArrowRight')
    page.wait_for_function("([e, old]) => e.innerHTML.trim() && e.innerHTML != old", arg=[picture.element_handle(), before])
    page.wait_for_timeout(1000)
    shot('3-after', area)
    print(f"{name}: the slider is moved to {area.locator('.widget-readout').first.inner_text()}, the picture has changed ({time.monotonic() - begun:.0f} s)", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('chapters', nargs='*')
    parser.add_argument('--shots', type=Path)
    asked, _ = parser.parse_known_args()
    if not CHROMIUM: raise SystemExit("no Chromium here: apt-get install chromium")
    names = [n for n in asked.chapters if (ROOT / 'nbs' / f'{n}.ipynb').exists()] or list(QUICK)
    if asked.chapters == ['all']: names = [p.stem for p in sorted((ROOT / 'nbs').glob('[0-9]*.ipynb')) if 'interact(' in p.read_text()]
    if asked.shots: asked.shots.mkdir(parents=True, exist_ok=True)
    tmp = Path(tempfile.mkdtemp(prefix='clipvqd-'))
    try:
        shutil.copytree(ROOT / 'nbs', tmp / 'work')
        with jupyter_lab(tmp) as address, playwright(tmp) as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
            for name in names:
                page = browser.new_page(viewport=dict(width=1200, height=900))
                page.set_default_timeout(180_000 * SLOW)
                page.goto(address.replace('lab/tree/15_explorer', f'lab/workspaces/{name}/tree/{name}'))    # one workspace each: it opens nothing else
                try: moved(page, name, asked.shots)
                except Exception:
                    if asked.shots: page.screenshot(path=asked.shots / f'{name}-failed.png')
                    raise
                page.close()
            browser.close()
    finally: shutil.rmtree(tmp, ignore_errors=True)


if __name__ == '__main__': main()
