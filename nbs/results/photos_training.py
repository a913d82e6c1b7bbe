"""How the bundled tokenizer `photos` was trained: the script as it ran, on one core.

    python photos_training.py OUT --data FOLDER --steps 5000 --stop 3468
    python photos_training.py OUT --data FOLDER --steps 5000 --large-from 3468
    python photos_training.py OUT --finish OUT2             450 steps more without the perceptual loss
    python photos_training.py OUT2 --export FOLDER          the averaged weights, in float16

FOLDER of the data holds clothing128/train, emoji64/train and groceries128/train. It can be interrupted and goes on."""
import argparse, json, math, random, time
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import IterableDataset
from clip_vqdiffusion import tokenizer as T
from clip_vqdiffusion.clip import load_clip
from clip_vqdiffusion.losses import TokenizerTraining
from clip_vqdiffusion.networks import TokenizerConfig, AttnBlock

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / 'shared' / 'data'

def pictures(folder):
    "All pictures of a folder as uint8 (n, 3, h, w)."
    files = sorted(p for p in Path(folder).iterdir() if p.suffix in ('.jpg', '.png'))
    def rgb(p):
        im = Image.open(p)
        if im.mode in ('RGBA', 'LA', 'P'):
            im = im.convert('RGBA'); im = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im)
        return np.asarray(im.convert('RGB'))
    return torch.from_numpy(np.stack([rgb(p) for p in files])).permute(0, 3, 1, 2).contiguous()

def colours(x, r):
    "Another white balance, contrast, brightness; now and then channels swapped, grey or inverted. x (3, h, w) in [0, 1]."
    if r.random() < .3: x = x[r.sample(range(3), 3)]
    if r.random() < .7:
        gain = torch.tensor([math.exp(r.gauss(0, .15)) for _ in range(3)]).view(3, 1, 1)
        x = x * gain * math.exp(r.gauss(0, .2)) + r.gauss(0, .08)
        x = x.mean() + (x - x.mean()) * math.exp(r.gauss(0, .2))
        grey = x.mean(0, keepdim=True)
        x = grey + (x - grey) * math.exp(r.gauss(0, .35))
        x = x.clamp(0, 1) ** math.exp(r.gauss(0, .2))
    if r.random() < .04: x = x.mean(0, keepdim=True).expand(3, -1, -1)
    if r.random() < .08: x = 1 - x
    return x.clamp(0, 1)

def crop(x, r, size=64):
    "A crop of a picture (3, h, h) uint8, at a random scale, turned and mirrored: (3, size, size) in [-1, 1]."
    h = x.shape[-1]
    kind = r.random()
    if kind < .35: side = h if r.random() < .5 else r.randint(int(.85 * h), h)
    elif kind < .65 and h > size: side = size
    else: side = int(math.exp(r.uniform(math.log(.35 * h), math.log(h))))
    i, j = r.randint(0, h - side), r.randint(0, h - side)
    x = x[:, i:i + side, j:j + side].float() / 255
    if side != size: x = F.interpolate(x[None], (size, size), mode='bilinear', antialias=side > size)[0].clamp(0, 1)
    if r.random() < .15: x = x.rot90(r.randint(1, 3), (1, 2))
    if r.random() < .5: x = x.flip(-1)
    return colours(x, r) * 2 - 1

def large_crop(x, r, size=128):
    "A crop for the batches of large pictures: (3, size, size) in [-1, 1]."
    h = x.shape[-1]
    side = h if r.random() < .4 else r.randint(int(.6 * h), h)
    i, j = r.randint(0, h - side), r.randint(0, h - side)
    x = F.interpolate(x[None, :, i:i + side, j:j + side].float() / 255, (size, size), mode='bilinear', antialias=side > size)[0].clamp(0, 1)
    if r.random() < .15: x = x.rot90(r.randint(1, 3), (1, 2))
    if r.random() < .5: x = x.flip(-1)
    return colours(x, r) * 2 - 1

NOW = dict(large=False)   # is the batch that was read last made of the quarters of large pictures?

class Crops(IterableDataset):
    "An endless stream of crops; before item `switch` only of the first two collections."
    def __init__(self, switch, size=64, seed=0, large_from=None, data=DATA):
        self.switch, self.size, self.seed, self.large_from = switch, size, seed, large_from
        self.fingerprint = f'photos-{switch}-{size}-{seed}'
        self.sets = [pictures(data/d/'train') for d in ('clothing128', 'emoji64', 'groceries128')]
    def __iter__(self):
        r, i = random.Random(self.seed), 0
        while True:
            early, u = i < self.switch, r.random()
            which = (0 if u < .65 else 1) if early else (0 if u < .42 else 1 if u < .62 else 2)
            data = self.sets[which]
            x = data[r.randrange(len(data))]
            if self.large_from is None or i < 16 * self.large_from or i // 16 % 2 == 0:
                NOW['large'] = False
                yield dict(image=crop(x, r, self.size))
                i += 1
            else:
                NOW['large'] = True
                quarters = rearrange(large_crop(x, r), 'c (i h) (j w) -> (i j) c h w', i=2, j=2)
                for q in quarters: yield dict(image=q)
                i += 4

def convolutional(tok):
    "The one attention that every tokenizer has adds nothing: what is left is convolutional."
    for m in tok.modules():
        if isinstance(m, AttnBlock):
            nn.init.zeros_(m.proj.weight); nn.init.zeros_(m.proj.bias)
            m.requires_grad_(False)
    return tok

class Convolutional(T.Tokenizer):
    def __init__(self, cfg): super().__init__(cfg); convolutional(self)
    def forward(self, images, **kw):
        "Quarters of large pictures are put together first: the normalisation sees them whole."
        if not (NOW['large'] and self.training): return super().forward(images, **kw)
        y, *rest = super().forward(rearrange(images, '(b i j) c h w -> b c (i h) (j w)', i=2, j=2), **kw)
        return rearrange(y, 'b c (i h) (j w) -> (b i j) c h w', i=2, j=2), *rest

def averaged(out):
    "The averaged weights of the newest checkpoint, and its step."
    c = sorted((Path(out)/'training/tokenizer/checkpoints').glob('step_*'))[-1]
    state = json.loads((c/'state.json').read_text())
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in state['settings']['model'].items()}
    tok = Convolutional(TokenizerConfig(**sizes))
    weights = load_file(c/'tokenizer.ema.safetensors')
    tok.load_state_dict({k.removeprefix('module.'): v for k, v in weights.items() if k != 'n_averaged'})
    return tok.eval(), state['step']

def finish(out, out2, data):
    "Some steps on the pixels alone: they take away most of the fine pattern that the perceptual loss leaves."
    crops = Crops(0, seed=1, large_from=0, data=data)
    loop = T.tokenizer_loop(steps=450, batch_size=16, lr=3e-4, warmup=20, schedule='linear', ema=.99, save_every=100,
                            preview_every=250, progress=False, seed=1)
    losses = TokenizerTraining(perceptual='none', adversarial=0, l2=4.0, reseed_every=0, flip=False)
    T.train_tokenizer(crops, out2, None, loop, losses, start=averaged(out)[0])

def main():
    a = argparse.ArgumentParser()
    a.add_argument('out')
    a.add_argument('--data', type=Path, default=DATA)
    a.add_argument('--steps', type=int, default=5000)
    a.add_argument('--stop', type=int, default=0)
    a.add_argument('--large-from', type=int, help='from this step on, half of the batches are of 128 pixels')
    a.add_argument('--finish')
    a.add_argument('--export')
    a = a.parse_args()
    if a.export: return averaged(a.out)[0].save(a.export, half=True)
    torch.set_num_threads(1)
    T.Tokenizer = Convolutional
    if a.finish: return finish(a.out, a.finish, a.data)
    cfg = TokenizerConfig.preset('tiny', codes=1024, attention=())
    data = Crops(a.steps // 2 * 16, large_from=a.large_from, data=a.data)
    loop = T.tokenizer_loop(steps=a.steps, batch_size=16, warmup=200, save_every=500, preview_every=500, log_every=50,
                            stop=a.stop, progress=False)
    losses = TokenizerTraining(perceptual='clip', adversarial=0, warm=200, reseed_every=100, flip=False)
    T.train_tokenizer(data, a.out, cfg, loop, losses, load_clip(str(HERE.parents[1]/'clip_vqdiffusion/models/avatars/clip')))

if __name__ == '__main__': main()
