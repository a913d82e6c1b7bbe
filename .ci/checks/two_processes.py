"""Two processes are one: CLIP, tokenizer and denoiser, trained by two gloo processes on the CPU, come to the losses and weights of one process with two micro-batches
(CLIP: with twice the batch, because the contrastive loss sees the pictures of both), and leave the same files behind. The pictures are read where they are; one file is broken."""
import json, os, subprocess, sys, tempfile, time
from pathlib import Path

STEPS, B = 6, 8


def train(folder, out, accumulate):
    "What each process does, from pictures to a model."
    import torch
    from accelerate import PartialState
    from clip_vqdiffusion.avatars import avatars
    from clip_vqdiffusion.clip import CLIPConfig, train_clip
    from clip_vqdiffusion.data import image_dataset
    from clip_vqdiffusion.loop import LoopConfig
    from clip_vqdiffusion.losses import TokenizerTraining
    from clip_vqdiffusion.networks import TokenizerConfig
    from clip_vqdiffusion.recipes import Recipe, train_pipeline
    from clip_vqdiffusion.training import DenoiserTraining
    how = dict(steps=STEPS, lr=1e-3, warmup=2, log_every=1, save_every=3, progress=False)
    loop = LoopConfig(**how, batch_size=B, accumulate=accumulate)
    small = CLIPConfig(vision_width=64, vision_layers=1, text_width=64, text_layers=1, crop=0., flip=False)
    clip = train_clip(avatars(64, captions=True), out / 'clip_training', small, LoopConfig(**how, batch_size=B * accumulate))
    settings = Recipe(
        TokenizerConfig.preset('tiny', channels=8, z_channels=16, codes=64, code_dim=8),
        TokenizerTraining(warm=2, perceptual='none', adversarial=0., flip=False), loop,
        dict(width=32, depth=2, heads=2), DenoiserTraining(), loop, defaults=dict(num_inference_steps=4, guidance_scale=2.0),
    )
    images, held_out = image_dataset(folder, streaming=True), image_dataset(folder, cache_dir=out / 'images')
    train_pipeline(images, out / 'model', clip, settings, held_out, cache_dir=out / 'cache', progress=False, say=lambda text: None)
    state = PartialState()
    state.wait_for_everyone()
    if state.num_processes > 1: torch.distributed.destroy_process_group()      # no process goes while another still listens


def losses(log): return [json.loads(line)['loss'] for line in log.read_text().splitlines()]


def names(out): # the folders of the cache are called after what is in them, which is equal only to rounding
    return {'/'.join(p.relative_to(out).parts) for p in (*out.glob('clip_training/**/*'), *out.glob('model/**/*')) if p.is_file() and not p.name.endswith('.lock')}


def apart(a, b):
    "The largest difference of two files of weights, relative to the largest weight of each tensor, and where it is. What is counted along the way is left out: the first process counts its own codes."
    from safetensors.torch import load_file
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    return max((((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-3)).item(), k) for k in a if not k.endswith(('.usage', '.spread', '.ready')) and a[k].is_floating_point())


def main(tmp):
    from clip_vqdiffusion.avatars import avatars
    from clip_vqdiffusion.show import to_pil
    folder, faces = tmp / 'faces', avatars(64)
    folder.mkdir()
    for i in range(64): to_pil(faces[i]['image']).save(folder / f'{i}.png')
    (folder / '31b.png').write_bytes(b'no picture at all')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', 'ACCELERATE_USE_CPU': 'true', 'HF_HUB_OFFLINE': '1'}
    launch, ok = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2'], True
    for name, start, accumulate in (('two', launch, 1), ('one', [sys.executable], 2)):
        begun = time.monotonic()
        done = subprocess.run([*start, __file__, 'train', folder, tmp / name, str(accumulate)], env=env, capture_output=True, text=True, timeout=600)
        if done.returncode: sys.exit(f"{name} failed ({done.returncode}):\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
    one, two = tmp / 'one', tmp / 'two'
    for stage, log in dict(CLIP='clip_training/training', tokenizer='model/training/tokenizer', denoiser='model/training/denoiser').items():
        a, b = (losses(out / log / 'log.jsonl') for out in (one, two))
        worst = max(abs(x - y) / max(1, abs(x)) for x, y in zip(a, b, strict=True))
        good = len(a) == STEPS and worst < 1e-4
        print(f"{stage}: {len(a)} losses, {a[0]:.4f} to {a[-1]:.4f}, at most {worst:.1e} apart: {'ok' if good else 'FAILED'}")
        ok &= good
    for part in ('tokenizer', 'denoiser'):
        far, where = apart(*(out / 'model' / part / 'model.safetensors' for out in (one, two)))
        print(f"weights of the {part}: at most {far:.1e} apart ({where}): {'ok' if far < 1e-2 else 'FAILED'}")
        ok &= far < 1e-2
    other = names(one) ^ names(two)
    print(f"{len(names(one))} files, the same in both: {'ok' if not other else f'FAILED: {sorted(other)[:5]}'}")
    return ok and not other


if __name__ == '__main__':
    if sys.argv[1:2] == ['train']: train(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        with tempfile.TemporaryDirectory() as d: sys.exit(0 if main(Path(d)) else 1)
