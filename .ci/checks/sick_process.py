"""One of two gloo processes has a loss that is not finite: single steps are skipped by both; where it lasts, both end, the first with the message, and neither waits for the other."""
import os, subprocess, sys, tempfile, time
from pathlib import Path


def train(out, bad):
    "What each process does; the second has no finite loss in the steps `bad`."
    import torch
    from clip_vqdiffusion.loop import Loop, LoopConfig
    torch.manual_seed(0)
    def step(loop, batch):
        loss = (loop.models['line'](batch['x']) - batch['y']).square().mean()
        return loss * (float('nan') if loop.rank == 1 and loop.step in bad else 1.), {}
    x = torch.linspace(-1, 1, 64)[:, None]
    cfg = LoopConfig(steps=40, batch_size=8, lr=.05, warmup=2, progress=False, log_every=1, save_every=5)
    loop = Loop(out, cfg, {'line': torch.nn.Linear(1, 1)}, [dict(x=a, y=2 * a) for a in x], step)
    try: loop.run()
    except FloatingPointError as e:
        print(f'process {loop.rank} ended: {e}', flush=True)
        sys.exit(3)
    print(f'process {loop.rank} done, {loop.skipped} skipped', flush=True)


def run(out, bad):
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true'}
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__, 'train', out, bad]
    begun = time.monotonic()
    done = subprocess.run(launch, env=env, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - begun


def main(tmp):
    code, said, took = run(tmp / 'some', '7,9')
    some = code == 0 and all(f'process {r} done, 2 skipped' in said for r in (0, 1))
    print(f"two sick steps: both processes skip them, {took:.0f} s: {'ok' if some else f'FAILED {code}: {said[-2000:]}'}")
    code, said, took = run(tmp / 'all', ','.join(map(str, range(10, 40))))
    both = ('process 0 ended: something in another process was not finite in 20 steps', 'process 1 ended: the loss was not finite in 20 steps')
    gone = code != 0 and any(b in said for b in both)        # the launcher stops the other as soon as one has said so
    print(f"sick for good: both end, the first with the message, {took:.0f} s: {'ok' if gone else f'FAILED {code}: {said[-2000:]}'}")
    return some and gone


if __name__ == '__main__':
    if sys.argv[1:2] == ['train']: train(Path(sys.argv[2]), {int(s) for s in sys.argv[3].split(',')})
    else:
        with tempfile.TemporaryDirectory() as d: sys.exit(0 if main(Path(d)) else 1)
