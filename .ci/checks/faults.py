"""What goes wrong elsewhere: hostile configurations, records, tables and pictures, full disks, damaged checkpoints, kills. Prints counts.

    python .ci/checks/faults.py            a few minutes, in CI
    python .ci/checks/faults.py --long             the numbers of README: minutes
    python .ci/checks/faults.py --long --kills     and 30 kill -9 and 30 SIGTERM in each stage: more than an hour

Each attempt must end well or with one clear error: no other exception, no file outside of the model's folder, no connection, under 20 s and 2 GB."""
import contextlib, io, json, os, random, resource, shutil, signal, subprocess, sys, tempfile, time, warnings
from pathlib import Path

LONG = '--long' in sys.argv
os.environ['HF_HUB_OFFLINE'] = '1'
import torch
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from clip_vqdiffusion.avatars import avatars
from clip_vqdiffusion.data import image_dataset
from clip_vqdiffusion.files import folder_is_whole
from clip_vqdiffusion.loop import Loop, LoopConfig
from clip_vqdiffusion.pipeline import CLIPVQDiffusion, _bundled, picture_info
from clip_vqdiffusion.show import to_pil

KNOWN = (ValueError, TypeError, OSError)                 # what the shell prints as one sentence
COUNTS, BAD = {}, []
torch.set_num_threads(1)


# --- watching ---------------------------------------------------------------------------------------------------
watching, seen = False, []
def audit(event, args):
    if not watching: return
    if event == 'open' and isinstance(args[0], (str, bytes, os.PathLike)): seen.append(os.fsdecode(args[0]))
    if event in ('socket.connect', 'socket.getaddrinfo', 'subprocess.Popen', 'os.system', 'pickle.find_class'): seen.append(event)
sys.addaudithook(audit)

def attempt(kind, what, f, folder):
    "Run f; note how it ended."
    global watching
    seen.clear()
    begun, watching = time.monotonic(), True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            f()
        how = 'fine'
    except KNOWN as e: how = 'refused' if len(str(e)) < 1500 else f'a message of {len(str(e))} characters'
    except BaseException as e: how = f'{type(e).__name__}: {str(e)[:100]}'
    watching = False
    took, gigabytes = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    outside = [p for p in seen if p.startswith(('/etc/passwd', '/etc/shadow', '/root/secret')) or not p.startswith('/') and p.startswith(('socket', 'subprocess', 'os.', 'pickle'))]
    if how not in ('fine', 'refused') or took > 20 or gigabytes > 3 or outside:
        BAD.append(f'{kind}: {how} after {took:.1f} s, {gigabytes:.1f} GB{", touched " + str(outside[:3]) if outside else ""}: {str(what)[:300]}')
    n = COUNTS.setdefault(kind, dict(tried=0, fine=0, refused=0))
    n['tried'] += 1
    n[how] = n.get(how, 0) + 1


# --- hostile values ---------------------------------------------------------------------------------------------
nasty = st.one_of(
    st.sampled_from([0, -1, -5, 1, 2, 10**3, 10**6, 10**9, 10**12, 2**63, 10**30, 0.5, -0.5, 1e12, 1e38, 1e308, True, False, None, '', 'x', [], {}]),
    st.sampled_from(['/etc', '/etc/passwd', '../../..', '../clip', 'hf-hub:evil/model', 'local-dir:/etc', 'http://127.0.0.1:1/x', 'ViT-B-32/openai', 'none/none', '\x1b[31m', 'a' * 5000, '\x00', 'timm']),
    st.integers(), st.floats(allow_nan=True), st.text(max_size=20),
    st.lists(st.integers(-10, 10**12), max_size=5),
    st.recursive(st.none() | st.integers(-5, 10**12) | st.text(max_size=5), lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4), max_leaves=10),
)
names = st.sampled_from(['tokenizer_kwargs', 'hf_model_name', 'hf_tokenizer_name', 'timm_model_name', 'trust_remote_code', 'folder', 'name', 'kind', 'format', 'depth', 'codes', 'x', '__class__'])

def paths_of(x, at=()):
    "Every place in a JSON value."
    yield at
    if isinstance(x, dict):
        for k, v in x.items(): yield from paths_of(v, (*at, k))
    if isinstance(x, list):
        for i, v in enumerate(x): yield from paths_of(v, (*at, i))

def changed(x, at, how, name, value):
    "A copy with one place replaced, removed, or given a new entry."
    if not at: return {**x, name: value} if how == 'add' and isinstance(x, dict) else value
    x = json.loads(json.dumps(x))
    inner = x
    for k in at[:-1]: inner = inner[k]
    if how == 'remove': del inner[at[-1]]
    elif how == 'add' and isinstance(inner[at[-1]], dict): inner[at[-1]][name] = value
    else: inner[at[-1]] = value
    return x

def examples(n): return settings(max_examples=n, deadline=None, database=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))


def hostile_configs(tmp, n):
    model = tmp / 'model'
    shutil.copytree(_bundled() / 'avatars', model, ignore=shutil.ignore_patterns('clip_gen', 'judge', 'scorer'))
    for name in ('pipeline.json', 'clip/open_clip_config.json', 'tokenizer/config.json', 'denoiser/config.json', 'tokenizer/manifest.json'):
        file = model / name
        whole = json.loads(file.read_text())
        places = st.sampled_from(list(paths_of(whole)))
        @examples(n)
        @given(places, st.sampled_from(['replace', 'replace', 'remove', 'add']), names, nasty)
        def one(at, how, key, value):
            file.write_text(json.dumps(changed(whole, at, how, key, value)))
            attempt(f'configuration {name}', (at, how, key, value), lambda: CLIPVQDiffusion.from_pretrained(model), model)
        one()
        for text in ('', '[]', 'null', '{', '[' * 200_000, '{"a":' * 100_000, '\ufeff{}', '1' * 10_000, '"' + 'x' * 6_000_000 + '"'):
            file.write_text(text)
            attempt(f'configuration {name}', text[:20], lambda: CLIPVQDiffusion.from_pretrained(model), model)
        file.write_text(json.dumps(whole))
    CLIPVQDiffusion.from_pretrained(model)               # and it is whole again


def hostile_records(tmp, n):
    from clip_vqdiffusion import editing
    pipe = CLIPVQDiffusion.from_pretrained('avatars')
    drawn = pipe('a sad person', num_inference_steps=1)
    record, png = json.loads(json.dumps(drawn.record(0))), tmp / 'hostile.png'
    places = st.sampled_from(list(paths_of(record)))
    def write(text, compressed=False):
        info = PngInfo()
        info.add_text('clip_vqdiffusion', text, zip=compressed)
        drawn.images[0].save(png, pnginfo=info)
    @examples(n)
    @given(places, st.sampled_from(['replace', 'replace', 'remove', 'add']), names, nasty)
    def one(at, how, key, value):
        write(json.dumps(changed(record, at, how, key, value)))
        attempt('PNG record', (at, how, key, value), lambda: pipe.redraw(png), tmp)
    one()
    for text in ('', '[]', '{', '[' * 200_000, '9' * 10_000, ' ' * 50_000_000):
        write(text, compressed=True)
        attempt('PNG record', text[:20], lambda: picture_info(png), tmp)


def hostile_tables(tmp, n):
    folder = tmp / 'table'
    folder.mkdir()
    for i in range(4): to_pil(avatars(4)[i]['image']).save(folder / f'{i}.png')
    rows = [dict(file_name=f'{i}.png', text=f'picture {i}') for i in range(4)]
    @examples(n)
    @given(st.integers(0, 3), st.sampled_from(['file_name', 'text']), nasty, st.sampled_from(['utf-8', 'utf-16', 'latin-1']))
    def one(i, key, value, encoding):
        changed_rows = [r | ({key: value} if j == i else {}) for j, r in enumerate(rows)]
        (folder / 'metadata.jsonl').write_bytes('\n'.join(json.dumps(r) for r in changed_rows).encode(encoding, 'replace'))
        def read():
            data = image_dataset(str(folder), size=32, captions=True)
            return [data[j] for j in range(len(data))]
        attempt('metadata table', (i, key, value, encoding), read, folder)
    one()


def hostile_options(tmp, n):
    from unittest.mock import patch
    from clip_vqdiffusion.cli import main
    face = tmp / 'face.png'
    to_pil(avatars(1)[0]['image']).save(face)
    verbs = dict(generate=['a sad person'], vary=[str(face)], inpaint=[str(face), 'a hat'], interpolate=['a', 'b'], edit=[str(face), 'a', 'b'], info=[], reconstruct=[str(face)],
                 train=['--images', str(tmp / 'none'), '--out', str(tmp / 'r')], evaluate=[], bench=['sampler'])
    options = ['--num', '--steps', '--guidance', '--truncation', '--scheduler', '--condition-noise', '--temperature', '--top-k', '--rerank', '--seed', '--strength', '--amount', '--model', '--clip',
               '--box', '--part', '--mask', '--alpha', '--max-minutes', '--threads', '--batch', '--learning-rate', '--prompts', '--json', '--require', '--like', '--preset', '--decoder']
    value = st.sampled_from(['0', '-1', '1', 'nan', 'inf', '-inf', '1e38', '999999999999', '0x10', '', ' ', 'x', '../../..', '/etc/passwd', '1,2,3,4', 'upper', '\x1b[31m', '--', 'ancestral']) | st.text(max_size=10)
    end = []
    def called(args):
        with patch('sys.argv', ['clipvqd', *args]):
            try: main()
            except SystemExit as e: end.append(e.code)
    @examples(n)
    @given(st.sampled_from(sorted(verbs)), st.lists(st.tuples(st.sampled_from(options), value), min_size=1, max_size=3))
    def one(verb, given_options):
        args = [verb, *verbs[verb], *(x for pair in given_options for x in pair)]
        if verb in ('generate', 'vary', 'inpaint', 'interpolate', 'edit', 'reconstruct'): args += ['--out', str(tmp / 'o.png')]
        if verb in ('evaluate', 'bench') and not any(o in ('--scheduler', '--require') for o, _ in given_options): return   # hours of honest work
        if verb == 'bench': args += ['--steps', '1', '--batch', '1']
        if verb == 'evaluate': args += ['--model', str(tmp / 'none')]
        end.clear()
        def call():
            err = io.StringIO()
            with contextlib.redirect_stderr(err): called([a for a in args if '\x00' not in a])
            if 'this is a bug' in err.getvalue(): raise RuntimeError(err.getvalue()[-300:])
        attempt('options', args, call, tmp)
    one()


def hostile_pictures(tmp, n):
    rng, folder = random.Random(0), tmp / 'pictures'
    folder.mkdir()
    buffer = io.BytesIO(); to_pil(avatars(1)[0]['image']).save(buffer, 'PNG'); png = buffer.getvalue()
    buffer = io.BytesIO(); to_pil(avatars(1)[0]['image']).save(buffer, 'JPEG'); jpeg = buffer.getvalue()
    for i in range(n):
        data = bytearray(rng.choice((png, jpeg)))
        kind = rng.choice(('cut', 'flip', 'junk', 'empty', 'shape', 'mode'))
        file = folder / f'{i}.{rng.choice(("png", "jpg"))}'
        if kind == 'cut': data = data[:rng.randrange(len(data))]
        elif kind == 'flip':
            for _ in range(5): data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == 'junk': data = rng.randbytes(200)
        elif kind == 'empty': data = b''
        file.write_bytes(data)
        if kind == 'shape': Image.new('RGB', rng.choice(((1, 5000), (5000, 1), (1, 1), (3, 2)))).save(file.with_suffix('.png'))
        if kind == 'mode': Image.new(rng.choice(('1', 'L', 'LA', 'P', 'RGBA', 'I', 'F') if file.suffix == 'x' else ('1', 'L', 'P', 'RGBA')), (20, 20)).save(file.with_suffix('.png'))
    pipe = CLIPVQDiffusion.from_pretrained('avatars')
    from clip_vqdiffusion.pipeline import open_picture
    for f in sorted(folder.iterdir()): attempt('picture', f.name, lambda: pipe.reconstruct([open_picture(f)]), folder)
    def all_of_them():
        data = image_dataset(str(folder), size=32)
        return [data[i] for i in range(len(data))]
    attempt('picture', 'the whole folder as a dataset', all_of_them, folder)


# --- disks, damage, kills ----------------------------------------------------------------------------------------
POINTS = [dict(x=a, y=2 * a + 1) for a in torch.linspace(-1, 1, 64)[:, None]]
def fit(loop, batch): return (loop.models['line'](batch['x'] + .1 * torch.randn_like(batch['x'])) - batch['y']).pow(2).mean(), {}
def line(out, step=fit):
    torch.manual_seed(0)
    return Loop(out, LoopConfig(steps=60, batch_size=8, lr=.1, warmup=5, log_every=5, save_every=20, progress=False), {'line': nn.Linear(1, 1)}, POINTS, step)
def final(out): return (out / 'checkpoints' / 'step_00000060' / 'line.ema.safetensors').read_bytes()

def full_disks(tmp, most):
    "The n-th write that is forced to the disk fails, for every n; the same call afterwards ends as if nothing had been."
    line(tmp / 'whole').run()
    n = 0
    while n < most:
        n += 1
        out, calls, real = tmp / f'full{n}', [0], os.fsync
        def failing(fd):
            calls[0] += 1
            if calls[0] == n: raise OSError(28, 'No space left on device')
            return real(fd)
        os.fsync = failing
        try:
            attempt('full disk', n, lambda: line(out).run(), tmp)
        finally: os.fsync = real
        if calls[0] < n: break
        with contextlib.redirect_stderr(io.StringIO()): line(out).run()
        if final(out) != final(tmp / 'whole'): BAD.append(f'full disk: other weights after write {n}')

def damaged(tmp, n):
    rng = random.Random(0)
    for i in range(n):
        out = tmp / 'hurt'
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp / 'whole', out)
        file = rng.choice(sorted((out / 'checkpoints' / 'step_00000060').iterdir()))
        data = bytearray(file.read_bytes())
        place = rng.randrange(len(data))
        if i % 2: data[place] ^= 1 << rng.randrange(8)
        else: data = data[:place]
        file.write_bytes(data)
        attempt('damaged checkpoint', (file.name, place, i % 2), lambda: line(out).run(), tmp)
        if final(out) != final(tmp / 'whole'): BAD.append(f'damaged checkpoint: other weights, {file.name} at {place}')

SCRIPT = '''
import sys, clip_vqdiffusion.recipes as r
from dataclasses import replace
from clip_vqdiffusion.cli import main
def small(whole):
    def recipe(name):
        x = whole(name)
        x.tokenizer, x.denoiser = replace(x.tokenizer, channels=8, codes=64), {**x.denoiser, 'width': 64, 'depth': 2}
        return x
    return recipe
r.recipe, r.clip_gen_recipe = small(r.recipe), small(r.clip_gen_recipe)
main()
'''

def kills(tmp, each):
    "kill -9 and SIGTERM at random moments of each stage, again and again; the finals are the undisturbed ones."
    pairs = tmp / 'pairs'
    pairs.mkdir()
    faces = avatars(96, size=64, captions=True, split='all')
    with open(pairs / 'metadata.jsonl', 'w') as f:
        for i in range(96):
            to_pil(faces[i]['image']).save(pairs / f'{i}.png')
            f.write(json.dumps(dict(file_name=f'{i}.png', text=faces[i]['text'])) + '\n')
    common = ['--save-every', '5', '--threads', '1']
    train = lambda out, clip: ['train', '--images', pairs, '--clip', clip, '--out', out, '--tokenizer-steps', '40', '--decoder-steps', '40', *common]
    stages = {'clip': lambda out: ['train-clip', '--pairs', pairs, '--out', out, '--steps', '40', *common],
              'tokenizer, cache, denoiser': lambda out: train(out, tmp / 'clip-a'),
              'clip-gen': lambda out: [*train(out, tmp / 'clip-a'), '--decoder', 'clip-gen']}
    def start(args): return subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    def weights(out): return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob('*.safetensors') if 'training' not in f.parts}
    for (stage, args), n in zip(stages.items(), (each, 3 * each, each)):
        a, b, rng = tmp / f'{stage[:4]}-a', tmp / f'{stage[:4]}-b', random.Random(1)
        begun = time.monotonic()
        p = start(args(a)); err = p.communicate()[1]
        if p.returncode: BAD.append(f'{stage}: {err[-300:]}'); return
        whole = time.monotonic() - begun
        for signum in (signal.SIGKILL, signal.SIGTERM):
            kind, out = f'{signal.Signals(signum).name}, {stage}', b if signum == signal.SIGKILL else Path(f'{b}-term')
            COUNTS[kind] = dict(tried=0, fine=0, refused=0)
            for _ in range(n):
                p = start(args(out))
                try: p.wait(whole * rng.uniform(.3, 1)); ended = True
                except subprocess.TimeoutExpired: ended = False; p.send_signal(signum)
                begun = time.monotonic(); p.communicate(); COUNTS[kind]['tried'] += 1
                COUNTS[kind]['fine'] += 1
                if time.monotonic() - begun > 10: BAD.append(f'{kind}: took {time.monotonic() - begun:.0f} s to stop')
                if ended: shutil.rmtree(out)             # it came to its end: begin again
            p = start(args(out)); err = p.communicate()[1]
            if p.returncode: BAD.append(f'{kind}: {err[-300:]}')
            elif weights(out) != weights(a): BAD.append(f'{kind}: other final weights')


def main():
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
    with tempfile.TemporaryDirectory() as d:
        tmp, begun = Path(d), time.monotonic()
        os.environ['HF_HOME'] = str(tmp / 'hf')
        for f, short, long in ((hostile_configs, 40, 300), (hostile_records, 60, 400), (hostile_tables, 20, 200), (hostile_options, 40, 300), (hostile_pictures, 60, 400),
                               (full_disks, 12, 1000), (damaged, 12, 100), (kills, 0, 30 if '--kills' in sys.argv else 0)):
            if n := (long if LONG else short): f(tmp, n)
            print(f'{f.__name__}: {time.monotonic() - begun:.0f} s', flush=True)
    print(f"\n{'what':42}{'tried':>7}{'fine':>7}{'refused':>9}")
    for kind, n in COUNTS.items(): print(f"{kind:42}{n['tried']:>7}{n['fine']:>7}{n['refused']:>9}")
    for b in BAD[:40]: print('BAD', b)
    print(f'{sum(n["tried"] for n in COUNTS.values())} tried, {len(BAD)} bad')
    return bool(BAD)

if __name__ == '__main__': sys.exit(main())
