"""kill -9 in the middle of each training stage; the same call again must give the undisturbed run's losses to 1e-6."""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

STAGE = '''
import sys, torch
from dataclasses import replace
from clip_vqdiffusion.clip import CLIP_LOOP, CLIPConfig, new_clip, train_clip
from clip_vqdiffusion.data import avatars
from clip_vqdiffusion.denoiser import DenoiserConfig
from clip_vqdiffusion.tokenizer import Tokenizer, TokenizerConfig, TokenizerTraining, encode_dataset, tokenizer_loop, train_tokenizer
from clip_vqdiffusion.training import denoiser_loop, train_denoiser
torch.set_num_threads(1)
stage, out = sys.argv[1:]
short = dict(steps=24, batch_size=8, warmup=4, save_every=6, preview_every=12, log_every=1, progress=False)
clip = new_clip(['a face with a hat'])
if stage == 'clip': train_clip(avatars(64, captions=True), out, CLIPConfig(vision_width=64, vision_layers=1, text_layers=1), replace(CLIP_LOOP, **short))
if stage == 'tokenizer': train_tokenizer(avatars(64), out, TokenizerConfig.preset('tiny', channels=8, codes=64), tokenizer_loop(**short), TokenizerTraining(warm=5, reseed_every=4, disc_start=0.5), clip)
if stage == 'denoiser':
    torch.manual_seed(0)
    tok = Tokenizer(TokenizerConfig.preset('tiny', channels=8, codes=64)).eval()
    encoded = encode_dataset(avatars(64), tok, clip, cache_dir=out + '/cache', progress=False)
    train_denoiser(encoded, out, DenoiserConfig.preset('tiny', K=64, width=32, depth=1), denoiser_loop(**short), tokenizer=tok, held_out=encoded)
'''


def log_of(stage, out): return out / 'training' / 'log.jsonl' if stage == 'clip' else out / 'training' / stage / 'log.jsonl'


def losses(path): return {l['step']: l['loss'] for l in map(json.loads, path.read_text().splitlines())} if path.is_file() else {}


def check(stage, tmp):
    run = [sys.executable, str(tmp / 'stage.py'), stage]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'}
    subprocess.run(run + [str(tmp / f'{stage}_whole')], check=True, env=env)
    killed = tmp / f'{stage}_killed'
    p, deadline = subprocess.Popen(run + [str(killed)], env=env), time.monotonic() + 120
    while p.poll() is None and max(losses_safely(log_of(stage, killed)), default=0) < 15 and time.monotonic() < deadline: time.sleep(0.002)
    p.kill(); p.wait()
    at = max(losses_safely(log_of(stage, killed)), default=0)
    subprocess.run(run + [str(killed)], check=True, env=env)
    a, b = losses(log_of(stage, tmp / f'{stage}_whole')), losses(log_of(stage, killed))
    worst = max(abs(a[s] - b[s]) for s in a)
    ok = p.returncode == -9 and 0 < at < 24 and set(a) == set(b) == set(range(1, 25)) and worst <= 1e-6
    print(f"{stage}: killed after step {at} of 24 (exit {p.returncode}), largest difference of the {len(a)} losses {worst:.1e}: {'ok' if ok else 'FAILED'}")
    return ok


def losses_safely(path):
    try: return losses(path)
    except ValueError: return {}  # a line is being written


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as d:
        (Path(d) / 'stage.py').write_text(STAGE)
        sys.exit(not all([check(s, Path(d)) for s in ('clip', 'tokenizer', 'denoiser')]))
