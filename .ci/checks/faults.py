"""What goes wrong elsewhere: hostile configurations, records, tables and pictures, full disks, damaged checkpoints, kills. Prints counts.

    python .ci/checks/faults.py            a few minutes, in CI
    python .ci/checks/faults.py --long --kills --json nbs/results/faults.json      the numbers of README, with 30 kill -9 and 30 SIGTERM in each stage
    python .ci/checks/faults.py --only kills --kills       one part of it, short; with --json its counts join those of other parts

Each attempt must end well or with one clear error: no other exception, no file outside of the model's folder, no connection, under 20 s and 2 GB."""
import contextlib, io, json, os, platform, queue, random, resource, shutil, signal, subprocess, sys, tempfile, threading, time, warnings
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

# A process that has imported everything and forks for each command: hundreds of kills without hundreds of imports.
# It says on standard output what begins and ends. The networks are smaller; all other lines are the user's.
NURSERY = """
import json, os, sys
from dataclasses import replace
from functools import partial
from pathlib import Path
import datasets, torch
torch.set_num_threads(1)
import clip_vqdiffusion.clip as clip, clip_vqdiffusion.recipes as r
from clip_vqdiffusion.cli import main

def say(**what): os.write(1, (json.dumps(what) + '\\n').encode())
quick = dict(batch_size=8, warmup=5, preview_every=12)
def small(whole):
    def recipe(name):
        x = whole(name)
        x.tokenizer, x.denoiser = replace(x.tokenizer, channels=8, codes=64), {**x.denoiser, 'width': 64, 'depth': 2}
        x.tokenizer_training = replace(x.tokenizer_training, perceptual='none', warm=5)
        x.tokenizer_loop, x.denoiser_loop = replace(x.tokenizer_loop, **quick), replace(x.denoiser_loop, **quick)
        return x
    return recipe
def told(stage, whole):
    def f(*args, **kw):
        say(begins=stage)
        return whole(*args, **kw)
    return f
r.recipe, r.clip_gen_recipe = small(r.recipe), small(r.clip_gen_recipe)
clip.CLIP_LOOP = replace(clip.CLIP_LOOP, **quick)
clip.CLIPConfig = partial(clip.CLIPConfig, embed_dim=32, vision_width=64, vision_layers=1, text_width=64, text_layers=1, vocab_size=600)
clip.train_clip = told('clip', clip.train_clip)
r.train_tokenizer, r._encode_both = told('tokenizer', r.train_tokenizer), told('cache', r._encode_both)
r.train_denoiser, r.train_clip_gen = told('denoiser', r.train_denoiser), told('clip-gen', r.train_clip_gen)

for line in sys.stdin:
    order = json.loads(line)
    if not (pid := os.fork()):
        os.setpgid(0, 0)
        say(pid=os.getpid())
        datasets.config.HF_DATASETS_CACHE = Path(order['cache'])
        sys.argv = ['clipvqd', *order['args']]
        sys.stdout, sys.stderr = open(os.devnull, 'w'), open(order['err'], 'w', buffering=1)
        try: main()
        except SystemExit as e: os._exit(e.code or 0)
        os._exit(0)
    say(ended=os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

class Nursery:
    "Starts commands, and follows them."
    def __init__(self, tmp):
        self.p, self.lines, self.err = subprocess.Popen([sys.executable, '-c', NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True), queue.Queue(), tmp / 'err.txt'
        threading.Thread(target=lambda: [self.lines.put(json.loads(l)) for l in self.p.stdout], daemon=True).start()

    def start(self, args, out):
        self.p.stdin.write(json.dumps(dict(args=[*map(str, args)], cache=str(out) + '-cache', err=str(self.err))) + '\n')
        self.p.stdin.flush()
        self.pid, self.stage, self.status, self.times = self.lines.get(timeout=120)['pid'], None, None, {}

    def follow(self, seconds=600, until=None):
        "Wait so long, or until that stage begins, or the end. Is it running?"
        end = time.monotonic() + seconds
        while self.status is None and (until is None or self.stage != until):
            try: line = self.lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty: return True
            self.stage, self.status = line.get('begins', self.stage), line.get('ended')
            self.times[self.stage if self.status is None else 'end'] = time.monotonic()
        return self.status is None

    def signal(self, signum):
        begun = time.monotonic()
        try:
            os.killpg(self.pid, signum)
            if self.follow(60): os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError: pass             # it had ended just before
        self.follow()
        return time.monotonic() - begun

    def said(self): return self.err.read_text()[-400:]


def kills(tmp, each):
    "kill -9 and SIGTERM at random moments of each stage, until each stage has had its number; what comes out at last is what comes out undisturbed."
    pairs = tmp / 'pairs'
    pairs.mkdir()
    faces = avatars(96, size=64, captions=True, split='all')
    with open(pairs / 'metadata.jsonl', 'w') as f:
        for i in range(96):
            to_pil(faces[i]['image']).save(pairs / f'{i}.png')
            f.write(json.dumps(dict(file_name=f'{i}.png', text=faces[i]['text'])) + '\n')
    common = ['--save-every', '2', '--threads', '1']
    def train_clip(out): return ['train-clip', '--pairs', pairs, '--out', out, '--steps', '12', *common]
    def train(out): return ['train', '--images', pairs, '--clip', tmp / 'clip', '--out', out, '--tokenizer-steps', '12', '--decoder-steps', '12', *common]
    def clip_gen(out): return [*train(out), '--decoder', 'clip-gen']
    def result(out): # the weights, and the names of all files: nothing lies about but the note of a lock. Checkpoints may differ in step; pictures of the course may lack the last moment
        names = {f.relative_to(out): f for f in out.rglob('*') if f.is_file() and f.name not in ('.lock.json', 'curves.png') and not f.match('checkpoints/step_*/*') and f.parent.name != 'previews'}
        return {str(name): f.suffix == '.safetensors' and f.read_bytes() for name, f in names.items()}
    def copied(a, b):
        for end in ('', '-cache'):
            shutil.rmtree(f'{b}{end}', ignore_errors=True)
            if Path(f'{a}{end}').exists(): shutil.copytree(f'{a}{end}', f'{b}{end}')
    nursery, rng = Nursery(tmp), random.Random(1)
    for args, stages in ((train_clip, ['clip']), (train, ['tokenizer', 'cache', 'denoiser']), (clip_gen, ['clip-gen'])):
        whole = tmp / ('clip' if args is train_clip else f'whole-{stages[0]}')
        nursery.start(args(whole), whole)
        nursery.follow()
        if nursery.status: BAD.append(f'{stages}: {nursery.said()}'); return
        marks, wanted = list(nursery.times.items()), result(whole)
        length = {a: then - now for (a, now), (_, then) in zip(marks, marks[1:])}
        for stage in stages:
            base = tmp / f'before-{stage}'               # the folder as it is when the stage begins
            nursery.start(args(base), base)
            nursery.follow(until=stage)
            nursery.signal(signal.SIGKILL)
            for signum in (signal.SIGKILL, signal.SIGTERM):
                kind, out, fresh = f'{signal.Signals(signum).name}, {stage}', tmp / f'out-{stage}', True
                n = COUNTS[kind] = dict(tried=0, fine=0, refused=0, compared=0)
                while n['tried'] < each or not fresh:
                    if fresh: copied(base, out)
                    fresh = False
                    nursery.start(args(out), out)
                    running = nursery.follow(until=stage) and (n['tried'] >= each or nursery.follow(rng.uniform(0, .8 * length[stage])))
                    if running and nursery.stage == stage and n['tried'] < each:
                        took = nursery.signal(signum)
                        n['tried'] += 1
                        wrong = [w for w in (took > 10 and f'took {took:.0f} s to stop', 'Traceback' in nursery.said() and nursery.said(), nursery.status == 128 + signum and 'goes on' not in nursery.said() and 'did not say how to go on') if w]
                        BAD.extend(f'{kind}: {w}' for w in wrong)
                        n['fine'] += not wrong
                    elif running: nursery.follow()       # it is past that stage: let it come to its end
                    if nursery.status == 0:
                        n['compared'], fresh = n['compared'] + 1, True
                        made = result(out)
                        if made != wanted: BAD.append(f'{kind}: other files or weights: {sorted(k for k in {*made, *wanted} if made.get(k) != wanted.get(k))[:5]}')
                    elif nursery.status > 0 and nursery.status not in (128 + signum,):
                        BAD.append(f'{kind}: exit status {nursery.status}: {nursery.said()}')
                        if len(BAD) > 100: return
                print(f'{kind}: {n}', flush=True)
    nursery.p.stdin.close()
    nursery.p.wait()


PARTS = ((hostile_configs, 40, 300), (hostile_records, 60, 400), (hostile_tables, 20, 200), (hostile_options, 40, 300), (hostile_pictures, 60, 400), (full_disks, 12, 1000), (damaged, 12, 100), (kills, 0, 30))

def option(name): return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None

def machine():
    try: cpu = next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): cpu = platform.machine()
    return f'{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, PyTorch {torch.__version__}'

def write_counts(path, seconds):
    "What README's table is made from."
    head = subprocess.run(['git', 'describe', '--always', '--dirty', '--abbrev=7'], capture_output=True, text=True, cwd=Path(__file__).parent).stdout.strip()
    kinds = [dict(kind=k, **n, bad=sum(b.startswith(f'{k}: ') for b in BAD)) for k, n in COUNTS.items()]
    path = Path(path)
    if path.is_file() and (before := json.loads(path.read_text(encoding='utf-8')))['commit'] == head: # parts of one run, one after the other
        kinds, seconds = [k for k in before['kinds'] if k['kind'] not in COUNTS] + kinds, seconds + before['seconds']
    total = {k: sum(kind[k] for kind in kinds) for k in ('tried', 'bad')}
    path.write_text(json.dumps(dict(commit=head, machine=machine(), seconds=round(seconds), **total, kinds=kinds), indent=1) + '\n', encoding='utf-8')

def main():
    os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
    only, begun = option('--only'), time.monotonic()
    with tempfile.TemporaryDirectory() as d:
        os.environ['HF_HOME'] = str(Path(d) / 'hf')
        for f, short, long in PARTS:
            if only and f.__name__ != only or f is kills and '--kills' not in sys.argv: continue
            f(Path(d), long if LONG else short or 2)
            print(f'{f.__name__}: {time.monotonic() - begun:.0f} s', flush=True)
    print(f"\n{'what':42}{'tried':>7}{'fine':>7}{'refused':>9}")
    for kind, n in COUNTS.items(): print(f"{kind:42}{n['tried']:>7}{n['fine']:>7}{n['refused']:>9}")
    for b in BAD[:40]: print('BAD', b)
    print(f'{sum(n["tried"] for n in COUNTS.values())} tried, {len(BAD)} bad')
    if path := option('--json'): write_counts(path, time.monotonic() - begun)
    return bool(BAD)

if __name__ == '__main__': sys.exit(main())
