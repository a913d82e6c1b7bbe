"""Every decimal number in the text of the book and the tutorials stands in that notebook's code or outputs.

A number in prose goes stale in silence when a figure is recorded anew. This check finds it: `0.894` needs something in the same
notebook that rounds to it (`99.1` or `99.1 %` also by 0.991). Numbers from elsewhere, a paper's say, are listed in FROM_ELSEWHERE
with their source; `results/NAME` is looked up in that record. Usage: numbers_in_text.py [NOTEBOOK ...]; exit status 1 when a number has no source.
It is a sieve with holes: of all decimals, each made wrong by 3 in its last digit, it notices about 43 % (67 of 155)."""
import json, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r'(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+)?\.(\d+)(?![\w.]*\d)')
PLAIN = re.compile(r'(?<![\w.])-?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?')
# arXiv numbers, links, code, formulas (sums done with a pencil), sections
NOT_FIGURES = re.compile(r'\d{4}\.\d{4,5}|\]\([^)]*\)|https?://\S+|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|[Ss]ections? [\d. ]+', re.S)

# notebook -> number -> where it comes from
FROM_ELSEWHERE = json.loads((Path(__file__).with_suffix('.json')).read_text())


def numbers(text):
    "All numbers of a text, as floats."
    found = set()
    for m in PLAIN.findall(text):
        try: found.add(float(m.replace(',', '')))
        except ValueError: pass
    return found


def sources(nb):
    "Every number that the cells of a notebook hold, in their source and their text outputs."
    texts = []
    for c in nb['cells']:
        if c['cell_type'] != 'code': continue
        texts.append(''.join(c['source']))
        for o in c.get('outputs', []):
            texts.append(''.join(o.get('text', [])))
            texts += [''.join(v) for k, v in o.get('data', {}).items() if k.startswith('text/')]
    return set().union(*map(numbers, texts))


def stale(path):
    "Decimals of the text without a source."
    nb = json.loads(path.read_text())
    have = sources(nb)
    out = []
    for i, c in enumerate(nb['cells']):
        if c['cell_type'] != 'markdown': continue
        text = NOT_FIGURES.sub(' ', ''.join(c['source']))
        for m in NUMBER.finditer(text):
            said, digits = float(m.group().replace(',', '')), len(m.group(2))
            near = 0.5001 * 10 ** -digits
            # a share may be said in percent, and a number in thousands or millions
            if any(abs(abs(h) * f - said) <= near for h in have for f in (1, 100, 1e-3, 1e-6, 1e3)): continue
            source = FROM_ELSEWHERE.get(path.relative_to(ROOT / 'nbs').as_posix(), {}).get(m.group())
            if source and not source.startswith('results/'): continue
            if source and any(abs(h - said) <= near for h in numbers((ROOT / f'nbs/{source}.json').read_text())): continue
            out.append((i, m.group(), text[max(0, m.start() - 50):m.end() + 30].replace('\n', ' ')))
    return out


if __name__ == '__main__':
    files = [Path(p).resolve() for p in sys.argv[1:] if p.endswith('.ipynb')] or \
        sorted((ROOT / 'nbs').glob('*.ipynb')) + sorted((ROOT / 'nbs/tutorials').glob('*.ipynb'))
    bad = [(f.relative_to(ROOT), *s) for f in files for s in stale(f)]
    for f, i, n, where in bad: print(f'{f} cell {i}: {n} has no source in this notebook: …{where}…')
    print(f'{len(files)} notebooks, {len(bad)} numbers without a source')
    sys.exit(bool(bad))
