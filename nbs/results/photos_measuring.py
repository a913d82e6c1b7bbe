"""How the bundled tokenizer `photos` was measured: a judge of kinds for each collection, closeness, edges and patterns.

    python photos_measuring.py judges                       train the judges (minutes)
    python photos_measuring.py FOLDER_OF_A_TOKENIZER        print what it keeps of test photos, as JSON"""
import json, sys, tempfile, time
from collections import Counter
from pathlib import Path
import numpy as np, torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from clip_vqdiffusion.photos import resized_tokenizer
from clip_vqdiffusion.tokenizer import Tokenizer, psnr
DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data'
JUDGES = Path(tempfile.gettempdir()) / 'photos_judges'

def load(folder, size=128):
    rows = [json.loads(l) for l in open(folder/'metadata.jsonl')]
    x = np.stack([np.asarray(Image.open(folder/r['file_name']).convert('RGB')) for r in rows])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), [r['label'] for r in rows]

def small(x, size=64): return F.interpolate(x.float(), (size, size), mode='bilinear', antialias=True)

class Block(nn.Module):
    def __init__(self, i, o, s):
        super().__init__()
        self.a, self.b = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.na, self.nb = nn.BatchNorm2d(o), nn.BatchNorm2d(o)
        self.short = nn.Sequential(nn.Conv2d(i, o, 1, s, bias=False), nn.BatchNorm2d(o)) if s > 1 or i != o else nn.Identity()
    def forward(self, x): return F.relu(self.short(x) + self.nb(self.b(F.relu(self.na(self.a(x))))))

class Judge(nn.Module):
    "64-pixel pictures in [-1, 1] to logits of kinds; `features` (B, 192)."
    def __init__(self, kinds):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            Block(32, 32, 1), Block(32, 64, 2), Block(64, 64, 1), Block(64, 128, 2), Block(128, 128, 1), Block(128, 192, 2), Block(192, 192, 1))
        self.out = nn.Linear(192, kinds)
    def features(self, x):
        if x.shape[-1] != 64: x = F.interpolate(x, (64, 64), mode='bilinear', antialias=True)
        return self.net(x).mean((2, 3))
    def forward(self, x): return self.out(F.dropout(self.features(x), .2, self.training))

def augment(x):
    B = len(x); x = torch.where(torch.rand(B, 1, 1, 1) < .5, x.flip(-1), x)
    s = torch.empty(B).uniform_(.75, 1.1); t = torch.empty(B, 2).uniform_(-.15, .15)
    th = torch.zeros(B, 2, 3); th[:, 0, 0] = th[:, 1, 1] = s; th[:, :, 2] = t
    x = F.grid_sample(x, F.affine_grid(th, x.shape, align_corners=False), padding_mode='reflection', align_corners=False)
    x = x * torch.empty(B, 1, 1, 1).uniform_(.75, 1.25) + torch.empty(B, 3, 1, 1).uniform_(-.12, .12)
    k = torch.rand(B) < .3                        # a little blur: drawings are less sharp than photos
    if k.any(): x[k] = F.interpolate(F.interpolate(x[k], (40, 40), mode='bilinear', antialias=True), (64, 64), mode='bilinear')
    return x.clamp(-1, 1)

def train_judge(name, epochs, kinds=None, called=None):
    "Train a judge of a collection's kinds (default: those with 20 training photos or more), into JUDGES."
    torch.set_num_threads(1); torch.manual_seed(0)
    x, y = load(DATA/name/'train'); xt, yt = load(DATA/name/'test')
    test = Counter(yt); kinds = kinds or sorted(k for k in test if Counter(y)[k] >= 20)
    keep = [i for i, l in enumerate(y) if l in kinds]; keept = [i for i, l in enumerate(yt) if l in kinds]
    x = torch.cat([small(x[keep][i:i+256]) for i in range(0, len(keep), 256)]) / 127.5 - 1
    xt = torch.cat([small(xt[keept][i:i+256]) for i in range(0, len(keept), 256)]) / 127.5 - 1
    y = torch.tensor([kinds.index(y[i]) for i in keep]); yt = torch.tensor([kinds.index(yt[i]) for i in keept])
    print(name, len(kinds), 'kinds', len(y), len(yt), flush=True)
    net = Judge(len(kinds)).to(memory_format=torch.channels_last); B = 64; steps = epochs * (len(y) // B)
    opt = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=.02)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 3e-3, total_steps=steps, pct_start=.15)
    w = (1 / torch.bincount(y, minlength=len(kinds)).float()).sqrt(); w = w / w.mean()
    step = 0
    for e in range(epochs):
        p = torch.randperm(len(y))
        for i in range(len(y) // B):
            j = p[i*B:(i+1)*B]
            loss = F.cross_entropy(net(augment(x[j])), y[j], weight=w, label_smoothing=.05)
            opt.zero_grad(); loss.backward(); opt.step(); sched.step()
        if e % 4 == 3 or e == epochs - 1:
            net.eval()
            with torch.no_grad(): acc = torch.cat([net(xt[i:i+128]).argmax(1) for i in range(0, len(xt), 128)]).eq(yt).float().mean()
            net.train(); print(e, f'{loss.item():.3f} test {acc:.3f}', time.ctime(), flush=True)
    JUDGES.mkdir(exist_ok=True)
    torch.save(dict(state=net.state_dict(), kinds=kinds, accuracy=acc.item()), JUDGES/f'{called or name}.pt')

def edges(x): return (x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) + (x[..., 1:, :] - x[..., :-1, :]).abs().mean((1, 2, 3))

def grid_artifact(x, y, f=8):
    "Jumps of the error at token borders over those elsewhere: 1 where there is no block pattern."
    d = ((y - x)[..., 1:] - (y - x)[..., :-1]).abs().mean((0, 1, 2))
    at = torch.arange(1, x.shape[-1]) % f == 0
    return (d[at].mean() / d[~at].mean()).item()

def checker(x, y):
    "Energy of the alternating 2x2 pattern in the reconstruction over that in the photo."
    k = torch.tensor([[1., -1.], [-1., 1.]]).view(1, 1, 2, 2) / 4
    g = lambda v: F.conv2d(v.mean(1, keepdim=True), k, stride=2).pow(2).mean()
    return (g(y) / g(x)).item()

def flat(x, y, side=8, below=.03):
    "What is drawn where the photo is flat: the deviation within such blocks, photo and reconstruction, in 255ths."
    blocks = lambda v: v.unfold(2, side, side).unfold(3, side, side).std((-1, -2))     # (B, 3, h, w)
    a, b = blocks(x), blocks(y)
    return [127.5 * v[a < below].mean().item() for v in (a, b)]

@torch.no_grad()
def on(tok, x, labels=None, judge=None):
    size = x.shape[-1]; tk = resized_tokenizer(tok, size); codes, ys = [], []
    for i in range(0, len(x), 64):
        c = tk.encode(x[i:i+64]); codes.append(c); ys.append(tk.decode(c))
    y = torch.cat(ys); use = torch.cat(codes).flatten().bincount(minlength=tok.K).float(); p = use / use.sum()
    r = dict(images=len(x), psnr=psnr(x, y).mean().item(), edges=(edges(y).mean() / edges(x).mean()).item(),
             block=grid_artifact(x, y), checker=checker(x, y), flat=flat(x, y), codes_used=(use > 0).float().mean().item(),
             perplexity=torch.exp(-(p * p.clamp_min(1e-12).log()).sum()).item())
    if judge is not None:
        net, kinds = judge; ok = [i for i, l in enumerate(labels) if l in kinds]
        yt = torch.tensor([kinds.index(labels[i]) for i in ok])
        share = lambda v: torch.cat([net(v[ok][i:i+128]).argmax(1) for i in range(0, len(ok), 128)]).eq(yt).float().mean().item()
        f = lambda v: torch.cat([net.features(v[i:i+128]) for i in range(0, len(v), 128)])
        a, b = f(x), f(y); r |= dict(judged=len(ok), kinds=len(kinds), right_real=share(x), right_reconstructed=share(y),
             feature_distance=((a - b).norm(dim=1) / (a - a.mean(0)).norm(dim=1).mean()).mean().item())
    return r, y

def judge_of(name):
    p = JUDGES/f'{name}.pt'
    if not p.exists(): return None
    s = torch.load(p, weights_only=True); net = Judge(len(s['kinds'])); net.load_state_dict(s['state'])
    return net.eval(), s['kinds']

def sets(name, size, n=None):
    x, labels = load(DATA/name/'test')
    if n: k = torch.linspace(0, len(x) - 1, n).long(); x, labels = x[k], [labels[i] for i in k.tolist()]
    x = x if size == 128 else torch.cat([small(x[i:i+256], size) for i in range(0, len(x), 256)])
    return x.float() / 127.5 - 1, labels

def measure(tok, sizes=(64, 128)):
    out = {}
    for name in ('clothing128', 'groceries128'):
        for size in sizes:
            x, labels = sets(name, size, 355)
            out[f'{name} {size}'] = on(tok, x, labels, judge_of(name))[0]
    return out

if __name__ == '__main__':
    if sys.argv[1] == 'judges':
        for name, epochs in (('clothing128', 14), ('groceries128', 12)): train_judge(name, epochs)
    else: print(json.dumps(measure(Tokenizer.load(sys.argv[1])), indent=1))
