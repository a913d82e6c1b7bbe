"""kill -9 in the middle of each stage of `clipvqd train-clip` and `clipvqd train`; the same command again must give the undisturbed run's losses to 1e-6."""
import hashlib, json, os, subprocess, sys, tempfile, time
from pathlib import Path
from clip_vqdiffusion.avatars import avatars
from clip_vqdiffusion.show import to_pil

STEPS, SAVE = 75, 15  # killed once a step from 50 on is in the log (losses are logged every 20 or 25 steps and at checkpoints), so it goes on from step 45 or later
# The shell as installed, with smaller networks so that three stages, twice, take minutes; all other lines are the user's.
SHELL = '''
import clip_vqdiffusion.recipes as p
from clip_vqdiffusion.cli import main
if {small}:
    whole = p.recipe
    def recipe(name):
        r = whole(name)
        r.tokenizer, r.denoiser = replace(r.tokenizer, channels=8, codes=64), {{**r.denoiser, 'width': 64, 'depth': 2}}
        return r
    from dataclasses import replace
    p.recipe = recipe
main()
'''


def losses(path):
    try: return {l['step']: l['loss'] for l in map(json.loads, path.read_text().splitlines())}
    except (OSError, ValueError): return {}  # not there yet, or a line is being written


def shell(*args): return [sys.executable, '-c', SHELL.format(small='--full-size' not in sys.argv), *map(str, args)]


def run(args, log, kill=False):
    "Run a command to its end, or kill -9 it once a step from 50 on is in its log; gives the exit status and the last step logged."
    env = {**os.environ, 'HF_HUB_OFFLINE': '1'}
    p, deadline = subprocess.Popen(shell(*args), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), time.monotonic() + 900
    while kill and p.poll() is None and max(losses(log), default=0) < 50 and time.monotonic() < deadline: time.sleep(0.005)
    if kill: p.kill()
    _, err = p.communicate()
    if not kill and p.returncode: sys.exit(f"{' '.join(map(str, args))} failed:\n{err[-2000:]}")
    return p.returncode, max(losses(log), default=0)


def weights(folder): return {f.relative_to(folder): hashlib.sha256(f.read_bytes()).hexdigest()[:12] for f in sorted(folder.rglob('*.safetensors')) if 'training' not in f.parts}


def compare(stage, killed, at, a, b):
    a, b = losses(a), losses(b)
    worst = max(abs(a[s] - b[s]) for s in a) if set(a) == set(b) else float('nan')
    ok = killed == -9 and 50 <= at < STEPS and set(a) == set(b) and len(a) > 3 and STEPS in a and worst <= 1e-6
    print(f"{stage}: killed after step {at} of {STEPS} (exit {killed}), largest difference of the {len(a)} losses logged: {worst:.1e}: {'ok' if ok else 'FAILED'}", flush=True)
    return ok


def main(tmp):
    pictures, pairs = tmp / 'pictures', tmp / 'pairs'
    for folder in (pictures, pairs): folder.mkdir()
    texts = avatars(160, size=64, captions=True, split='all')
    with open(pairs / 'metadata.jsonl', 'w') as f:
        for i in range(160):
            for folder in (pictures, pairs): to_pil(texts[i]['image']).save(folder / f'{i}.png')
            f.write(json.dumps(dict(file_name=f'{i}.png', text=texts[i]['text'])) + '\n')
    clip = lambda out: ['train-clip', '--pairs', pairs, '--out', out, '--steps', STEPS, '--save-every', SAVE, '--threads', 2]
    log = lambda out: out / 'training' / 'log.jsonl'
    run(clip(tmp / 'clip'), log(tmp / 'clip'))
    status, at = run(clip(tmp / 'clip2'), log(tmp / 'clip2'), kill=True)
    run(clip(tmp / 'clip2'), log(tmp / 'clip2'))
    ok = [compare('clip', status, at, log(tmp / 'clip'), log(tmp / 'clip2'))]
    ok.append(weights(tmp / 'clip') == weights(tmp / 'clip2'))

    train = lambda out: ['train', '--images', pictures, '--clip', tmp / 'clip', '--out', out, '--tokenizer-steps', STEPS, '--denoiser-steps', STEPS, '--save-every', SAVE, '--threads', 2]
    log = lambda out, stage: out / 'training' / stage / 'log.jsonl'
    one, two = tmp / 'run', tmp / 'run2'
    run(train(one), log(one, 'denoiser'))
    killed = {stage: run(train(two), log(two, stage), kill=True) for stage in ('tokenizer', 'denoiser')}  # the second call finishes the tokenizer, then dies too
    run(train(two), log(two, 'denoiser'))
    ok += [compare(s, *killed[s], log(one, s), log(two, s)) for s in killed]
    ok.append(weights(one) == weights(two))
    print(f"final weights of the killed runs are the undisturbed ones, byte for byte: clip {ok[1]}, tokenizer and denoiser {ok[-1]}")
    return all(ok)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d: sys.exit(not main(Path(d)))
